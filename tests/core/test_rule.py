"""The core on every namespace: when it syncs, what it does, and that it is pure."""

import math
from fractions import Fraction

import pytest

from descent import COUNTERS, Descent, bits, leaf, values
from lookahead_core import REFERENCE_KERNEL, Interpolate, Kernel, SyncRule, lookahead
from lookahead_core.outer import SyncContext


@pytest.fixture(params=COUNTERS)
def counter(request, xp):
    """The two counters: everything about a rule holds for both (clause C19)."""
    return COUNTERS[request.param](xp)


# --- when ---


@pytest.mark.clause("C01", "C19")
def test_the_first_anchor_is_the_weights_before_the_first_step(xp, counter):
    run = Descent(xp, lookahead(3, 0.5), counter, start=7.0)
    assert run.slow == 7.0
    assert run.step(2).slow == 7.0
    assert run.step().slow == 5.5


@pytest.mark.clause("C01", "C20")
def test_the_anchor_is_a_copy(xp):
    fast = (leaf(xp, 1.0),)
    state = lookahead().init(fast)
    assert state.slow[0] is not fast[0]
    if xp.__name__.endswith((".numpy", ".torch")) and "jax" not in xp.__name__:
        fast[0][...] = 9.0
        assert values(state.slow[0]) == [1.0]


@pytest.mark.clause("C02", "C19")
def test_syncs_come_on_k_and_its_multiples_alone(xp, counter):
    run = Descent(xp, lookahead(5, 0.5), counter)
    trace = [(run.step().weights, *run.counts) for _ in range(11)]
    assert [weights for weights, _, _ in trace] == [
        *(-1.0, -2.0, -3.0, -4.0, -2.5),
        *(-3.5, -4.5, -5.5, -6.5, -5.0),
        -6.0,
    ]
    assert [count for _, count, _ in trace] == [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert [syncs for _, _, syncs in trace] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]


@pytest.mark.clause("C02")
def test_due_says_whether_the_next_step_syncs(xp, counter):
    run = Descent(xp, lookahead(3), counter)
    assert [bool(run.rule.due(run.step().state)) for _ in range(6)] == [
        *(False, True, False),
        *(False, True, False),
    ]


@pytest.mark.clause("C72")
@pytest.mark.parametrize(("restart", "expected"), [(0.0, [0, 0, 0, 0]), (0.5, [0, 1, 0, 1])])
def test_the_rule_says_which_sync_puts_the_fast_weights_back(restart, expected, xp, counter):
    run = Descent(xp, SyncRule(1, restart=restart, restart_period=2), counter)
    told, moved = [], []
    for _ in expected:
        run.fast = tuple(x - 1.0 for x in run.fast)
        before = run.weights
        told.append(int(run.rule.puts_back(run.state)))
        moved.append(int(run.sync().weights != before))
    assert told == moved == expected


@pytest.mark.clause("C03")
def test_a_skipped_step_does_not_count(xp, counter):
    run = Descent(xp, lookahead(3), counter)
    for applied in (True, False, True, False, False, True):
        if applied:
            run.step()
    assert run.counts == (0, 1)


@pytest.mark.clause("C04", "C19")
def test_every_step_syncs_with_a_period_of_one(xp, counter):
    run = Descent(xp, lookahead(1, 0.25), counter)
    assert [run.step().weights for _ in range(4)] == [-0.25, -0.5, -0.75, -1.0]
    assert run.counts == (0, 4)


@pytest.mark.clause("C05", "C19")
def test_a_forced_sync_restarts_the_counter(xp, counter):
    run = Descent(xp, lookahead(3, 0.5), counter).step(2).sync()
    assert run.weights == -1.0
    assert run.counts == (0, 1)
    assert run.step(2).counts == (2, 1)
    assert run.step().counts == (0, 2)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("phase", range(5))
@pytest.mark.parametrize("policy", ["maintain", "reset", "interpolate"])
def test_the_state_holds_all_that_a_resumed_run_needs(phase, policy, xp, counter):
    rule = lookahead(5, 0.3, policy)
    whole = Descent(xp, rule, counter).step(13)
    first = Descent(xp, rule, counter).step(5 + phase)
    second = Descent(xp, rule, counter)
    second.fast, second.inner, second.state = first.fast, first.inner, first.state
    second.step(8 - phase)
    assert bits(second.fast) == bits(whole.fast)
    assert bits(second.inner) == bits(whole.inner)
    assert bits(second.state.slow) == bits(whole.state.slow)
    assert second.counts == whole.counts


# --- how the slow weights move ---


@pytest.mark.clause("C09", "C19")
def test_alpha_one_is_the_inner_optimizer(xp, counter):
    run = Descent(xp, lookahead(2, 1.0), counter, start=1e8)
    bare = 1e8
    for _ in range(6):
        bare -= 1.0
        assert run.step().weights == bare


@pytest.mark.clause("C13", "C19")
def test_alpha_zero_puts_the_fast_weights_back(xp, counter):
    run = Descent(xp, lookahead(2, 0.0), counter, start=0.1)
    assert [run.step().weights for _ in range(4)] == [0.1 - 1.0, 0.1, 0.1 - 1.0, 0.1]
    assert run.slow == 0.1


@pytest.mark.clause("C10", "C19")
def test_fast_equals_slow_after_a_sync_in_an_array_of_its_own(xp, counter):
    run = Descent(xp, lookahead(3, 0.3), counter, start=0.1).step(3)
    assert bits(run.fast) == bits(run.state.slow)
    assert run.fast[0] is not run.state.slow[0]


@pytest.mark.clause("C11")
def test_a_leaf_that_did_not_move_at_step_k_is_still_synced(xp, counter):
    rule = lookahead(2, 0.5)
    fast = (leaf(xp, 0.0), leaf(xp, 0.0))
    state = rule.init(fast, count=counter)
    fast, _, state = rule.step((fast[0] - 1.0, fast[1] - 4.0), (), state)
    fast, _, state = rule.step((fast[0] - 1.0, fast[1]), (), state)
    assert bits(fast) == ["[-1.0]", "[-2.0]"]
    assert bits(state.slow) == ["[-1.0]", "[-2.0]"]


@pytest.mark.clause("C12", "C19")
# NumPy warns of inf - inf in the outcome that is computed and not selected.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_non_finite_step_that_does_not_sync_leaves_the_slow_weights_alone(poison, xp, counter):
    rule = lookahead(3, 0.5, "interpolate")
    fast, inner = (leaf(xp, 1.0),), (leaf(xp, 1.0),)
    state = rule.init(fast, inner, count=counter)
    _, _, state = rule.step((fast[0] * poison,), (inner[0] * poison,), state)
    assert values(state.slow[0]) == [1.0]
    assert values(state.inner_slow[0]) == [1.0]
    fast, inner, state = rule.step(fast, inner, state)
    fast, inner, state = rule.step((fast[0] + 2.0,), inner, state)
    assert values(fast[0]) == [2.0]


@pytest.mark.clause("C14", "C19")
def test_leaves_that_are_not_floating_keep_their_live_value(xp, counter):
    rule = lookahead(1, 0.5, "interpolate")
    start = (leaf(xp, 0.0), leaf(xp, 0, dtype="int32"), leaf(xp, False, dtype="bool"))
    state = rule.init(start, start, count=counter)
    moved = (leaf(xp, 8.0), leaf(xp, 8, dtype="int32"), leaf(xp, True, dtype="bool"))
    fast, inner, state = rule.step(moved, moved, state)
    for leaves in (fast, inner, state.slow, state.inner_slow):
        assert [array.dtype for array in leaves] == [xp.float64, xp.int32, xp.bool]
        assert bits(leaves) == ["[4.0]", "[8.0]", "[1.0]"]


@pytest.mark.clause("C15")
def test_slow_weights_keep_small_moves_in_a_wider_dtype(bfloat16):
    xp, dtype = bfloat16
    rule = lookahead(1, 0.5)
    start = (xp.astype(xp.asarray([1.0]), dtype),)
    narrow = rule.init(start)
    wide = rule.init(start, slow_dtype=xp.float32)
    assert (narrow.slow[0].dtype, wide.slow[0].dtype) == (dtype, xp.float32)
    # One step of bfloat16 above 1: half of it is rounded away there, and is not in float32.
    moved = (xp.astype(xp.asarray([1.0078125]), dtype),)
    narrow_fast, _, narrow = rule.step(moved, (), narrow)
    wide_fast, _, wide = rule.step(moved, (), wide)
    assert float(wide.slow[0][0]) == 1.00390625
    assert float(narrow.slow[0][0]) in (1.0, 1.0078125)
    assert wide_fast[0].dtype == narrow_fast[0].dtype == dtype


@pytest.mark.clause("C14")
def test_complex_leaves_are_averaged(xp, counter):
    rule = lookahead(1, 0.5)
    state = rule.init((xp.asarray([0j]),), count=counter)
    (moved,), _, _ = rule.step((xp.asarray([2.0 + 4.0j]),), (), state)
    assert complex(moved[0]) == 1.0 + 2.0j


@pytest.mark.clause("C10", "C14")
def test_the_slow_copy_of_an_integer_leaf_is_an_array_of_its_own(xp):
    rule = lookahead(1)
    fast, _, state = rule.sync(
        (leaf(xp, 3, dtype="int32"),), (), rule.init((leaf(xp, 0, dtype="int32"),))
    )
    assert state.slow[0] is not fast[0]


@pytest.mark.clause("C15", "C22", "C26")
def test_wide_slow_weights_are_read_with_all_their_bits(bfloat16):
    xp, dtype = bfloat16
    rule = lookahead(1, 0.5)
    state = rule.init((xp.astype(xp.asarray([1.0]), dtype),), slow_dtype=xp.float32)
    fast, _, state = rule.step((xp.astype(xp.asarray([1.0078125]), dtype),), (), state)
    (slow,) = rule.slow(fast, state)
    assert slow.dtype == xp.float32
    assert float(slow[0]) == 1.00390625


@pytest.mark.clause("C15")
def test_a_narrower_slow_dtype_narrows_nothing_and_leaves_integers_alone(xp):
    start = (leaf(xp, 1.0), leaf(xp, 1, dtype="int32"), leaf(xp, 1.0, dtype="complex64"))
    slow = lookahead().init(start, slow_dtype=xp.float32).slow
    assert [array.dtype for array in slow] == [xp.float64, xp.int32, xp.complex64]


@pytest.mark.clause("C21")
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.75, 1.0])
def test_the_outer_rule_commutes_with_translation(alpha, xp):
    outer = Interpolate(alpha)
    slow, fast, by = leaf(xp, 3.0, -8.0), leaf(xp, 5.0, 16.0), leaf(xp, 64.0, -32.0)
    (there,), _ = outer.update([slow - by], [fast - by], (), SyncContext())
    (here,), _ = outer.update([slow], [fast], (), SyncContext())
    assert values(there + by) == values(here)


# --- what happens to the inner state ---


@pytest.mark.clause("C16", "C19")
def test_maintain_leaves_the_inner_state_alone(xp, counter):
    run = Descent(xp, lookahead(3, 0.5, "maintain"), counter)
    assert [run.step().moment for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]
    assert tuple(run.state.inner_slow) == ()


@pytest.mark.clause("C17", "C19")
def test_reset_goes_back_to_zero_in_every_kind_of_leaf(xp, counter):
    rule = lookahead(1, 0.5, "reset")
    start = (leaf(xp, 0.0), leaf(xp, 0, dtype="int32"), leaf(xp, False, dtype="bool"))
    state = rule.init((), start, count=counter)
    moved = (leaf(xp, math.inf), leaf(xp, 8, dtype="int32"), leaf(xp, True, dtype="bool"))
    _, inner, _ = rule.step((), moved, state)
    assert bits(inner) == bits(start)
    assert [array.dtype for array in inner] == [array.dtype for array in start]


@pytest.mark.clause("C17", "C19")
def test_reset_goes_back_to_the_initial_values_that_are_given(xp, counter):
    rule = lookahead(1, 0.5, "reset")
    state = rule.init((), (leaf(xp, 0.0),), count=counter)
    _, inner, _ = rule.step((), (leaf(xp, 8.0),), state, initial=(leaf(xp, 3.0),))
    assert bits(inner) == ["[3.0]"]


@pytest.mark.clause("C18", "C19")
def test_interpolate_blends_the_inner_state_with_its_own_slow_copy(xp, counter):
    run = Descent(xp, lookahead(2, 0.5, "interpolate"), counter)
    # 0 -> 2, blended with 0: 1. Then 1 -> 3, blended with 1: 2. An alias of the live state, as in
    # the paper's code, would give 2 and then 4.
    assert [run.step().moment for _ in range(4)] == [1.0, 1.0, 2.0, 2.0]
    assert bits(run.state.inner_slow) == ["[2.0]"]


# --- how it runs ---


@pytest.mark.clause("C19")
def test_a_step_between_syncs_touches_no_array_under_an_int_counter(xp):
    rule = lookahead(3, 0.5, "interpolate")
    fast, inner = (leaf(xp, 1.0),), (leaf(xp, 1.0),)
    before = rule.init(fast, inner)
    new_fast, new_inner, after = rule.step(fast, inner, before)
    assert new_fast is fast
    assert new_inner is inner
    assert after == before._replace(count=1)
    assert rule.step(object(), object(), before)[2].count == 1


@pytest.mark.clause("C20")
@pytest.mark.parametrize("policy", ["maintain", "reset", "interpolate"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_reference_kernel_changes_no_argument(policy, alpha, xp, counter):
    rule = lookahead(1, alpha, policy)
    fast, inner = (leaf(xp, 1.0),), (leaf(xp, 2.0),)
    state = rule.init(fast, inner, count=counter)
    moved, moment = (leaf(xp, 5.0),), (leaf(xp, 6.0),)
    new_fast, _, new_state = rule.step(moved, moment, state)
    assert bits((*moved, *moment, *state.slow, *state.inner_slow)) == [
        *("[5.0]", "[6.0]", "[1.0]"),
        *(["[2.0]"] if policy == "interpolate" else []),
    ]
    assert not {id(new_fast[0]), id(new_state.slow[0])} & {id(moved[0]), id(fast[0])}


@pytest.mark.clause("C20")
def test_the_kernel_that_is_passed_does_all_of_the_arithmetic(xp):
    seen = []

    def recorded(name):
        def call(*arguments):
            seen.append(name)
            return getattr(REFERENCE_KERNEL, name)(*arguments)

        return call

    kernel = Kernel(recorded("interpolate"), recorded("anchor"))
    rule, fast = lookahead(1, 0.25, "interpolate"), (leaf(xp, 1.0),)
    _, _, state = rule.step(fast, fast, rule.init(fast, fast), kernel=kernel)
    rule.begin(fast, fast, state, kernel=kernel)
    assert seen == ["interpolate", "interpolate", "anchor", "anchor"]


@pytest.mark.clause("C05", "C19")
def test_an_array_counter_stays_an_array_of_its_dtype(xp):
    rule, fast = lookahead(3), (leaf(xp, 1.0),)
    start = rule.init(fast, count=xp.asarray(0, dtype=xp.int32))
    for state in (start, rule.step(fast, (), start)[2], rule.sync(fast, (), start)[2]):
        assert state.count.dtype == state.syncs.dtype == xp.int32


@pytest.mark.clause("C22")
def test_reading_the_slow_weights_changes_nothing(xp, counter):
    rule = lookahead(3, 0.3)
    read, unread = Descent(xp, rule, counter, 0.1), Descent(xp, rule, counter, 0.1)
    for _ in range(8):
        assert math.isfinite(read.step().slow)
        unread.step()
    assert bits(read.fast) == bits(unread.fast)
    assert bits(read.state.slow) == bits(unread.state.slow)


@pytest.mark.clause("C22", "C26")
def test_the_slow_weights_at_the_start_of_a_cycle_are_the_fast_ones(xp, counter):
    run = Descent(xp, lookahead(2, 0.5), counter).step(2)
    run.fast = (leaf(xp, 40.0),)
    assert run.slow == 40.0
    assert run.step().slow == 40.0
    assert run.weights == 39.0


@pytest.mark.clause("C26")
def test_an_anchor_taken_in_mid_cycle_is_where_that_cycle_starts_from(xp, counter):
    run = Descent(xp, lookahead(2, 0.5), counter).step()
    run.fast = (leaf(xp, 40.0),)
    run.state = run.rule.anchor(run.fast, run.state)
    assert run.step().weights == 39.5


# --- what is refused ---


@pytest.mark.clause("C24")
@pytest.mark.parametrize("sync_period", [2.5, 5.0, True, False, math.nan, -1, 0, "5", None])
def test_a_sync_period_that_is_not_a_positive_int_is_refused(sync_period):
    message = rf"sync_period must be an int >= 1 \(inner steps between syncs\), got {sync_period!r}"
    with pytest.raises(ValueError, match=message):
        lookahead(sync_period=sync_period)


@pytest.mark.clause("C24")
@pytest.mark.parametrize("alpha", [2.5, 7, True, math.nan, -1, -1e-9, 1.0000001, "0.5", None])
def test_an_alpha_outside_of_zero_to_one_is_refused(alpha):
    message = rf"alpha must be a number in \[0, 1\] \(.*\), got {alpha!r}"
    with pytest.raises(ValueError, match=message):
        lookahead(alpha=alpha)


@pytest.mark.clause("C24")
def test_an_unknown_policy_is_refused():
    with pytest.raises(
        ValueError, match=r"inner_state must be one of 'maintain', .* got 'pullback'"
    ):
        lookahead(inner_state="pullback")


@pytest.mark.clause("C24")
def test_an_outer_rule_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"outer must be an outer rule \(init and .*\), got 0.5"):
        SyncRule(5, 0.5)


class Five:
    """An integer of somebody's own."""

    def __index__(self):
        return 5


@pytest.mark.clause("C24")
def test_numbers_of_other_types_become_plain_ones():
    rule = lookahead(Five(), Fraction(1, 2))
    assert (type(rule.sync_period), type(rule.outer.alpha)) == (int, float)
    assert rule == lookahead(5, 0.5)


@pytest.mark.clause("C24")
def test_whole_numbers_of_any_integer_type_are_taken(xp):
    rule = lookahead(7, 1)
    assert (rule.sync_period, rule.outer) == (7, Interpolate(1.0))
    assert isinstance(rule.outer.alpha, float)


def test_a_rule_is_a_value():
    assert lookahead(5, 0.5) == SyncRule(5, Interpolate(0.5), "maintain")
    assert hash(lookahead()) == hash(SyncRule())
    with pytest.raises(AttributeError):
        lookahead().sync_period = 3


@pytest.mark.clause("C25")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, fast, inner: ((*fast, a), inner, None), r"as many leaves as .* \(1\), got 2"),
        (lambda a, fast, inner: ((), inner, None), r"as many leaves as state.slow \(1\), got 0"),
        (
            lambda a, fast, inner: ((a,), inner, None),
            r"fast\[0\] must have the shape of .* \(1,\), got \(2,\)",
        ),
        (
            lambda a, fast, inner: (fast, (a,), None),
            r"inner\[0\] must have the shape of state.inner",
        ),
        (lambda a, fast, inner: (fast, inner, (a,)), r"initial\[0\] must have the shape of inner"),
    ],
)
def test_leaves_that_do_not_match_the_state_are_refused(change, message, xp, counter):
    rule = lookahead(1, 0.5, "interpolate")
    fast, inner = (leaf(xp, 1.0),), (leaf(xp, 1.0),)
    state = rule.init(fast, inner, count=counter)
    fast, inner, initial = change(leaf(xp, 1.0, 2.0), fast, inner)
    with pytest.raises(ValueError, match=message):
        rule.step(fast, inner, state, initial=initial)


@pytest.mark.clause("C18")
def test_the_inner_state_moves_the_fraction_alpha_of_the_way(xp, counter):
    rule = lookahead(1, 0.25, "interpolate")
    state = rule.init((), (leaf(xp, 0.0),), count=counter)
    _, inner, state = rule.step((), (leaf(xp, 8.0),), state)
    assert bits(inner) == bits(state.inner_slow) == ["[2.0]"]


@pytest.mark.clause("C25")
def test_an_inner_state_that_came_later_is_refused_before_weights_move(xp):
    rule, fast = lookahead(1, 0.5, "interpolate"), (leaf(xp, 1.0),)
    with pytest.raises(ValueError, match="inner must have as many leaves as"):
        rule.step(fast, fast, rule.init(fast))


@pytest.mark.clause("C25")
def test_an_anchor_is_not_taken_from_leaves_that_do_not_match(xp):
    rule = lookahead()
    state = rule.init((leaf(xp, 1.0),))
    with pytest.raises(ValueError, match=r"fast\[0\] must have the shape of state.slow"):
        rule.anchor((leaf(xp, 1.0, 2.0),), state)


@pytest.mark.clause("C19", "C25")
def test_a_kernel_that_may_overwrite_is_refused_where_both_outcomes_are_needed(xp):
    rule = lookahead(1)
    fast = (leaf(xp, 1.0),)
    state = rule.init(fast, count=xp.asarray(0))
    with pytest.raises(
        ValueError, match=r"kernel must be REFERENCE_KERNEL when state\.count is an"
    ):
        rule.step(fast, (), state, kernel=Kernel(anchor=REFERENCE_KERNEL.interpolate))


WRONG_LEAVES = {
    "a bare array": (
        lambda a: a,
        r"fast must be a list or tuple of arrays .*, got an array of shape",
    ),
    "a dict": (lambda a: {"w": a}, r"list\(params.values\(\)\) for a flat dict\), got a dict"),
    "a generator": (lambda a: (x for x in [a]), "fast must be a list .* got a generator"),
    "numbers": (lambda a: [1.0], r"fast\[0\] must be an array, got 1.0"),
    "a tree": (lambda a: [[a]], r"fast\[0\] must be an array, got a list"),
}


@pytest.mark.clause("C25")
@pytest.mark.parametrize("case", WRONG_LEAVES)
def test_what_is_no_list_of_arrays_is_refused_in_the_users_words(case, xp, counter):
    wrong, message = WRONG_LEAVES[case]
    rule, good = lookahead(1), [leaf(xp, 1.0, 2.0)]
    state = rule.init(good, count=counter)
    with pytest.raises(ValueError, match=message):
        rule.init(wrong(good[0]))
    with pytest.raises(ValueError, match=message):
        rule.step(wrong(good[0]), (), state)
    with pytest.raises(ValueError, match=message):
        rule.begin(wrong(good[0]), (), state)


@pytest.mark.clause("C25")
@pytest.mark.parametrize("order", ["fast state inner", "state fast inner", "inner state fast"])
@pytest.mark.parametrize("call", ["begin", "step", "sync"])
def test_arguments_in_the_wrong_order_are_named(call, order, xp, counter):
    rule, fast = lookahead(5), (leaf(xp, 1.0),)
    given = {"fast": fast, "inner": (), "state": rule.init(fast, count=counter)}
    with pytest.raises(ValueError, match=r"state must be the SyncState .* as the third"):
        getattr(rule, call)(*(given[name] for name in order.split()))
