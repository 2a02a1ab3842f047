"""Drives optax.lookahead, eagerly, as the example in its docstring does."""

import pickle

import jax
import jax.numpy as jnp
import optax

from drivers.optax_driver import grouped, injected
from experiments.peers.optax_peer import arrays, make_leaf, values


class Run:
    """Pairs of fast and slow parameters, the state, and the transformation."""

    def __init__(self, setup):
        self.tx = optax.lookahead(
            grouped(setup) or injected(setup),
            sync_period=setup.sync_period,
            slow_step_size=setup.alpha,
            reset_state=setup.inner_state == "reset",
        )
        trained = [leaf.trained or leaf.dtype == "int32" for leaf in setup.leaves]
        if not all(trained):  # optax's own way to keep leaves out
            self.tx = optax.masked(self.tx, optax.LookaheadParams(trained, trained))
        leaves = [make_leaf(leaf) for leaf in setup.leaves]
        self.params = optax.LookaheadParams.init_synced(leaves)
        self.state = self.tx.init(self.params)


class OptaxLookaheadDriver:
    # It emits updates and not weights: p + (target - p) is the target within rounding.
    eager = False
    capabilities = frozenset(
        {
            *("adam", "edit", "evaluate", "frozen", "groups", "learning_rate", "missing_gradient"),
            *("momentum", "reset", "skip"),
            *("float32", "float16", "bfloat16", "int32", "complex128", "complex64"),
        }
    )

    def make(self, setup):
        return Run(setup)

    def step(self, run, gradients):
        given = arrays(gradients, run.params.fast)
        updates, run.state = run.tx.update(given, run.state, run.params)
        run.params = optax.apply_updates(run.params, updates)

    def fast(self, run):
        return values(run.params.fast)

    def slow(self, run):
        return values(run.params.slow)

    def evaluate(self, run):
        # "The slow parameters should be used for testing and inference".
        return values(run.params.slow)

    def save(self, run):
        return pickle.dumps((run.params, run.state))

    def load(self, setup, saved):
        run = self.make(setup)
        run.params, run.state = pickle.loads(saved)
        return run

    def edit(self, run, values):
        # Its parameters are a pair, and this is the documented way to make one from weights. To
        # replace the fast half alone would be another meaning of "load", and not in its favour.
        leaves = arrays(values, run.params.fast)
        run.params = optax.LookaheadParams.init_synced(leaves)

    def skip(self, run):
        # optax's own way to throw away steps, around the optimizer so that it does not count them.
        checked = optax.apply_if_finite(run.tx, max_consecutive_errors=10**6)
        state = checked.init(run.params)._replace(inner_state=run.state)
        infinite = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), run.params.fast)
        updates, state = checked.update(infinite, state, run.params)
        run.params = optax.apply_updates(run.params, updates)
        run.state = state.inner_state

    def set_learning_rate(self, run, lr):
        inner = run.state.fast_state
        rate = jnp.asarray(lr, inner.hyperparams["learning_rate"].dtype)
        hyperparams = {**inner.hyperparams, "learning_rate": rate}
        run.state = run.state._replace(fast_state=inner._replace(hyperparams=hyperparams))
