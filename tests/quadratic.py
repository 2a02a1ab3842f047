"""A noisy quadratic in plain Python, and loops on it, for the equivalences of the family."""

from random import Random

DIMENSIONS = 3


class Quadratic:
    """Gradients of x' A x / 2 - b' x with noise that is the same for every run of one seed."""

    def __init__(self, seed, steps=60):
        random = Random(seed)
        square = [[random.gauss(0, 1) for _ in range(DIMENSIONS)] for _ in range(DIMENSIONS)]
        self.matrix = [
            [sum(a * b for a, b in zip(row, other, strict=True)) / 2 for other in square]
            for row in square
        ]
        self.linear = [random.gauss(0, 1) for _ in range(DIMENSIONS)]
        self.noise = [[random.gauss(0, 0.3) for _ in range(DIMENSIONS)] for _ in range(steps)]
        self.start = [random.gauss(0, 1) for _ in range(DIMENSIONS)]
        self.steps = steps

    def gradient(self, x, step):
        """At `x`, with the noise of that step."""
        rows = zip(self.matrix, self.linear, self.noise[step], strict=True)
        return [sum(a * v for a, v in zip(row, x, strict=True)) - b + n for row, b, n in rows]


def sgd(problem, lr, momentum=0.0, nesterov=False):
    """Every point of SGD as torch writes it: the textbook that k = 1 is compared with."""
    x, velocity = list(problem.start), [0.0] * DIMENSIONS
    for step in range(problem.steps):
        g = problem.gradient(x, step)
        velocity = [momentum * v + d for v, d in zip(velocity, g, strict=True)]
        ahead = [d + momentum * v for d, v in zip(g, velocity, strict=True)]
        x = [a - lr * d for a, d in zip(x, ahead if nesterov else velocity, strict=True)]
        yield x


def run(xp, rule, problem, lr=0.1, momentum=0.0, count=0, gradients=False):
    """Fast and slow weights after each step of `rule` around SGD, as lists of floats."""
    fast = (xp.asarray(problem.start, dtype=xp.float64),)
    inner = (xp.zeros_like(fast[0]),)
    state = rule.init(fast, inner, count=count)
    for step in range(problem.steps):
        g = xp.asarray(problem.gradient(floats(fast[0]), step), dtype=xp.float64)
        inner = (momentum * inner[0] + g,)
        fast = (fast[0] - lr * inner[0],)
        given = {"gradient": (g,)} if gradients else {}
        fast, inner, state = rule.step(fast, inner, state, **given)
        yield floats(fast[0]), floats(rule.slow(fast, state)[0])


def floats(array):
    return [float(array[i]) for i in range(array.shape[0])]


def distance(runs, others):
    """The largest difference between two sequences of points, which must be as long."""
    pairs = zip(runs, others, strict=True)
    return max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True))
