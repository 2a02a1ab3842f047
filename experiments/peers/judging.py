"""One implementation, every clause: what the suite finds, and what may fairly be said of it.

The suite says pass or fail. A failure can be less than that: never promised, only seen with one
capability, or another clause's failure once more. All of this is found by running checks again.
"""

import copy
import re
from typing import Any, NamedTuple

from experiments.peers.promises import Implementation
from lookahead_core.conformance import CAPABILITIES, CLAUSES, check_adapter

__all__ = ["Verdict", "judge"]

PASS, FAIL, NOT_APPLICABLE, NOT_PROMISED = "✔", "✘", "–", "○"


class Verdict(NamedTuple):
    """What the scoreboard says of one clause and one implementation.

    Attributes
    ----------
    mark : {"✔", "✘", "–", "○"}
        Holds, fails, cannot be asked, or fails and was never promised.
    only : str
        Why a failure is less than one of its own: the capability without which the clause holds,
        or the clauses whose failure this is; else empty.
    reason : str
        For "–" why it cannot be asked, for the rest of the failures what a user sees.
    detail : str
        What the check printed, in one line.
    """

    mark: str
    only: str = ""
    reason: str = ""
    detail: str = ""


def judge(implementation: Implementation) -> dict[str, Verdict]:
    """Run all clauses on `implementation`.

    Returns
    -------
    dict of str to Verdict
        By clause, all of them.

    Raises
    ------
    ValueError
        If the descriptions in promises.py and what was found do not match, either way.
    """
    driver = implementation.driver()
    outcomes = check_adapter(driver)
    verdicts = {}
    for name, outcome in outcomes.items():
        if outcome.status == "pass":
            verdicts[name] = Verdict(PASS)
        elif outcome.status == "not applicable":
            verdicts[name] = Verdict(NOT_APPLICABLE, reason=why_not(name, driver, implementation))
        else:
            verdicts[name] = failure(name, driver, implementation, outcome.detail)
    refuse_stale_descriptions(implementation, driver, verdicts)
    return verdicts


def failure(name: str, driver: Any, implementation: Implementation, detail: str) -> Verdict:
    """The verdict on a clause that fails; `detail` is what the check said."""
    if implementation.repaired and name not in implementation.roots:
        if not (own := broken_by(name, implementation.repaired())):
            roots = " and ".join(implementation.roots)
            return Verdict(FAIL, roots, f"Fails only because {roots} does.", one_line(detail))
        detail = own  # what is wrong beside the roots, which the first detail may be about
    detail = one_line(detail)
    if name in implementation.not_promised:
        return Verdict(NOT_PROMISED, "", implementation.not_promised[name], detail)
    if name not in implementation.seen:
        raise ValueError(f"{implementation.name} fails {name}, which is not described: {detail}")
    return Verdict(FAIL, spoiler(name, driver), implementation.seen[name], detail)


def spoiler(name: str, driver: Any) -> str:
    """A capability without which the clause holds, "" if there is none."""
    for capability in sorted(driver.capabilities - CLAUSES[name].needs):
        if not broken_by(name, without(driver, capability)):
            return capability
    return ""


def broken_by(name: str, driver: Any) -> str:
    """What the check of one clause says of `driver`, "" if it passes."""
    try:
        CLAUSES[name].check(driver)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


def without(driver: Any, capability: str) -> Any:
    """`driver` with one capability less."""
    changed = copy.copy(driver)
    changed.capabilities = driver.capabilities - {capability}
    return changed


def why_not(name: str, driver: Any, implementation: Implementation) -> str:
    """Why a clause cannot be asked, in the words of promises.py."""
    needs = [need.split("|") for need in sorted(CLAUSES[name].needs)]
    lacking = [each for need in needs if not driver.capabilities & {*need} for each in need]
    if unexplained := set(lacking) - set(implementation.lacks):
        raise ValueError(f"{implementation.name} lacks {sorted(unexplained)}: promises say no why")
    return "; ".join(dict.fromkeys(implementation.lacks[capability] for capability in lacking))


def refuse_stale_descriptions(
    implementation: Implementation, driver: Any, verdicts: dict[str, Verdict]
) -> None:
    """Raise ValueError for a description of something that is not so."""
    described = {**implementation.seen, **implementation.not_promised}
    for what, names in (
        ("failures", [name for name, text in described.items() if verdicts[name].reason != text]),
        ("lacking capabilities", sorted(driver.capabilities & set(implementation.lacks))),
        ("names of capabilities", sorted(set(implementation.lacks) - set(CAPABILITIES))),
    ):
        if names:
            raise ValueError(f"{implementation.name}: {what} in promises.py are not so: {names}")


def one_line(detail: str, width: int = 240) -> str:
    """The first line, without what differs between machines or runs, cut to `width`."""
    line = re.sub(r"0x[0-9a-f]+", "0x…", detail.strip().splitlines()[0])
    return line if len(line) <= width else line[: width - 1] + "…"
