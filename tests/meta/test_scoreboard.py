"""The scoreboard explains what each driver has not. Peers are not here, so their text is read."""

from inspect import getclosurevars
from pathlib import Path

import pytest

from experiments.peers.promises import IMPLEMENTATIONS
from lookahead_core.conformance import CLAUSES

ROOT = Path(__file__).parents[2]
SHARED = [ROOT / "experiments" / "peers" / f"{name}_peer.py" for name in ("torch", "optax")]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda each: each.name)
def test_what_a_driver_has_not_is_explained(implementation):
    module = getclosurevars(implementation.driver).nonlocals["module"]
    path = f"{module.replace('.', '/')}.py"
    ours = module.startswith("drivers.")
    files = [ROOT / "tests" / path] if ours else [ROOT / path, *SHARED]
    has = "".join(file.read_text() for file in files)
    needs = {need for clause in CLAUSES.values() for need in clause.needs}
    unexplained = [
        need
        for need in sorted(needs)
        if not any(f'"{each}"' in has for each in need.split("|"))
        and not {*need.split("|")} <= implementation.lacks.keys()
    ]
    assert unexplained == []
