"""What a sync does to the states of optax transformations: which nodes, which types."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lookahead_core.adapters.optax import lookahead
from optax_runs import adam, assert_same, dtypes, start, train
from reference_loop import ALPHA, POLICIES, K

pytestmark = pytest.mark.usefixtures("double_precision")


def scheduled_adam():
    schedule = optax.exponential_decay(0.1, 5, 0.9)
    return optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(schedule))


def after(inner, policy, steps=K, **options):
    """The inner state of a run."""
    optimizer = lookahead(inner, K, ALPHA, policy, **options)
    return train(optimizer, start(), optimizer.init(start()), steps)[1].inner


def counts(state):
    """Every count in a state, by its place."""
    return {
        jax.tree_util.keystr(path): leaf.item()
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if leaf.dtype == jnp.int32
    }


# --- which nodes restart ---


@pytest.mark.clause("C17")
def test_reset_restarts_adams_count_and_leaves_the_schedules():
    moments, scheduled = after(scheduled_adam(), "reset", K + 2)
    assert (moments.count.item(), scheduled.count.item()) == (2, K + 2)


@pytest.mark.clause("C53")
def test_reset_all_restarts_the_schedule_too():
    state = after(scheduled_adam(), "reset", K, reset_all=True)
    assert_same(state, scheduled_adam().init(start()))


@pytest.mark.clause("C17")
@pytest.mark.parametrize("depth", [1, 2])
def test_reset_finds_the_moments_in_any_depth_of_chains(depth):
    inner = scheduled_adam()
    for _ in range(depth):
        inner = optax.chain(optax.identity(), inner)
    assert sorted(counts(after(inner, "reset")).values()) == [0, K]


@pytest.mark.clause("C17", "C53")
def test_reset_restarts_the_accumulators_of_multi_steps_and_not_the_schedule_inside():
    inner = optax.MultiSteps(scheduled_adam(), 2).gradient_transformation()
    state = after(inner, "reset", K)
    moments, scheduled = state.inner_opt_state
    assert (state.mini_step.item(), state.gradient_step.item()) == (0, 0)
    assert (moments.count.item(), scheduled.count.item()) == (0, K // 2)


@pytest.mark.clause("C17", "C53")
def test_reset_inside_of_inject_hyperparams_keeps_the_injected_schedule():
    schedule = optax.linear_schedule(0.1, 0.01, 20)
    state = after(optax.inject_hyperparams(optax.adam)(schedule), "reset")
    assert state.count.item() == K
    assert state.inner_state[0].count.item() == 0


class Moments(NamedTuple):
    count: jax.Array
    by_order: dict


def keeps_moments_in_a_dict():
    def init(params):
        return Moments(jnp.zeros([], jnp.int32), {"first": jax.tree.map(jnp.zeros_like, params)})

    def update(updates, state, params=None):
        return updates, Moments(state.count + 1, {"first": updates})

    return optax.GradientTransformation(init, update)


@pytest.mark.clause("C17", "C53")
def test_a_state_that_holds_its_moments_in_a_container_restarts_as_a_whole():
    assert_same(after(keeps_moments_in_a_dict(), "reset"), keeps_moments_in_a_dict().init(start()))


def has_a_plain_state(make_state):
    """A transformation whose state is a tuple or a dict, as user code often has it."""

    def init(params):
        return make_state(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        count, _ = state.values() if isinstance(state, dict) else state
        return updates, make_state(count + 1, updates)

    return optax.GradientTransformation(init, update)


@pytest.mark.clause("C17", "C53")
@pytest.mark.parametrize("kind", [lambda c, m: (c, m), lambda c, m: {"count": c, "moment": m}])
def test_a_state_without_a_class_restarts_as_a_whole_too(kind):
    inner = optax.chain(has_a_plain_state(kind), optax.scale_by_schedule(lambda count: -0.1))
    plain, scheduled = after(inner, "reset")
    assert_same(plain, has_a_plain_state(kind).init(start()))
    assert scheduled.count.item() == K


@pytest.mark.clause("C17")
def test_reset_goes_back_to_the_inner_transformations_own_start():
    optimizer = lookahead(optax.scale_by_rms(initial_scale=3.0), 1, 0.5, "reset")
    params = jnp.ones(2)
    _, state = optimizer.update(params, optimizer.init(params), params)
    assert [leaf.tolist() for leaf in jax.tree.leaves(state.inner)] == [[3.0, 3.0]]


# --- what interpolate blends ---


@pytest.mark.clause("C18")
def test_interpolate_keeps_counts_and_their_types():
    moments, _ = after(adam(), "interpolate")
    assert (moments.count.item(), moments.count.dtype) == (K, jnp.int32)


@pytest.mark.clause("C18")
def test_interpolate_blends_what_is_shaped_like_the_parameters_alone():
    def scalar_moment():
        return optax.GradientTransformation(
            lambda params: jnp.zeros([]), lambda updates, state, params=None: (updates, state + 1.0)
        )

    moment, trace = after(optax.chain(scalar_moment(), optax.trace(0.0)), "interpolate", 1)
    assert moment.item() == 1.0
    moment, _ = after(optax.chain(scalar_moment(), optax.trace(0.0)), "interpolate", K)
    assert moment.item() == K
    assert jax.tree.structure(trace.trace) == jax.tree.structure(start())


@pytest.mark.clause("C17", "C18")
@pytest.mark.parametrize("policy", ["reset", "interpolate"])
def test_a_policy_acts_on_parameter_shaped_state_inside_masked_and_chain(policy):
    inner = optax.chain(optax.clip(1e9), optax.masked(optax.trace(0.9), {"a": True, "b": False}))
    optimizer = lookahead(inner, 1, 0.5, policy)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    gradient = {"a": jnp.full(1, 8.0), "b": jnp.full(1, 8.0)}
    _, state = optimizer.update(gradient, optimizer.init(params), params)
    (trace,) = jax.tree.leaves(state.inner)
    assert trace.item() == {"reset": 0.0, "interpolate": 4.0}[policy]


# --- types, and values that are not finite ---


def odd_types():
    """An inner state with bool, integer and PRNG-key leaves beside its moments."""
    noise = optax.add_noise(0.01, 0.55, jax.random.key(0))
    return optax.apply_if_finite(optax.chain(noise, optax.adam(0.1)), 5)


@pytest.mark.clause("C53")
@pytest.mark.parametrize("reset_all", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_bool_integer_and_key_leaves_keep_their_types_in_a_scan(policy, reset_all):
    reset_all = reset_all and policy == "reset"
    optimizer = lookahead(odd_types(), 2, 0.5, policy, reset_all=reset_all)
    state = optimizer.init(start())

    def step(carry, _):
        return train(optimizer, *carry, 1), None

    _, last = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=4)[0])((start(), state))
    assert dtypes(last) == dtypes(state)
    (noise, _) = last.inner.inner_state
    restarted = jax.random.key_data(noise.rng_key) == jax.random.key_data(jax.random.key(0))
    assert restarted.all() == reset_all


@pytest.mark.clause("C12", "C17")
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
def test_reset_clears_what_is_not_finite(poison):
    optimizer, params = lookahead(adam(), 1, 0.5, "reset"), jnp.ones(2)
    _, state = optimizer.update(jnp.full(2, poison), optimizer.init(params), params)
    assert_same(state.inner, adam().init(params))


@pytest.mark.clause("C12")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_non_finite_moment_at_a_step_that_does_not_sync_stays_out_of_the_slow_copy(policy):
    optimizer = lookahead(optax.trace(0.9), 3, 0.5, policy)
    params = jnp.ones(2)
    _, state = optimizer.update(jnp.full(2, jnp.nan), optimizer.init(params), params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((state.slow, state.inner_slow)))


class WithANumber(NamedTuple):
    number: object
    trace: dict


def keeps_a_number(number):
    """An inner transformation whose `init` gives a number that is no array of JAX."""

    def init(params):
        return WithANumber(number, jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        return updates, WithANumber(state.number + 1, updates)

    return optax.GradientTransformation(init, update)


@pytest.mark.clause("C17", "C53")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("reset_all", [False, True])
@pytest.mark.parametrize("number", [3, 0.5, np.float32(0.5), np.int64(3), np.asarray(3)])
def test_numbers_of_python_and_numpy_restart_like_arrays(number, reset_all, compiled):
    optimizer = lookahead(keeps_a_number(number), 2, 0.5, "reset", reset_all=reset_all)
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    state = optimizer.init(start())
    for expected in (number + 1, number):
        _, state = update(start(), state, start())
        assert state.inner.number == expected


# --- what is refused ---


def flat_adam():
    return optax.flatten(optax.adam(0.1))


@pytest.mark.clause("C25")
@pytest.mark.parametrize("policy", ["reset", "interpolate"])
@pytest.mark.parametrize(
    ("inner", "names"),
    [
        (flat_adam, "ScaleByAdamState"),
        (optax.lbfgs, "ScaleByLBFGSState, ScaleByZoomLinesearchState, ZoomLinesearchInfo"),
    ],
)
def test_an_inner_state_that_does_not_map_trees_is_refused_by_name(inner, names, policy):
    message = f"inner_state must be 'maintain', .* got '{policy}' around one with the state {names}"
    with pytest.raises(ValueError, match=message):
        lookahead(inner(), K, ALPHA, policy).init(start())


@pytest.mark.parametrize("options", [("maintain", False), ("reset", True)])
def test_such_a_state_can_be_maintained_or_reset_as_a_whole(options):
    policy, reset_all = options
    state = after(flat_adam(), policy, reset_all=reset_all)
    assert counts(state) == {"[0].count": 0 if reset_all else K}


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("policy", "value"), [("maintain", True), ("interpolate", True), ("reset", 1)]
)
def test_reset_all_without_reset_is_refused(policy, value):
    with pytest.raises(ValueError, match=f"reset_all must be .* got {value} with '{policy}'"):
        lookahead(adam(), K, ALPHA, policy, reset_all=value)
