"""The suite as pytest classes: subclass one in a test module, set its driver or kernel, run pytest.

Messages are written by the checks themselves, so nothing depends on assertion rewriting, which
pytest does not do for installed modules.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from lookahead_core import Kernel

from .driver import AdapterDriver
from .kernel import KERNEL_CHECKS
from .registry import CLAUSES
from .report import check_names, missing

__all__ = ["AdapterConformance", "KernelConformance"]


class AdapterConformance:
    """One test a clause. Name the subclass `Test...`.

    Attributes
    ----------
    driver : AdapterDriver
        Makes and works the adapter.
    expected_failures : mapping of str to str
        Clauses that are known to fail, each with the reason: strict, so that one that passes
        fails the run. An unknown name is refused when the class is made.
    thorough : bool
        Try every case of clauses that take long, as for `check_adapter`.
    """

    driver: ClassVar[AdapterDriver]
    expected_failures: ClassVar[Mapping[str, str]] = {}
    thorough: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if hasattr(cls, "driver"):
            check_names(cls.driver, cls.expected_failures)

    @pytest.mark.parametrize("name", CLAUSES)
    def test_clause(self, name: str, request: pytest.FixtureRequest) -> None:
        """The adapter holds the clause, or fails it as declared."""
        clause = CLAUSES[name]
        if lacking := missing(clause, self.driver):
            pytest.skip(f"{name} is not applicable: the driver has no {lacking}")
        if reason := self.expected_failures.get(name):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        clause.check(self.driver, self.thorough)


class KernelConformance:
    """One test a clause of the kernel's contract. Name the subclass `Test...`.

    Attributes
    ----------
    kernel : Kernel
        The kernel to check.
    xp : array-API namespace
        Makes the arrays that it is given.
    """

    kernel: ClassVar[Kernel]
    xp: ClassVar[Any]

    @pytest.mark.parametrize("name", KERNEL_CHECKS)
    def test_clause(self, name: str) -> None:
        """The kernel holds the clause."""
        KERNEL_CHECKS[name](self.kernel, self.xp)
