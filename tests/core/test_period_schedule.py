"""The period as a schedule of the syncs: post-local SGD, the quadratic rule, what is refused."""

import pytest

from lookahead_core import (
    Interpolate,
    PostLocal,
    QuadraticPeriod,
    Ramp,
    SyncRule,
    local_sgd,
    lookahead,
    nested,
)
from lookahead_core.analysis import contraction_rate, effective_learning_rate, stability_limit
from lookahead_core.checkpoint import counters, settings
from lookahead_core.schedule import advance, in_phase, length

COUNTERS = {"branches": lambda xp: int, "selects": lambda xp: xp.asarray}
QUADRATIC = QuadraticPeriod(Ramp(0.5, 0.125, 4), growth=1.0, least=2, most=9)
STEPS, LR, TARGETS = 40, 0.25, (1.0, -3.0)


@pytest.fixture(params=COUNTERS)
def counter(request, xp):
    """Makes a counter of either kind (clause C19)."""
    return COUNTERS[request.param](xp)


def close(xp, value):
    return pytest.approx(value, abs=1e-13 if xp.__name__ != "jax.numpy" else 1e-6)


def leaf(xp, value):
    return xp.asarray([value], dtype=xp.float64)


@pytest.mark.clause("C81", "C90")
@pytest.mark.parametrize("outer", [Interpolate(1.0), Interpolate(0.5)], ids=str)
def test_post_local_sgd_is_a_plain_loop_over_two_workers(outer, counter, xp):
    rule = SyncRule(PostLocal(at=3, period=4), outer)
    fast = [(leaf(xp, 0.0),), (leaf(xp, 0.0),)]
    states = [rule.init(own, count=counter(0)) for own in fast]
    slow, plain, count, syncs = 0.0, [0.0, 0.0], 0, 0
    for _ in range(STEPS):
        states = [rule.begin(own, (), state) for own, state in zip(fast, states, strict=True)]
        fast = [(f - LR * (f - t),) for (f,), t in zip(fast, TARGETS, strict=True)]
        ways = [s.slow[0] - f for (f,), s in zip(fast, states, strict=True)]

        def mean(own, ways=ways):
            return [sum(ways) / 2]

        after = [rule.step(f, (), s, average=mean) for f, s in zip(fast, states, strict=True)]
        fast, states = [f for f, _, _ in after], [s for _, _, s in after]
        plain = [x - LR * (x - t) for x, t in zip(plain, TARGETS, strict=True)]
        count += 1
        if count == (1 if syncs < 3 else 4):
            slow += outer.alpha * (sum(plain) / 2 - slow)
            plain, count, syncs = [slow, slow], 0, syncs + 1
        assert [float(f[0]) for (f,) in fast] == close(xp, plain)
        assert [(int(s.count), int(s.syncs)) for s in states] == [(count, syncs)] * 2
    assert syncs == 12


@pytest.mark.clause("C90")
def test_the_quadratic_rule_syncs_less_and_less_as_the_rate_decays(counter, xp):
    rule = lookahead(QUADRATIC, 0.5)
    fast = (leaf(xp, 0.0),)
    state = rule.init(fast, count=counter(0))
    plain, slow, count, syncs, lengths = 0.0, 0.0, 0, 0, []
    for _ in range(STEPS):
        state = rule.begin(fast, (), state)
        fast, _, state = rule.step((fast[0] + 1.0,), (), state)
        plain, count = plain + 1.0, count + 1
        rate = 0.5 - 0.375 * min(syncs / 4, 1)
        if count == min(max(2, int((1.0 / rate) ** 2)), 9):
            slow += 0.5 * (plain - slow)
            lengths.append(count)
            plain, count, syncs = slow, 0, syncs + 1
        assert float(fast[0][0]) == close(xp, plain)
    assert lengths == [4, 6, 9, 9, 9]  # 4, 6.1, 10.2: at most 9


# --- what the clock says ---


@pytest.mark.clause("C05", "C90")
def test_a_sync_on_demand_begins_the_next_cycle_with_its_own_length(counter, xp):
    rule = SyncRule(lambda syncs: 2 + syncs)
    state = rule.init((leaf(xp, 0.0),), count=counter(0))
    _, _, state = rule.sync((leaf(xp, 1.0),), (), state)
    due = []
    for _ in range(7):
        due.append(bool(rule.due(state)))
        _, _, state = rule.step((leaf(xp, 1.0),), (), state)
    assert due == [False, False, True, False, False, False, True]


@pytest.mark.clause("C19", "C90")
def test_a_schedule_is_asked_by_the_counter_that_the_steps_have(xp):
    asked = []

    def period(syncs):
        asked.append(syncs)
        return 3

    assert length(period, 2, 0) == 3
    assert type(asked[0]) is int
    # An adapter may count in a floating dtype, and gets its numbers in that.
    for dtype in (xp.int32, xp.float32):
        count = xp.asarray(0, dtype=dtype)
        got = length(lambda syncs: asked.append(syncs) or syncs + 1, xp.asarray(2.0), count)
        assert (got.dtype, int(got)) == (dtype, 3)
        assert (asked[-1].dtype, int(asked[-1])) == (xp.int32, 2)


@pytest.mark.clause("C24", "C90")
@pytest.mark.parametrize("wrong", [0, -1, 2.5, 4.0, True, None, "5"])
def test_a_schedule_that_gives_no_whole_number_is_refused(wrong, counter, xp):
    rule = SyncRule(lambda syncs: wrong)
    state = rule.init((leaf(xp, 0.0),), count=counter(0))
    with pytest.raises(ValueError, match=r"sync_period must be an int >= 1 \(inner steps between"):
        rule.step((leaf(xp, 0.0),), (), state)


@pytest.mark.clause("C24", "C90")
def test_an_array_that_a_schedule_gives_is_refused_by_its_dtype_and_1_if_it_is_below(counter, xp):
    with pytest.raises(ValueError, match="sync_period must be an int >= 1"):
        length(lambda syncs: xp.asarray(2.0), counter(0), counter(0))
    assert bool(advance(xp.asarray(0), xp.asarray(0))[1])  # its value may be traced


@pytest.mark.clause("C42", "C90")
@pytest.mark.parametrize(("elapsed", "count"), [(7, 3), (7, 0), (-2, -2)])
def test_a_part_that_changes_to_a_schedule_has_a_whole_cycle_from_there(elapsed, count, counter):
    phase = in_phase(counter(elapsed), counter(count), PostLocal(0, 4))
    assert int(phase) == (-count if elapsed > 0 else 0)


# --- checkpoints, and rules that need a number ---


@pytest.mark.clause("C06", "C90")
def test_a_checkpoint_has_a_count_within_the_cycle_that_it_was_saved_in():
    rule = SyncRule(PostLocal(2, 5))
    saved = {**settings(rule), "syncs": 2, "count": 4}
    assert saved["sync_period"] == "a schedule"
    assert counters(saved, rule)[1:3] == (4, 2)
    with pytest.raises(ValueError, match="count must be below sync_period=1, got 4"):
        counters({**saved, "syncs": 1}, rule)
    with pytest.raises(ValueError, match=r"was made with sync_period='a schedule', this .* has"):
        counters(saved, SyncRule(5))


@pytest.mark.clause("C24", "C90")
@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda rule: nested(rule, lookahead(8)), "sync_period must be a number in nested rules"),
        (lambda rule: nested(lookahead(1), rule), "sync_period must be a number in nested rules"),
        (lambda rule: contraction_rate(rule, 0.1, 1.0), "sync_period must be the same for all"),
        (lambda rule: stability_limit(rule), "sync_period must be the same for all"),
    ],
)
def test_what_needs_one_length_for_all_cycles_says_so(use, message):
    with pytest.raises(ValueError, match=message):
        use(lookahead(PostLocal(2, 4), 0.5))


@pytest.mark.clause("C90")
def test_what_does_not_need_the_length_takes_a_schedule():
    assert effective_learning_rate(lookahead(PostLocal(2, 4), 0.5), 0.1) == 0.05
    local_sgd(PostLocal(2, 4)).check_counts()
