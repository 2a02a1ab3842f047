"""The conformance suite on the array loop with JAX arrays, which are replaced at every step."""

import jax
import jax.numpy
import pytest

from array_checkpoints import K, assert_resumes
from drivers.array_driver import ArrayDriver
from lookahead_core.adapters._array_kernel import IN_PLACE
from lookahead_core.conformance import AdapterConformance, KernelConformance


class InDoublePrecision:
    @pytest.fixture(autouse=True)
    def double_precision(self):
        with jax.enable_x64(True):
            yield


@pytest.mark.column("jax-arrays")
class TestJaxArrays(InDoublePrecision, AdapterConformance):
    driver = ArrayDriver("jax.numpy")


@pytest.mark.column("jax-arrays")
class TestKernel(InDoublePrecision, KernelConformance):
    kernel = IN_PLACE
    xp = jax.numpy


@pytest.mark.clause("C06")
@pytest.mark.column("jax-arrays")
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("phase", range(K))
def test_a_run_resumes_from_a_file_bitwise(phase, dtype, suffix, tmp_path):
    with jax.enable_x64(True):
        leaves = [jax.numpy.asarray(v, dtype) for v in ([1.0, -2.0, 3.0], [[0.5, 4.0]])]
        path = tmp_path / f"run{suffix}"
        assert_resumes(path, leaves, lambda leaf: (leaf.tolist(), str(leaf.dtype)), phase)
