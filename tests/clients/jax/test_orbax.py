"""orbax: the state is its own checkpoint, and a run resumes exactly in mid-cycle."""

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest

from lookahead_core import diloco, switch_ema
from lookahead_core.adapters.optax import (
    LookaheadState,
    find_state,
    lookahead,
    meta_optimizer,
    slow_params,
)
from optax_runs import assert_same

K, STEPS = 4, 11
MAKE = {
    "maintain": lambda: lookahead(optax.adam(0.1), K, 0.5),
    "interpolate": lambda: lookahead(optax.adam(0.1), K, 0.3, "interpolate"),
    "chained": lambda: optax.chain(optax.clip(1.0), lookahead(optax.sgd(0.1, 0.9), K, 0.5)),
    "momentum": lambda: meta_optimizer(optax.adam(0.1), diloco(K)),
    "average": lambda: meta_optimizer(optax.adam(0.1), switch_ema(K, 0.9)),
    "wide": lambda: lookahead(optax.adam(0.1), K, 0.5, slow_dtype=jnp.float32),
    "one of many": lambda: lookahead(optax.adam(0.1), K, 0.3, "interpolate", average=list),
}


def start(name):
    dtype = jnp.bfloat16 if name == "wide" else jnp.float32
    return {"w": jnp.linspace(-1, 1, 12, dtype=dtype).reshape(3, 4), "b": jnp.ones(4, dtype)}


def trained(optimizer, params, state, steps):
    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("phase", range(K))
@pytest.mark.parametrize("name", MAKE)
def test_a_checkpoint_resumes_exactly_at_every_phase(name, phase, tmp_path):
    optimizer, params = MAKE[name](), start(name)
    halfway = trained(optimizer, params, optimizer.init(params), K + phase)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "run", {"params": halfway[0], "state": halfway[1]})
        checkpointer.wait_until_finished()
        fresh = MAKE[name]()
        abstract = {"params": params, "state": jax.eval_shape(fresh.init, params)}
        restored = checkpointer.restore(tmp_path / "run", abstract)
    assert isinstance(find_state(restored["state"]), LookaheadState)
    assert type(find_state(restored["state"])) is type(find_state(halfway[1]))
    resumed = trained(fresh, restored["params"], restored["state"], STEPS)
    whole = trained(optimizer, *halfway, STEPS)
    assert_same(resumed, whole)
    assert_same(slow_params(resumed[1], resumed[0]), slow_params(whole[1], whole[0]))
