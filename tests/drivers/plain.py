"""A whole adapter in plain Python lists, and its driver: what the suite's own tests break.

It is written as many wrappers are, with hooks where they go wrong, and holds every clause.
"""

import copy
import json
import math
import struct
import zlib
from itertools import chain

from lookahead_core.conformance import INNER_EDITS, Ahead, Averaging, Outer

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


def zeros(leaf):
    """Both moments as they begin."""
    return [[0.0] * len(leaf), [0.0] * len(leaf)]


class Inner:
    """SGD with momentum, or Adam, on lists of floats."""

    def __init__(self, setup, weights):
        self.settings, self.weights = setup.inner, weights
        self.dtypes = [leaf.dtype for leaf in setup.leaves]
        self.rates = [leaf.rate for leaf in setup.leaves]
        self.lr, self.count = setup.inner.lr, 0
        self.moments = [[] for _ in weights]  # made at the first step of each leaf

    def step(self, gradients):
        self.count += 1
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            self.moments[i] = self.moments[i] or zeros(self.weights[i])
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

    inner_of = Inner

    def __init__(self, setup):
        self.check(setup)
        self.setup = setup
        self.weights = []
        for leaf in setup.leaves:
            tied = leaf.same_as is not None
            self.weights.append(self.weights[leaf.same_as] if tied else [*map(float, leaf.values)])
        self.inner = self.inner_of(setup, self.weights)
        self.trained = [leaf.trained for leaf in setup.leaves]
        self.members = list(self.trained)
        self.slow = [list(leaf) for leaf in self.weights]
        self.slow_moments = copy.deepcopy(self.inner.moments)
        self.buffers = [[0.0] * len(leaf) for leaf in self.weights]
        self.weights_so_far = [(0.0, 0.0)] * len(self.weights)
        self.super_slow = copy.deepcopy(self.slow)
        self.count, self.syncs = -setup.start, 0

    def check(self, setup):
        period = 1 if callable(setup.sync_period) else setup.sync_period
        if isinstance(period, bool) or not isinstance(period, int):
            raise ValueError(f"sync_period must be an int, got {period!r}")
        alpha = 0.0 if callable(setup.alpha) else setup.alpha
        if not (period >= 1 and 0 <= alpha <= 1):
            raise ValueError(f"sync_period >= 1 and 0 <= alpha <= 1, got {setup!r}")

    def step(self, gradients):
        if self.count == 0:
            self.begin()
        self.inner.step(gradients)
        self.count += 1
        if self.due(gradients):
            try:
                self.sync(gradients)
            except BaseException:
                self.take_back()
                raise

    def take_back(self):
        """A step whose sync has failed is not counted, so that the sync is due again."""
        self.count -= 1

    def due(self, gradients):
        return self.count == self.period()

    def period(self):
        """Steps of this cycle."""
        period = self.setup.sync_period
        return period(self.syncs) if callable(period) else period

    def begin(self):
        """What a cycle starts from: who takes part, the weights and the moments as they are."""
        self.members = list(self.trained)
        if self.anchors():
            self.anchor()
            self.take_moments()

    def anchors(self):
        """Whether the slow weights are to be had from the fast ones where a cycle begins."""
        return self.syncs == 0 or (self.setup.restart, self.setup.restart_period) == (1, 1)

    def anchor(self):
        wide = self.setup.slow_dtype
        for i, leaf in enumerate(self.weights):
            for j, weight in enumerate(leaf):
                if not wide or cast(self.slow[i][j], self.setup.leaves[i].dtype) != weight:
                    self.super_slow[i][j] += weight - self.slow[i][j]
                    self.slow[i][j] = weight

    def take_moments(self):
        self.slow_moments = copy.deepcopy(self.inner.moments)

    def synced(self, gradients):
        """Leaves that a sync moves, a tied one where it is first listed."""
        return [i for i, member in enumerate(self.members) if member and not self.tied(i)]

    def tied(self, i):
        return self.setup.leaves[i].same_as is not None

    def sync(self, gradients=None):
        if self.count <= 0:  # no step of a cycle came before it
            self.begin()
        back = self.goes_back()
        for i in self.synced(gradients):
            self.mu_x = self.old_part(i)
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
        slow, fast, outer = self.slow[i][j], self.weights[i][j], self.setup.outer
        if isinstance(outer, Averaging):
            return self.averaged(i, j, slow, fast)
        if isinstance(outer, Ahead):
            return self.gone_ahead(i, j, slow, fast)
        return self.blend(slow, fast) if outer is None else self.pushed(i, j, slow, fast)

    def averaged(self, i, j, slow, fast):
        """Where gradients are taken next, between the iterates and their average."""
        before = self.buffers[i][j]
        self.buffers[i][j] = self.mu_x * (before + (slow - fast))
        return fast + self.setup.outer.mu_y * (self.buffers[i][j] - before)

    def old_part(self, i):
        """The weight of the old average of a leaf, once a sync."""
        outer = self.setup.outer
        if not isinstance(outer, Averaging) or outer.mu_x is not None:
            return outer.mu_x if isinstance(outer, Averaging) else None
        total, top = self.weights_so_far[i]
        top = max(top, self.rate(i))
        weight = (self.syncs + 1) ** outer.r * top**outer.power
        self.weights_so_far[i] = total + weight, top
        return total / (total + weight) if total + weight else 1.0

    def rate(self, i):
        return self.inner.lr * self.inner.rates[i]

    def gone_ahead(self, i, j, slow, fast):
        """Where gradients are taken next, ahead along the mean of the moves."""
        decay, mean = self.setup.outer.decay, self.buffers[i][j]
        move = fast - (slow - self.step_size(self.syncs - 1) * mean)
        self.buffers[i][j] = decay * mean + (1 - decay) * move
        return fast + self.step_size(self.syncs) * self.buffers[i][j]

    def step_size(self, syncs):
        size = self.setup.outer.step_size
        return size(max(syncs, 0)) if callable(size) else size

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
        if isinstance(outer, Outer):
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
        for i in self.acted_on():
            self.inner.moments[i] = zeros(self.weights[i])
        self.inner.count = 0

    def acted_on(self):
        """Leaves whose moments a policy acts on, each listing of a tied one."""
        return [i for i, member in enumerate(self.members) if member]

    def interpolate(self):
        for i in self.acted_on():
            live = self.inner.moments[i]
            slow = self.slow_moments[i] or zeros(self.weights[i])  # what came since began at zero
            self.slow_moments[i] = [
                [self.blend(s, f) for s, f in zip(*pair, strict=True)]
                for pair in zip(slow[: len(live)], live, strict=True)
            ]
            self.inner.moments[i] = copy.deepcopy(self.slow_moments[i])

    def evaluate(self):
        return copy.deepcopy(self.read_out())

    def read_out(self):
        """The super-slow weights if there is a second rule; the fast ones where a cycle begins."""
        begins = self.count <= 0 and self.anchors()
        slow = self.weights if begins else self.slow
        if not self.setup.second:
            return [list(map(self.shipped, *pair)) for pair in zip(slow, self.buffers, strict=True)]
        trios = zip(slow, self.super_slow, self.slow, strict=True)
        return [[n + (d - s) for n, d, s in zip(*trio, strict=True)] for trio in trios]

    def shipped(self, slow, buffer):
        """What is read out of a number: the average, or what gradients are taken ahead of."""
        outer = self.setup.outer
        if isinstance(outer, Averaging):
            return slow + (1 - outer.mu_y) * buffer
        return slow - self.step_size(self.syncs - 1) * buffer if isinstance(outer, Ahead) else slow

    def metrics(self):
        slow = self.weights if self.count <= 0 and self.anchors() else self.slow
        pseudo = self.ways(slow)
        norm = self.norm(pseudo)
        found = {"syncs": self.syncs, "distance": self.norm(self.ways(self.read_out()))}
        found["pseudo_gradient_norm"] = norm
        if isinstance(self.setup.outer, Outer):
            pairs = zip(chain(*pseudo), chain(*self.buffers), strict=True)
            norms = norm * self.norm(self.buffers)
            found["momentum_cosine"] = sum(a * b for a, b in pairs) / norms if norms else 0.0
        if self.setup.outer is None:
            found["alpha"] = self.alpha()
        return found

    def ways(self, slow):
        """From the fast weights to others."""
        pairs = zip(slow, self.weights, strict=True)
        return [[s - f for s, f in zip(*pair, strict=True)] for pair in pairs]

    def norm(self, leaves):
        return math.hypot(*(value for leaf in leaves for value in leaf))

    def saved_names(self):
        own = ("slow", "slow_moments", "super_slow", "buffers", "count", "syncs", "members")
        return ("weights", "weights_so_far", *own)

    def state_dict(self):
        inner = {name: getattr(self.inner, name) for name in ("moments", "count", "lr")}
        own = {name: getattr(self, name) for name in self.saved_names()}
        return copy.deepcopy({**own, "inner": inner, "made": self.made()})

    def made(self):
        """What tells whose state it is, also in a file."""
        setup, sizes = self.setup, [*map(len, self.weights)]
        return repr((setup.sync_period, setup.inner_state, setup.inner, sizes))

    def load_state_dict(self, state):
        state = copy.deepcopy(state)
        if state.pop("made", self.made()) != self.made():
            raise ValueError("the state is one of another optimizer")
        vars(self.inner).update(state.pop("inner"))
        vars(self).update(state)
        self.inner.weights = self.weights


class PlainDriver:
    eager = True
    capabilities = frozenset(
        {
            *("adam", "edit", "edit_inner", "evaluate", "files", "forced_sync"),
            *("freeze", "frozen", "gradient_point", "inner_lr", "reload"),
            *("groups", "interpolate", "learning_rate", "missing_gradient", "momentum", "nested"),
            *("metrics", "outer_momentum", "period_schedule", "reset", "restart", "schedule"),
            *("skip", "slow_dtype", "start"),
            *("tied", "float32", "float16", "bfloat16", "int32", "complex128", "complex64"),
        }
    )
    file_endings = (".json",)

    def __init__(self, adapter=PlainLookahead):
        self.adapter = adapter

    def make(self, setup):
        return self.adapter(setup)

    def step(self, run, gradients):
        run.step(gradients)

    def fast(self, run):
        return copy.deepcopy(run.weights)

    def slow(self, run):
        if run.setup.second:
            return copy.deepcopy(run.super_slow)
        pairs = zip(run.slow, run.buffers, strict=True)
        return [list(map(run.shipped, *pair)) for pair in pairs]

    def evaluate(self, run):
        return run.evaluate()

    def save(self, run):
        return run.state_dict()

    def load(self, setup, saved):
        return self.put_back(self.make(setup), saved)

    def put_back(self, run, saved):
        run.load_state_dict(saved)
        return run

    def reload(self, run, saved):
        run.load_state_dict({**saved, "weights": run.weights})

    def save_file(self, run, path):
        leaves = [[len(leaf.values), leaf.dtype, leaf.shape] for leaf in run.setup.leaves]
        text = json.dumps([leaves, run.state_dict()]).encode()
        path.write_bytes(b"%08x" % zlib.crc32(text) + text)

    def load_file(self, run, path):
        if not path.is_file():
            raise ValueError(f"{path} must be a regular file")
        run.load_state_dict(self.read(run, path))

    def read(self, run, path):
        """The state in a file; nothing is changed."""
        with path.open("rb") as file:
            content = file.read(10_000)
        try:
            if int(content[:8], 16) != zlib.crc32(content[8:]):
                raise ValueError("damaged")
            leaves, state = json.loads(content[8:])
        except ValueError as error:
            raise ValueError(f"{path} is no checkpoint") from error
        self.check(run, path, leaves)
        return state

    def check(self, run, path, leaves):
        own = [[len(leaf.values), leaf.dtype, leaf.shape] for leaf in run.setup.leaves]
        if leaves != json.loads(json.dumps(own)):
            raise ValueError(f"{path} is of another model")

    def sync(self, run):
        run.sync()

    def metrics(self, run):
        return run.metrics()

    def edit(self, run, values):
        for leaf, new in zip(run.weights, values, strict=True):
            leaf[:] = new

    def edit_inner(self, run, index, edit):
        moments, factor = run.inner.moments, INNER_EDITS[edit]
        new = [[factor * value for value in moment] for moment in moments[index]]
        if edit == "remove":
            moments[index] = []
        elif edit == "replace":
            moments[index] = new
        else:
            for moment, values in zip(moments[index], new, strict=True):
                moment[:] = values

    def train(self, run, index, trained):
        run.trained[index] = trained

    def skip(self, run):
        """Nothing is called: so do GradScaler and apply_if_finite."""

    def set_learning_rate(self, run, lr):
        run.inner.lr = lr
