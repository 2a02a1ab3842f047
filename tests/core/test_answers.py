"""What a rule says of itself, so that nobody asks for its type; and what is read out of it."""

import pytest

from descent import COUNTERS, Descent, bits, leaf
from lookahead_core import (
    AdaptiveAlpha,
    Interpolate,
    Momentum,
    SyncRule,
    ema,
    lookahead,
    nested,
)


@pytest.fixture(params=COUNTERS)
def counter(request, xp):
    """The two counters: everything about a rule holds for both (clause C19)."""
    return COUNTERS[request.param](xp)


# --- what a rule says of itself ---


@pytest.mark.clause("C22", "C26", "C72", "C73")
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # at counts -1, 0 and 1: before the first sync, and after it
        (SyncRule(2), [True, True, False, True, True, False]),
        (SyncRule(2, restart=0.0), [True, True, False, False, False, False]),
        (SyncRule(2, restart=0.5), [True, True, False, False, False, False]),
        (SyncRule(2, restart_period=3), [True, True, False, False, False, False]),
    ],
)
def test_the_fast_weights_are_the_slow_ones_between_cycles_where_a_sync_puts_them_back(
    rule, expected, xp, counter
):
    state = rule.init((leaf(xp, 1.0),), count=counter)
    states = [
        state._replace(count=counter + count, syncs=counter + syncs)
        for syncs in (0, 1)
        for count in (-1, 0, 1)
    ]
    answers = [rule.fast_is_slow(state) for state in states]
    assert [bool(answer) for answer in answers] == expected
    assert {type(answer) is bool for answer in answers} == {isinstance(counter, int)}


class Slower(Momentum):
    """A rule of somebody's own, which is a momentum all the same."""


class Halfway(Interpolate):
    """Likewise, an interpolation."""


class Own:
    """One that says nothing of itself."""

    def init(self, slow):
        return ()

    def update(self, slow, fast, state, context):
        return slow, state


@pytest.mark.clause("C76")
@pytest.mark.parametrize(
    ("rule", "leafwise", "interpolates"),
    [
        (SyncRule(), True, True),
        (SyncRule(outer=Halfway()), True, True),
        (SyncRule(restart=0.5), True, False),
        (SyncRule(restart_period=2), True, False),
        (ema(), True, False),
        (lookahead(alpha=AdaptiveAlpha()), False, True),
        (SyncRule(outer=Momentum()), True, False),
        (SyncRule(outer=Slower()), True, False),
        (SyncRule(outer=Own()), False, False),
        (nested(lookahead(5), lookahead(10)), False, False),
    ],
)
def test_a_rule_says_whether_it_goes_leaf_by_leaf_and_whether_it_interpolates(
    rule, leafwise, interpolates
):
    assert (rule.leafwise, rule.interpolates) == (leafwise, interpolates)


@pytest.mark.clause("C77")
def test_a_rule_says_what_it_asks_for():
    rules = [SyncRule(), lookahead(alpha=AdaptiveAlpha()), SyncRule(outer=Own())]
    rules.append(lookahead(alpha=AdaptiveAlpha(curvature="inner")))
    assert [rule.needs_gradient for rule in rules] == [False, True, False, True]
    assert [rule.needs_curvature for rule in rules] == [False, False, False, True]


@pytest.mark.clause("C42")
def test_a_rule_with_another_alpha_is_the_same_rule_otherwise():
    rule = SyncRule(3, Halfway(0.5), "reset", start=2).with_alpha(0.25)
    assert rule == SyncRule(3, Halfway(0.25), "reset", start=2)


@pytest.mark.clause("C24", "C42")
@pytest.mark.parametrize(
    ("rule", "alpha", "message"),
    [
        (SyncRule(), 1.5, r"alpha must be a number in \[0, 1\] .*, got 1.5"),
        (SyncRule(outer=Momentum()), 0.5, "alpha needs an outer rule that has one, got Momentum"),
    ],
)
def test_an_alpha_that_a_rule_cannot_have_is_refused(rule, alpha, message):
    with pytest.raises(ValueError, match=message):
        rule.with_alpha(alpha)


# --- the read-out ---


class ReadOut(Interpolate):
    """Ships what lies 100 behind its slow weights."""

    def readout(self, slow, state, context):
        return [array + 100.0 for array in slow]


@pytest.mark.clause("C22", "C78")
def test_what_the_outer_rule_reads_out_is_what_a_rule_calls_slow(xp, counter):
    run = Descent(xp, SyncRule(2, ReadOut(0.5)), counter)
    assert (run.rule.has_readout, lookahead().has_readout) == (True, False)
    assert [run.slow] + [run.step().slow for _ in range(3)] == [100.0, 100.0, 99.0, 99.0]
    run.step().fast = (leaf(xp, 40.0),)  # between two cycles: these are the slow weights
    assert run.slow == 140.0


@pytest.mark.clause("C14", "C22", "C78")
def test_the_read_out_leaves_other_leaves_as_they_are(xp):
    rule, fast = SyncRule(2, ReadOut(0.5)), (leaf(xp, 3, dtype="int32"), leaf(xp, 1.0))
    assert bits(rule.slow(fast, rule.init(fast))) == ["[3.0]", "[101.0]"]


@pytest.mark.clause("C22", "C26", "C78")
def test_nested_rules_read_out_the_super_slow_weights(xp, counter):
    run = Descent(xp, nested(lookahead(1, 1.0), ema(0.5, sync_period=2)), counter)
    # An average of the points after steps 0 and 2; training does not see it.
    assert [(run.step().slow, run.weights) for _ in range(3)] == [
        *((0.0, -1.0), (-1.0, -2.0), (-1.0, -3.0)),
    ]
    run.fast = (leaf(xp, 40.0),)  # what is edited between cycles takes them along
    assert run.slow == 42.0
