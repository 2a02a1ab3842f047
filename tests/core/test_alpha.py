"""alpha as a 0-d array and as a schedule of the sync count, on every namespace."""

import math

import pytest

from lookahead_core import Interpolate, SyncRule, interpolate, lookahead
from lookahead_core.checkpoint import check_settings, settings

pytestmark = pytest.mark.clause("C51")

SLOW = (0.0, -8.0, 1e8, 3.0)
FAST = (1.0, 16.0, 1.0, 3.0)


def array(xp, value, dtype="float64"):
    return xp.asarray(value, dtype=getattr(xp, dtype))


def values(leaf):
    return [float(leaf[i]) for i in range(leaf.shape[0])]


@pytest.mark.clause("C08")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 0.5, 0.7, 1.0])
def test_an_array_gives_what_the_number_gives(alpha, dtype, xp):
    slow, fast = array(xp, SLOW, dtype), array(xp, FAST, dtype)
    moved = interpolate(slow, fast, array(xp, alpha))
    assert moved.dtype == slow.dtype
    # A contracted multiply and add may differ in the last bit.
    assert values(moved) == pytest.approx(values(interpolate(slow, fast, alpha)), rel=1e-7)


@pytest.mark.clause("C07")
# NumPy warns of inf - inf, which is not used.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("other", [1e30, math.inf, -math.inf, math.nan])
def test_an_array_is_exact_at_both_ends_whatever_the_other_one_is(other, xp):
    ours, theirs = array(xp, [1.0, -3.0, 0.1]), array(xp, [other] * 3)
    assert values(interpolate(ours, theirs, array(xp, 0.0))) == [1.0, -3.0, 0.1]
    assert values(interpolate(theirs, ours, array(xp, 1.0))) == [1.0, -3.0, 0.1]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_between_the_ends_infinity_stays(xp):
    moved = interpolate(array(xp, [1.0]), array(xp, [math.inf]), array(xp, 0.25))
    assert values(moved) == [math.inf]


@pytest.mark.clause("C14", "C23")
def test_a_wider_array_widens_no_leaf(xp):
    for dtype in ("float32", "complex64"):
        leaf = array(xp, [2.0], dtype)
        assert interpolate(leaf, leaf, array(xp, 0.3)).dtype == leaf.dtype


@pytest.mark.clause("C23")
@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_bfloat16_leaves_stay_bfloat16(alpha, bfloat16):
    xp, dtype = bfloat16
    slow, fast = (xp.astype(array(xp, v), dtype) for v in ([0.0, 8.0], [1.0, -8.0]))
    moved = interpolate(slow, fast, array(xp, alpha))
    assert moved.dtype == dtype
    assert [float(value) for value in moved] == [alpha, 8.0 - 16.0 * alpha]


def test_complex_leaves_move_the_real_fraction(xp):
    slow, fast = xp.asarray([0j]), xp.asarray([4.0 + 8.0j])
    assert complex(interpolate(slow, fast, array(xp, 0.25))[0]) == 1.0 + 2.0j


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_a_rule_takes_a_real_array_as_it_is(dtype, xp):
    alpha = array(xp, 1, dtype)
    assert lookahead(alpha=alpha).outer.alpha is alpha


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("value", "dtype"), [([0.5], "float64"), (True, "bool"), (0.5j, "complex64")]
)
def test_an_array_that_is_no_real_scalar_is_refused(value, dtype, xp):
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, 1\] \(.*\), got"):
        lookahead(alpha=array(xp, value, dtype))


def run(xp, rule, count, steps):
    """Weights and inner state after each step that subtracts one and adds one."""
    fast, inner = (array(xp, [0.0]),), (array(xp, [0.0]),)
    state, trace = rule.init(fast, inner, count=count), []
    for _ in range(steps):
        fast, inner = (fast[0] - 1.0,), (inner[0] + 1.0,)
        fast, inner, state = rule.step(fast, inner, state)
        trace.append((values(fast[0])[0], values(inner[0])[0]))
    return trace


@pytest.mark.clause("C19")
@pytest.mark.parametrize("counter", ["branches", "selects"])
def test_a_schedule_is_given_the_syncs_so_far(counter, xp):
    count = 0 if counter == "branches" else array(xp, 0, "int64")

    def alpha(syncs):
        return 1.0 / ((syncs if isinstance(syncs, int) else xp.astype(syncs, xp.float64)) + 2.0)

    trace = run(xp, lookahead(2, alpha, "interpolate"), count, 6)
    # alpha is 1/2, 1/3 and 1/4, for the weights and for the inner state.
    expected = [-1.0, -1.0, -2.0, -5 / 3, -8 / 3, -13 / 6]
    assert [weights for weights, _ in trace] == pytest.approx(expected)
    assert [moment for _, moment in trace] == pytest.approx([-w for w in expected])


def test_a_schedule_between_two_syncs_is_not_asked(xp):
    asked = []
    run(xp, lookahead(3, lambda syncs: asked.append(syncs) or 0.5), 0, 7)
    assert asked == [0, 1]


@pytest.mark.clause("C24", "C25")
def test_a_schedule_out_of_range_is_refused_before_anything_moves(xp):
    fast = (array(xp, [1.0]),)
    rule = lookahead(1, lambda syncs: 1.5)
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, 1\] \(.*\), got 1\.5"):
        rule.step(fast, (), rule.init(fast))


@pytest.mark.clause("C06")
def test_a_checkpoint_says_the_kind_of_alpha(xp):
    kinds = {"a schedule": lambda syncs: 0.5, "an array": array(xp, 0.5)}
    for told, alpha in kinds.items():
        rule = SyncRule(outer=Interpolate(alpha))
        assert settings(rule)["alpha"] == told
        check_settings(settings(rule), settings(rule))
        with pytest.raises(ValueError, match=f"made with alpha='{told}', this optimizer has"):
            check_settings(settings(rule), settings(lookahead()))
