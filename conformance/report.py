"""The suite without pytest: run every clause on a driver, and say what came of each."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from .driver import CAPABILITIES, AdapterDriver
from .registry import CLAUSES, Clause
from .setup import EPS

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
    driver: AdapterDriver,
    expected_failures: Mapping[str, str] | None = None,
    *,
    clauses: Collection[str] | None = None,
    progress: Callable[[str, Outcome], object] | None = None,
    thorough: bool = False,
) -> dict[str, Outcome]:
    """Run every clause, or some, on the adapter behind `driver`.

    Parameters
    ----------
    driver : AdapterDriver
        Makes and works the adapter.
    expected_failures : mapping of str to str, optional
        Clauses that are known to fail, each with the reason. One that passes all the same is an
        "unexpected pass".
    clauses : collection of str, optional
        Names of those to run, such as `["C02", "C06"]`; all if not given.
    progress : callable, (name, outcome), optional
        Called after each clause; `print` shows them one by one.
    thorough : bool
        Try every case of clauses that take long (C06: each setting at each phase), as the tests of
        this project do. Without it each setting is tried at a few phases.

    Returns
    -------
    dict of str to Outcome
        By clause, those that were run. The adapter conforms if every status is "pass", "not
        applicable" or "expected failure".

    Raises
    ------
    ValueError
        If `expected_failures`, `clauses` or the driver's capabilities have a name that does not
        exist, or the driver's dtype is no floating one.
    """
    expected = dict(expected_failures or {})
    check_names(driver, expected, clauses or ())
    report = {}
    for name, clause in CLAUSES.items():
        if clauses is None or name in clauses:
            report[name] = _outcome(clause, driver, expected, thorough)
            if progress is not None:
                progress(name, report[name])
    return report


def check_names(
    driver: AdapterDriver, expected_failures: Mapping[str, str], clauses: Collection[str] = ()
) -> None:
    """Raise ValueError for a clause, a capability or a dtype that does not exist."""
    if isinstance(clauses, str):
        raise ValueError(f"clauses must be a list of names, got {clauses!r}")
    for kind, given, known in (
        ("clauses", set(clauses), set(CLAUSES)),
        ("dtype", {getattr(driver, "dtype", "float64")}, set(EPS)),
        ("expected_failures", set(expected_failures), set(CLAUSES)),
        ("capabilities", set(driver.capabilities), set(CAPABILITIES)),
    ):
        if given - known:
            raise ValueError(f"{kind} must be among {sorted(known)}, got {sorted(given - known)}")


def missing(clause: Clause, driver: AdapterDriver) -> str:
    """Capabilities that `clause` needs and `driver` has not, with what they are; "" if none."""
    lacking = [n for n in sorted(clause.needs) if not driver.capabilities & {*n.split("|")}]
    names = [name for one in lacking for name in one.split("|")]
    return "; ".join(f"{name} ({CAPABILITIES[name]})" for name in names)


def _outcome(
    clause: Clause, driver: AdapterDriver, expected: Mapping[str, str], thorough: bool
) -> Outcome:
    if lacking := missing(clause, driver):
        return Outcome("not applicable", f"the driver has no {lacking}")
    try:
        clause.check(driver, thorough)
    except Exception as failure:
        if clause.name in expected:
            return Outcome("expected failure", expected[clause.name])
        return Outcome("fail", f"{type(failure).__name__}: {failure}")
    if clause.name in expected:
        return Outcome("unexpected pass", expected[clause.name])
    return Outcome("pass")
