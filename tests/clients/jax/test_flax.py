"""flax: TrainState, nnx.Optimizer and flax.serialization take the transformation as any other."""

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from lookahead_core import snoo, switch_ema
from lookahead_core.adapters.optax import find_state, lookahead, meta_optimizer, slow_params
from optax_runs import assert_close, assert_same, by_hand

K, ALPHA, STEPS = 3, 0.5, 8
INPUTS = jnp.linspace(-1, 1, 24).reshape(8, 3)
TARGETS = jnp.sin(INPUTS.sum(axis=1, keepdims=True))


def inner():
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.05))


def optimizer(policy="maintain"):
    return lookahead(inner(), K, ALPHA, policy)


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(4)(x)))


def loss(params):
    return ((Model().apply({"params": params}, INPUTS) - TARGETS) ** 2).mean()


def new_state(policy="maintain", tx=None):
    params = Model().init(jax.random.key(0), INPUTS)["params"]
    return TrainState.create(apply_fn=Model().apply, params=params, tx=tx or optimizer(policy))


@jax.jit
def train_step(state):
    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def trained(state, steps=STEPS):
    for _ in range(steps):
        state = train_step(state)
    return state


def test_a_train_state_follows_the_method():
    state = trained(new_state())
    expected = by_hand(inner(), new_state().params, STEPS, K, ALPHA, jax.grad(loss))
    assert_close(state.params, expected, rtol=1e-5)
    assert find_state(state.opt_state).syncs.item() == STEPS // K


def test_the_slow_weights_of_a_train_state_are_evaluated():
    state = trained(new_state(), K + 1)
    slow = slow_params(state.opt_state, state.params)
    assert_same(slow, trained(new_state(), K).params)
    assert jnp.isfinite(loss(slow))


@pytest.mark.parametrize("policy", ["maintain", "interpolate"])
def test_a_serialized_train_state_resumes_exactly_in_mid_cycle(policy):
    halfway = trained(new_state(policy), K + 1)
    saved = flax.serialization.to_bytes(halfway)
    resumed = flax.serialization.from_bytes(new_state(policy), saved)
    assert_same(trained(resumed).params, trained(halfway).params)


@pytest.mark.parametrize("rule", [snoo(K), switch_ema(K, 0.9)])
def test_a_train_state_of_the_family_resumes_exactly_in_mid_cycle(rule):
    tx = meta_optimizer(inner(), rule)
    halfway = trained(new_state(tx=tx), K + 1)
    saved = flax.serialization.to_bytes(halfway)
    resumed = trained(flax.serialization.from_bytes(new_state(tx=tx), saved))
    whole = trained(halfway)
    assert_same(resumed.params, whole.params)
    assert_same(*(slow_params(state.opt_state, state.params) for state in (resumed, whole)))


def test_a_state_dict_names_the_slow_weights():
    saved = flax.serialization.to_state_dict(trained(new_state()).opt_state)
    assert set(saved) == {"step", "syncs", "slow", "inner", "inner_slow", "outer"}
    assert set(saved["slow"]) == {"Dense_0", "Dense_1"}


class NnxModel(nnx.Module):
    def __init__(self):
        self.hidden = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(4, 1, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))


def nnx_loss(model):
    return ((model(INPUTS) - TARGETS) ** 2).mean()


@nnx.jit
def nnx_step(model, optimizer):
    optimizer.update(model, nnx.grad(nnx_loss)(model))


def plain(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_an_nnx_optimizer_follows_the_method():
    model = NnxModel()
    graph, params = nnx.split(model)
    expected = by_hand(
        inner(), params, STEPS, K, ALPHA, jax.grad(lambda p: nnx_loss(nnx.merge(graph, p)))
    )
    nnx_optimizer = nnx.Optimizer(model, optimizer(), wrt=nnx.Param)
    for _ in range(STEPS):
        nnx_step(model, nnx_optimizer)
    assert_close(plain(nnx.state(model, nnx.Param)), plain(expected), rtol=1e-5)


def nnx_run(steps):
    model = NnxModel()
    nnx_optimizer = nnx.Optimizer(model, optimizer(), wrt=nnx.Param)
    for _ in range(steps):
        nnx_step(model, nnx_optimizer)
    return model, nnx_optimizer


@pytest.mark.parametrize("read", [slow_params, optimizer().slow_params])
def test_the_slow_weights_of_an_nnx_optimizer_make_a_model(read):
    model, nnx_optimizer = nnx_run(K + 1)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    slow = nnx.merge(graph, read(nnx_optimizer.opt_state, params), rest)
    after_the_sync, _ = nnx_run(K)
    assert_same(plain(nnx.state(slow, nnx.Param)), plain(nnx.state(after_the_sync, nnx.Param)))
    assert nnx_loss(slow) == nnx_loss(after_the_sync)
    assert find_state(nnx_optimizer.opt_state).syncs == 1


def test_an_nnx_optimizer_is_synced_on_demand_on_arrays():
    model, nnx_optimizer = nnx_run(K + 1)
    params = nnx.state(model, nnx.Param)
    anchor, fast = slow_params(nnx_optimizer.opt_state, params), nnx.as_pure(params)
    updates, state = optimizer().sync(nnx.as_pure(nnx_optimizer.opt_state), fast)
    nnx.update(model, optax.apply_updates(fast, updates))
    nnx.update(nnx_optimizer.opt_state, nnx.state(state))
    halfway = jax.tree.map(
        lambda slow, leaf: slow + ALPHA * (leaf - slow), plain(anchor), plain(fast)
    )
    assert_close(plain(nnx.state(model, nnx.Param)), halfway, rtol=1e-6)
    assert find_state(nnx_optimizer.opt_state).syncs == 2
    nnx_step(model, nnx_optimizer)


def test_what_nnx_has_beside_the_state_and_the_parameters_is_told_from_them():
    model, nnx_optimizer = nnx_run(1)
    params = nnx.state(model, nnx.Param)
    with pytest.raises(ValueError, match=r"of a flax model it is nnx\.state\(model, nnx\.Param\)"):
        slow_params(nnx_optimizer.opt_state, model)
    with pytest.raises(ValueError, match=r"in flax's nnx\.Optimizer it is opt_state"):
        slow_params(nnx.state(nnx_optimizer), params)
    with pytest.raises(ValueError, match=r"nnx\.as_pure\(optimizer\.opt_state\)"):
        optimizer().sync(nnx_optimizer.opt_state, params)
