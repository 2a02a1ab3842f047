"""docs/theory.md: what it calls wrong as printed is, and its tables are what is computed."""

import re
from pathlib import Path

import numpy as np
import pytest

from lookahead_core import lookahead
from lookahead_core.analysis import (
    compute_utilisation,
    lookahead_variance_factor,
    peak_traffic,
    sync_seconds,
    unstable_bands,
    variance_factor,
)
from lookahead_core.outer import Momentum
from lookahead_core.rule import SyncRule

PAGE = (Path(__file__).parents[2] / "docs" / "theory.md").read_text()


def rows(after: str) -> list[list[str]]:
    """Cells of the first table after a text, without its head."""
    table = PAGE.split(after, 1)[1].split("|---", 1)[1].split("\n\n", 1)[0]
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()[1:]]


def ends_of_cycles(cycles, alpha):
    """Slow weights after so many cycles, and where the fast ones were at the end of each."""
    rule, rng, fast = lookahead(2, alpha), np.random.default_rng(2), [np.asarray(1.0)]
    state, ends = rule.init(fast), []
    for step in range(1, 2 * cycles + 1):
        fast = [fast[0] + rng.normal()]
        if step % 2 == 0:
            ends.append(float(fast[0]))
        fast, _, state = rule.step(fast, (), state)
    return float(rule.slow(fast, state)[0]), ends


def test_equation_2_is_off_by_one_power_as_printed():
    slow, ends = ends_of_cycles(6, 0.3)
    weights = 0.7 ** np.arange(6)[::-1]
    assert 0.3 * weights @ ends + 0.7**6 == pytest.approx(slow, rel=1e-14)
    # Printed for t + 1 = 6, with t = 5 in the powers of the oldest end and of phi_0.
    printed = 0.3 * (0.7 ** np.asarray([4, 4, 3, 2, 1, 0])) @ ends + 0.7**5
    assert printed != pytest.approx(slow, rel=1e-3)


def test_equation_5_counts_the_variance_twice_as_printed():
    weights = np.random.default_rng(0).normal(0.5, 2.0, 200_000)
    optima = np.random.default_rng(1).normal(0.0, 1.0, 200_000)
    measured = ((weights - optima) ** 2).mean()
    assert measured == pytest.approx(0.5**2 + 4 + 1, rel=0.02)
    assert measured != pytest.approx((0.5**2 + 4) + 4 + 1, rel=0.02)


def test_the_article_s_third_is_not_the_factor():
    assert lookahead_variance_factor(0.1, 1.0, 5, 0.5) == pytest.approx(0.443, abs=5e-4)
    assert lookahead_variance_factor(1e-9, 1.0, 5, 0.5) == pytest.approx(0.5)
    assert lookahead_variance_factor(1.0, 1.0, 5, 0.5) == pytest.approx(1 / 3)


def test_the_table_of_bands_is_what_is_computed():
    table = rows("there are bands of x")
    assert len(table) == 4
    for setting, *cells in table:
        b, k, alpha = setting.split(", ")
        for policy, cell in zip(("maintain", "reset", "interpolate"), cells, strict=True):
            bands = unstable_bands(lookahead(int(k), float(alpha), policy), float(b))
            printed = [float(end) for end in re.findall(r"[\d.]+", cell)]
            found = [end for band in bands for end in (band.low, band.high)]
            assert printed == pytest.approx(found, abs=5.1e-4)


def test_the_table_of_momentum_rules_is_what_is_computed():
    table = rows("Where k x is not small")
    assert len(table) == 3
    for outer, k, *cells in table:
        lr, momentum = map(float, outer.split(", "))
        rule = SyncRule(int(k), Momentum(lr, momentum))
        found = variance_factor(rule, np.asarray([0.001, 0.01, 0.1, 0.5]), 1.0)
        assert [float(cell) for cell in cells] == pytest.approx(list(found), abs=5.1e-4)


def test_the_utilisations_are_what_is_computed():
    sync = sync_seconds(peak_traffic(1e10, 8), 8, bandwidth=1e10, latency=0.05)
    found = [100 * compute_utilisation(1.0, sync, k) for k in (1, 30, 100, 500)]
    assert found == pytest.approx([3.4, 51, 78, 95], abs=0.5)
    assert "3.4 % for k = 1, 51 % for\n30, 78 % for 100, 95 % for 500" in PAGE
