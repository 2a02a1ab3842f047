"""The clock: what begins a cycle, lies in it and ends it, for whole numbers and for 0-d arrays."""

from random import Random

import pytest

from lookahead_core.schedule import (
    advance,
    before_first,
    begins,
    between,
    every,
    in_phase,
    one_more,
    phases,
    remaining,
    selected,
    where,
)

COUNTERS = {"branches": lambda xp: int, "selects": lambda xp: xp.asarray}


@pytest.fixture(params=COUNTERS)
def counter(request, xp):
    """Makes a counter of either kind: everything about the clock holds for both (clause C19)."""
    return COUNTERS[request.param](xp)


def walked(steps, count, sync_period, phase=0):
    """Counts after each of so many steps, and the numbers of those that sync."""
    counts, due = [], []
    for step in range(1, steps + 1):
        count, now = advance(count, sync_period, phase)
        phase = phase * 0 if now else phase
        counts.append(int(count))
        due += [step] if now else []
    return counts, due


# --- one clock ---


@pytest.mark.clause("C01", "C19", "C73")
def test_a_cycle_begins_where_the_counter_is_zero(counter):
    counts = [counter(number) for number in range(-2, 3)]
    assert [bool(before_first(count)) for count in counts] == [True, True, False, False, False]
    assert [bool(between(count)) for count in counts] == [True, True, True, False, False]
    assert [bool(begins(count)) for count in counts] == [False, False, True, False, False]


@pytest.mark.clause("C19")
def test_an_int_is_answered_by_a_bool_and_an_array_by_an_array(xp):
    for ask in (begins, between, before_first, lambda count: advance(count, 3)[1]):
        assert type(ask(0)) is bool
        answer = ask(xp.asarray(0))
        assert (answer.shape, answer.dtype) == ((), xp.bool)


@pytest.mark.clause("C02", "C04")
def test_a_step_is_due_when_it_is_the_kth(counter):
    assert walked(7, counter(0), 3) == ([1, 2, 0, 1, 2, 0, 1], [3, 6])
    assert walked(3, counter(0), 1) == ([0, 0, 0], [1, 2, 3])


@pytest.mark.clause("C73")
def test_steps_before_the_start_are_counted_up_to_it(counter):
    assert walked(6, counter(-2), 3) == ([-1, 0, 1, 2, 0, 1], [5])


@pytest.mark.clause("C42")
@pytest.mark.parametrize(("phase", "due"), [(1, [2, 5, 8]), (2, [1, 4, 7]), (-2, [5, 8])])
def test_a_phase_makes_one_cycle_shorter_or_longer(phase, due, counter):
    assert walked(8, counter(0), 3, counter(phase))[1] == due


@pytest.mark.clause("C02", "C42", "C73")
@pytest.mark.parametrize(("count", "phase"), [(0, 0), (2, 0), (-2, 0), (0, 2), (1, -1)])
def test_the_steps_that_remain_are_those_to_the_next_sync(count, phase, counter):
    count, phase = counter(count), counter(phase)
    assert int(remaining(count, 3, phase)) == walked(9, count, 3, phase)[1][0]


@pytest.mark.clause("C05", "C19")
def test_an_array_counter_keeps_its_dtype(xp):
    for number in (0, 2):  # a step that is due, and one that is not
        count, _ = advance(xp.asarray(number, dtype=xp.int32), 3)
        assert count.dtype == xp.int32


@pytest.mark.clause("C72")
def test_every_period_th_sync_is_told(counter):
    assert [bool(every(3, counter(syncs))) for syncs in range(6)] == [False, False, True] * 2
    assert every(1, counter(4)) is True  # nothing is to be selected then


# --- parts that stay in phase ---


@pytest.mark.clause("C42")
@pytest.mark.parametrize(
    ("elapsed", "count", "sync_period", "phase"),
    [
        (0, 0, 4, 0),
        (8, 0, 4, 0),
        (6, 0, 4, 2),  # joined in mid-cycle: 2 steps to go
        (6, 3, 4, -1),  # its cycle began after step 3, under another period; it ends after step 8
        (-3, 0, 4, 0),  # the first cycle has not begun: all begin together
        (-3, -3, 4, 0),
    ],
)
def test_the_phase_lets_a_cycle_end_with_the_clocks(elapsed, count, sync_period, phase, counter):
    assert int(in_phase(counter(elapsed), counter(count), sync_period)) == phase


class Part:
    """Leaves that sync together, as an adapter has them: a period, a counter and a phase."""

    def __init__(self, sync_period, elapsed):
        self.sync_period, self.count = sync_period, min(elapsed, 0)
        self.phase = in_phase(elapsed, self.count, sync_period)

    def change(self, sync_period, elapsed):
        self.sync_period = sync_period
        self.phase = in_phase(elapsed, self.count, sync_period)

    def step(self):
        """Whether it syncs after this step."""
        self.count, due = advance(self.count, self.sync_period, self.phase)
        self.phase = 0 if due else self.phase
        return due


@pytest.mark.clause("C05", "C42", "C73")
@pytest.mark.parametrize("seed", range(50))
def test_parts_sync_together_whatever_joins_and_changes_at_any_step(seed):
    """A part syncs when the clock's steps are a multiple of its period, and at no other step."""
    random = Random(seed)
    elapsed = -random.randint(0, 5)
    parts = [Part(random.randint(1, 6), elapsed)]
    for _ in range(60):
        match random.randint(0, 9):
            case 0:
                parts.append(Part(random.randint(1, 6), elapsed))
            case 1 | 2:
                random.choice(parts).change(random.randint(1, 6), elapsed)
            case 3:  # a forced sync: everything starts again
                elapsed = 0
                for part in parts:
                    part.count = part.phase = 0
        elapsed += 1
        due = [part.sync_period for part in parts if part.step()]
        periods = [part.sync_period for part in parts]
        assert due == [k for k in periods if elapsed > 0 and elapsed % k == 0]


@pytest.mark.clause("C82")
@pytest.mark.parametrize("sync_period", [1, 4, 7, 10])
def test_fragments_are_spread_over_the_cycle(sync_period):
    for parts in range(1, sync_period + 1):
        first, second = [], []
        for phase in phases(parts, sync_period):
            _, due = walked(2 * sync_period, 0, sync_period, phase)
            first.append(due[0])
            second.append(due[1])
        assert first == [sync_period * (part + 1) // parts for part in range(parts)]
        assert second == [step + sync_period for step in first]


# --- which of two outcomes ---


@pytest.mark.clause("C12", "C19")
def test_the_outcome_that_is_not_due_is_left_out_and_not_multiplied_by_zero(xp):
    good, bad = (xp.asarray([1.0]),), (xp.asarray([float("inf")]),)
    for due, expected in ((True, 1.0), (False, float("inf"))):
        for answer in (due, xp.asarray(due)):
            ((leaf,),) = selected(answer, [good], [bad])
            assert float(leaf[0]) == expected


@pytest.mark.clause("C19")
def test_a_bool_selects_without_touching_an_array(xp):
    outcome, other = object(), object()
    assert selected(True, outcome, other) is outcome
    assert selected(False, outcome, other) is other
    (leaf,) = leaves = (xp.asarray([1.0]),)
    assert where(xp.asarray(False), leaves, leaves)[0] is leaf


# --- what is counted without an end ---


def counted_on(xp, dtype, start, times, repeats_after=1):
    number, seen = xp.asarray(start, dtype=dtype), []
    for _ in range(times):
        number = one_more(number, repeats_after)
        seen.append(int(number))
    assert number.dtype == dtype
    return seen


@pytest.mark.clause("C02", "C19")
@pytest.mark.parametrize("name", ["int8", "int16", "int32"])
def test_a_counter_stays_high_and_never_wraps(xp, name):
    dtype = getattr(xp, name)
    most = int(xp.iinfo(dtype).max)
    assert counted_on(xp, dtype, most - 3, 3) == [most - 2, most - 1, most - 1]
    assert counted_on(xp, dtype, 5, 2) == [6, 7]


@pytest.mark.clause("C72", "C78")
def test_a_counter_that_is_full_goes_on_to_tell_every_so_many_syncs_from_the_others(xp):
    most = int(xp.iinfo(xp.int32).max)
    seen = counted_on(xp, xp.int32, most - 4, 12, repeats_after=3)
    assert max(seen) == most - 1
    assert min(seen) >= most - 4
    turns = [bool(every(3, xp.asarray(number, dtype=xp.int32))) for number in seen]
    assert turns == [(most - 3 + step) % 3 == 2 for step in range(12)]


@pytest.mark.clause("C19")
def test_counters_that_cannot_get_full_are_only_counted(xp):
    assert one_more(2**31 - 1) == 2**31
    assert int(one_more(xp.asarray(2**31 - 1, dtype=xp.int64))) == 2**31
    assert float(one_more(xp.asarray(7.0, dtype=xp.float64))) == 8.0
