"""The conformance suite on the MLX adapter, as it is and under mx.compile."""

from typing import ClassVar

import pytest

from drivers.mlx_driver import MlxDriver
from lookahead_core.conformance import AdapterConformance


class TestEager(AdapterConformance):
    driver = MlxDriver()


@pytest.mark.column("mlx-compiled")
class TestCompiled(AdapterConformance):
    driver = MlxDriver(compiled=True)
    expected_failures: ClassVar = {
        "C88": "MLX leaves what it traces with in the captured arrays of a function that raises"
    }
