"""The contract of a `Kernel` as checks, one for each clause of docs/spec.md that it is bound by.

The expected values are exact rational numbers (`fractions`), not a second floating computation.
"""

from collections.abc import Callable
from fractions import Fraction
from itertools import product
from typing import Any

from lookahead_core import Kernel
from lookahead_core.namespace import device, is_writeable

__all__ = ["KERNEL_CHECKS", "check_kernel"]

Check = Callable[[Kernel, Any], None]

EPS = {"float64": 2.0**-52, "float32": 2.0**-23}
# Both branches of the formula, both sides of the middle, and what a float cannot hold exactly.
ALPHAS = (
    0.0026105916980878607,
    0.9973894083019121,
    0.1,
    0.25,
    0.49999999,
    0.5,
    0.7,
    0.8,
    0.9999999,
)
# First a pair on which either branch alone is 2.4 eps off in float32, at the first two alphas;
# then cancellation, different magnitudes and signs.
SLOW = (-1.0190566778182983, 1.0, -1.0, 1e8, 3.0, 0.1, -2.5e-7, 0.0)
FAST = (1.0178852081298828, 2.0, 1.0, 1.0, 3.0, 0.3, 1e3, -7.0)
BUFFER = (0.5, -1.0, 2.0, 1e7, 0.0, 1e-3, -3.0, 4.0)
# The other end may be anything at all.
EXTREMES = (1e38, float("inf"), float("nan"), 3e38, -3e38, -0.0, 0.0, 1e-40)


def check_kernel(kernel: Kernel, xp: Any) -> dict[str, str | None]:
    """Run every check on `kernel` with arrays of the namespace `xp`.

    Parameters
    ----------
    kernel : Kernel
        The kernel to check.
    xp : array-API namespace
        Makes the arrays that it is given.

    Returns
    -------
    dict
        For each clause None if the kernel holds it, else what was seen.

    Examples
    --------
    >>> import array_api_compat.numpy as xp
    >>> from lookahead_core import REFERENCE_KERNEL
    >>> sorted(clause for clause, seen in check_kernel(REFERENCE_KERNEL, xp).items() if seen)
    []
    """
    report: dict[str, str | None] = {}
    for clause, check in KERNEL_CHECKS.items():
        try:
            check(kernel, xp)
        except Exception as failure:
            report[clause] = f"{type(failure).__name__}: {failure}"
        else:
            report[clause] = None
    return report


def c07_ends_are_exact(kernel: Kernel, xp: Any) -> None:
    for name in EPS:
        ordinary, extreme = _leaf(xp, name, FAST), _leaf(xp, name, EXTREMES)
        for slow, fast in ((ordinary, extreme), (extreme, ordinary)):
            for alpha, end in ((0.0, slow), (1.0, fast)):
                expected = _values(end)
                moved, _ = _interpolated(kernel, _copy(xp, slow), _copy(xp, fast), alpha)
                (alone,) = kernel.move([_copy(xp, slow)], [_copy(xp, fast)], alpha)
                for what, got in (("interpolate", moved), ("move", alone)):
                    _require(
                        _same(_values(got), expected),
                        f"{what}, {name}: alpha={alpha} must give {expected}, got {_values(got)}",
                    )


def c08_values_are_accurate(kernel: Kernel, xp: Any) -> None:
    for name, eps in EPS.items():
        for alpha in ALPHAS:
            slow, fast = _leaf(xp, name, SLOW), _leaf(xp, name, FAST)
            starts, ends = _values(slow), _values(fast)
            (alone,) = kernel.move([_copy(xp, slow)], [fast], alpha)
            _require(_same(_values(fast), ends), "move must not change fast, it did")
            moved, _ = _interpolated(kernel, slow, fast, alpha)
            pairs = [*zip(starts, ends, strict=True)] * 2
            for (start, end), got in zip(pairs, _values(moved) + _values(alone), strict=True):
                exact = Fraction(start) + Fraction(alpha) * (Fraction(end) - Fraction(start))
                bound = 2 * Fraction(eps) * max(abs(Fraction(start)), abs(Fraction(end)))
                _require(
                    abs(Fraction(got) - exact) <= bound,
                    f"{name}: from {start} to {end} by {alpha} must be {float(exact)} within "
                    f"2 eps of the larger, got {got}",
                )


def c10_fast_equals_slow_in_its_own_buffer(kernel: Kernel, xp: Any) -> None:
    for slow_name, fast_name in (("float32", "float32"), ("float64", "float32")):
        slow, fast = _leaf(xp, slow_name, SLOW), _leaf(xp, fast_name, FAST)
        slow, fast = _interpolated(kernel, slow, fast, 0.3)
        expected = _values(xp.astype(slow, getattr(xp, fast_name)))
        _require(
            _same(_values(fast), expected),
            f"fast must be slow in {fast_name}, {expected}, got {_values(fast)}",
        )


def c23_layout_is_kept(kernel: Kernel, xp: Any) -> None:
    def leaves() -> list[Any]:
        return [
            _leaf(xp, "float32", SLOW),
            xp.asarray(1.5, dtype=xp.float64),
            xp.zeros((0, 3), dtype=xp.float32),
            xp.ones((2, 3), dtype=xp.complex64),
        ]

    expected = [_layout(leaf) for leaf in leaves()]
    for result in kernel.interpolate(leaves(), leaves(), 0.3):
        got = [_layout(leaf) for leaf in result]
        _require(got == expected, f"leaves must keep {expected}, got {got}")
    moved = kernel.move(leaves(), leaves(), 0.3)
    stepped = kernel.momentum(leaves(), leaves(), leaves(), 0.7, 0.9, True)
    landed = kernel.linear(leaves(), leaves(), leaves(), 0.5, [0.5, 0.25, 0.75, 1.0], 0.7, 0.3)
    for result in (moved, *stepped, *landed):
        got = [_layout(leaf) for leaf in result]
        _require(got == expected, f"leaves must keep {expected}, got {got}")
    nothing = [*kernel.interpolate([], [], 0.5), kernel.move([], [], 0.5)]
    nothing += kernel.momentum([], [], [], 0.7, 0.9, True)
    nothing += kernel.linear([], [], [], 0.5, [], 0.7, 0.3)
    _require(not any(map(len, nothing)), f"no leaves must give no leaves, got {nothing}")


def c26_anchor_is_taken_from_fast(kernel: Kernel, xp: Any) -> None:
    slow, fast = _leaf(xp, "float32", SLOW), _leaf(xp, "float32", FAST)
    (anchor,) = kernel.anchor([slow], [fast])
    expected = _values(fast)
    _require(_same(_values(anchor), expected), f"must be fast, {expected}, got {_values(anchor)}")
    _require(not _share(fast, anchor), "the anchor must be an array of its own, got fast or a view")
    wide = _leaf(xp, "float64", SLOW)
    narrow = xp.astype(wide, xp.float32)
    edited = xp.concat([narrow[:-1], xp.asarray([5.0], dtype=xp.float32)])
    expected = [*SLOW[:-1], 5.0]
    (anchor,) = kernel.anchor([wide], [edited])
    _require(
        _same(_values(anchor), expected),
        f"must be slow where fast is its rounding, {expected}, got {_values(anchor)}",
    )


def c71_momentum_is_accurate(kernel: Kernel, xp: Any) -> None:
    for (name, eps), nesterov in product(EPS.items(), (True, False)):
        for lr, mu in ((0.7, 0.9), (1.0, 0.5), (0.25, 0.0), (1.7, 0.37)):
            slow, fast = _leaf(xp, name, SLOW), _leaf(xp, name, FAST)
            buffer = _leaf(xp, name, BUFFER)
            leaves = list(zip(*map(_values, (slow, fast, buffer)), strict=True))
            ends = _values(fast)
            (slow,), (buffer,) = kernel.momentum([slow], [fast], [buffer], lr, mu, nesterov)
            case = f"{name}, lr={lr}, momentum={mu}, nesterov={nesterov}"
            _require(_same(_values(fast), ends), f"{case}: fast must not change, it did")
            got = zip(_values(slow), _values(buffer), strict=True)
            for leaf, pair in zip(leaves, got, strict=True):
                before = Fraction(leaf[0]), Fraction(leaf[1]), Fraction(leaf[2])
                exact = _stepped(*before, Fraction(lr), Fraction(mu), nesterov)
                bound = 4 * Fraction(eps) * (1 + Fraction(lr)) * max(map(abs, before))
                _require(
                    all(abs(Fraction(g) - e) <= bound for g, e in zip(pair, exact, strict=True)),
                    f"{case}: slow, fast, buffer {leaf} must give {tuple(map(float, exact))} "
                    f"within {float(bound)}, got {pair}",
                )
            _require(not _share(buffer, slow), f"{case}: slow and buffer must be two arrays")


def _moved_both(kernel: Kernel, row: list[Any], numbers: tuple[float, ...]) -> Any:
    """Slow weights and slot after a linear move that puts the fast weights back."""
    leaves = [[leaf] for leaf in row]
    if kernel.linear_both is None:
        return kernel.linear(*leaves, *numbers)
    moved, slot, back = kernel.linear_both(*leaves, *numbers)
    got, expected = _values(back[0]), _values(moved[0])
    _require(_same(got, expected), f"fast must be slow, {expected}, got {got}")
    _require(not _share(back[0], moved[0]), "fast must be an array of its own, got slow or a view")
    return moved, slot


def c85_linear_moves_are_accurate(kernel: Kernel, xp: Any) -> None:
    cases = ((0.9967, 0.9967, 0.7, 0.7), (0.993, -0.01, 0.3, 0.0), (0.0, 0.0, 0.9, 0.9))
    for (name, eps), numbers in product(EPS.items(), cases):
        slow, fast, slot = (_leaf(xp, name, values) for values in (SLOW, FAST, BUFFER))
        leaves = list(zip(*map(_values, (slow, fast, slot)), strict=True))
        # As numbers for all leaves, and as one for each: the second leaf has others.
        decay, gain, ahead, behind = numbers
        of_both = [decay, 1.0], [gain, 0.0]
        as_arrays = [xp.asarray(own, dtype=xp.float64) for own in of_both]
        row = [slow, fast, slot]
        results = [_moved_both(kernel, [_copy(xp, leaf) for leaf in row], numbers)]
        for each in (of_both, as_arrays):
            pairs = [[_copy(xp, leaf), _copy(xp, leaf)] for leaf in row]
            (first, _), (kept, unchanged) = kernel.linear(*pairs, *each, ahead, behind)
            results.append(([first], [kept]))
            _require(
                _same(_values(unchanged), [leaf[2] for leaf in leaves]),
                f"{name}: the slot of a leaf with decay 1 and gain 0 changed",
            )
            _require(not _share(kept, first), f"{name}: slow and slot must be two arrays")
        results.append(kernel.linear([slow], [fast], [slot], *numbers))
        _require(_same(_values(fast), [leaf[1] for leaf in leaves]), f"{name}: fast changed")
        size = (1 + abs(decay) + abs(gain)) * (1 + abs(ahead) + abs(behind))
        for (moved,), (after,) in results:
            got = zip(_values(moved), _values(after), strict=True)
            for leaf, pair in zip(leaves, got, strict=True):
                before = Fraction(leaf[0]), Fraction(leaf[1]), Fraction(leaf[2])
                exact = _linear(*before, *map(Fraction, numbers))
                bound = 4 * Fraction(eps) * Fraction(size) * max(map(abs, before))
                _require(
                    all(abs(Fraction(g) - e) <= bound for g, e in zip(pair, exact, strict=True)),
                    f"{name}, {numbers}: slow, fast, slot {leaf} must give "
                    f"{tuple(map(float, exact))} within {float(bound)}, got {pair}",
                )


def _linear(
    slow: Fraction,
    fast: Fraction,
    slot: Fraction,
    decay: Fraction,
    gain: Fraction,
    ahead: Fraction,
    behind: Fraction,
) -> tuple[Fraction, Fraction]:
    moved = decay * slot + gain * (slow - fast)
    return fast + ahead * moved - behind * slot, moved


def _interpolated(kernel: Kernel, slow: Any, fast: Any, alpha: float) -> tuple[Any, Any]:
    """One leaf after a sync. Its slow weights may wait for the next anchor, but not wider ones."""
    (slow,), (fast,) = kernel.interpolate([slow], [fast], alpha)
    _require(not _share(fast, slow), "fast and slow must be two arrays, got one or a view")
    if slow.dtype == fast.dtype:
        (slow,) = kernel.anchor([slow], [fast])
    return slow, fast


def _stepped(
    slow: Fraction, fast: Fraction, buffer: Fraction, lr: Fraction, momentum: Fraction, nest: bool
) -> tuple[Fraction, Fraction]:
    buffer = momentum * buffer + (slow - fast)
    direction = (slow - fast) + momentum * buffer if nest else buffer
    return slow - lr * direction, buffer


KERNEL_CHECKS: dict[str, Check] = {
    "C07": c07_ends_are_exact,
    "C08": c08_values_are_accurate,
    "C10": c10_fast_equals_slow_in_its_own_buffer,
    "C23": c23_layout_is_kept,
    "C26": c26_anchor_is_taken_from_fast,
    "C71": c71_momentum_is_accurate,
    "C85": c85_linear_moves_are_accurate,
}


def _leaf(xp: Any, dtype: str, values: tuple[float, ...]) -> Any:
    return xp.astype(xp.asarray(values, dtype=xp.float64), getattr(xp, dtype))


def _copy(xp: Any, leaf: Any) -> Any:
    return xp.astype(leaf, leaf.dtype, copy=True)


def _values(leaf: Any) -> list[float]:
    return [float(leaf[i]) for i in range(leaf.shape[0])]


def _same(got: list[float], expected: list[float]) -> bool:
    """Equal bit for bit; `repr` tells -0.0 from 0.0 and finds nan equal to nan."""
    return [repr(value) for value in got] == [repr(value) for value in expected]


def _share(one: Any, other: Any) -> bool:
    """Whether a write to `one` shows in `other`. Tries it, unless `one` is immutable."""
    if one is other:
        return True
    if not is_writeable(one):
        return False
    before, first = _values(other), float(one[0])
    one[0] = first + 1.0
    shared = not _same(_values(other), before)
    one[0] = first
    return shared


def _layout(leaf: Any) -> tuple[tuple[int, ...], str, str]:
    return tuple(leaf.shape), str(leaf.dtype), str(device(leaf))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
