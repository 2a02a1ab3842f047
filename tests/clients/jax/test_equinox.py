"""equinox: a model is a tree of arrays and functions, of which the optimizer gets the arrays."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from lookahead_core.adapters.optax import lookahead, slow_params
from optax_runs import assert_close, assert_same, by_hand

K, ALPHA, STEPS = 3, 0.5, 8
INPUTS = jnp.linspace(-1, 1, 24).reshape(8, 3)
TARGETS = jnp.sin(INPUTS.sum(axis=1))


def new_model():
    return eqx.nn.MLP(3, "scalar", 4, 1, key=jax.random.key(0))


def loss(model):
    return ((jax.vmap(model)(INPUTS) - TARGETS) ** 2).mean()


def trained(steps):
    model, optimizer = new_model(), lookahead(optax.adam(0.05), K, ALPHA)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(eqx.filter_grad(loss)(model), state, params)
        return eqx.apply_updates(model, updates), state

    for _ in range(steps):
        model, state = step(model, state)
    return model, state


def arrays(model):
    return eqx.filter(model, eqx.is_inexact_array)


def test_a_model_follows_the_method():
    model, _ = trained(STEPS)
    params, static = eqx.partition(new_model(), eqx.is_inexact_array)
    gradient = jax.grad(lambda p: loss(eqx.combine(p, static)))
    expected = by_hand(optax.adam(0.05), params, STEPS, K, ALPHA, gradient)
    assert_close(jax.tree.leaves(arrays(model)), jax.tree.leaves(expected), rtol=1e-5)


def test_the_slow_weights_make_a_model():
    model, state = trained(K + 1)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    slow = eqx.combine(slow_params(state, params), static)
    assert_same(jax.tree.leaves(arrays(slow)), jax.tree.leaves(arrays(trained(K)[0])))
    assert jnp.isfinite(loss(slow))
