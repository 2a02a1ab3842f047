"""equinox: a model is a tree of arrays and functions, of which the optimizer gets the arrays."""

from copy import deepcopy

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest

from lookahead_core import snoo
from lookahead_core.adapters.optax import lookahead, meta_optimizer, slow_params
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


@pytest.mark.parametrize("read", [slow_params, lookahead(optax.adam(0.05), K, ALPHA).slow_params])
def test_the_slow_weights_are_put_into_a_whole_model(read):
    model, state = trained(K + 1)
    slow = read(state, model)
    assert_same(jax.tree.leaves(arrays(slow)), jax.tree.leaves(arrays(trained(K)[0])))
    assert loss(slow) == loss(trained(K)[0])


def test_a_whole_model_is_refused_where_parameters_are_asked_for():
    optimizer = lookahead(optax.adam(0.05))
    with pytest.raises(ValueError, match=r"eqx\.filter\(model, eqx\.is_inexact_array\)"):
        optimizer.init(new_model())


# --- the optimizer as a value ---


class Trainer(eqx.Module):
    optimizer: optax.GradientTransformation

    def step(self, model, state):
        gradient = eqx.filter_grad(loss)(model)
        updates, state = self.optimizer.update(gradient, state, arrays(model))
        return eqx.apply_updates(model, updates), state


@eqx.filter_jit
def step_of_an_argument(optimizer, model, state):
    return Trainer(optimizer).step(model, state)


@eqx.filter_jit
def step_of_a_field(trainer, model, state):
    return trainer.step(model, state)


AS_A_VALUE = {
    "argument": step_of_an_argument,
    "field": lambda optimizer, *rest: step_of_a_field(Trainer(optimizer), *rest),
    "method": lambda optimizer, *rest: eqx.filter_jit(Trainer(optimizer).step)(*rest),
}
AROUND = {
    "alone": lambda ours: ours,
    "chain": lambda ours: optax.chain(optax.clip(1e9), ours),
    "masked": lambda ours: optax.masked(ours, lambda tree: jax.tree.map(lambda _: True, tree)),
    "multi_transform": lambda ours: optax.multi_transform(
        {"ours": ours}, lambda tree: jax.tree.map(lambda _: "ours", tree)
    ),
}


def run_as_a_value(optimizer, way):
    model = new_model()
    state = optimizer.init(arrays(model))
    for _ in range(K + 1):
        model, state = AS_A_VALUE[way](optimizer, model, state)
    return model, state


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("way", AS_A_VALUE)
def test_an_optimizer_may_be_an_argument_or_a_field(way, around):
    model, state = run_as_a_value(AROUND[around](lookahead(optax.adam(0.05), K, ALPHA)), way)
    expected, _ = trained(K + 1)
    assert_close(jax.tree.leaves(arrays(model)), jax.tree.leaves(arrays(expected)), rtol=1e-5)
    slow = jax.tree.leaves(arrays(slow_params(state, model)))
    assert_close(slow, jax.tree.leaves(arrays(trained(K)[0])), rtol=1e-5)


REBUILT = {
    "partition and combine": lambda it: eqx.combine(*eqx.partition(it, eqx.is_array)),
    "tree_at": lambda it: eqx.tree_at(
        lambda trainer: trainer.optimizer.update, it, replace_fn=jax.jit
    ),
    "copied": deepcopy,
}


@pytest.mark.parametrize("how", REBUILT)
def test_a_trainer_that_is_rebuilt_can_still_sync_and_read(how):
    optimizer, model = meta_optimizer(optax.sgd(0.05), snoo(K)), new_model()
    again = REBUILT[how](Trainer(optimizer)).optimizer
    state = again.init(arrays(model))
    assert_same(
        jax.tree.leaves(again.sync(state, arrays(model))),
        jax.tree.leaves(optimizer.sync(state, arrays(model))),
    )
    assert_same(
        jax.tree.leaves(again.slow_params(state, arrays(model))), jax.tree.leaves(arrays(model))
    )


@eqx.filter_jit
def synced(optimizer, state, params):
    return optimizer.sync(state, params)


def test_a_compiled_function_can_sync_the_optimizer_that_it_is_given():
    optimizer, (model, state) = lookahead(optax.adam(0.05), K, ALPHA), trained(K + 1)
    updates, after = synced(optimizer, state, arrays(model))
    expected, _ = optimizer.sync(state, arrays(model))
    assert_close(jax.tree.leaves(updates), jax.tree.leaves(expected), rtol=1e-5)
    assert (after.step, after.syncs) == (0, 2)
