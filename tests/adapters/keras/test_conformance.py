"""The conformance suite on the Keras adapter: in a traced step, and as it is where that is fast."""

import keras
import pytest

from drivers.keras_driver import KerasDriver
from lookahead_core.conformance import CLAUSES, AdapterConformance

if keras.backend.backend() == "torch":

    class TestEager(AdapterConformance):
        driver = KerasDriver()

else:

    class TestTraced(AdapterConformance):
        driver = KerasDriver(traced=True)

    class TestEager:
        """Without a graph each operation takes as long as a step: what branches in Python alone."""

        @pytest.mark.parametrize("name", ["C02", "C05", "C10"])
        def test_clause(self, name):
            CLAUSES[name].check(KerasDriver(), False)
