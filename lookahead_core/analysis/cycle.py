"""One cycle of k inner steps and a sync as a linear map, along one eigenvector of a quadratic.

The state is (slow, v) at a sync, where fast equals slow and v is -learning_rate times the momentum
buffer; with an outer rule that keeps a slot (slow, v, slot). Everything depends on step =
learning_rate * curvature alone. What is read off the map is contraction.py, stability.py and
outer.py.
Derived in docs/theory.md, "One cycle as a matrix".
"""

from typing import Any, NamedTuple

from lookahead_core.typing import Array

from .matrices import Matrix, add, congruent, product

__all__ = [
    "Cycle",
    "after_inner_steps",
    "inner_map",
    "interpolating_cycle",
    "linear_cycle",
    "momentum_cycle",
]


class Cycle(NamedTuple):
    """z' = matrix @ z + noise of that covariance, for a sampled optimum of variance 1."""

    matrix: Matrix
    noise: Matrix


def inner_map(step: Array, momentum: float, nesterov: bool) -> Cycle:
    """One inner step of (theta, v): v' = momentum * v - learning_rate * gradient, in torch's form.

    The gradient is curvature * (theta - c), c the sampled optimum.
    """
    if nesterov:  # theta' = theta + momentum * v' - learning_rate * gradient
        matrix = ((1 - step - momentum * step, momentum**2), (-step, momentum))
        kick = ((1 + momentum) * step, step)
    else:  # theta' = theta + v'
        matrix = ((1 - step, momentum), (-step, momentum))
        kick = (step, step)
    return Cycle(matrix, tuple(tuple(a * b for b in kick) for a in kick))


def after_inner_steps(step: Array, momentum: float, nesterov: bool, sync_period: int) -> Cycle:
    """`sync_period` inner steps, without the sync."""
    return _repeated(inner_map(step, momentum, nesterov), sync_period)


def _repeated(cycle: Cycle, times: int) -> Cycle:
    """`cycle`, `times` >= 1 times: half of them twice, and one more for an odd number."""
    if times == 1:
        return cycle
    half = _repeated(cycle, times // 2)
    twice = _then(half, half)
    return _then(twice, cycle) if times % 2 else twice


def _then(first: Cycle, second: Cycle) -> Cycle:
    noise = add(congruent(second.matrix, first.noise), second.noise)
    return Cycle(product(second.matrix, first.matrix), noise)


def interpolating_cycle(inner: Cycle, alpha: Any, inner_state: str) -> Cycle:
    """slow' = (1 - alpha) * slow + alpha * fast, and v by the policy."""
    from_start, from_end = _policy(inner_state, alpha)
    take = ((alpha, 0), (0, from_end))
    keep = ((1 - alpha, 0), (0, from_start))
    return Cycle(add(keep, product(take, inner.matrix)), congruent(take, inner.noise))


def momentum_cycle(
    inner: Cycle, lr: float, momentum: float, nesterov: bool, inner_state: str
) -> Cycle:
    """m' = momentum * m + (slow - fast); slow' = slow - lr * m', or its Nesterov form."""
    # Nesterov: slow' = slow - lr * ((slow - fast) + momentum * m')
    moved, remembered = (1 + momentum, momentum**2) if nesterov else (1.0, momentum)
    from_start, from_end = _policy(inner_state, min(lr * moved, 1.0))
    take = ((lr * moved, 0), (0, from_end), (-1, 0))
    keep = ((1 - lr * moved, 0, -lr * remembered), (0, from_start, 0), (1, 0, momentum))
    widened = tuple((*row, 0) for row in inner.matrix)
    return Cycle(add(keep, product(take, widened)), congruent(take, inner.noise))


def linear_cycle(
    inner: Cycle, decay: float, gain: float, ahead: float, behind: float, inner_state: str
) -> Cycle:
    """s' = decay * s + gain * (slow - fast); slow' = fast + ahead * s' - behind * s."""
    from_start, from_end = _policy(inner_state, None)
    take = ((1 - ahead * gain, 0), (0, from_end), (-gain, 0))
    keep = ((ahead * gain, 0, ahead * decay - behind), (0, from_start, 0), (gain, 0, decay))
    widened = tuple((*row, 0) for row in inner.matrix)
    return Cycle(add(keep, product(take, widened)), congruent(take, inner.noise))


def _policy(inner_state: str, fraction: Any) -> tuple[Any, Any]:
    """What v' takes from v at the start and at the end of the cycle."""
    if inner_state == "interpolate":
        return 1 - fraction, fraction
    return {"maintain": (0, 1), "reset": (0, 0)}[inner_state]
