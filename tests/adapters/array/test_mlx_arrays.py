"""The conformance suite on the array loop with MLX arrays, without mlx.optimizers."""

import mlx.core as mx
import pytest

from array_checkpoints import K, assert_resumes
from drivers.array_driver import MLX, ArrayDriver
from lookahead_core.adapters.mlx._namespace import NAMESPACE
from lookahead_core.adapters.numpy._kernels.in_place import IN_PLACE
from lookahead_core.conformance import AdapterConformance, KernelConformance


@pytest.mark.column("mlx-arrays")
class TestMlxArrays(AdapterConformance):
    driver = ArrayDriver(MLX)


@pytest.mark.column("mlx-arrays")
class TestKernel(KernelConformance):
    kernel = IN_PLACE
    xp = NAMESPACE


@pytest.mark.clause("C06")
@pytest.mark.column("mlx-arrays")
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("phase", range(K))
def test_a_run_resumes_from_a_file_bitwise(phase, dtype, suffix, tmp_path):
    leaves = [mx.array([1.0, -2.0, 3.0], dtype=dtype), mx.array([[0.5, 4.0]], dtype=dtype)]
    assert_resumes(
        tmp_path / f"run{suffix}", leaves, lambda leaf: (leaf.tolist(), leaf.dtype), phase
    )
