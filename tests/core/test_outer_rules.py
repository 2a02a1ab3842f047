"""Outer rules: momentum, one's own, nested, and what is refused; restart and start."""

import re

import pytest

from lookahead_core import (
    AdaptiveAlpha,
    EmaNesterov,
    Interpolate,
    Momentum,
    Nested,
    PrimalAveraging,
    RateWeights,
    SyncContext,
    SyncRule,
    SyncState,
    anytime_ema,
    bmuf,
    diloco,
    ema,
    ema_nesterov,
    gpa,
    local_sgd,
    lookahead,
    nested,
    polyak,
    power_ema,
    presets,
    reptile,
    schedule_free,
    slowmo,
    snoo,
    swa,
    switch_ema,
    wsm,
)
from lookahead_core.checkpoint import check_settings, counters, settings
from lookahead_core.conformance import sync_rule
from lookahead_core.conformance.family import PRESETS


def leaf(xp, *values, dtype="float64"):
    return xp.asarray(list(values), dtype=getattr(xp, dtype))


def values(array):
    return [float(array[i]) for i in range(array.shape[0])]


def stepped(rule, state, fast, inner=(), times=1, **given):
    """`times` inner steps that subtract one from `fast` and add one to `inner`."""
    for _ in range(times):
        fast = tuple(array - 1.0 for array in fast)
        inner = tuple(array + 1.0 for array in inner)
        fast, inner, state = rule.step(fast, inner, state, **given)
    return fast, inner, state


# --- every rule ---


class OuterAdam:
    """A rule of a user's own: Adam on the pseudo-gradient, two slots and the number of syncs."""

    def init(self, slow):
        return tuple(s * 0 for s in slow), tuple(s * 0 for s in slow)

    def update(self, slow, fast, state, context):
        gradient = [s - f for s, f in zip(slow, fast, strict=True)]
        first = [0.9 * m + 0.1 * g for m, g in zip(state[0], gradient, strict=True)]
        second = [0.99 * v + 0.01 * g * g for v, g in zip(state[1], gradient, strict=True)]
        pairs = zip(slow, first, second, strict=True)
        moved = [s - 0.1 * m / (v**0.5 + 1e-8) for s, m, v in pairs]
        return moved, (first, second)


RULES = {
    "interpolate": Interpolate(0.3),
    "heavy ball": Momentum(0.7, 0.5, nesterov=False),
    "nesterov": Momentum(0.7, 0.5),
    "nested": Nested(Interpolate(0.5), Momentum(0.7, 0.5), 2),
    "one's own": OuterAdam(),
    "primal averaging": PrimalAveraging(0.75, 0.5),
    "weighed steps": PrimalAveraging(RateWeights(power=0.0, r=1.0), 0.5),
    "EMA-Nesterov": EmaNesterov(0.5, 0.75),
    "nested averages": Nested(PrimalAveraging(0.75, 0.5), EmaNesterov(0.5, 0.75), 2),
}


@pytest.mark.clause("C21", "C71", "C76", "C78")
@pytest.mark.parametrize("name", RULES)
def test_every_rule_and_its_state_commute_with_translation(name, xp):
    outer, by = RULES[name], leaf(xp, 64.0, -32.0)
    slow, there = [leaf(xp, 3.0, -8.0)], [leaf(xp, 3.0, -8.0) - by]
    state, moved = outer.init(slow), outer.init(there)
    for sync in range(4):
        fast = leaf(xp, 5.0 + sync, 16.0)
        slow, state = outer.update(slow, [fast], state, SyncContext(sync))
        there, moved = outer.update(there, [fast - by], moved, SyncContext(sync))
        assert values(there[0] + by) == pytest.approx(values(slow[0]), abs=1e-12)
        for slot, other in zip(state, moved, strict=True):
            assert values(other[0]) == pytest.approx(values(slot[0]), abs=1e-12)


@pytest.mark.clause("C19", "C74", "C76", "C78")
@pytest.mark.parametrize("name", RULES)
def test_every_rule_means_the_same_with_either_counter(name, xp):
    rule, start = SyncRule(2, RULES[name]), (leaf(xp, 1.0, 2.0),)
    branching, _, state = stepped(rule, rule.init(start), start, times=9)
    selecting, _, other = stepped(rule, rule.init(start, count=xp.asarray(0)), start, times=9)
    assert values(selecting[0]) == pytest.approx(values(branching[0]), abs=1e-12)
    for slot, twin in zip(state.outer, other.outer, strict=True):
        assert values(twin[0]) == pytest.approx(values(slot[0]), abs=1e-12)


@pytest.mark.clause("C14", "C76")
@pytest.mark.parametrize("name", RULES)
def test_a_rule_sees_the_leaves_that_are_averaged_and_no_others(name, xp):
    rule = SyncRule(1, RULES[name])
    fast = (leaf(xp, 3, dtype="int32"), leaf(xp, 1.0), leaf(xp, 4, dtype="int32"))
    state = rule.init(fast)
    assert all(len(slot) == 1 for slot in state.outer)
    live = (leaf(xp, 7, dtype="int32"), leaf(xp, 0.0), leaf(xp, 8, dtype="int32"))
    fast, _, state = rule.step(live, (), state)
    for leaves in (fast, state.slow):
        assert [int(leaves[0][0]), int(leaves[2][0])] == [7, 8]


@pytest.mark.clause("C12", "C71", "C78")
@pytest.mark.parametrize("name", RULES)
def test_a_nan_at_a_step_that_does_not_sync_reaches_no_slot(name, xp):
    rule, start = SyncRule(3, RULES[name]), (leaf(xp, 1.0),)
    state = rule.init(start, count=xp.asarray(0))
    before = [values(slot[0]) for slot in state.outer]
    _, _, state = rule.step((leaf(xp, float("nan")),), (), state)
    assert [values(slot[0]) for slot in state.outer] == before
    assert values(state.slow[0]) == [1.0]


@pytest.mark.clause("C15", "C71")
def test_the_buffer_has_the_dtype_of_the_slow_weights(xp):
    rule = SyncRule(1, Momentum(0.5, 0.5))
    state = rule.init((leaf(xp, 1.0, dtype="float32"),), slow_dtype=xp.float64)
    assert state.outer[0][0].dtype == xp.float64
    fast, _, state = rule.step((leaf(xp, 0.0, dtype="float32"),), (), state)
    assert state.outer[0][0].dtype == state.slow[0].dtype == xp.float64
    assert fast[0].dtype == xp.float32


@pytest.mark.clause("C32", "C71")
def test_momentum_moves_complex_leaves_like_pairs(xp):
    rule, dtype = SyncRule(1, Momentum(0.5, 0.5)), "complex64"
    fast = (leaf(xp, 1 + 2j, dtype=dtype),)
    fast, _, state = rule.step((leaf(xp, 0j, dtype=dtype),), (), rule.init(fast))
    assert complex(fast[0][0]) == 0.25 * (1 + 2j)
    assert complex(state.outer[0][0][0]) == 1 + 2j


# --- restart, start, inner state ---


@pytest.mark.clause("C72")
def test_reset_acts_where_the_weights_are_put_back(xp):
    rule = switch_ema(3, 0.5, "reset")
    start, inner = (leaf(xp, 0.0),), (leaf(xp, 0.0),)
    state, seen = rule.init(start, inner), []
    for _ in range(7):
        start, inner, state = stepped(rule, state, start, inner)
        seen.append(values(inner[0])[0])
    assert seen == [1.0, 2.0, 0.0, 1.0, 2.0, 0.0, 1.0]


@pytest.mark.clause("C26", "C72")
def test_an_average_takes_no_anchor_after_it_has_begun(xp):
    rule, start = ema(0.5), (leaf(xp, 0.0),)
    edited = (leaf(xp, 100.0),)
    assert values(rule.anchor(edited, rule.init(start)).slow[0]) == [100.0]
    for count in (0, xp.asarray(0)):
        _, _, state = stepped(rule, rule.init(start, count=count), start)
        assert values(rule.anchor(edited, state).slow[0]) == [-0.5]
        assert values(rule.slow(edited, state)[0]) == [-0.5]


@pytest.mark.clause("C73")
def test_until_the_start_the_slow_weights_are_the_fast_ones(xp):
    rule, start = polyak(start=2), (leaf(xp, 0.0),)
    for count in (0, xp.asarray(0)):
        fast, state, read = start, rule.init(start, count=count), []
        for _ in range(4):
            fast, _, state = stepped(rule, state, fast)
            read.append(values(rule.slow(fast, state)[0])[0])
        assert read == [-1.0, -2.0, -3.0, -3.5]


@pytest.mark.clause("C18", "C73")
def test_the_slow_copy_of_the_inner_state_is_taken_at_the_start_too(xp):
    rule, start = SyncRule(2, Interpolate(0.5), "interpolate", start=3), (leaf(xp, 0.0),)
    for count in (0, xp.asarray(0)):
        fast, inner, state = stepped(rule, rule.init(start, start, count=count), start, start, 3)
        assert values(state.inner_slow[0]) == [3.0]
        _, inner, _ = stepped(rule, state, fast, inner, times=2)
        assert values(inner[0]) == [4.0]  # halfway from 3 to 5


@pytest.mark.clause("C73")
def test_a_sync_that_is_forced_before_the_start_moves_nothing(xp):
    rule, start = SyncRule(2, Interpolate(0.5), "interpolate", start=3), (leaf(xp, 0.0),)
    for count in (0, xp.asarray(0)):
        waiting = stepped(rule, rule.init(start, start, count=count), start, start, times=2)
        fast, inner, state = rule.sync(*waiting)
        assert [values(*leaves) for leaves in (fast, inner, state.slow)] == [[-2.0], [2.0], [-2.0]]
        assert (int(state.count), int(state.syncs)) == (0, 1)
        _, inner, state = stepped(rule, state, fast, inner, times=2)
        assert [values(*leaves) for leaves in (state.slow, inner)] == [[-3.0], [3.0]]


@pytest.mark.clause("C18", "C71")
def test_interpolate_blends_by_the_part_of_the_way_that_momentum_goes(xp):
    for outer, part in (
        (Momentum(0.25, 0.5, nesterov=False), 0.25),
        (Momentum(0.25, 0.5), 0.375),
        (Momentum(0.7, 0.9), 1.0),
        (Momentum(xp.asarray(0.25, dtype=xp.float64), 0.5), 0.375),
        (Momentum(xp.asarray(0.7, dtype=xp.float64), 0.9), 1.0),
    ):
        rule, start = SyncRule(1, outer, "interpolate"), (leaf(xp, 0.0),)
        _, inner, _ = stepped(rule, rule.init(start, start), start, start)
        assert values(inner[0]) == [part]


# --- presets ---


@pytest.mark.clause("C79")
def test_the_presets_of_the_suite_are_the_presets(xp):
    ours = {
        "lookahead": lookahead(),
        "ema": ema(0.875),
        "snoo": snoo(2),
        "diloco": diloco(5),
        "switch_ema": switch_ema(4, 0.875),
        "nested": nested(lookahead(2, 0.5), lookahead(6, 0.25)),
        "local_sgd": local_sgd(5),
        "slowmo": slowmo(3),
        "bmuf": bmuf(3),
        "schedule_free": schedule_free(),
        "gpa": gpa(),
        "ema_nesterov": ema_nesterov(),
    }
    assert {name: sync_rule(PRESETS[name]) for name in ours} == ours
    schedules = {
        "polyak": polyak(start=3),
        "swa": swa(3, start=4),
        "anytime_ema": anytime_ema(0.25),
        "power_ema": power_ema(1.0),
        "wsm": wsm(3, start=4, power=0.5),
        "reptile": reptile(3, PRESETS["reptile"].alpha, "reset"),
    }
    for name, rule in schedules.items():
        theirs = sync_rule(PRESETS[name])
        of_theirs = [theirs.outer.alpha(i) for i in range(5)]
        assert [rule.outer.alpha(i) for i in range(5)] == pytest.approx(of_theirs, rel=1e-14)
        assert (rule.sync_period, rule.restart, rule.start, rule.inner_state) == (
            theirs.sync_period,
            theirs.restart,
            theirs.start,
            theirs.inner_state,
        )
    assert {*ours, *schedules} == {*PRESETS} == {*presets.__all__}


@pytest.mark.clause("C78")
def test_the_super_slow_weights_are_read_from_the_slots(xp):
    rule, start = nested(lookahead(1, 1.0), ema(0.5, sync_period=2)), (leaf(xp, 0.0),)
    fast, _, state = stepped(rule, rule.init(start), start, times=3)
    # An average of the points after steps 0 and 2; training does not see it.
    assert values(fast[0]) == [-3.0]
    assert values(rule.outer.super_slow(state.slow, state.outer)[0]) == [-1.0]


@pytest.mark.clause("C71", "C75")
@pytest.mark.parametrize("nesterov", [True, False])
def test_outer_momentum_is_restarted_by_two_schedules(nesterov, xp):
    """Topollai et al. 2026: at each third sync the buffer starts from zero, before it is added to.

    What Nesterov's step would have added of the new buffer is in the rate of that sync.
    """

    def restarts(syncs):
        third = syncs % 3 == 0
        return third if isinstance(third, bool) else xp.astype(third, xp.float32)

    momentum = Momentum(
        lr=lambda syncs: 0.7 * (1 + 0.9 * nesterov * restarts(syncs)),
        momentum=lambda syncs: 0.9 * (1 - restarts(syncs)),
        nesterov=nesterov,
    )
    rule, slow, buffer = SyncRule(2, momentum), 0.0, 0.0
    start = (leaf(xp, 0.0),)
    runs = [(start, rule.init(start, count=count)) for count in (0, xp.asarray(0))]
    for sync in range(8):
        buffer = 0.0 if sync % 3 == 0 else buffer
        buffer = 0.9 * buffer + 2.0  # two steps of one
        slow -= 0.7 * (2.0 + 0.9 * buffer if nesterov else buffer)
        for number, (fast, state) in enumerate(runs):
            fast, _, state = stepped(rule, state, fast, times=2)
            runs[number] = fast, state
            assert values(fast[0]) == pytest.approx([slow], rel=1e-6)
            assert values(state.outer[0][0]) == pytest.approx([buffer], rel=1e-6)


@pytest.mark.clause("C75", "C78")
def test_a_schedule_of_the_second_rule_counts_its_own_syncs(xp):
    rule, start = nested(lookahead(1, 1.0), swa(2)), (leaf(xp, 0.0),)
    for count in (0, xp.asarray(0)):
        _, _, state = stepped(rule, rule.init(start, count=count), start, times=4)
        deep = values(rule.outer.super_slow(state.slow, state.outer)[0])
        assert deep == pytest.approx([-2.0], abs=1e-12)  # the mean of 0, -2 and -4


# --- what is refused ---


@pytest.mark.clause("C24", "C71", "C72", "C73", "C78")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Momentum(lr=-1), r"lr must be a finite number >= 0 \(outer .*\), got -1"),
        (lambda: Momentum(momentum=1.0), r"momentum must be a number in \[0, 1\) .*, got 1.0"),
        (lambda: Momentum(nesterov=0.9), "nesterov must be True or False .*, got 0.9"),
        (lambda: SyncRule(restart=1.5), r"restart must be a number in \[0, 1\] .*, got 1.5"),
        (lambda: SyncRule(restart_period=0), "restart_period must be an int >= 1 .*, got 0"),
        (lambda: SyncRule(start=-1), "start must be an int >= 0 .*, got -1"),
        (lambda: SyncRule(start=2.5), "start must be an int >= 0 .*, got 2.5"),
        (lambda: SyncRule(outer=Momentum), "outer must be an outer rule .*Momentum"),
        (lambda: SyncRule(inner_state="reset", restart=0.0), "must be 'maintain' with restart=0"),
        (lambda: SyncRule(inner_state="interpolate", restart=0.5), "needs restart=1"),
        (lambda: SyncRule(inner_state="interpolate", restart_period=2), "restart_period=1 and"),
        (lambda: SyncRule(5, OuterAdam(), "interpolate"), "with a fraction of the way"),
        (lambda: AdaptiveAlpha(low=2), r"low must be a number in \[0, 1\] .*, got 2"),
        (lambda: AdaptiveAlpha(curvature="Hessian"), "curvature must be 'secant', 'inner' or"),
        (lambda: ema(decay=1.1), r"decay must be a number in \[0, 1\] .*, got 1.1"),
        (lambda: nested(lookahead(5), lookahead(12)), "first must have a period that divides"),
        (lambda: nested(ema(), lookahead(5)), "and put the fast weights back"),
        (lambda: nested(lookahead(5), lookahead(10, 0.5, "reset")), "second must leave the inner"),
    ],
)
def test_a_setting_out_of_range_is_refused_when_the_rule_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.clause("C75")
def test_a_schedule_of_momentum_out_of_range_is_refused_before_anything_moves(xp):
    rule = SyncRule(1, Momentum(lambda syncs: -1.0))
    with pytest.raises(ValueError, match="lr must be a finite number >= 0"):
        rule.step((leaf(xp, 1.0),), (), rule.init((leaf(xp, 0.0),)))


# --- a number of syncs that is as high as an array can count ---


@pytest.mark.clause("C19", "C72", "C75", "C78")
@pytest.mark.parametrize(
    "rule",
    [polyak(), swa(1), switch_ema(3, 0.5), nested(lookahead(1), nested(lookahead(2), snoo(6)))],
    ids=["polyak", "swa", "switch_ema", "nested"],
)
def test_after_so_many_syncs_a_rule_goes_on_as_it_does_before(rule, xp):
    def run(syncs):
        start = (leaf(xp, 0.0),)
        state = rule.init(start, count=xp.asarray(0, dtype=xp.int32))
        state = state._replace(syncs=xp.asarray(syncs, dtype=xp.int32))
        fast, trace = start, []
        for _ in range(14):
            fast, _, state = stepped(rule, state, fast)
            assert 0 < int(state.syncs) < 2**31 - 1
            trace += [*values(fast[0]), *values(state.slow[0])]
        return trace

    full = 2**31 - 8
    early = full - 12 * (full // 24)  # far from the end, in step with it
    assert run(full) == pytest.approx(run(early), rel=1e-6, abs=1e-6)


# --- checkpoints ---


@pytest.mark.clause("C06", "C74")
@pytest.mark.parametrize(
    ("saved", "name"),
    [
        (SyncRule(5, Momentum(0.7, 0.9)), "outer"),
        (SyncRule(restart=0.5), "restart"),
        (SyncRule(restart_period=2), "restart_period"),
        (SyncRule(start=2), "start"),
        (SyncRule(outer=OuterAdam()), "outer"),
        (nested(lookahead(5), lookahead(10)), "outer"),
        (lookahead(alpha=AdaptiveAlpha()), "alpha"),
    ],
)
def test_a_checkpoint_of_another_rule_is_refused_and_of_the_same_taken(saved, name):
    check_settings(settings(saved), settings(saved))
    with pytest.raises(ValueError, match=f"made with {name}="):
        check_settings(settings(saved), settings(lookahead()))


def test_a_checkpoint_tells_the_numbers_of_a_rule():
    told = settings(nested(lookahead(5, lambda syncs: 0.5), snoo(10, 0.68, 0.37)))
    assert told["outer"] == (
        "Nested(first=\"Interpolate(alpha='a schedule')\", "
        "second='Momentum(lr=0.68, momentum=0.37, nesterov=True)', period=2, restart=1.0)"
    )


@pytest.mark.clause("C73")
def test_a_count_before_the_start_is_a_count():
    rule = swa(5, start=3)
    saved = {**settings(rule), "count": -3, "syncs": 0}
    assert counters(saved, rule) == SyncState((), -3, 0, (), ())
    with pytest.raises(ValueError, match="count must be an int >= -3, got -4"):
        counters({**saved, "count": -4}, rule)


@pytest.mark.clause("C06", "C24")
@pytest.mark.parametrize("name", ["sync_period", "restart", "count", "syncs", "phase"])
def test_a_bool_or_an_array_in_a_checkpoint_is_no_number(name, xp):
    rule = lookahead(1, 0.5)
    saved = {**settings(rule), "count": 0, "syncs": 1, "phase": 0}
    for value in (bool(saved[name]), leaf(xp, saved[name])):
        with pytest.raises(ValueError, match=f"{name}.*{re.escape(repr(value))}"):
            counters({**saved, name: value}, rule)


# --- a rule of one's own that is not whole ---


class Forgetful:
    """Moves halfway, and does in `init` and `update` what a test asks for."""

    def __init__(self, state=(), result=lambda slow, state: (slow, state)):
        self.state, self.result = state, result

    def init(self, slow):
        return self.state(slow) if callable(self.state) else self.state

    def update(self, slow, fast, state, context):
        return self.result([0.5 * (s + f) for s, f in zip(slow, fast, strict=True)], state)


class WithoutContext(Forgetful):
    def update(self, slow, fast, state):
        return slow, state


class InitWithoutArgument(Forgetful):
    def init(self):
        return ()


@pytest.mark.clause("C24", "C76")
@pytest.mark.parametrize(
    ("outer", "message"),
    [
        (WithoutContext(), r"outer.update must take \(slow, fast, state, context\): too many"),
        (InitWithoutArgument(), r"outer.init must take \(slow\): too many positional"),
        (Forgetful, r"outer must be an outer rule \(init and update, see OuterRule\)"),
    ],
    ids=["no context", "no slow", "a class"],
)
def test_a_rule_with_the_wrong_arguments_is_refused_when_it_is_made(outer, message):
    with pytest.raises(ValueError, match=message):
        SyncRule(2, outer)


INITS = {
    "nothing": (None, r"outer.init must return its state, a tuple of slots .* got None"),
    "an array": (lambda slow: slow[0], "a tuple of slots .* got an array"),
    "a bare slot": (lambda slow: tuple(slow), "a tuple of slots of 2 arrays each, .* got a tuple"),
    "a short slot": (lambda slow: (slow[:1],), "a tuple of slots of 2 arrays each, .* got a tuple"),
}


@pytest.mark.clause("C25", "C76")
@pytest.mark.parametrize("case", INITS)
def test_a_rule_that_makes_no_state_is_told_so(case, xp):
    state, message = INITS[case]
    with pytest.raises(ValueError, match=message):
        SyncRule(2, Forgetful(state)).init([leaf(xp, 1.0), leaf(xp, 2.0)])


UPDATES = {
    "nothing": (lambda slow, state: None, "`return slow, state`, got None"),
    "its state forgotten": (lambda slow, state: slow, "`return slow, state`, got a list"),
    "leaves lost": (lambda slow, state: (slow[:1], state), "returns must have as many leaves as"),
    "a slot lost": (lambda slow, state: (slow, ()), "outer.update must keep 1 slots, got 0"),
    "no state": (
        lambda slow, state: (slow, None),
        "outer.update must return its state, a tuple .* got None",
    ),
}


@pytest.mark.clause("C25", "C76")
@pytest.mark.parametrize("case", UPDATES)
def test_a_rule_that_forgets_a_result_is_told_which(case, xp):
    result, message = UPDATES[case]
    rule = SyncRule(1, Forgetful(lambda slow: (slow,), result))
    fast = [leaf(xp, 1.0), leaf(xp, 2.0)]
    with pytest.raises(ValueError, match=message):
        rule.step(fast, (), rule.init(fast))
