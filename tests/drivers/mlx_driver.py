"""Drives lookahead_core.adapters.mlx for the conformance suite: as it is, or under mx.compile."""

import math

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_unflatten

from lookahead_core.adapters.mlx import Lookahead, MetaOptimizer
from lookahead_core.adapters.mlx._inner_state import moments, put
from lookahead_core.conformance import INNER_EDITS, Setup, sync_rule


class Run:
    def __init__(self, setup, compiled):
        self.setup, rule = setup, sync_rule(setup)
        leaves = {f"p{index}": leaf for index, leaf in enumerate(setup.leaves)}
        arrays = {
            name: array(leaf.values, dtype_of(leaf.dtype), leaf.shape)
            for name, leaf in leaves.items()
        }
        self.params = {name: new for name, new in arrays.items() if leaves[name].trained}
        self.frozen = {name: new for name, new in arrays.items() if not leaves[name].trained}
        dtype = dtype_of(setup.slow_dtype)
        settings = (setup.sync_period, setup.alpha, setup.inner_state)
        if rule == sync_rule(Setup((), *settings)):
            self.optimizer = Lookahead(inner_of(setup), *settings, slow_dtype=dtype)
        else:
            self.optimizer = MetaOptimizer(inner_of(setup), rule, slow_dtype=dtype)
        self.optimizer.init(self.params)
        self.compiled, self.captured = compiled, None

    def all(self):
        """Every leaf, in the order of the setup."""
        both = self.params | self.frozen
        return [both[f"p{index}"] for index in range(len(both))]

    def step(self, gradients):
        if self.captured is None:
            state = [self.params, self.optimizer.state]
            step = mx.compile(self.apply, state, state) if self.compiled else self.apply
            self.captured = step, state
        step, state = self.captured
        step(gradients)
        mx.eval(state)

    def apply(self, gradients):
        self.params.update(self.optimizer.apply_gradients(gradients, self.params))


def dtype_of(name):
    return None if name is None else getattr(mx, name)


def array(values, dtype, shape=None):
    """`values` as the suite writes them: the parts of complex numbers in turn."""
    values = [float(value) for value in values]
    if dtype == mx.complex64:
        values = [complex(*pair) for pair in zip(values[::2], values[1::2], strict=True)]
        new = mx.array(values, dtype=dtype)
    else:
        new = mx.array(values, dtype=mx.float64).astype(dtype)
    return new if shape is None else new.reshape(shape)


def plain(leaf):
    """The values of an array, as the suite reads them."""
    flat = leaf.reshape(-1)
    if leaf.dtype == mx.complex64:
        flat = mx.stack([mx.real(flat), mx.imag(flat)], axis=1).reshape(-1)
    return flat.astype(mx.float64).tolist()


def rate(lr):
    return mx.array(lr, dtype=mx.float64)  # a float would be rounded to float32


def at_rate(inner, lr):
    if inner.kind == "adam":
        made = optim.Adam(learning_rate=0.0, bias_correction=True)
    else:
        made = optim.SGD(learning_rate=0.0, momentum=inner.momentum)
    made.learning_rate = rate(lr)
    made.state["step"] = rate(0)  # it, too: 0.9**step is a float32 of an integer
    return made


def inner_of(setup):
    """The inner optimizer; one for each rate, if there are several."""
    rates = [leaf.rate for leaf in setup.leaves]
    different = sorted({*rates})
    if len(different) == 1:
        return at_rate(setup.inner, setup.inner.lr * different[0])
    optimizers = [at_rate(setup.inner, setup.inner.lr * own) for own in different]
    filters = [lambda path, _, own=own: rates[int(path[1:])] == own for own in different[:-1]]
    return optim.MultiOptimizer(optimizers, filters)


class MlxDriver:
    capabilities = frozenset(
        {
            *("adam", "edit", "edit_inner", "evaluate", "forced_sync", "frozen", "groups"),
            *("interpolate", "learning_rate", "missing_gradient", "momentum", "nested"),
            *("metrics", "outer_momentum", "period_schedule", "reset", "restart", "schedule"),
            *("skip", "slow_dtype", "start"),
            *("float32", "float16", "bfloat16", "complex64", "int32", "gradient_point", "inner_lr"),
        }
    )

    def __init__(self, compiled=False):
        self.compiled, self.eager = compiled, not compiled

    def make(self, setup):
        return Run(setup, self.compiled)

    def step(self, run, gradients):
        given = {
            f"p{index}": array(gradient, leaf.dtype, leaf.shape)
            for index, (gradient, leaf) in enumerate(zip(gradients, run.all(), strict=True))
            if gradient is not None and f"p{index}" in run.params
        }
        run.step(given)

    def fast(self, run):
        return [plain(leaf) for leaf in run.all()]

    def slow(self, run):
        # From the state by the core, and not slow_weights(): that is what C22 compares with it.
        _, state, fast, _ = run.optimizer._core_state(run.params)
        slow = dict(zip(run.params, run.optimizer.rule.slow(fast, state), strict=True))
        slow |= run.frozen
        return [plain(slow[f"p{index}"]) for index in range(len(slow))]

    def evaluate(self, run):
        read = run.optimizer.slow_weights(run.params) | run.frozen
        return [plain(read[f"p{index}"]) for index in range(len(read))]

    def metrics(self, run):
        return run.optimizer.metrics(run.params)

    def save(self, run):
        return dict(tree_flatten([run.params, run.optimizer.state, run.frozen]))

    def load(self, setup, saved):
        return self.put_back(self.make(setup), saved)

    def put_back(self, run, saved):
        params, run.optimizer.state, *frozen = tree_unflatten([*saved.items()])
        run.params.update(params)
        run.frozen.update(*frozen)
        return run

    def sync(self, run):
        run.params.update(run.optimizer.sync(run.params))

    def edit(self, run, values):
        for index, (leaf, new) in enumerate(zip(run.all(), values, strict=True)):
            where = run.params if f"p{index}" in run.params else run.frozen
            where[f"p{index}"] = array(new, leaf.dtype, leaf.shape)

    def edit_inner(self, run, index, edit):
        # Nothing can be taken away: new zeros are what the optimizer starts with.
        found = moments(run.optimizer.inner, [f"p{index}"])
        put(run.optimizer.inner, {name: INNER_EDITS[edit] * old for name, old in found.items()})

    def skip(self, run):
        """As a loop of one's own does it: the norm is not finite, so no step is taken."""
        gradients = {name: leaf * math.inf for name, leaf in run.params.items()}
        _, norm = optim.clip_grad_norm(gradients, 1.0)
        if math.isfinite(norm.item()):
            run.step(gradients)

    def set_learning_rate(self, run, lr):
        run.optimizer.learning_rate = rate(lr)
