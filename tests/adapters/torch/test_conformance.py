"""The conformance suite on the torch adapter, with each way that it and the inner one can run."""

import array_api_compat.torch
import pytest
import torch
import torch._dynamo

from drivers.torch_driver import TorchDriver
from lookahead_core.adapters.torch._kernels import KERNELS, prepared
from lookahead_core.conformance import AdapterConformance, KernelConformance

# torch's own, when its compiler is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")


@pytest.fixture(autouse=True)
def compile_everything():
    """Beyond some number of graphs torch runs eagerly what it was to compile: an error here."""
    torch._dynamo.reset()
    limits = {"recompile_limit": 100, "fail_on_recompile_limit_hit": True}
    with torch._dynamo.config.patch(limits):
        yield


class TestForeach(AdapterConformance):
    driver = TorchDriver(foreach=True)
    thorough = True


class TestForeachLarge(AdapterConformance):
    """Every leaf as a large one on a CPU is: moved in place, its slow weights left for later."""

    driver = TorchDriver(foreach=True)
    thorough = True

    @pytest.fixture(autouse=True)
    def every_leaf_is_large(self, monkeypatch):
        monkeypatch.setattr(prepared, "LARGE", 1)


class TestFused(AdapterConformance):
    driver = TorchDriver(fused=True)


class TestPlain(AdapterConformance):
    driver = TorchDriver(kernel="plain", foreach=False)


class TestCompiled(AdapterConformance):
    driver = TorchDriver(kernel="compiled")


class TestCapturable(AdapterConformance):
    driver = TorchDriver(capturable=True)


class TestForeachKernel(KernelConformance):
    kernel = KERNELS["foreach"]
    xp = array_api_compat.torch


class TestPlainKernel(KernelConformance):
    kernel = KERNELS["plain"]
    xp = array_api_compat.torch


class TestCompiledKernel(KernelConformance):
    kernel = KERNELS["compiled"]
    xp = array_api_compat.torch


@pytest.mark.clause("C10")
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("wide", [False, True], ids=["one dtype", "wide slow"])
def test_fast_and_slow_share_no_storage_after_a_sync(name, wide):
    xp = array_api_compat.torch
    slow = xp.zeros(3, dtype=xp.float64 if wide else xp.float32)
    (slow,), (fast,) = KERNELS[name].interpolate([slow], [xp.ones(3, dtype=xp.float32)], 0.5)
    assert slow.untyped_storage().data_ptr() != fast.untyped_storage().data_ptr()


@pytest.mark.clause("C10")
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("wide", [False, True], ids=["one dtype", "wide slow"])
def test_leaves_that_share_their_storage_are_synced_once(name, wide):
    xp = array_api_compat.torch
    fast = xp.ones(3, dtype=xp.float32)
    slow = [xp.zeros(3, dtype=xp.float64 if wide else xp.float32) for _ in range(2)]
    KERNELS[name].interpolate(slow, [fast, fast.view(3)], 0.25)
    assert fast.tolist() == [0.25] * 3
