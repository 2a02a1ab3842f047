"""cloudpickle: an optimizer is sent to another process whole, as any of optax's is."""

import cloudpickle
import jax.numpy as jnp
import optax
import pytest

from lookahead_core import snoo
from lookahead_core.adapters.optax import lookahead, meta_optimizer, split
from optax_runs import assert_same

OPTIMIZERS = {
    "lookahead": lambda: lookahead(optax.adam(0.1), 2, 0.5, "interpolate"),
    "a rule": lambda: meta_optimizer(optax.sgd(0.1), snoo(2)),
    "a schedule": lambda: lookahead(optax.sgd(0.1), 2, lambda syncs: 0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_that_was_sent_steps_syncs_and_reads_alike(name):
    optimizer, params = OPTIMIZERS[name](), jnp.ones(2)
    again = cloudpickle.loads(cloudpickle.dumps(optimizer))
    assert type(again) is type(optimizer)
    for _ in range(3):
        state = optimizer.init(params)
        assert_same(again.init(params), state)
        updates, after = optimizer.update(params, state, params)
        assert_same(again.update(params, state, params), (updates, after))
        params = optax.apply_updates(params, updates)
        assert_same(again.sync(after, params), optimizer.sync(after, params))
        assert_same(again.slow_params(after, params), optimizer.slow_params(after, params))


@pytest.mark.parametrize(
    "around", [lambda ours: optax.chain(ours), split, lambda ours: optax.MultiSteps(ours, 2)]
)
def test_what_is_around_an_optimizer_is_sent_with_it(around):
    optimizer, params = around(OPTIMIZERS["lookahead"]()), jnp.ones(2)
    again = cloudpickle.loads(cloudpickle.dumps(optimizer))
    state = optimizer.init(params)
    assert_same(again.update(params, state, params), optimizer.update(params, state, params))
