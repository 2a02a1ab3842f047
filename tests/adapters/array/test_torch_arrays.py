"""The conformance suite on the array loop with torch tensors, without torch.optim."""

import array_api_compat.torch
import pytest

from array_driver import ArrayDriver
from lookahead_core.adapters._array_kernel import IN_PLACE
from lookahead_core.conformance import AdapterConformance, KernelConformance


@pytest.mark.column("torch-arrays")
class TestTorchArrays(AdapterConformance):
    driver = ArrayDriver("array_api_compat.torch")


@pytest.mark.column("torch-arrays")
class TestKernel(KernelConformance):
    kernel = IN_PLACE
    xp = array_api_compat.torch
