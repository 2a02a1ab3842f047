"""What the tests of the optax adapter share: a problem, inner transformations, a loop, equality."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lookahead_core.adapters.optax import lookahead
from reference_loop import ALPHA, LEARNING_RATE, MOMENTUM, START, A, B, K


def sgd():
    return optax.sgd(LEARNING_RATE, momentum=MOMENTUM)


def adam():
    return optax.adam(LEARNING_RATE)


INNERS = {"sgd": sgd, "adam": adam}


def start():
    return {"layer": {"x": jnp.asarray(START)}, "other": [jnp.asarray(START[:2])]}


def gradients(params):
    return {
        "layer": {"x": jnp.asarray(A) @ params["layer"]["x"] - jnp.asarray(B)},
        "other": [0.5 * params["other"][0]],
    }


def make(policy="maintain", inner=sgd):
    return lookahead(inner(), K, ALPHA, policy)


def train(optimizer, params, state, steps, update=None):
    update = update or optimizer.update
    for _ in range(steps):
        updates, state = update(gradients(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def by_hand(inner, params, steps, k=K, alpha=ALPHA, gradient=gradients, extra=None):
    """Algorithm 1 around a bare transformation, as a loop on the host; the inner state is kept."""
    inner, state, slow = optax.with_extra_args_support(inner), inner.init(params), params
    for step in range(1, steps + 1):
        arguments = extra(params) if extra else {}
        updates, state = inner.update(gradient(params), state, params, **arguments)
        params = optax.apply_updates(params, updates)
        if step % k == 0:
            slow = jax.tree.map(lambda s, f: s + alpha * (f - s), slow, params)
            params = slow
    return params


def pull_down(optimizer, values, steps, state=None):
    """Steps with a gradient of one for every leaf."""
    params = [jnp.asarray([value]) for value in values]
    state = optimizer.init(params) if state is None else state
    for _ in range(steps):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    return [p.item() for p in params], state


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, yours in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert mine.dtype == yours.dtype
        np.testing.assert_array_equal(mine, yours)


def assert_close(ours, theirs, rtol=1e-13):
    """The same within the rounding of a compiler that contracts multiply and add."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for mine, yours in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, yours, rtol=rtol, atol=rtol)


def dtypes(tree):
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


def frozen(tree):
    """A copy on the host, to compare with later."""
    return jax.tree.map(np.array, tree)
