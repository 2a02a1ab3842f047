"""Drives lookahead_core.adapters.optax for the conformance suite, eagerly or under jit."""

import pickle
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lookahead_core.adapters.optax import lookahead, slow_params


def array(values, dtype, shape=None):
    """`values` as the suite writes them: the parts of complex numbers in turn."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = np.asarray(values, float).view(complex)
    new = jnp.asarray(values, dtype)
    return new if shape is None else new.reshape(shape)


def plain(leaf):
    """The values of an array, as the suite reads them."""
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag], -1)
    return np.asarray(leaf, float).ravel().tolist()


def rate_dtype(setup):
    """Dtype for an injected learning rate, None for optax's own choice.

    That is the dtype of the first leaf or, since optax 0.2.8, the highest: a float32 one rounds
    the rate of a float64 leaf, and complex64 beside float64 is refused.
    """
    return jnp.float64 if len({leaf.dtype for leaf in setup.leaves}) > 1 else None


# One compilation for all runs with the same settings; typed, since True == 1.
@lru_cache(maxsize=None, typed=True)
def transformation(inner, compiled, dtype, sync_period, alpha, inner_state):
    momentum = inner.momentum or None
    make = (
        optax.adam
        if inner.kind == "adam"
        else lambda learning_rate: optax.sgd(learning_rate, momentum)
    )
    injected = optax.inject_hyperparams(make, hyperparam_dtype=dtype)
    tx = lookahead(injected(learning_rate=inner.lr), sync_period, alpha, inner_state)
    return tx, jax.jit(tx.update) if compiled else tx.update


class Run:
    """Parameters, state, and the transformation."""

    def __init__(self, setup, compiled):
        self.params = [array(leaf.values, leaf.dtype, leaf.shape) for leaf in setup.leaves]
        settings = (setup.sync_period, setup.alpha, setup.inner_state)
        self.tx, self.update = transformation(setup.inner, compiled, rate_dtype(setup), *settings)
        self.state = self.tx.init(self.params)

    def apply(self, updates):
        self.params = optax.apply_updates(self.params, updates)


class OptaxDriver:
    # Updates are emitted and not weights: p + (target - p) is the target within rounding.
    eager = False
    capabilities = frozenset(
        {
            *("adam", "edit", "evaluate", "interpolate", "learning_rate", "momentum", "reset"),
            *("skip", "float32", "float16", "bfloat16", "complex128", "complex64"),
        }
    )

    def __init__(self, compiled):
        self.compiled = compiled

    def make(self, setup):
        return Run(setup, self.compiled)

    def step(self, run, gradients):
        updates, run.state = run.update(self.arrays(run, gradients), run.state, run.params)
        run.apply(updates)

    def arrays(self, run, values):
        return [
            array(new, leaf.dtype, leaf.shape) for new, leaf in zip(values, run.params, strict=True)
        ]

    def fast(self, run):
        return [plain(leaf) for leaf in run.params]

    def slow(self, run):
        # At the start of a cycle the anchor is not taken yet: the parameters are what it will be.
        slow = run.state.slow if run.state.step else run.params
        return [plain(leaf) for leaf in slow]

    def evaluate(self, run):
        slow = slow_params(run.state, run.params)
        return [plain(leaf) for leaf in slow]

    def save(self, run):
        return pickle.dumps(jax.tree.map(np.asarray, (run.params, run.state)))

    def load(self, setup, saved):
        run = self.make(setup)
        run.params, run.state = jax.tree.map(jnp.asarray, pickle.loads(saved))
        return run

    def edit(self, run, values):
        run.params = self.arrays(run, values)

    def skip(self, run):
        checked = optax.apply_if_finite(run.tx, max_consecutive_errors=10**6)
        state = checked.init(run.params)._replace(inner_state=run.state)
        infinite = [jnp.full_like(leaf, jnp.inf) for leaf in run.params]
        updates, state = checked.update(infinite, state, run.params)
        run.apply(updates)
        run.state = state.inner_state

    def set_learning_rate(self, run, lr):
        inner = run.state.inner
        rate = jnp.asarray(lr, inner.hyperparams["learning_rate"].dtype)
        hyperparams = {**inner.hyperparams, "learning_rate": rate}
        run.state = run.state._replace(inner=inner._replace(hyperparams=hyperparams))
