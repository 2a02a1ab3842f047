"""Drives lookahead_core.adapters.optax for the conformance suite, eagerly or under jit."""

import pickle
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lookahead_core.adapters.optax import lookahead, slow_params


@cache  # one compilation for all runs with the same settings
def transformation(inner, settings, compiled):
    momentum = inner.momentum or None
    make = (
        optax.adam
        if inner.kind == "adam"
        else lambda learning_rate: optax.sgd(learning_rate, momentum)
    )
    tx = lookahead(optax.inject_hyperparams(make)(learning_rate=inner.lr), *settings)
    return tx, jax.jit(tx.update) if compiled else tx.update


class Run:
    """Parameters, state, and the transformation."""

    def __init__(self, setup, compiled):
        self.params = [
            jnp.asarray(leaf.values, leaf.dtype).reshape(
                (len(leaf.values),) if leaf.shape is None else leaf.shape
            )
            for leaf in setup.leaves
        ]
        settings = (setup.sync_period, setup.alpha, setup.inner_state)
        self.tx, self.update = transformation(setup.inner, settings, compiled)
        self.state = self.tx.init(self.params)

    def apply(self, updates):
        self.params = optax.apply_updates(self.params, updates)


class OptaxDriver:
    # Updates are emitted and not weights: p + (target - p) is the target within rounding.
    eager = False
    capabilities = frozenset(
        {
            *("adam", "edit", "evaluate", "inner_state", "learning_rate", "momentum", "skip"),
            *("float32", "float16", "bfloat16"),
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
            jnp.asarray(new, leaf.dtype).reshape(leaf.shape)
            for new, leaf in zip(values, run.params, strict=True)
        ]

    def fast(self, run):
        return [np.asarray(leaf, float).ravel().tolist() for leaf in run.params]

    def slow(self, run):
        # At the start of a cycle the anchor is not taken yet: the parameters are what it will be.
        slow = run.state.slow if run.state.step else run.params
        return [np.asarray(leaf, float).ravel().tolist() for leaf in slow]

    def evaluate(self, run):
        slow = slow_params(run.state, run.params)
        return [np.asarray(leaf, float).ravel().tolist() for leaf in slow]

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
