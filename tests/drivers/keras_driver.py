"""Drives lookahead_core.adapters.keras for the conformance suite: as it is, or in a traced step.

A traced step is `tf.function` around `apply`, or `jax.jit` around `stateless_apply`, as `fit` has
them; torch has none.
"""

import warnings
from decimal import Decimal

import keras
import numpy as np
from keras.ops import convert_to_numpy

from lookahead_core.adapters.keras import Lookahead, MetaOptimizer
from lookahead_core.adapters.keras._backend import read
from lookahead_core.adapters.keras._inner_state import moments
from lookahead_core.conformance import INNER_EDITS, Setup, sync_rule, torch_inner

BACKEND = keras.backend.backend()
ADAM = (0.9, 0.999, 1e-8)


def keras_inner(inner, moments, gradient, count):
    """Adam as Keras has it, with epsilon beside the root that is not corrected."""
    if inner.kind == "sgd":
        return torch_inner(inner, moments, gradient, count)
    b1, b2, eps = map(Decimal, ADAM)
    first = [b1 * m + (1 - b1) * g for m, g in zip(moments[0], gradient, strict=True)]
    second = [b2 * n + (1 - b2) * g * g for n, g in zip(moments[1], gradient, strict=True)]
    correction = (1 - b2**count).sqrt() / (1 - b1**count)
    pairs = zip(first, second, strict=True)
    return [m * correction / (n.sqrt() + eps) for m, n in pairs], [first, second]


def bare(inner, lr):
    if inner.kind == "adam":
        b1, b2, eps = ADAM
        return keras.optimizers.Adam(lr, beta_1=b1, beta_2=b2, epsilon=eps)
    return keras.optimizers.SGD(lr, momentum=float(inner.momentum))


def optimizer_of(setup):
    settings = (setup.sync_period, setup.alpha, setup.inner_state)
    rule = sync_rule(setup)
    if rule == sync_rule(Setup((), *settings)):
        return Lookahead(bare(setup.inner, setup.inner.lr), *settings, slow_dtype=setup.slow_dtype)
    return MetaOptimizer(bare(setup.inner, setup.inner.lr), rule, slow_dtype=setup.slow_dtype)


class Run:
    def __init__(self, setup, traced):
        self.setup = setup
        self.leaves = [variable(leaf, f"v{i}") for i, leaf in enumerate(setup.leaves)]
        self.trained = [leaf for leaf in self.leaves if leaf.trainable]
        self.optimizer = optimizer_of(setup)
        self.optimizer.build(self.trained)
        self.traced = TRACED[BACKEND](self) if traced else self.optimizer.apply

    def step(self, gradients):
        trained = zip(gradients, self.leaves, strict=True)
        given = [
            g if g is None else array(g, leaf.dtype, tuple(leaf.shape))
            for g, leaf in trained
            if leaf.trainable
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist")  # Keras', and on purpose
            self.traced(given)


def by_tensorflow(run):
    import tensorflow as tf

    return tf.function(run.optimizer.apply, autograph=False)  # as the trainer of Keras has it


def by_jax(run):
    import jax

    return applied_by_jax(run.optimizer, run.trained, jax.jit)


def applied_by_jax(optimizer, trained, transformed=lambda step: step):
    """As the trainer of Keras does it; LossScaleOptimizer.apply alone leaks tracers in 3.15."""
    step = transformed(optimizer.stateless_apply)

    def apply(gradients):
        owned = optimizer.variables, trained
        values = [[v.value for v in variables] for variables in owned]
        weights, state = step(values[0], gradients, values[1])
        for variables, new in zip(owned, (state, weights), strict=True):
            for each, value in zip(variables, new, strict=True):
                each.assign(value)

    return apply


TRACED = {"tensorflow": by_tensorflow, "jax": by_jax}


def array(values, dtype, shape):
    flat = np.asarray([float(value) for value in values], "float32").reshape(shape)
    return keras.ops.cast(keras.ops.convert_to_tensor(flat), dtype)


def variable(leaf, name):
    shape = (len(leaf.values),) if leaf.shape is None else leaf.shape
    return keras.Variable(
        array(leaf.values, leaf.dtype, shape),
        dtype=leaf.dtype,
        name=name,
        trainable=leaf.trained,
    )


def plain(value):
    return convert_to_numpy(value).astype("float64").ravel().tolist()


class KerasDriver:
    dtype = "float32"
    inner_step = staticmethod(keras_inner)
    capabilities = frozenset(
        {
            *("adam", "edit", "edit_inner", "evaluate", "forced_sync", "frozen"),
            *("interpolate", "learning_rate", "missing_gradient", "momentum", "nested"),
            *("metrics", "outer_momentum", "period_schedule", "reset", "restart", "schedule"),
            *("skip", "slow_dtype", "start"),
            *("float16", "bfloat16", "int32", "gradient_point", "inner_lr", "reload"),
        }
    )

    def __init__(self, traced=False):
        self.traced, self.eager = traced, not traced

    def make(self, setup):
        return Run(setup, self.traced)

    def step(self, run, gradients):
        run.step(gradients)

    def fast(self, run):
        return [plain(read(leaf)) for leaf in run.leaves]

    def slow(self, run):
        # From the variables by the core, and not slow_weights(): C22 compares that with this.
        part, rule = run.optimizer._part, run.optimizer.rule
        now = part.values()
        slow = iter(rule.slow(now.fast, now.state))
        return [plain(next(slow) if leaf.trainable else read(leaf)) for leaf in run.leaves]

    def evaluate(self, run):
        with run.optimizer.slow_weights():
            return [plain(read(leaf)) for leaf in run.leaves]

    def metrics(self, run):
        return run.optimizer.metrics()

    def save(self, run):
        inner, own = {}, {}
        run.optimizer.save_own_variables(own)
        for index, each in enumerate(run.optimizer.inner.variables):
            inner[index] = each.numpy()
        return [leaf.numpy() for leaf in run.leaves], own, inner

    def load(self, setup, saved):
        run = self.make(setup)
        weights, own, inner = saved
        for leaf, value in zip(run.leaves, weights, strict=True):
            leaf.assign(value)
        run.optimizer.load_own_variables(own)
        for index, each in enumerate(run.optimizer.inner.variables):
            each.assign(inner[index])
        return run

    def reload(self, run, saved):
        _, own, _ = saved
        run.optimizer.load_own_variables(own)

    def sync(self, run):
        run.optimizer.sync()

    def edit(self, run, values):
        for leaf, new in zip(run.leaves, values, strict=True):
            leaf.assign(array(new, leaf.dtype, tuple(leaf.shape)))

    def edit_inner(self, run, index, edit):
        # Nothing can be taken away: new zeros are what the optimizer starts with.
        for moment in moments(run.optimizer.inner):
            if moment.name.startswith(f"v{index}_"):
                moment.assign(read(moment) * INNER_EDITS[edit])

    def skip(self, run):
        """As LossScaleOptimizer does it: the gradient is not finite, so there is no step."""
        around = keras.optimizers.LossScaleOptimizer(run.optimizer)
        around.build(run.trained)
        step = applied_by_jax(around, run.trained) if BACKEND == "jax" else around.apply
        step([keras.ops.full_like(read(leaf), float("inf")) for leaf in run.trained])

    def set_learning_rate(self, run, lr):
        run.optimizer.learning_rate = lr
