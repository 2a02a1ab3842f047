"""haiku: parameters are plain dicts of dicts."""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from lookahead_core.adapters.optax import lookahead, slow_params
from optax_runs import assert_close, assert_same, by_hand

K, ALPHA, STEPS = 3, 0.5, 8
INPUTS = jnp.linspace(-1, 1, 24).reshape(8, 3)
TARGETS = jnp.sin(INPUTS.sum(axis=1, keepdims=True))
MODEL = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([4, 1])(x)))


def loss(params):
    return ((MODEL.apply(params, INPUTS) - TARGETS) ** 2).mean()


def trained(steps):
    params, optimizer = MODEL.init(jax.random.key(0), INPUTS), lookahead(optax.adam(0.05), K, ALPHA)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = jax.jit(optimizer.update)(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_a_model_follows_the_method():
    params, _ = trained(STEPS)
    start = MODEL.init(jax.random.key(0), INPUTS)
    expected = by_hand(optax.adam(0.05), start, STEPS, K, ALPHA, jax.grad(loss))
    assert_close(params, expected, rtol=1e-5)


def test_the_slow_weights_are_parameters():
    params, state = trained(K + 1)
    assert_same(slow_params(state, params), trained(K)[0])
