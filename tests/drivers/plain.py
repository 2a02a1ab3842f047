"""A whole adapter in plain Python lists, and its driver: what the suite's own tests break.

It is written as many wrappers are, with hooks where they go wrong, and holds every clause.
"""

import copy
import math
import struct

CASTS = {"float64": "d", "float32": "f", "float16": "e", "complex128": "d", "complex64": "f"}


def cast(value, dtype):
    """`value` rounded to `dtype`."""
    if dtype == "int32":
        return float(int(value))
    if dtype == "bfloat16":
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        bits += 0x7FFF + ((bits >> 16) & 1) if math.isfinite(value) else 0
        return struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0]
    return struct.unpack(CASTS[dtype], struct.pack(CASTS[dtype], value))[0]


class Inner:
    """SGD with momentum, or Adam, on lists of floats."""

    def __init__(self, setup, weights):
        self.settings, self.weights = setup.inner, weights
        self.dtypes = [leaf.dtype for leaf in setup.leaves]
        self.rates = [leaf.rate for leaf in setup.leaves]
        self.lr, self.count = setup.inner.lr, 0
        self.moments = [[[0.0] * len(leaf), [0.0] * len(leaf)] for leaf in weights]

    def step(self, gradients):
        self.count += 1
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            rate = self.lr * self.rates[i]
            for j, g in enumerate(gradient):
                direction = (
                    self.adam(i, j, g) if self.settings.kind == "adam" else self.sgd(i, j, g)
                )
                self.weights[i][j] = cast(self.weights[i][j] - rate * direction, self.dtypes[i])

    def sgd(self, i, j, g):
        velocity = self.moments[i][0]
        velocity[j] = self.settings.momentum * velocity[j] + g
        return velocity[j]

    def adam(self, i, j, g):
        first, second = self.moments[i]
        first[j] = 0.9 * first[j] + (1 - 0.9) * g
        second[j] = 0.999 * second[j] + (1 - 0.999) * g * g
        corrected = second[j] / (1 - 0.999**self.count)
        return first[j] / (1 - 0.9**self.count) / (math.sqrt(corrected) + 1e-8)


class PlainLookahead:
    """Lookahead around `Inner`. Each method is a place where somebody's wrapper is wrong."""

    def __init__(self, setup):
        self.check(setup)
        self.setup = setup
        self.weights = []
        for leaf in setup.leaves:
            tied = leaf.same_as is not None
            self.weights.append(self.weights[leaf.same_as] if tied else [*map(float, leaf.values)])
        self.inner = Inner(setup, self.weights)
        self.slow = [list(leaf) for leaf in self.weights]
        self.slow_moments = copy.deepcopy(self.inner.moments)
        self.buffers = [[0.0] * len(leaf) for leaf in self.weights]
        self.super_slow = copy.deepcopy(self.slow)
        self.count, self.syncs = -setup.start, 0

    def check(self, setup):
        if isinstance(setup.sync_period, bool) or not isinstance(setup.sync_period, int):
            raise ValueError(f"sync_period must be an int, got {setup.sync_period!r}")
        alpha = 0.0 if callable(setup.alpha) else setup.alpha
        if not (setup.sync_period >= 1 and 0 <= alpha <= 1):
            raise ValueError(f"sync_period >= 1 and 0 <= alpha <= 1, got {setup!r}")

    def step(self, gradients):
        if self.count == 0 and self.anchors():
            self.anchor()
        self.inner.step(gradients)
        self.count += 1
        if self.due(gradients):
            self.sync(gradients)

    def due(self, gradients):
        return self.count == self.setup.sync_period

    def anchors(self):
        """Whether the slow weights are to be had from the fast ones where a cycle begins."""
        return self.syncs == 0 or (self.setup.restart, self.setup.restart_period) == (1, 1)

    def anchor(self):
        wide = self.setup.slow_dtype
        if self.syncs == 0:
            self.slow_moments = copy.deepcopy(self.inner.moments)
            self.super_slow = copy.deepcopy(self.weights)
        for i, leaf in enumerate(self.weights):
            for j, weight in enumerate(leaf):
                if not wide or cast(self.slow[i][j], self.setup.leaves[i].dtype) != weight:
                    self.slow[i][j] = weight

    def synced(self, gradients):
        """Leaves that a sync moves, a tied one where it is first listed."""
        return [i for i, leaf in enumerate(self.setup.leaves) if leaf.trained and not self.tied(i)]

    def tied(self, i):
        return self.setup.leaves[i].same_as is not None

    def sync(self, gradients=None):
        if self.count < 0:
            self.anchor()
        back = self.goes_back()
        for i in self.synced(gradients):
            for j, weight in enumerate(self.weights[i]):
                self.slow[i][j] = self.store(i, self.moved(i, j))
                self.sync_second(i, j)
                if back:
                    restarted = self.restarted(weight, self.slow[i][j])
                    self.weights[i][j] = cast(restarted, self.setup.leaves[i].dtype)
        self.copy_to_tied()
        if back:
            self.sync_inner()
        self.count, self.syncs = 0, self.syncs + 1

    def goes_back(self):
        period = self.setup.restart_period
        return self.setup.restart > 0 and (self.syncs + 1) % period == 0

    def moved(self, i, j):
        slow, fast = self.slow[i][j], self.weights[i][j]
        return self.blend(slow, fast) if self.setup.outer is None else self.pushed(i, j, slow, fast)

    def sync_second(self, i, j):
        """A second rule, around the first."""
        second = self.setup.second
        if second and (self.syncs + 1) % second.period == 0:
            deep, slow = self.super_slow[i][j], self.slow[i][j]
            self.super_slow[i][j] = deep = deep + second.alpha * (slow - deep)
            self.slow[i][j] = slow + second.restart * (deep - slow)

    def pushed(self, i, j, slow, fast):
        """Momentum on the pseudo-gradient."""
        outer, gradient = self.setup.outer, slow - fast
        self.buffers[i][j] = outer.momentum * self.buffers[i][j] + gradient
        ahead = gradient + outer.momentum * self.buffers[i][j]
        return slow - outer.lr * (ahead if outer.nesterov else self.buffers[i][j])

    def restarted(self, fast, slow):
        rho = self.setup.restart
        return slow if rho == 1 else fast + rho * (slow - fast)

    def copy_to_tied(self):
        for i, leaf in enumerate(self.setup.leaves):
            if self.tied(i):
                self.slow[i] = list(self.slow[leaf.same_as])

    def store(self, i, value):
        return cast(value, self.setup.slow_dtype or self.setup.leaves[i].dtype)

    def alpha(self):
        """The part of the way that a sync goes."""
        alpha, outer = self.setup.alpha, self.setup.outer
        if outer:
            return min(1.0, outer.lr * (1 + outer.momentum if outer.nesterov else 1))
        return alpha(self.syncs) if callable(alpha) else alpha

    def blend(self, slow, fast):
        alpha = self.alpha()
        if alpha in (0, 1):
            return fast if alpha else slow
        if alpha < 0.5:
            return slow + alpha * (fast - slow)
        return fast - (1 - alpha) * (fast - slow)

    def sync_inner(self):
        if self.setup.inner_state == "reset":
            self.reset()
        if self.setup.inner_state == "interpolate":
            self.interpolate()

    def reset(self):
        self.inner.moments = [[[0.0] * len(m) for m in leaf] for leaf in self.inner.moments]
        self.inner.count = 0

    def interpolate(self):
        self.slow_moments = [
            [
                [self.blend(s, f) for s, f in zip(slow, fast, strict=True)]
                for slow, fast in zip(slow_leaf, fast_leaf, strict=True)
            ]
            for slow_leaf, fast_leaf in zip(self.slow_moments, self.inner.moments, strict=True)
        ]
        self.inner.moments = copy.deepcopy(self.slow_moments)

    def evaluate(self):
        begins = self.count <= 0 and self.anchors()
        return copy.deepcopy(self.weights if begins else self.slow)

    def saved_names(self):
        return ("weights", "slow", "slow_moments", "super_slow", "buffers", "count", "syncs")

    def state_dict(self):
        inner = {name: getattr(self.inner, name) for name in ("moments", "count", "lr")}
        return copy.deepcopy({**{n: getattr(self, n) for n in self.saved_names()}, "inner": inner})

    def load_state_dict(self, state):
        state = copy.deepcopy(state)
        vars(self.inner).update(state.pop("inner"))
        vars(self).update(state)
        self.inner.weights = self.weights


class PlainDriver:
    eager = True
    capabilities = frozenset(
        {
            *("adam", "edit", "evaluate", "forced_sync", "frozen", "groups", "interpolate"),
            *("learning_rate", "missing_gradient", "momentum", "nested", "outer_momentum", "reset"),
            *("restart", "schedule", "skip", "slow_dtype", "start"),
            *("tied", "float32", "float16", "bfloat16", "int32", "complex128", "complex64"),
        }
    )

    def __init__(self, adapter=PlainLookahead):
        self.adapter = adapter

    def make(self, setup):
        return self.adapter(setup)

    def step(self, run, gradients):
        run.step(gradients)

    def fast(self, run):
        return copy.deepcopy(run.weights)

    def slow(self, run):
        return copy.deepcopy(run.slow)

    def evaluate(self, run):
        return run.evaluate()

    def save(self, run):
        return run.state_dict()

    def load(self, setup, saved):
        run = self.make(setup)
        run.load_state_dict(saved)
        return run

    def sync(self, run):
        run.sync()

    def edit(self, run, values):
        for leaf, new in zip(run.weights, values, strict=True):
            leaf[:] = new

    def skip(self, run):
        """Nothing is called: so do GradScaler and apply_if_finite."""

    def set_learning_rate(self, run, lr):
        run.inner.lr = lr
