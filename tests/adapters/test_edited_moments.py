"""A momentum that is edited between two cycles is where the next one starts, on every adapter.

The same numbers everywhere: two steps of gradient 1 under momentum 0.5, which is then set to 10 and
becomes 6 and 4. Under `interpolate` with alpha = 0.5 the sync puts it halfway from 10 to 4. An
adapter that goes on with the slow copy of the last sync, 0.75, ends at 2.375.
"""

from importlib import import_module

import pytest


def with_numpy():
    np, ours = import_module("numpy"), import_module("lookahead_core.adapters.numpy")
    inner = ours.SGD([np.zeros(1)], lr=1.0, momentum=0.5)
    optimizer = ours.Lookahead(inner, 2, 0.5, "interpolate")
    for step in range(4):
        if step == 2:
            inner.state["velocity/0"][...] = 10.0
        optimizer.step([np.ones(1)])
    return inner.state["velocity/0"].item()


def with_torch():
    torch, ours = import_module("torch"), import_module("lookahead_core.adapters.torch")
    leaf = torch.nn.Parameter(torch.zeros(1))
    inner = torch.optim.SGD([leaf], lr=1.0, momentum=0.5)
    optimizer = ours.Lookahead(inner, 2, 0.5, "interpolate")
    for step in range(4):
        if step == 2:
            optimizer.state[leaf]["momentum_buffer"].fill_(10.0)
        leaf.grad = torch.ones(1)
        optimizer.step()
    return optimizer.state[leaf]["momentum_buffer"].item()


def with_jax():
    jnp, optax = import_module("jax.numpy"), import_module("optax")
    ours = import_module("lookahead_core.adapters.optax")
    params = jnp.zeros(1)
    optimizer = ours.lookahead(optax.sgd(1.0, momentum=0.5), 2, 0.5, "interpolate")
    state = optimizer.init(params)
    for step in range(4):
        if step == 2:
            edited = optax.TraceState(jnp.full(1, 10.0))
            state = state._replace(inner=(edited, *state.inner[1:]))
        updates, state = optimizer.update(jnp.ones(1), state, params)
        params = optax.apply_updates(params, updates)
    return state.inner[0].trace.item()


MOMENTUM = {"numpy": with_numpy, "torch": with_torch, "jax": with_jax}


@pytest.mark.clause("C18")
def test_a_momentum_that_is_edited_between_cycles_is_where_the_next_one_starts(backend):
    assert MOMENTUM[backend]() == 7.0
