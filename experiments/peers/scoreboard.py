"""Hold the installed peers, and ours, against the specification; write docs/scoreboard.md.

    nox -s peers

runs this file where the versions in requirements.txt are installed. Nothing in the page depends on
the machine or the moment except the date, which `--date` sets.
"""

import argparse
import datetime
import os
import sys
from importlib.metadata import version
from pathlib import Path

import jax

from experiments.peers.judging import FAIL, NOT_APPLICABLE, NOT_PROMISED, PASS, Verdict, judge
from experiments.peers.promises import IMPLEMENTATIONS, Implementation
from lookahead_core.conformance import CLAUSES

PAGE = Path(__file__).parents[2] / "docs" / "scoreboard.md"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
COMPUTED_WITH = ("torch", "jax", "numpy", "keras", "mlx")
Verdicts = dict[str, Verdict]

INTRODUCTION = """\
The conformance suite, run on installed packages through drivers in `experiments/peers/`. Every
package is used as its own documentation says, at default settings where a clause does not set
them. The clauses are ours: [the specification](spec.md) says what each means. In JAX a missing
gradient is a zero, a frozen leaf is kept out by `optax.masked`, and groups are those of
`optax.multi_transform`. Keras computes with torch here; [the matrix](matrix.md) has its
other backends.

| | |
|---|---|
| ✔ | holds |
| ✘ | fails; below is what a user sees |
| ✘ (C01) | fails only because C01 does: holds once that is worked around from outside |
| ✘ (adam) | holds, except with the capability that is named |
| ○ | does not hold, and was never promised |
| – | cannot be asked; below is why |
"""


def main() -> None:
    """Judge every implementation, write the page, print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--date", type=datetime.date.fromisoformat, default=datetime.date.today())
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    refuse_other_versions()
    os.environ["KERAS_BACKEND"] = "torch"  # which is here anyway; docs/matrix.md has all three
    # As a context, because importing brainstate turns the global setting off again. float64 is
    # what the oracle is followed in.
    with jax.enable_x64(True):
        found = [(implementation, judge(implementation)) for implementation in IMPLEMENTATIONS]
    page = render(found, arguments.date)
    arguments.output.write_text(page, encoding="utf-8")
    print(page)


def pins() -> dict[str, str]:
    """Versions in requirements.txt, by name."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def refuse_other_versions() -> None:
    """Exit unless every pinned package is here in its pinned version."""
    wrong = [
        f"{name}=={pinned} is pinned, {version(name)} is installed"
        for name, pinned in pins().items()
        if version(name) != pinned
    ]
    if wrong:
        sys.exit("\n".join(wrong))


def render(found: list[tuple[Implementation, Verdicts]], date: datetime.date) -> str:
    """The page."""
    parts = [
        "# Scoreboard: Lookahead implementations against the specification",
        f"{date.isoformat()}. Written by `nox -s peers`; do not edit.",
        versions(),
        INTRODUCTION.rstrip(),
        table(found),
        "## What lies behind the marks",
        *(section(implementation, verdicts) for implementation, verdicts in found),
    ]
    return "\n\n".join(parts) + "\n"


def versions() -> str:
    """What was compared, and what computed it."""
    compared = dict.fromkeys(implementation.distribution for implementation in IMPLEMENTATIONS)
    named = [f"{name} {public(name)}" for name in compared]
    with_ = [f"{name} {public(name)}" for name in COMPUTED_WITH]
    return f"Compared: {', '.join(named)}. Computed with {', '.join(with_)} on a CPU."


def public(name: str) -> str:
    """The version without its local part, which says how a machine's wheel was built."""
    return version(name).split("+")[0]


def table(found: list[tuple[Implementation, Verdicts]]) -> str:
    """Clauses down, implementations across."""
    heads = [implementation.name for implementation, _ in found]
    rows = [["clause", *heads], ["---", *(":-:" for _ in heads)]]
    for name, clause in CLAUSES.items():
        rows.append([f"{name} {clause.title}", *(cell(v[name]) for _, v in found)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell(verdict: Verdict) -> str:
    return f"{verdict.mark} ({verdict.only})" if verdict.only else verdict.mark


def section(implementation: Implementation, verdicts: Verdicts) -> str:
    """What a user sees of each failure, and why clauses could not be asked."""
    lines = [f"### {implementation.name}", ""]
    lines += [
        f"- **{name} {cell(v)}** {v.reason}<br>`{v.detail}`"
        for name, v in verdicts.items()
        if v.mark == FAIL and name not in shadows(implementation, verdicts)
    ]
    if names := shadows(implementation, verdicts):
        roots = " and ".join(implementation.roots)
        lines.append(f"- **{', '.join(names)} ✘ ({roots})** That defect again, and nothing else.")
    lines += [
        f"- **{name} {NOT_PROMISED}** {v.reason}<br>`{v.detail}`"
        for name, v in verdicts.items()
        if v.mark == NOT_PROMISED
    ]
    reasons: dict[str, list[str]] = {}
    for name, v in verdicts.items():
        if v.mark == NOT_APPLICABLE:
            reasons.setdefault(v.reason, []).append(name)
    lines += [f"- {', '.join(names)} {NOT_APPLICABLE} {why}." for why, names in reasons.items()]
    if all(v.mark == PASS for v in verdicts.values()):
        lines.append("- Holds every clause.")
    return "\n".join(lines)


def shadows(implementation: Implementation, verdicts: Verdicts) -> list[str]:
    """Clauses that fail only because a root does."""
    roots = " and ".join(implementation.roots)
    return [name for name, v in verdicts.items() if roots and v.only == roots]


if __name__ == "__main__":
    main()
