"""braintools: its optimizer given our transformation, and its features as an optax chain."""

import brainstate
import braintools.optim as bto
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lookahead_core.adapters.optax import find_state, lookahead, slow_params

K, ALPHA, STEPS = 3, 0.5, 10
START = {"w": np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}


def gradients(params):
    return {name: jnp.sin(3 * value) + value for name, value in params.items()}


def theirs(optimizer, steps=STEPS, after=None):
    """Weights after each step of one of braintools' optimizers."""
    states = {name: brainstate.ParamState(jnp.asarray(value)) for name, value in START.items()}
    optimizer.register_trainable_weights(states)
    trace = []
    for _ in range(steps):
        optimizer.step(gradients({name: state.value for name, state in states.items()}))
        trace.append({name: np.asarray(state.value) for name, state in states.items()})
        if after:
            after()
    return trace


def ours(optimizer, steps=STEPS):
    params = {name: jnp.asarray(value) for name, value in START.items()}
    state, trace = optimizer.init(params), []
    for _ in range(steps):
        updates, state = optimizer.update(gradients(params), state, params)
        params = optax.apply_updates(params, updates)
        trace.append({name: np.asarray(value) for name, value in params.items()})
    return trace


def assert_same_trace(one, other):
    for step, (mine, yours) in enumerate(zip(one, other, strict=True), start=1):
        for name in START:
            np.testing.assert_allclose(
                mine[name], yours[name], rtol=2e-6, atol=2e-6, err_msg=f"step {step}, {name}"
            )


def inner():
    return optax.sgd(0.1, momentum=0.9)


# --- our transformation in their optimizer ---


def test_their_optimizer_runs_our_transformation():
    optimizer = bto.OptaxOptimizer(tx=lookahead(inner(), K, ALPHA, "interpolate"))
    assert_same_trace(theirs(optimizer), ours(lookahead(inner(), K, ALPHA, "interpolate")))


def test_the_slow_weights_are_read_from_their_optimizer():
    optimizer = bto.OptaxOptimizer(tx=optax.chain(optax.clip(1.0), lookahead(inner(), K, ALPHA)))
    trace = theirs(optimizer, K + 1)
    params = {name: jnp.asarray(value) for name, value in trace[-1].items()}
    slow = slow_params(optimizer.opt_state.value, params)
    for name in START:
        np.testing.assert_array_equal(slow[name], trace[K - 1][name])


def test_their_state_dict_resumes_our_transformation_in_mid_cycle():
    def make():
        return bto.OptaxOptimizer(tx=lookahead(inner(), K, ALPHA))

    whole, halfway = theirs(make()), make()
    states = {name: brainstate.ParamState(jnp.asarray(value)) for name, value in START.items()}
    halfway.register_trainable_weights(states)
    for _ in range(K + 1):
        halfway.step(gradients({name: state.value for name, state in states.items()}))
    saved, resumed = halfway.state_dict(), make()
    resumed.register_trainable_weights(states)
    resumed.load_state_dict(saved)
    assert find_state(resumed.opt_state.value).step.item() == 1
    for _ in range(STEPS - K - 1):
        resumed.step(gradients({name: state.value for name, state in states.items()}))
    for name, state in states.items():
        np.testing.assert_array_equal(state.value, whole[-1][name])


# --- their Lookahead's features, as the chain that docs/jax.md shows ---

FEATURES = {
    "nothing else": ({}, lambda ours: ours),
    "weight_decay": (
        {"weight_decay": 0.1},
        lambda _: lookahead(optax.chain(optax.add_decayed_weights(0.1), inner()), K, ALPHA),
    ),
    "grad_clip_norm": (
        {"grad_clip_norm": 0.5},
        lambda ours: optax.chain(optax.clip_by_global_norm(0.5), ours),
    ),
    "grad_clip_value": (
        {"grad_clip_value": 0.2},
        lambda ours: optax.chain(optax.clip(0.2), ours),
    ),
    "all of them": (
        {"weight_decay": 0.1, "grad_clip_norm": 2.0, "grad_clip_value": 0.2},
        lambda _: optax.chain(
            optax.clip_by_global_norm(2.0),
            optax.clip(0.2),
            lookahead(optax.chain(optax.add_decayed_weights(0.1), inner()), K, ALPHA),
        ),
    ),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_chain_gives_what_their_lookahead_gives(feature):
    arguments, chain = FEATURES[feature]
    peer = bto.Lookahead(base_optimizer=inner(), sync_period=K, alpha=ALPHA, **arguments)
    expected = theirs(peer)
    assert_same_trace(ours(chain(lookahead(inner(), K, ALPHA))), expected)
    if arguments:
        plain = ours(lookahead(inner(), K, ALPHA))[-1]
        assert any(np.abs(plain[name] - expected[-1][name]).max() > 1e-3 for name in START)


def test_a_schedule_in_the_inner_optimizer_gives_what_theirs_gives():
    schedule = optax.exponential_decay(0.2, transition_steps=2, decay_rate=0.5)
    peer = bto.Lookahead(base_optimizer=optax.sgd(schedule), sync_period=K, alpha=ALPHA)
    assert_same_trace(ours(lookahead(optax.sgd(schedule), K, ALPHA)), theirs(peer))


def test_their_scheduler_in_our_inner_transformation_is_followed():
    # Their Lookahead takes lr= and ignores it; their SGD follows it. Up to the first sync
    # Lookahead is its inner optimizer.
    scheduler, ours_too = (bto.StepLR(base_lr=0.2, step_size=2, gamma=0.5) for _ in range(2))
    expected = theirs(bto.SGD(lr=scheduler, momentum=0.9), 6, scheduler.step)
    fast = optax.chain(optax.trace(0.9), optax.scale_by_schedule(ours_too))
    wrapped = bto.OptaxOptimizer(tx=lookahead(fast, 7, ALPHA))
    assert_same_trace(theirs(wrapped, 6, ours_too.step), expected)
    ignored = bto.Lookahead(base_optimizer=inner(), sync_period=7, lr=100.0)
    assert_same_trace(theirs(ignored, 6), ours(inner(), 6))
