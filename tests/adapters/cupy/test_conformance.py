"""The conformance suite on the CuPy loop. Needs a GPU; without one nobody collects it."""

import array_api_compat.cupy
import cupy
import pytest

from array_checkpoints import K, assert_resumes
from drivers.array_driver import ArrayDriver
from lookahead_core import REFERENCE_KERNEL
from lookahead_core.adapters._cupy_kernel import FUSED
from lookahead_core.adapters.cupy import SGD, Adam, MetaOptimizer, is_available
from lookahead_core.conformance import AdapterConformance, KernelConformance


class TestCuPy(AdapterConformance):
    driver = ArrayDriver("array_api_compat.cupy", loop=(SGD, Adam, MetaOptimizer))


class TestKernel(KernelConformance):
    kernel = FUSED
    xp = array_api_compat.cupy


@pytest.mark.clause("C08", "C10")
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_the_fused_kernel_is_the_reference_in_place(dtype, alpha):
    slow, fast = (cupy.random.default_rng(s).standard_normal(1001).astype(dtype) for s in (1, 2))
    expected, _ = REFERENCE_KERNEL.interpolate([slow.copy()], [fast.copy()], alpha)
    (moved,), (moved_fast,) = FUSED.interpolate([slow], [fast], alpha)
    assert moved is slow
    assert moved_fast is fast
    assert slow.tobytes() == fast.tobytes() == expected[0].tobytes()


@pytest.mark.clause("C23")
def test_a_sync_runs_on_the_device_of_the_arrays():
    device = cupy.cuda.runtime.getDeviceCount() - 1
    with cupy.cuda.Device(device):
        params = [cupy.zeros(3)]
        gradients = [cupy.ones(3)]
    with cupy.cuda.Device(0):
        MetaOptimizer(SGD(params, 1.0), 1, 0.5).step(gradients)
    assert params[0].device.id == device
    assert params[0].tolist() == [-0.5] * 3


@pytest.mark.clause("C06")
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("phase", range(K))
def test_a_run_resumes_from_a_file_bitwise(phase, suffix, tmp_path):
    leaves = [cupy.asarray([1.0, -2.0, 3.0]), cupy.asarray([[0.5, 4.0]])]
    assert_resumes(tmp_path / f"run{suffix}", leaves, lambda leaf: leaf.tolist(), phase)


def test_the_probe_sees_the_gpu():
    assert is_available()
