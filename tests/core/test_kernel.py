"""The reference kernel and its contract; the adapters' kernels are checked in their own tests."""

import pytest

from lookahead_core import REFERENCE_KERNEL, Kernel, interpolate
from lookahead_core.conformance import KERNEL_CHECKS, check_kernel
from lookahead_core.kernel import (
    anchored,
    interpolate_leaves,
    linear_leaves,
    momentum_leaves,
    move_leaves,
)
from lookahead_core.namespace import is_writeable


@pytest.mark.clause("C07", "C08", "C10", "C23", "C26", "C71")
@pytest.mark.parametrize("clause", KERNEL_CHECKS)
def test_the_reference_kernel_holds_its_contract(clause, xp):
    KERNEL_CHECKS[clause](REFERENCE_KERNEL, xp)


def one_branch(slow, fast, alpha):
    """What most libraries compute: not `fast` at alpha = 1, and NaN next to infinity."""
    moved = [s + alpha * (f - s) for s, f in zip(slow, fast, strict=True)]
    return moved, [m + 0 for m in moved]


def the_other_branch(slow, fast, alpha):
    moved = [f - (1 - alpha) * (f - s) for s, f in zip(slow, fast, strict=True)]
    return moved, [m + 0 for m in moved]


def half_precision(slow, fast, alpha):
    """Loses the low bits of every value."""
    slow, fast = interpolate_leaves(slow, fast, alpha)
    return [s * (1 + 1e-6) for s in slow], [f * (1 + 1e-6) for f in fast]


def one_buffer(slow, fast, alpha):
    slow, _ = interpolate_leaves(slow, fast, alpha)
    return slow, slow


def views(slow, fast, alpha):
    """Two objects, one buffer: the next inner step moves the slow weights as well."""
    slow, fast = interpolate_leaves(slow, fast, alpha)
    pairs = zip(slow, fast, strict=True)
    return slow, [s[...] if s.dtype == f.dtype else f for s, f in pairs]


def fast_is_left_behind(slow, fast, alpha):
    slow, _ = interpolate_leaves(slow, fast, alpha)
    return slow, fast


def right_if_fast_is_finite(slow, fast, alpha):
    """Its end at alpha = 0 is reached through 0 * fast."""
    moved, _ = interpolate_leaves(slow, fast, alpha)
    moved = [m if alpha else m + 0 * f for m, f in zip(moved, fast, strict=True)]
    return moved, [m + 0 for m in moved]


def right_if_slow_is_finite(slow, fast, alpha):
    """Its end at alpha = 1 is reached through 0 * slow."""
    moved, _ = interpolate_leaves(slow, fast, alpha)
    moved = [m if alpha < 1 else m + 0 * s for m, s in zip(moved, slow, strict=True)]
    return moved, [m + 0 for m in moved]


def off_above_one_half(slow, fast, alpha):
    return interpolate_leaves(slow, fast, alpha if alpha <= 0.5 else alpha * (1 - 1e-6))


def refuses_no_leaves(slow, fast, alpha):
    assert slow, "torch._foreach_lerp_ is such a kernel"
    return interpolate_leaves(slow, fast, alpha)


def flattens(slow, fast, alpha):
    slow, fast = interpolate_leaves(slow, fast, alpha)
    return [s[None, ...] for s in slow], [f[None, ...] for f in fast]


def takes_the_real_part(slow, fast, alpha):
    slow, fast = interpolate_leaves(slow, fast, alpha)
    real = [abs(s) if "complex" in str(s.dtype) else s for s in slow]
    return real, fast


def drops_leaves(slow, fast, alpha):
    slow, fast = interpolate_leaves(slow, fast, alpha)
    return slow[:1], fast[:1]


def never_anchors(slow, fast):
    return slow


def always_anchors(slow, fast):
    return [s * 0 + f for s, f in zip(slow, fast, strict=True)]


def anchors_to_a_view(slow, fast):
    same = [s.dtype == f.dtype for s, f in zip(slow, fast, strict=True)]
    trios = zip(slow, fast, same, strict=True)
    return [f[...] if alias else anchored(s, f) for s, f, alias in trios]


def aliases_fast(slow, fast):
    same = [s.dtype == f.dtype for s, f in zip(slow, fast, strict=True)]
    return [f if alias else anchored(s, f) for s, f, alias in zip(slow, fast, same, strict=True)]


def moves_by_one_branch(slow, fast, alpha):
    return one_branch(slow, fast, alpha)[0]


def moves_roughly(slow, fast, alpha):
    return half_precision(slow, fast, alpha)[0]


def moves_both(slow, fast, alpha):
    """Writes the step back as well, as Lookahead's own operation does."""
    moved, _ = interpolate_leaves(slow, fast, alpha)
    for m, f in zip(moved, fast, strict=True):
        if is_writeable(f):
            f[...] = m
    return moved


def moves_some(slow, fast, alpha):
    return move_leaves(slow, fast, alpha)[:1]


def the_other_momentum(slow, fast, buffer, lr, momentum, nesterov):
    return momentum_leaves(slow, fast, buffer, lr, momentum, not nesterov)


def the_old_buffer(slow, fast, buffer, lr, momentum, nesterov):
    return momentum_leaves(slow, fast, buffer, lr, momentum, nesterov)[0], buffer


def dampened(slow, fast, buffer, lr, momentum, nesterov):
    """An average of pseudo-gradients, as Adam's first moment is one."""
    fast = [s + (1 - momentum) * (f - s) for s, f in zip(slow, fast, strict=True)]
    return momentum_leaves(slow, fast, buffer, lr, momentum, nesterov)


def forgets_a_buffer(slow, fast, buffer, lr, momentum, nesterov):
    slow, buffer = momentum_leaves(slow, fast, buffer, lr, momentum, nesterov)
    return slow, buffer[:1]


def from_the_slow_weights(slow, fast, slot, decay, gain, ahead, behind):
    """The old slot is left where it was."""
    return linear_leaves(slow, fast, slot, decay, gain, ahead, 0.0)


def one_number_for_all(slow, fast, slot, decay, gain, *others):
    return linear_leaves(slow, fast, slot, *map(first_of, (decay, gain)), *others)


def first_of(numbers):
    return numbers[0] if isinstance(numbers, list) else numbers


def one_number_of_an_array(slow, fast, slot, decay, gain, *others):
    decay, gain = (n if isinstance(n, list | float) else n[0] for n in (decay, gain))
    return linear_leaves(slow, fast, slot, decay, gain, *others)


def forgets_a_slot(slow, fast, slot, *numbers):
    slow, slot = linear_leaves(slow, fast, slot, *numbers)
    return slow, slot[:1]


def in_place_for_later(slow, fast, alpha):
    """One pass over memory less: the slow weights are left to the next anchor."""
    moved, fast = interpolate_leaves(slow, fast, alpha)
    pairs = zip(slow, moved, fast, strict=True)
    return [old if old.dtype == f.dtype else new for old, new, f in pairs], fast


@pytest.mark.clause("C07", "C08", "C10", "C23", "C26")
def test_a_kernel_may_leave_the_slow_weights_to_the_next_anchor(xp):
    report = check_kernel(Kernel(interpolate=in_place_for_later), xp)
    assert {clause: seen for clause, seen in report.items() if seen} == {}


def wide_ones_for_later(slow, fast, alpha):
    """Their extra bits are lost: an anchor cannot take them from the fast weights."""
    return slow, interpolate_leaves(slow, fast, alpha)[1]


BROKEN = [
    (Kernel(interpolate=wide_ones_for_later), "C10"),
    (Kernel(interpolate=one_branch), "C07"),
    (Kernel(interpolate=half_precision), "C08"),
    (Kernel(interpolate=one_branch), "C08"),
    (Kernel(interpolate=the_other_branch), "C08"),
    (Kernel(interpolate=one_buffer), "C10"),
    (Kernel(interpolate=fast_is_left_behind), "C10"),
    (Kernel(interpolate=drops_leaves), "C23"),
    (Kernel(interpolate=right_if_fast_is_finite), "C07"),
    (Kernel(interpolate=right_if_slow_is_finite), "C07"),
    (Kernel(interpolate=off_above_one_half), "C08"),
    (Kernel(interpolate=refuses_no_leaves), "C23"),
    (Kernel(interpolate=flattens), "C23"),
    (Kernel(interpolate=takes_the_real_part), "C23"),
    (Kernel(move=moves_by_one_branch), "C07"),
    (Kernel(move=moves_roughly), "C08"),
    (Kernel(move=moves_some), "C23"),
    (Kernel(momentum=the_other_momentum), "C71"),
    (Kernel(momentum=the_old_buffer), "C71"),
    (Kernel(momentum=dampened), "C71"),
    (Kernel(momentum=forgets_a_buffer), "C23"),
    (Kernel(linear=from_the_slow_weights), "C85"),
    (Kernel(linear=one_number_for_all), "C85"),
    (Kernel(linear=one_number_of_an_array), "C85"),
    (Kernel(linear=forgets_a_slot), "C23"),
    (Kernel(anchor=never_anchors), "C26"),
    (Kernel(anchor=always_anchors), "C26"),
    (Kernel(anchor=aliases_fast), "C26"),
]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize(("broken", "clause"), BROKEN)
def test_a_broken_kernel_fails_the_check_of_its_clause(broken, clause, xp):
    assert check_kernel(broken, xp)[clause] is not None


def test_every_clause_of_the_contract_kills_a_broken_kernel():
    assert {clause for _, clause in BROKEN} == set(KERNEL_CHECKS)


@pytest.mark.parametrize(
    ("broken", "clause"),
    [
        (Kernel(interpolate=views), "C10"),
        (Kernel(anchor=anchors_to_a_view), "C26"),
        (Kernel(move=moves_both), "C08"),
    ],
)
def test_a_kernel_that_shares_or_overwrites_fails_where_that_can_be(broken, clause, xp):
    killed = check_kernel(broken, xp)[clause] is not None
    assert killed or not is_writeable(xp.asarray([1.0]))


@pytest.mark.clause("C08", "C23")
@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_bfloat16_leaves_stay_bfloat16(alpha, bfloat16):
    xp, dtype = bfloat16
    slow, fast = xp.asarray([0.0, 8.0]), xp.asarray([1.0, -8.0])
    moved = interpolate(xp.astype(slow, dtype), xp.astype(fast, dtype), alpha)
    assert moved.dtype == dtype
    assert [float(value) for value in moved] == [alpha, 8.0 - 16.0 * alpha]
