"""The register of clauses that are checked on adapters; clauses.py and its like fill it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .driver import AdapterDriver
from .worked import Worked

__all__ = ["CLAUSES", "Clause", "clause"]


class Clause(NamedTuple):
    """A clause that is checked on adapters.

    Attributes
    ----------
    name : str
        Its number in docs/spec.md.
    title : str
        What it says, in a few words.
    checked : callable, (worked) -> None
        What `check` runs.
    needs : frozenset of str
        Capabilities of the driver that it uses; of those with a bar between them one is enough.
    """

    name: str
    title: str
    checked: Callable[[Worked], None]
    needs: frozenset[str]

    def check(self, driver: AdapterDriver, thorough: bool = False) -> None:
        """Raise AssertionError if the adapter behind `driver` does not hold the clause."""
        self.checked(Worked(driver, thorough))


CLAUSES: dict[str, Clause] = {}


def clause(name: str, title: str, *needs: str) -> Callable[[Any], Any]:
    """Register a check under the number of its clause."""

    def register(check: Callable[[Worked], None]) -> Callable[[Worked], None]:
        CLAUSES[name] = Clause(name, title, check, frozenset(needs))
        return check

    return register
