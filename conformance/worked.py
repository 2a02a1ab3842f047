"""A driver as the checks work it: with the dtype and the inner optimizer of its own framework."""

from typing import Any

from .driver import AdapterDriver
from .oracle import Oracle, torch_inner
from .setup import Leaf, Setup

__all__ = ["Worked"]


class Worked:
    """A driver, and what the checks ask beside it. Everything else is the driver's own.

    Parameters
    ----------
    driver : AdapterDriver
        Written by whoever wants an adapter checked.
    thorough : bool
        Whether clauses that take long try every case.
    """

    def __init__(self, driver: AdapterDriver, thorough: bool = False) -> None:
        self.driver, self.thorough = driver, thorough
        self.dtype: str = getattr(driver, "dtype", "float64")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)

    def based(self, setup: Setup) -> Setup:
        """The setup with leaves of the driver's dtype in the place of float64."""
        leaves = (leaf._replace(dtype=self._own(leaf)) for leaf in setup.leaves)
        return setup._replace(leaves=tuple(leaves))

    def make(self, setup: Setup) -> Any:
        """As of the driver."""
        return self.driver.make(self.based(setup))

    def load(self, setup: Setup, saved: Any) -> Any:
        """As of the driver."""
        return self.driver.load(self.based(setup), saved)

    def oracle(self, setup: Setup) -> Oracle:
        """What a run of `setup` must do, around the driver's inner optimizer."""
        return Oracle(self.based(setup), getattr(self.driver, "inner_step", torch_inner))

    def _own(self, leaf: Leaf) -> str:
        return self.dtype if leaf.dtype == "float64" else leaf.dtype
