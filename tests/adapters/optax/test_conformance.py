"""The conformance suite on the optax adapter, eagerly and under jit."""

import jax
import pytest

from lookahead_core.conformance import AdapterConformance
from optax_driver import OptaxDriver


class InDoublePrecision(AdapterConformance):
    @pytest.fixture(autouse=True)
    def double_precision(self):
        with jax.enable_x64(True):
            yield


class TestEager(InDoublePrecision):
    driver = OptaxDriver(compiled=False)


class TestCompiled(InDoublePrecision):
    driver = OptaxDriver(compiled=True)
