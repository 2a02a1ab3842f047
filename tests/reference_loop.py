"""Algorithm 1 of Zhang et al. 2019 in plain Python floats: the oracle of the adapters' tests.

No array library and no import from the project. The inner loop of the hand-written form is SGD
with momentum as torch writes it; for another inner optimizer the framework's own runs, and
`Sync` is put around it by hand.
"""

from dataclasses import dataclass, field

K, ALPHA, STEPS = 5, 0.5, 23
LEARNING_RATE, MOMENTUM = 0.1, 0.9
POLICIES = ("maintain", "reset", "interpolate")

# The quadratic x'Ax/2 - b'x. Digits of its trajectories in 60-digit arithmetic are in
# tests/core/test_reference_loop.py.
A = ((2.0, 0.5, 0.0), (0.5, 1.0, 0.25), (0.0, 0.25, 4.0))
B = (1.0, -1.0, 0.5)
START = (1.0, -1.0, 2.0)

Vector = list[float]


def gradient(x: Vector) -> Vector:
    """A x - b."""
    return [
        sum(a * v for a, v in zip(row, x, strict=True)) - b for row, b in zip(A, B, strict=True)
    ]


def blend(slow: Vector, fast: Vector, alpha: float) -> Vector:
    """phi + alpha (theta - phi): eq. 1."""
    return [s + alpha * (f - s) for s, f in zip(slow, fast, strict=True)]


@dataclass
class Sync:
    """The outer loop around any inner step: call it with weights and moments after each one."""

    slow: Vector
    policy: str
    slow_moments: list[Vector]
    k: int = K
    alpha: float = ALPHA
    steps: int = 0

    def __call__(self, fast: Vector, moments: list[Vector]) -> tuple[Vector, list[Vector], bool]:
        """Weights and moments to go on with, and whether a step count must start again."""
        self.steps += 1
        if self.steps % self.k:
            return fast, moments, False
        self.slow = blend(self.slow, fast, self.alpha)
        if self.policy == "reset":
            moments = [[0.0] * len(moment) for moment in moments]
        if self.policy == "interpolate":
            pairs = zip(self.slow_moments, moments, strict=True)
            self.slow_moments = [blend(old, new, self.alpha) for old, new in pairs]
            moments = [list(moment) for moment in self.slow_moments]
        return list(self.slow), moments, self.policy == "reset"


@dataclass
class Trajectory:
    """Fast weights after each step, and slow weights after each step."""

    fast: list[Vector] = field(default_factory=list)
    slow: list[Vector] = field(default_factory=list)


def momentum_trajectory(policy: str, steps: int = STEPS) -> Trajectory:
    """Lookahead around SGD with momentum on the quadratic, all of it written by hand."""
    x, v = list(START), [0.0] * len(START)
    sync = Sync(list(START), policy, [list(v)])
    trajectory = Trajectory()
    for _ in range(steps):
        v = [MOMENTUM * vi + gi for vi, gi in zip(v, gradient(x), strict=True)]
        x = [xi - LEARNING_RATE * vi for xi, vi in zip(x, v, strict=True)]
        x, (v,), _ = sync(x, [v])
        trajectory.fast.append(x)
        trajectory.slow.append(list(sync.slow))
    return trajectory


def distance(ours: list[Vector], theirs: list[Vector]) -> float:
    """Largest absolute difference between two trajectories of the same length."""
    return max(
        abs(a - b)
        for mine, yours in zip(ours, theirs, strict=True)
        for a, b in zip(mine, yours, strict=True)
    )
