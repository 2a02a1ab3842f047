"""The conformance suite on the Keras adapter, as it is and in a traced step."""

import keras

from drivers.keras_driver import KerasDriver
from lookahead_core.conformance import AdapterConformance


class TestEager(AdapterConformance):
    driver = KerasDriver()


if keras.backend.backend() != "torch":

    class TestTraced(AdapterConformance):
        driver = KerasDriver(traced=True)
