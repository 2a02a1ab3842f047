"""The conformance suite on the array loop with NumPy."""

import array_api_compat.numpy

from lookahead_core.adapters.numpy import IN_PLACE
from lookahead_core.conformance import AdapterConformance, KernelConformance
from numpy_driver import NumpyDriver


class TestNumpy(AdapterConformance):
    driver = NumpyDriver()


class TestKernel(KernelConformance):
    kernel = IN_PLACE
    xp = array_api_compat.numpy
