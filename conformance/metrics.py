"""The clause about numbers to plot (C91) as a check. As in clauses.py."""

from .assertions import require
from .family import falling
from .registry import clause
from .runs import LEAVES, SGD_EPS, K, advance
from .setup import EPS, Averaging, Outer, Setup
from .worked import Worked

__all__: list[str] = []


@clause("C91", "metrics are the distances and the settings that they say", "metrics")
def c91_metrics(driver: Worked) -> None:
    # As in other clauses, so that a step that has to be compiled is compiled once.
    settings = {
        "Lookahead": ("", Setup(LEAVES, K, 0.5)),
        "a schedule": ("schedule", Setup(LEAVES, 2, falling)),
        "an average": ("restart", Setup(LEAVES, 1, 0.25, restart=0.0)),
        "outer momentum": ("outer_momentum", Setup(LEAVES, 3, outer=Outer())),
        "a read-out": ("gradient_point", Setup(LEAVES, 3, outer=Averaging())),
    }
    for case, (needed, setup) in settings.items():
        if needed in ("", *driver.capabilities):
            measured(driver, setup, case)


def measured(driver: Worked, setup: Setup, case: str) -> None:
    """Ask before the first step and after each one; asking changes nothing."""
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(K + 2):
        if step:
            advance(driver, run, oracle, step)
        got, expected = driver.metrics(run), oracle.metrics()
        where = f"{case}, after step {step}"
        names = f"{where}: expected {', '.join(sorted(expected))}, got {', '.join(sorted(got))}"
        require(got.keys() == expected.keys(), names)
        for name, number in expected.items():
            bound = SGD_EPS * EPS[driver.dtype] * max(1.0, abs(number))
            close = abs(float(got[name]) - number) <= bound
            require(close, f"{where}: expected {name}={number} within {bound:.3g}, got {got[name]}")
