"""The register of clauses that are checked on adapters; clauses.py and family.py fill it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .driver import AdapterDriver

__all__ = ["CLAUSES", "Clause", "clause"]


class Clause(NamedTuple):
    """A clause that is checked on adapters.

    Attributes
    ----------
    name : str
        Its number in docs/spec.md.
    title : str
        What it says, in a few words.
    check : callable, (driver) -> None
        Raises AssertionError if the adapter does not hold it.
    needs : frozenset of str
        Capabilities of the driver that it uses.
    """

    name: str
    title: str
    check: Callable[[AdapterDriver], None]
    needs: frozenset[str]


CLAUSES: dict[str, Clause] = {}


def clause(name: str, title: str, *needs: str) -> Callable[[Any], Any]:
    """Register a check under the number of its clause."""

    def register(check: Callable[[AdapterDriver], None]) -> Callable[[AdapterDriver], None]:
        CLAUSES[name] = Clause(name, title, check, frozenset(needs))
        return check

    return register
