"""Lookahead inside and around what JAX and optax have: jit, grad, vmap, wrappers, extra args."""

from copy import copy as shallow
from copy import deepcopy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lookahead_core import snoo
from lookahead_core.adapters.optax import (
    LookaheadState,
    find_state,
    lookahead,
    meta_optimizer,
    slow_params,
)
from optax_runs import (
    adam,
    assert_close,
    assert_same,
    by_hand,
    dtypes,
    gradients,
    make,
    sgd,
    start,
    train,
)
from reference_loop import ALPHA, POLICIES, STEPS, K

pytestmark = pytest.mark.usefixtures("double_precision")


def run(optimizer, params=None, steps=STEPS):
    """The parameters after a run."""
    params = start() if params is None else params
    return train(optimizer, params, optimizer.init(params), steps)[0]


# --- JAX ---


@pytest.mark.clause("C19")
def test_scan_and_vmap_give_the_trajectory():
    optimizer = make("interpolate", adam)

    def scanned(params):
        def step(carry, _):
            return train(optimizer, *carry, 1), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=STEPS)[0][0]

    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), start())
    assert_close(jax.jit(scanned)(start()), run(optimizer), rtol=1e-12)
    for index, scale in enumerate((1, 2)):
        member = jax.tree.map(lambda leaf, i=index: leaf[i], jax.vmap(scanned)(members))
        expected = run(optimizer, jax.tree.map(lambda leaf, by=scale: by * leaf, start()))
        assert_close(member, expected, rtol=1e-12)


@pytest.mark.clause("C51")
@pytest.mark.parametrize("policy", ["maintain", "interpolate"])
@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8])
def test_the_derivative_by_alpha_is_the_difference_quotient(alpha, policy):
    def loss(alpha):
        return (run(lookahead(sgd(), 3, alpha, policy), steps=10)["layer"]["x"] ** 2).sum()

    derivative = jax.jit(jax.grad(loss))(alpha)
    quotient = (loss(alpha + 1e-6) - loss(alpha - 1e-6)) / 2e-6
    assert derivative.item() == pytest.approx(quotient.item(), rel=1e-7)


@pytest.mark.clause("C51")
def test_the_derivative_by_alpha_is_finite_at_the_ends():
    def loss(alpha):
        return (run(lookahead(sgd(), 3, alpha), steps=10)["layer"]["x"] ** 2).sum()

    for alpha, quotient in (
        (0.0, (loss(1e-7) - loss(0.0)) / 1e-7),
        (1.0, (loss(1.0) - loss(1.0 - 1e-7)) / 1e-7),
    ):
        assert jax.grad(loss)(alpha).item() == pytest.approx(quotient.item(), rel=1e-5)


@pytest.mark.clause("C51")
def test_vmap_over_alpha_runs_an_optimizer_for_each():
    alphas = jnp.asarray([0.0, 0.3, 0.8, 1.0])
    swept = jax.jit(jax.vmap(lambda alpha: run(lookahead(adam(), 3, alpha))))(alphas)
    for index, alpha in enumerate(alphas.tolist()):
        expected = run(lookahead(adam(), 3, alpha))
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], swept), expected, rtol=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("inner", [sgd, adam])
def test_fresh_parameters_and_state_can_be_donated_together(inner, policy):
    optimizer, params = make(policy, inner), start()
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        return train(optimizer, params, state, 1)

    expected, _ = step(params, state)
    donated, _ = jax.jit(step, donate_argnums=(0, 1))(params, state)
    assert_same(donated, expected)


def test_a_step_is_traced_once():
    optimizer, traces = make("interpolate"), []

    def count(*arguments):
        traces.append(1)
        return optimizer.update(*arguments)

    train(optimizer, start(), optimizer.init(start()), 2 * K, jax.jit(count))
    assert len(traces) == 1


ABSTRACT = {
    "arrays": lambda init, params: jax.eval_shape(init, params),
    "shapes": lambda init, params: jax.eval_shape(init, jax.eval_shape(lambda: params)),
    "init itself": lambda init, params: init(jax.eval_shape(lambda: params)),
}


@pytest.mark.parametrize("how", ABSTRACT)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("around", [lambda ours: ours, lambda ours: optax.MultiSteps(ours, 2)])
def test_the_state_can_be_made_from_shapes_alone(around, policy, how):
    optimizer = around(make(policy, adam))
    shapes = ABSTRACT[how](optimizer.init, start())
    state = optimizer.init(start())
    assert jax.tree.map(lambda s: (s.shape, s.dtype), shapes) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )


# --- optax, around ---


@pytest.mark.parametrize("policy", POLICIES)
def test_a_chain_on_either_side_is_applied_before_and_after(policy):
    chained = optax.chain(optax.scale(2.0), lookahead(optax.sgd(0.05), K, ALPHA, policy))
    assert_close(run(chained), run(lookahead(optax.sgd(0.1), K, ALPHA, policy)))
    optimizer = optax.chain(lookahead(optax.sgd(0.1), K, ALPHA, policy), optax.scale(0.5))
    params, state = train(optimizer, start(), optimizer.init(start()), K)
    assert_same(slow_params(state, params), params)


def test_weight_decay_in_front_of_it_sees_the_parameters():
    optimizer = optax.chain(optax.add_decayed_weights(0.5), lookahead(optax.sgd(0.1), K, ALPHA))
    decayed = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    assert_close(run(optimizer), by_hand(decayed, start(), STEPS))


@pytest.mark.clause("C27")
def test_masked_leaves_are_left_alone_and_the_others_are_synced():
    optimizer = optax.masked(make(), {"layer": True, "other": False})
    got, expected = run(optimizer), run(make())
    assert_close(got["layer"], expected["layer"])
    # optax.masked hands the gradient of what it masks on as it is.
    assert_close(got["other"][0], start()["other"][0] * 1.5**STEPS)


@pytest.mark.clause("C27")
def test_partition_gives_each_group_its_own():
    groups = {"ours": make(), "plain": sgd()}
    optimizer = optax.transforms.partition(groups, {"layer": "ours", "other": "plain"})
    got = run(optimizer)
    assert_close(got["layer"], run(make())["layer"])
    assert_close(got["other"], run(sgd())["other"])


def test_multi_transform_is_partition():
    groups = {"ours": make(), "none": optax.set_to_zero()}
    optimizer = optax.multi_transform(groups, {"layer": "ours", "other": "none"})
    got = run(optimizer)
    assert_close(got, {"layer": run(make())["layer"], "other": start()["other"]})


@pytest.mark.clause("C03")
def test_around_multi_steps_it_counts_small_steps_and_inside_of_it_large_ones():
    inside, around = optax.MultiSteps(make(), 2), lookahead(optax.MultiSteps(sgd(), 2), K, ALPHA)
    params, state = train(inside, start(), inside.init(start()), 2 * K)
    assert (find_state(state).step.item(), find_state(state).syncs.item()) == (0, 1)
    params, state = train(around, start(), around.init(start()), 2 * K)
    assert (find_state(state).step.item(), find_state(state).syncs.item()) == (0, 2)
    accumulated = optax.MultiSteps(sgd(), 2).gradient_transformation()
    assert_close(params, by_hand(accumulated, start(), 2 * K))


@pytest.mark.clause("C03", "C12")
def test_a_step_that_apply_if_finite_skips_does_not_count():
    optimizer = optax.apply_if_finite(lookahead(optax.sgd(1.0), 3, 0.5), max_consecutive_errors=9)
    params, trace = jnp.zeros(1), []
    state = optimizer.init(params)
    for gradient in (1.0, jnp.inf, jnp.nan, 1.0, 1.0):
        updates, state = optimizer.update(jnp.full(1, gradient), state, params)
        params = optax.apply_updates(params, updates)
        trace.append(params.item())
    assert trace == [-1.0, -1.0, -1.0, -2.0, -1.5]


@pytest.mark.clause("C03")
def test_around_apply_if_finite_it_counts_what_was_skipped():
    optimizer = lookahead(optax.apply_if_finite(optax.sgd(1.0), 9), 3, 0.5)
    params = jnp.zeros(1)
    state = optimizer.init(params)
    for gradient in (1.0, jnp.inf, 1.0):
        updates, state = optimizer.update(jnp.full(1, gradient), state, params)
        params = optax.apply_updates(params, updates)
    assert (params.item(), state.syncs.item()) == (-1.0, 1)


@pytest.mark.clause("C51")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_inject_hyperparams_schedules_alpha(compiled):
    schedule = optax.linear_schedule(1.0, 0.0, 6)
    injected = optax.inject_hyperparams(lookahead, static_args=("inner", "sync_period"))
    optimizer = injected(optax.sgd(1.0), sync_period=2, alpha=schedule)
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    params, trace = jnp.zeros(1), []
    state = optimizer.init(params)
    for _ in range(6):
        updates, state = update(jnp.ones(1), state, params)
        params = optax.apply_updates(params, updates)
        trace.append(params.item())
    # The schedule of inject_hyperparams counts steps: alpha is 5/6, 3/6 and 1/6 at the syncs.
    moves = -np.diff([0.0, *trace[1::2]])
    np.testing.assert_allclose(moves, [10 / 6, 6 / 6, 2 / 6], rtol=1e-6)  # optax's in float32
    assert find_state(state).syncs.item() == 3


@pytest.mark.clause("C51")
@pytest.mark.parametrize("policy", POLICIES)
def test_alpha_is_a_schedule_of_the_syncs(policy):
    schedule = optax.linear_schedule(0.9, 0.3, 3)
    optimizer = lookahead(optax.sgd(1.0), 2, schedule, policy)
    params, trace = jnp.zeros(1), []
    state = optimizer.init(params)
    for _ in range(8):
        updates, state = jax.jit(optimizer.update)(jnp.ones(1), state, params)
        params = optax.apply_updates(params, updates)
        trace.append(params.item())
    moves = -np.diff([0.0, *trace[1::2]])
    np.testing.assert_allclose(moves, [2 * 0.9, 2 * 0.7, 2 * 0.5, 2 * 0.3], rtol=1e-6)


# --- optax, inside ---


def loss(params):
    return (params["layer"]["x"] ** 2).sum() + 0.25 * (params["other"][0] ** 2).sum()


EXTRA = {
    "polyak": (optax.polyak_sgd, lambda params: {"value": loss(params)}),
    "lbfgs": (
        lambda: optax.lbfgs(memory_size=3),
        lambda params: {"value": loss(params), "grad": jax.grad(loss)(params), "value_fn": loss},
    ),
    "reduce_on_plateau": (
        lambda: optax.chain(
            optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.5)
        ),
        lambda params: {"value": loss(params)},
    ),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", EXTRA)
def test_extra_arguments_reach_the_inner_transformation(name, compiled):
    make_inner, extra = EXTRA[name]
    optimizer = optax.chain(optax.identity(), lookahead(make_inner(), 3, 0.5))
    params = start()
    state = optimizer.init(params)

    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params, **extra(params))
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if compiled else step
    for _ in range(8):
        params, state = step(params, state)
    expected = by_hand(make_inner(), start(), 8, 3, 0.5, jax.grad(loss), extra)
    assert_close(params, expected, rtol=1e-9)


@pytest.mark.parametrize("policy", ["reset", "interpolate"])
@pytest.mark.parametrize("name", ["polyak", "reduce_on_plateau"])
def test_every_policy_runs_around_optimizers_with_extra_arguments(name, policy):
    make_inner, extra = EXTRA[name]
    optimizer, params = lookahead(make_inner(), 2, 0.5, policy), start()
    state = optimizer.init(params)
    before = dtypes(state)
    for _ in range(4):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params, **extra(params))
        params = optax.apply_updates(params, updates)
    assert dtypes(state) == before
    assert loss(params) < loss(start())


def test_the_inner_transformation_gets_the_parameters():
    decayed = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))
    assert_same(run(lookahead(decayed, K, 1.0), steps=3), run(decayed, steps=3))


@pytest.mark.clause("C19")
@pytest.mark.parametrize("policy", POLICIES)
def test_an_inner_transformation_without_state_keeps_the_structure_of_the_state(policy):
    optimizer = lookahead(optax.scale(-0.1), K, ALPHA, policy)
    state = optimizer.init(start())
    _, after = optimizer.update(start(), state, start())
    assert jax.tree.structure(after) == jax.tree.structure(state)


# --- trees ---


def test_the_state_is_got_by_its_name():
    state = optax.chain(optax.clip(1.0), make("interpolate", adam)).init(start())
    ours = optax.tree_utils.tree_get(state, "LookaheadState")
    assert isinstance(ours, LookaheadState)
    assert_same(optax.tree_utils.tree_get(state, "slow"), start())


@pytest.mark.parametrize("policy", POLICIES)
def test_tree_map_params_finds_the_slow_weights_and_the_moments(policy):
    optimizer = optax.chain(optax.clip(1.0), make(policy, adam))
    state = optimizer.init(start())
    specs = jax.tree.map(lambda _: "like the parameter", start())
    mapped = optax.tree_utils.tree_map_params(
        optimizer, lambda _, spec: spec, state, specs, transform_non_params=lambda _: None
    )
    ours = find_state(mapped)
    assert (ours.step, ours.syncs, ours.slow) == (None, None, specs)
    copies = [ours.inner, ours.inner_slow] if policy == "interpolate" else [ours.inner]
    for copy in copies:
        assert (copy[0].count, copy[0].mu, copy[0].nu) == (None, specs, specs)


@pytest.mark.parametrize("policy", POLICIES)
def test_leaves_that_are_none_stay_none(policy):
    params = {"w": jnp.ones(3), "none": None}
    optimizer = make(policy)
    state = optimizer.init(params)
    for _ in range(K):
        updates, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
    assert params["none"] is None
    assert slow_params(state, params)["none"] is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64])
def test_updates_and_state_keep_their_dtypes(dtype, policy):
    optimizer = make(policy)
    params = {"w": jnp.ones(3, dtype)}
    state = optimizer.init(params)
    for _ in range(K):
        updates, after = optimizer.update(params, state, params)
        assert updates["w"].dtype == dtype
        assert dtypes(after) == dtypes(state)
        state = after


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", [float, np.float64, lambda value: np.asarray([value])])
def test_numbers_and_numpy_arrays_are_parameters_too(kind, policy):
    optimizer = lookahead(optax.sgd(1.0, momentum=0.0), 2, 0.5, policy)
    params = {"w": kind(1.0)}
    state = optimizer.init(params)
    assert slow_params(state, params)["w"].item() == 1.0
    for _ in range(2):
        updates, state = optimizer.update({"w": kind(1.0)}, state, params)
        params = {"w": kind((params["w"] + updates["w"]).item())}
    assert params["w"] == 0.0


@pytest.mark.clause("C28")
@pytest.mark.parametrize("policy", POLICIES)
def test_complex_parameters_follow_the_method(policy):
    def gradient(params):
        return (0.5 + 0.25j) * params

    params, optimizer = jnp.asarray([1.0 + 2.0j, -3.0j]), lookahead(sgd(), 3, 0.3, policy)
    expected = by_hand(sgd(), params, 3, 3, 0.3, gradient)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(params, expected)


@pytest.mark.parametrize("phase", range(K))
def test_a_run_of_optax_lookahead_goes_on_here(phase):
    theirs, ours = optax.lookahead(adam(), K, ALPHA), lookahead(adam(), K, ALPHA)

    def go_on(pair, state, steps):
        for _ in range(steps):
            updates, state = theirs.update(gradients(pair.fast), state, pair)
            pair = optax.apply_updates(pair, updates)
        return pair, state

    pair = optax.LookaheadParams.init_synced(start())
    pair, old = go_on(pair, theirs.init(pair), K + phase)
    state = ours.init(pair.fast)._replace(
        step=old.steps_since_sync, slow=pair.slow, inner=old.fast_state
    )
    got = train(ours, pair.fast, state, 2 * K)
    assert_close(got[0], go_on(pair, old, 2 * K)[0].fast, rtol=1e-12)


def test_a_transformation_unpacks_like_any_of_optax():
    init, update = make()
    _, state = update(gradients(start()), init(start()), start())
    assert state.step.item() == 1


REBUILT = {
    "mapped over": lambda optimizer: jax.tree.map(lambda function: function, optimizer),
    "flattened": lambda optimizer: jax.tree.unflatten(*jax.tree.flatten(optimizer)[::-1]),
    "copied": shallow,
    "copied in depth": deepcopy,
    "with another update": lambda optimizer: optimizer._replace(update=jax.jit(optimizer.update)),
    "with another init": lambda optimizer: optimizer._replace(init=jax.jit(optimizer.init)),
    "compiled": lambda optimizer: jax.tree.map(jax.jit, optimizer),
    "with extra arguments": optax.with_extra_args_support,
}


@pytest.mark.parametrize("how", REBUILT)
def test_a_transformation_that_is_rebuilt_is_whole(how):
    optimizer, again = (
        meta_optimizer(sgd(), snoo(K)),
        REBUILT[how](meta_optimizer(sgd(), snoo(K))),
    )
    assert type(again) is type(optimizer)
    expected = train(optimizer, start(), optimizer.init(start()), K + 1)
    params, state = train(again, start(), again.init(start()), K + 1)
    assert_close((params, state), expected)
    assert_close(again.sync(state, params), optimizer.sync(*expected[::-1]))
    assert_close(again.slow_params(state, params), optimizer.slow_params(*expected[::-1]))


def test_a_transformation_that_is_rebuilt_of_other_functions_says_what_it_lacks():
    optimizer = make()._replace(init=sgd().init, update=sgd().update)
    with pytest.raises(AttributeError, match="slow_params and metrics are those of the optimizer"):
        optimizer.sync  # noqa: B018


def test_a_transformation_may_be_an_argument_of_a_compiled_function():
    optimizer = make()

    @partial(jax.jit, static_argnums=0)
    def synced(optimizer, state, params):
        return optimizer.sync(state, params)

    state = optimizer.init(start())
    assert_close(synced(optimizer, state, start()), optimizer.sync(state, start()))
