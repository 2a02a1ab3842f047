"""Numbers to plot: what the conformance suite does not ask of every adapter (clause C91)."""

import pytest

from lookahead_core import AdaptiveAlpha, SyncRule, lookahead, nested
from lookahead_core.analysis.measured import metrics, plain_numbers
from lookahead_core.outer import Interpolate


def numbers(rule, fast, slow, **counters):
    state = rule.init(slow)._replace(count=1, **counters)
    return plain_numbers(metrics(rule, fast, state))


@pytest.mark.clause("C14", "C91")
def test_leaves_that_are_not_averaged_do_not_count(xp):
    fast = [xp.asarray([3.0, 4.0]), xp.asarray([7, 7])]
    slow = [xp.asarray([0.0, 0.0]), xp.asarray([0, 0])]
    found = numbers(lookahead(5, 0.5), fast, slow, syncs=2)
    assert found == {"syncs": 2, "distance": 5.0, "pseudo_gradient_norm": 5.0, "alpha": 0.5}
    only = numbers(lookahead(5, 0.5), fast[1:], slow[1:])
    assert (only["distance"], only["pseudo_gradient_norm"]) == (0.0, 0.0)


@pytest.mark.clause("C91")
def test_squares_are_added_up_in_a_dtype_that_holds_them(xp):
    half = getattr(xp, "float16", xp.float32)  # 300**2 is more than a float16 can be
    found = numbers(lookahead(5), [xp.asarray([300.0], dtype=half)], [xp.zeros(1, dtype=half)])
    assert found["distance"] == 300.0


@pytest.mark.clause("C91")
def test_an_estimated_alpha_is_not_known_before_its_sync(xp):
    rule = SyncRule(5, Interpolate(AdaptiveAlpha()))
    assert "alpha" not in numbers(rule, [xp.ones(2)], [xp.zeros(2)])


@pytest.mark.clause("C78", "C91")
def test_the_distance_is_that_of_what_a_second_rule_ships(xp):
    rule = nested(lookahead(1, 1.0), lookahead(5, 0.5))
    fast, start = [xp.asarray([1.0])], [xp.asarray([0.0])]
    _, _, state = rule.sync(fast, (), rule.begin(start, (), rule.init(start)))
    found = plain_numbers(metrics(rule, fast, state))
    assert (found["distance"], found["pseudo_gradient_norm"]) == (1.0, 0.0)
