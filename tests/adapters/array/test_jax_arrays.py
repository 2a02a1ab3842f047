"""The conformance suite on the array loop with JAX arrays, which are replaced at every step."""

import jax
import jax.numpy
import pytest

from array_driver import ArrayDriver
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
