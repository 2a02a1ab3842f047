"""What a cycle begins with, and steps that are counted without a sync."""

import math

import pytest

from descent import COUNTERS, Descent, bits, leaf
from lookahead_core import (
    REFERENCE_KERNEL,
    Interpolate,
    Kernel,
    Momentum,
    SyncRule,
    lookahead,
    nested,
    switch_ema,
)
from lookahead_core.namespace import is_writeable


@pytest.fixture(params=COUNTERS)
def counter(request, xp):
    """The two counters: everything about a rule holds for both (clause C19)."""
    return COUNTERS[request.param](xp)


# --- what a cycle begins with ---


@pytest.mark.clause("C26")
def test_a_cycle_begins_with_the_weights_as_they_are(xp, counter):
    run = Descent(xp, lookahead(2, 0.5), counter).step(2)
    run.fast = (leaf(xp, 40.0),)
    assert run.step(2).weights == 39.0


@pytest.mark.clause("C26", "C18")
def test_in_mid_cycle_nothing_is_taken(xp, counter):
    run = Descent(xp, lookahead(3, 0.5, "interpolate"), counter).step(2)
    state = run.rule.begin((leaf(xp, 40.0),), (leaf(xp, 40.0),), run.state)
    assert bits((*state.slow, *state.inner_slow)) == ["[0.0]", "[0.0]"]


@pytest.mark.clause("C18")
def test_the_slow_copy_of_the_inner_state_is_of_what_there_is_when_a_cycle_begins(xp, counter):
    """Momentum 0.5, gradients of 1: from 10 to 6 and 4; with the copy of the last sync 2.375."""
    rule, fast, inner = lookahead(2, 0.5, "interpolate"), (leaf(xp, 0.0),), (leaf(xp, 0.0),)
    state = rule.init(fast, inner, count=counter)
    for step in range(4):
        if step == 2:
            inner = (leaf(xp, 10.0),)
        state = rule.begin(fast, inner, state)
        inner = tuple(0.5 * moment + 1.0 for moment in inner)
        fast, inner, state = rule.step(fast, inner, state)
    assert bits(inner) == ["[7.0]"]


@pytest.mark.clause("C18")
def test_moments_that_came_or_went_between_cycles_are_in_the_next_slow_copy_or_not(xp):
    rule, fast = lookahead(1, 0.5, "interpolate"), (leaf(xp, 0.0),)
    state = rule.init(fast)
    for moments in ((leaf(xp, 4.0),), (leaf(xp, 4.0), leaf(xp, 8, dtype="int32")), ()):
        state = rule.begin(fast, moments, state)
        assert bits(state.inner_slow) == bits(moments)
        moved = tuple(moment + 2 for moment in moments)
        _, inner, state = rule.step(fast, moved, state)
        assert bits(inner) == ["[5.0]", "[10.0]"][: len(moments)]


@pytest.mark.clause("C10", "C18", "C26")
def test_what_a_cycle_begins_with_is_a_copy(xp, counter):
    rule, fast, inner = lookahead(1, 0.5, "interpolate"), (leaf(xp, 1.0),), (leaf(xp, 2.0),)
    state = rule.begin(fast, inner, rule.init(fast, inner, count=counter))
    assert state.slow[0] is not fast[0]
    assert state.inner_slow[0] is not inner[0]


@pytest.mark.clause("C19")
def test_a_step_that_begins_no_cycle_touches_no_array_under_an_int_counter(xp):
    rule = lookahead(3, 0.5, "interpolate")
    state = rule.init((leaf(xp, 1.0),), (leaf(xp, 1.0),))._replace(count=1)
    assert rule.begin(object(), object(), state) is state


@pytest.mark.clause("C72", "C73")
def test_an_average_takes_the_weights_where_its_first_cycle_begins_and_never_again(xp, counter):
    run = Descent(xp, SyncRule(1, Interpolate(0.5), restart=0.0, start=2), counter)
    assert [run.step().slow for _ in range(4)] == [-1.0, -2.0, -2.5, -3.25]


@pytest.mark.clause("C18", "C73")
def test_with_a_start_the_first_cycle_begins_there(xp, counter):
    run = Descent(xp, SyncRule(2, Interpolate(0.5), "interpolate", start=2), counter).step(2)
    run.fast, run.inner = (leaf(xp, 40.0),), (leaf(xp, 10.0),)  # edited just before it
    run.step(2)
    assert (run.weights, run.moment) == (39.0, 11.0)


@pytest.mark.clause("C73")
def test_before_the_start_nothing_is_taken(xp, counter):
    rule, fast = SyncRule(2, Interpolate(0.5), start=2), (leaf(xp, 0.0),)
    state = rule.begin((leaf(xp, 40.0),), (), rule.init(fast, count=counter))
    assert bits(state.slow) == ["[0.0]"]


def scribbling():
    """A kernel that fills what is donated to it with NaN: whoever reads it again will see."""

    def donating(name, *donated):
        def call(*arguments):
            result = getattr(REFERENCE_KERNEL, name)(*arguments)
            for position in donated:
                for array in arguments[position]:
                    if is_writeable(array) and "float" in str(array.dtype):
                        array[...] = math.nan
            return result

        return call

    return Kernel(
        interpolate=donating("interpolate", 0, 1),
        anchor=donating("anchor", 0),
        move=donating("move", 0),
        momentum=donating("momentum", 0, 2),
    )


RULES = {
    "interpolate": lookahead(2, 0.25, "interpolate"),
    "reset": lookahead(2, 0.25, "reset"),
    "momentum": SyncRule(2, Momentum(0.5, 0.5)),
    "an average": SyncRule(2, Interpolate(0.25), restart=0.0, start=1),
    "a later start": SyncRule(2, Interpolate(0.25), "interpolate", start=3),
    "switch": switch_ema(3, 0.75),
    "nested": nested(lookahead(1, 0.5), lookahead(2, 0.5)),
}


def trace(xp, rule, kernel=REFERENCE_KERNEL, count=0, begins=True):
    """Weights, moments and what is read out after each of seven steps."""
    fast, inner = (leaf(xp, 1.0), leaf(xp, 8.0)), (leaf(xp, 0.0),)
    state = rule.init(fast, inner, count=count)
    for _ in range(7):
        state = rule.begin(fast, inner, state, kernel=kernel) if begins else state
        fast, inner = tuple(x - 1.0 for x in fast), tuple(x + 1.0 for x in inner)
        fast, inner, state = rule.step(fast, inner, state, kernel=kernel)
        yield bits((*fast, *inner, *rule.slow(fast, state)))


@pytest.mark.clause("C18", "C20", "C26", "C72", "C73")
@pytest.mark.parametrize("name", RULES)
def test_nothing_is_read_again_that_was_donated(name, xp):
    assert [*trace(xp, RULES[name], scribbling())] == [*trace(xp, RULES[name])]


@pytest.mark.clause("C18", "C26", "C72", "C73")
@pytest.mark.parametrize("name", RULES)
def test_a_loop_that_edits_nothing_may_leave_begin_out(name, xp, counter):
    without = trace(xp, RULES[name], count=counter, begins=False)
    assert [*without] == [*trace(xp, RULES[name], count=counter)]


def for_later(slow, fast, alpha):
    """Leaves the slow weights as they were: the fast ones hold them."""
    return slow, REFERENCE_KERNEL.interpolate(slow, fast, alpha)[1]


@pytest.mark.clause("C10", "C18", "C22", "C26")
@pytest.mark.parametrize("name", RULES)
def test_a_kernel_may_leave_the_slow_weights_to_the_next_cycle(name, xp):
    lazily = trace(xp, RULES[name], Kernel(interpolate=for_later))
    assert [*lazily] == [*trace(xp, RULES[name])]


@pytest.mark.clause("C05", "C18", "C26")
def test_a_sync_that_is_forced_between_cycles_begins_one(xp, counter):
    run = Descent(xp, lookahead(2, 0.5, "interpolate"), counter).step(2)
    run.fast, run.inner = (leaf(xp, 40.0),), (leaf(xp, 10.0),)
    run.state = run.rule.begin(run.fast, run.inner, run.state)
    assert (run.sync().weights, run.moment) == (40.0, 10.0)


@pytest.mark.clause("C19", "C20")
def test_a_selection_donates_nothing(xp):
    rule, fast, inner = lookahead(2, 0.5, "interpolate"), (leaf(xp, 1.0),), (leaf(xp, 2.0),)
    state = rule.init(fast, inner, count=xp.asarray(0))
    rule.begin((leaf(xp, 4.0),), (leaf(xp, 5.0),), state, kernel=scribbling())
    assert bits((*state.slow, *state.inner_slow)) == ["[1.0]", "[2.0]"]


# --- a step that is known not to sync, and a cycle that is shorter ---


@pytest.mark.clause("C02", "C19", "C73")
@pytest.mark.parametrize("count", [-2, -1, 0, 1])
def test_a_counted_step_is_a_step_that_does_not_sync(count, xp, counter):
    rule, fast = lookahead(3, 0.5), (leaf(xp, 1.0),)
    state = rule.init(fast, count=counter)._replace(count=counter + count)
    _, _, stepped = rule.step(fast, (), state)
    counted = rule.count_step(state)
    assert int(counted.count) == int(stepped.count) == count + 1
    untouched = zip(counted._replace(count=None), state._replace(count=None), strict=True)
    assert all(new is old for new, old in untouched)


@pytest.mark.clause("C02", "C19", "C42")
def test_a_phase_brings_one_sync_forward(xp, counter):
    run = Descent(xp, lookahead(3, 0.5), counter)
    run.state = run.state._replace(phase=counter + 1)
    assert [run.step().weights for _ in range(5)] == [-1.0, -1.0, -2.0, -3.0, -2.5]


@pytest.mark.clause("C05", "C42")
def test_a_forced_sync_ends_the_phase(xp, counter):
    run = Descent(xp, lookahead(3, 0.5), counter).step()
    run.state = run.state._replace(phase=counter - 2)
    assert int(run.sync().state.phase) == 0


@pytest.mark.clause("C25", "C26")
def test_a_cycle_does_not_begin_with_leaves_that_do_not_match(xp, counter):
    rule = lookahead()
    state = rule.init((leaf(xp, 1.0),), count=counter)
    with pytest.raises(ValueError, match=r"fast\[0\] must have the shape of state.slow"):
        rule.begin((leaf(xp, 1.0, 2.0),), (), state)
