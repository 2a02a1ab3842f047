"""The conformance suite on the array loop with NumPy, read-only NumPy and array-api-strict."""

import array_api_compat.numpy
import array_api_strict
import pytest

from drivers.array_driver import ArrayDriver
from lookahead_core.adapters.numpy._kernels.in_place import IN_PLACE
from lookahead_core.conformance import AdapterConformance, KernelConformance


class TestNumpy(AdapterConformance):
    driver = ArrayDriver()
    thorough = True


@pytest.mark.column("numpy-read-only")
class TestReadOnly(AdapterConformance):
    driver = ArrayDriver(read_only=True)


@pytest.mark.column("array-api-strict")
class TestStrict(AdapterConformance):
    driver = ArrayDriver("array_api_strict")


class TestKernel(KernelConformance):
    kernel = IN_PLACE
    xp = array_api_compat.numpy


@pytest.mark.column("array-api-strict")
class TestKernelOnStrict(KernelConformance):
    kernel = IN_PLACE
    xp = array_api_strict
