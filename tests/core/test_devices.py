"""Results stay on the device of their arguments, and no value is read to get there.

Torch's meta device has no values: reading one raises. array-api-strict refuses to mix devices.
"""

import pytest

from lookahead_core import REFERENCE_KERNEL, interpolate, lookahead
from lookahead_core.kernel import anchored

POLICIES = ("maintain", "reset", "interpolate")


def leaves(xp, device):
    """A narrow float, a wide one, and an integer."""
    dtypes = (xp.float32, xp.float64, xp.int32)
    return tuple(xp.zeros((2, 3), dtype=dtype, device=device) for dtype in dtypes)


def layout(arrays):
    return [(array.shape, array.dtype, array.device) for array in arrays]


@pytest.fixture(params=["branches", "selects"])
def counter(request, placed):
    """An int, or an array: that one is its maker's to place."""
    xp, device = placed
    return 0 if request.param == "branches" else xp.asarray(0, device=device)


@pytest.mark.clause("C23")
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.75, 1.0])
def test_interpolation_stays_on_the_device(alpha, placed):
    xp, device = placed
    floats = leaves(xp, device)[:2]
    assert layout(interpolate(leaf, leaf, alpha) for leaf in floats) == layout(floats)
    slow, fast = REFERENCE_KERNEL.interpolate(floats, floats[::-1], alpha)
    assert layout((*slow, *fast)) == layout((*floats, *floats[::-1]))


@pytest.mark.clause("C23", "C26")
def test_an_anchor_of_either_width_stays_on_the_device(placed):
    narrow, wide, _ = leaves(*placed)
    assert layout((anchored(narrow, narrow), anchored(wide, narrow))) == layout((narrow, wide))


@pytest.mark.clause("C16", "C17", "C18", "C19", "C23")
@pytest.mark.parametrize("policy", POLICIES)
def test_all_that_a_sync_makes_stays_on_the_device(policy, placed, counter):
    rule = lookahead(2, 0.3, policy)
    start = leaves(*placed)
    fast, inner, state = start, start, rule.init(start, start, count=counter)
    for _ in range(3):
        state = rule.begin(fast, inner, state)
        assert layout(state.slow) == layout(start)
        assert layout(state.inner_slow) == (layout(start) if policy == "interpolate" else [])
        fast, inner, state = rule.step(fast, inner, state)
    assert layout(fast) == layout(inner) == layout(state.slow) == layout(start)
    assert layout(rule.slow(fast, state)) == layout(start)
    assert layout(rule.anchor(fast, state).slow) == layout(start)
    assert layout(state.inner_slow) == (layout(start) if policy == "interpolate" else [])


@pytest.mark.clause("C15", "C23")
def test_slow_weights_in_a_wider_dtype_stay_on_the_device(placed, counter):
    xp, device = placed
    rule = lookahead(1, 0.3)
    start = leaves(xp, device)
    fast, _, state = rule.step(start, (), rule.init(start, count=counter, slow_dtype=xp.float64))
    assert layout(fast) == layout(start)
    assert [array.dtype for array in state.slow] == [xp.float64, xp.float64, xp.int32]
    assert {array.device for array in state.slow} == {device}


@pytest.mark.clause("C19", "C23")
def test_an_array_counter_stays_on_its_device(placed):
    xp, device = placed
    rule = lookahead(2)
    count = xp.asarray(0, device=device)
    state = rule.init(leaves(xp, device), count=count)
    _, _, state = rule.step(leaves(xp, device), (), state)
    assert layout((state.count, state.syncs, rule.due(state))) == [
        *layout((count, count)),
        ((), xp.bool, device),
    ]
