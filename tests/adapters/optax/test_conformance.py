"""The conformance suite on the optax adapter: eagerly, and under jit, scan and vmap."""

import jax
import pytest

from drivers.optax_driver import OptaxDriver
from lookahead_core.conformance import AdapterConformance


class InDoublePrecision(AdapterConformance):
    @pytest.fixture(autouse=True)
    def double_precision(self):
        with jax.enable_x64(True):
            yield


class TestEager(InDoublePrecision):
    driver = OptaxDriver("eager")


@pytest.mark.column("jax-jit")
class TestUnderJit(InDoublePrecision):
    driver = OptaxDriver("jit")
    thorough = True


@pytest.mark.column("jax-scan")
class TestInAScan(InDoublePrecision):
    driver = OptaxDriver("scan")


@pytest.mark.column("jax-vmap")
class TestUnderVmap(InDoublePrecision):
    driver = OptaxDriver("vmap")
