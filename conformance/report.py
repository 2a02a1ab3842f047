"""The suite without pytest: run every clause on a driver, and say what came of each."""

from collections.abc import Mapping
from typing import NamedTuple

from .driver import CAPABILITIES, AdapterDriver
from .registry import CLAUSES, Clause

__all__ = ["Outcome", "check_adapter", "check_names", "missing"]


class Outcome(NamedTuple):
    """What came of one clause.

    Attributes
    ----------
    status : {"pass", "fail", "not applicable", "expected failure", "unexpected pass"}
    detail : str
        What was seen, or which capability is missing, or the reason that was declared.
    """

    status: str
    detail: str = ""


def check_adapter(
    driver: AdapterDriver, expected_failures: Mapping[str, str] | None = None
) -> dict[str, Outcome]:
    """Run every clause on the adapter behind `driver`.

    Parameters
    ----------
    driver : AdapterDriver
        Makes and works the adapter.
    expected_failures : mapping of str to str, optional
        Clauses that are known to fail, each with the reason. One that passes all the same is an
        "unexpected pass".

    Returns
    -------
    dict of str to Outcome
        By clause, all of them. The adapter conforms if every status is "pass", "not applicable" or
        "expected failure".

    Raises
    ------
    ValueError
        If `expected_failures` or the driver's capabilities have a name that does not exist.
    """
    expected = dict(expected_failures or {})
    check_names(driver, expected)
    return {name: _outcome(clause, driver, expected) for name, clause in CLAUSES.items()}


def check_names(driver: AdapterDriver, expected_failures: Mapping[str, str]) -> None:
    """Raise ValueError for a clause or a capability that does not exist."""
    for kind, given, known in (
        ("expected_failures", set(expected_failures), set(CLAUSES)),
        ("capabilities", set(driver.capabilities), set(CAPABILITIES)),
    ):
        if given - known:
            raise ValueError(f"{kind} must be among {sorted(known)}, got {sorted(given - known)}")


def missing(clause: Clause, driver: AdapterDriver) -> str:
    """Capabilities that `clause` needs and `driver` has not, with what they are; "" if none."""
    lacking = sorted(clause.needs - driver.capabilities)
    return "; ".join(f"{name} ({CAPABILITIES[name]})" for name in lacking)


def _outcome(clause: Clause, driver: AdapterDriver, expected: Mapping[str, str]) -> Outcome:
    if lacking := missing(clause, driver):
        return Outcome("not applicable", f"the driver has no {lacking}")
    try:
        clause.check(driver)
    except Exception as failure:
        if clause.name in expected:
            return Outcome("expected failure", expected[clause.name])
        return Outcome("fail", f"{type(failure).__name__}: {failure}")
    if clause.name in expected:
        return Outcome("unexpected pass", expected[clause.name])
    return Outcome("pass")
