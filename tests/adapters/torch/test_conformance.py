"""The conformance suite on the torch adapter."""

import array_api_compat.torch

from lookahead_core.adapters._torch_kernel import IN_PLACE
from lookahead_core.conformance import AdapterConformance, KernelConformance
from torch_driver import TorchDriver


class TestTorch(AdapterConformance):
    driver = TorchDriver()


class TestKernel(KernelConformance):
    kernel = IN_PLACE
    xp = array_api_compat.torch
