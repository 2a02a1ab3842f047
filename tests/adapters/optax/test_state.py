"""The state of the optax adapter: found and read in others, synced on demand, started again."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest

from lookahead_core import lookahead as lookahead_rule
from lookahead_core import nested
from lookahead_core.adapters.optax import (
    find_state,
    lookahead,
    meta_optimizer,
    resync,
    slow_params,
)
from optax_runs import adam, assert_close, assert_same, frozen, make, sgd, start, train
from reference_loop import POLICIES, K

pytestmark = pytest.mark.usefixtures("double_precision")

ONLY_A = {"a": True, "b": False}


def pair(value=1.0):
    return {"a": jnp.full(1, value), "b": jnp.full(1, value)}


def by_label(**transformations):
    labels = {name: name for name in transformations}
    return optax.transforms.partition(transformations, labels)


# --- found and read ---

AROUND = {
    "chain": lambda ours: optax.chain(optax.clip(1e9), ours, optax.identity()),
    "masked": lambda ours: optax.masked(ours, {"layer": True, "other": False}),
    "MultiSteps": lambda ours: optax.MultiSteps(ours, 2),
    "apply_if_finite": lambda ours: optax.apply_if_finite(ours, 3),
    "partition": lambda ours: optax.transforms.partition(
        {"ours": ours, "none": optax.set_to_zero()}, {"layer": "ours", "other": "none"}
    ),
}


@pytest.mark.clause("C22")
@pytest.mark.parametrize("around", AROUND)
def test_the_state_is_found_inside_of_others(around):
    state = AROUND[around](make()).init(start())
    assert find_state(state).step.item() == 0


@pytest.mark.clause("C22")
def test_the_slow_weights_are_read_through_a_chain():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), make())
    params = start()
    params, state = train(optimizer, params, optimizer.init(params), 3)
    assert_same(slow_params(state, params), start())


@pytest.mark.clause("C22")
def test_leaves_that_are_masked_out_are_their_own_slow_weights():
    optimizer = optax.masked(lookahead(optax.sgd(1.0), 3, 0.5), ONLY_A)
    params, state = train_on_ones(optimizer, pair(), 1)
    assert jax.tree.map(float, jax.tree.map(jnp.squeeze, slow_params(state, params))) == {
        "a": 1.0,
        "b": params["b"].item(),
    }


def train_on_ones(optimizer, params, steps, state=None):
    state = optimizer.init(params) if state is None else state
    for _ in range(steps):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.clause("C22")
def test_two_groups_are_read_as_one_tree():
    groups = by_label(a=lookahead(optax.sgd(1.0), 2), b=lookahead(optax.sgd(1.0), 3))
    params, state = train_on_ones(groups, pair(), 2)
    slow = slow_params(state, params)
    assert (slow["a"].item(), slow["b"].item()) == (0.0, 1.0)
    assert (params["a"].item(), params["b"].item()) == (0.0, -1.0)


@pytest.mark.clause("C22")
def test_slow_weights_that_were_read_are_arrays_of_their_own():
    optimizer, params = make(), start()
    state = optimizer.init(params)
    slow = slow_params(state, params)
    jax.jit(lambda tree: tree, donate_argnums=0)(params)
    assert_same(slow, start())


@pytest.mark.clause("C25")
@pytest.mark.parametrize("read", [lambda s: slow_params(s, start()), find_state, resync])
def test_a_state_without_slow_weights_has_none_to_read(read):
    with pytest.raises(ValueError, match=r"state must hold a LookaheadState, .*got none in tuple"):
        read(sgd().init(start()))


@pytest.mark.clause("C25")
def test_two_sets_of_slow_weights_for_one_parameter_are_refused():
    state = optax.chain(make(), make()).init(start())
    with pytest.raises(ValueError, match=r"got several for params\['layer'\]\['x'\]"):
        slow_params(state, start())
    with pytest.raises(ValueError, match="state must hold exactly one LookaheadState, got 2"):
        find_state(state)


@pytest.mark.clause("C22")
def test_the_slow_weights_are_put_into_the_tree_that_is_given():
    """A state may hold less than the tree has, as of a model: None stands for what is no array."""
    optimizer = make()
    params, state = train(optimizer, start(), optimizer.init({**start(), "name": None}), 0)
    whole = {**params, "name": "a model"}
    assert slow_params(state, whole)["name"] == "a model"
    assert_same(optimizer.slow_params(state, whole)["layer"], start()["layer"])


@pytest.mark.clause("C22", "C25")
@pytest.mark.parametrize("read", ["slow_params", "optimizer.slow_params", "sync", "resync"])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": jnp.ones(1)}, r"params\['b'\] an array of shape \(1,\), got absent \(None\)"),
        (pair()["a"], r"params\['a'\] an array of shape \(1,\), got absent"),
        ({"a": jnp.ones(1), "b": jnp.ones(2)}, r"params\['b'\] .* \(1,\), got .* \(2,\)$"),
    ],
)
def test_parameters_of_another_tree_are_refused_by_name(params, message, read):
    optimizer = make()
    calls = {
        "slow_params": slow_params,
        "optimizer.slow_params": optimizer.slow_params,
        "sync": optimizer.sync,
        "resync": resync,
    }
    with pytest.raises(ValueError, match="params must be a tree like .* to init, " + message):
        calls[read](optimizer.init(pair()), params)


@pytest.mark.clause("C22", "C25")
def test_of_a_flattened_state_the_error_says_the_lines_that_read_it():
    optimizer = optax.flatten(make())
    params, state = train(optimizer, start(), optimizer.init(start()), K + 1)
    with pytest.raises(ValueError) as refused:
        slow_params(state, params)
    _, lines = str(refused.value).split("optax.flatten: ")
    take, read = lines.split(", and then ")
    names = {"jax": jax, "params": params, "state": state, "slow_params": slow_params}
    exec(take, names)
    after_the_sync = train(optimizer, start(), optimizer.init(start()), K)[0]
    assert_close(eval(read, names), after_the_sync)


# --- read under a rule that evaluates other weights ---

SUPER_SLOW = nested(lookahead_rule(1, 0.5), lookahead_rule(2, 0.5))


@pytest.mark.clause("C22", "C78")
@pytest.mark.parametrize("around", AROUND)
def test_the_optimizer_reads_out_what_its_rule_evaluates(around):
    ours = meta_optimizer(optax.sgd(1.0), SUPER_SLOW)
    optimizer = AROUND[around](ours)
    steps = 2 if around == "MultiSteps" else 1
    params, state = train_on_ones(optimizer, start(), steps)
    slow = jax.jit(ours.slow_params)(state, params)
    # One sync has moved the slow weights halfway, and the super-slow ones not at all.
    assert_close(slow["layer"], start()["layer"])
    assert (params["layer"]["x"] != slow["layer"]["x"]).all()
    if around in ("masked", "partition"):
        assert_same(slow["other"], params["other"])


@pytest.mark.clause("C22")
@pytest.mark.parametrize("policy", POLICIES)
def test_the_optimizer_reads_the_slow_weights_as_slow_params_does(policy):
    optimizer = make(policy)
    params, state = train(optimizer, start(), optimizer.init(start()), K + 1)
    assert_same(optimizer.slow_params(state, params), slow_params(state, params))


@pytest.mark.clause("C22", "C25", "C78")
@pytest.mark.parametrize(
    "options",
    [{}, {"average": lambda own: own}, {"rule": replace(SUPER_SLOW, restart=0.5)}],
    ids=["carried", "shared", "persistent"],
)
def test_a_state_that_cannot_tell_what_its_rule_evaluates_says_who_can(options):
    optimizer = meta_optimizer(optax.sgd(1.0), **{"rule": SUPER_SLOW, **options})
    state = optax.chain(optax.clip(1.0), optimizer).init(start())
    with pytest.raises(ValueError, match=r"call optimizer\.slow_params\(state, params\), with"):
        slow_params(state, start())
    assert_same(optimizer.slow_params(state, start()), start())


@pytest.mark.clause("C06", "C22")
def test_an_optimizer_reads_no_state_of_another_rule():
    with pytest.raises(ValueError, match=r"must be a ReadOutState, as Nested\(.*\)\(\*state\)"):
        meta_optimizer(sgd(), SUPER_SLOW).slow_params(make().init(start()), start())
    state = optax.chain(make(), make()).init(start())
    with pytest.raises(ValueError, match="state must hold exactly one LookaheadState, got 2"):
        make().slow_params(state, start())


# --- a sync on demand ---


@pytest.mark.clause("C05")
def test_a_forced_sync_moves_the_weights_and_restarts_the_counter():
    optimizer = lookahead(optax.sgd(1.0), 3, 0.25)
    params, state = train_on_ones(optimizer, jnp.zeros(1), 2)
    updates, state = optimizer.sync(state, params)
    params = optax.apply_updates(params, updates)
    assert (params.item(), state.step.item(), state.syncs.item()) == (-0.5, 0, 1)
    params, state = train_on_ones(optimizer, params, 3, state)
    assert params.item() == -1.25


@pytest.mark.clause("C05", "C16", "C17", "C18")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_forced_sync_at_step_k_is_the_sync_at_step_k(policy):
    due, late = make(policy, adam), lookahead(adam(), 10**6, 0.5, policy)
    expected, after = train(due, start(), due.init(start()), K)
    params, state = train(late, start(), late.init(start()), K)
    updates, state = late.sync(state, params)
    params = optax.apply_updates(params, updates)
    assert_close((params, state.inner), (expected, after.inner))


@pytest.mark.clause("C05")
def test_a_forced_sync_at_the_start_of_a_cycle_moves_nothing():
    optimizer = make()
    params, state = train(optimizer, start(), optimizer.init(start()), K)
    updates, _ = optimizer.sync(state, params)
    assert_same(optax.apply_updates(params, updates), params)


@pytest.mark.clause("C05")
def test_a_forced_sync_inside_of_others_leaves_all_else_alone():
    ours = lookahead(optax.sgd(1.0), 5, 0.5)
    optimizer = optax.chain(optax.masked(ours, ONLY_A), optax.trace(0.5))
    params, state = train_on_ones(optimizer, pair(0.0), 1)
    updates, synced = ours.sync(state, params)
    assert jax.tree.map(float, jax.tree.map(jnp.squeeze, updates)) == {"a": 0.5, "b": 0.0}
    assert_same(synced[1], state[1])


@pytest.mark.clause("C05", "C19")
def test_a_forced_sync_can_be_compiled():
    optimizer = make("interpolate")
    params, state = train(optimizer, start(), optimizer.init(start()), 2)
    assert_close(jax.jit(optimizer.sync)(state, params), optimizer.sync(state, params))


@pytest.mark.clause("C25")
def test_a_forced_sync_on_other_parameters_is_refused():
    optimizer = lookahead(optax.sgd(1.0))
    with pytest.raises(ValueError, match=r"params must be .* of shape \(2,\), got .* \(3,\)"):
        optimizer.sync(optimizer.init(jnp.ones(2)), jnp.ones(3))


# --- a cycle that starts again ---


@pytest.mark.clause("C52")
@pytest.mark.parametrize("at_once", [False, True])
def test_weights_loaded_in_mid_cycle_are_honoured_after_resync(at_once):
    optimizer = lookahead(optax.sgd(1.0), 3, 0.5)
    _, state = train_on_ones(optimizer, jnp.zeros(1), 2)
    loaded = jnp.full(1, 100.0)
    state = resync(state, loaded) if at_once else resync(state)
    params, state = train_on_ones(optimizer, loaded, 3, state)
    assert (params.item(), state.step.item()) == (98.5, 0)


@pytest.mark.clause("C52")
def test_resync_takes_the_inner_state_as_it_is():
    optimizer = make("interpolate")
    params, state = train(optimizer, start(), optimizer.init(start()), 2)
    again = resync(state, params)
    assert_same((again.slow, again.inner_slow), (params, state.inner))


@pytest.mark.clause("C52")
def test_resync_starts_every_cycle_in_a_state_and_changes_nothing_else():
    groups = by_label(a=lookahead(optax.sgd(1.0), 3), b=lookahead(optax.sgd(1.0), 4))
    _, state = train_on_ones(groups, pair(), 2)
    again = resync(state)
    changed = [
        jax.tree_util.keystr(path)
        for (path, new), old in zip(
            jax.tree_util.tree_leaves_with_path(again), jax.tree.leaves(state), strict=True
        )
        if (new != old).any()
    ]
    assert len(changed) == 2
    assert all(name.endswith(".step") for name in changed)


# --- wider slow weights ---


@pytest.mark.clause("C15")
def test_small_moves_of_bfloat16_weights_add_up_in_float32():
    narrow, wide = (
        lookahead(optax.sgd(2.0**-7), 2, 0.25, slow_dtype=dtype) for dtype in (None, jnp.float32)
    )
    start_at, gradient = jnp.ones(3, jnp.bfloat16), -jnp.ones(3, jnp.bfloat16)
    moved = {}
    for name, optimizer in (("narrow", narrow), ("wide", wide)):
        params, state = start_at, optimizer.init(start_at)
        for _ in range(64):
            updates, state = optimizer.update(gradient, state, params)
            assert updates.dtype == jnp.bfloat16
            params = optax.apply_updates(params, updates)
        moved[name] = slow_params(state, params)
    assert moved["wide"].dtype == jnp.float32
    assert moved["narrow"].tolist() == [1.0] * 3
    assert min(moved["wide"].tolist()) > 1.01


@pytest.mark.clause("C10", "C15")
def test_after_a_sync_the_weights_are_the_wide_ones_rounded():
    optimizer = lookahead(optax.sgd(0.1), 3, 0.3, slow_dtype=jnp.float32)
    keys = jax.random.split(jax.random.key(0), 7)
    params = 1.0 + jax.random.uniform(keys[6], (100_000,), jnp.bfloat16)
    state = optimizer.init(params)
    for key in keys[:6]:
        gradient = jax.random.normal(key, params.shape, jnp.bfloat16)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    # Not through slow_params: it takes the parameter where the two do not agree.
    assert_same(state.slow.astype(jnp.bfloat16), params)
    assert (state.slow.astype(jnp.bfloat16).astype(jnp.float32) != state.slow).mean() > 0.9


@pytest.mark.clause("C12", "C15")
def test_between_syncs_wide_slow_weights_keep_every_bit_whatever_the_gradient():
    optimizer = lookahead(optax.sgd(0.3), 5, 0.3, slow_dtype=jnp.float32)
    params, state = train_on_ones(optimizer, jnp.linspace(-1, 1, 50, dtype=jnp.bfloat16), 6)
    before = frozen(state.slow)
    for poison in (1.0, jnp.inf, jnp.nan):
        updates, state = optimizer.update(jnp.full_like(params, poison), state, params)
        params = optax.apply_updates(params, updates)
        assert_same(frozen(state.slow), before)


@pytest.mark.clause("C15", "C26")
def test_loaded_weights_replace_the_wide_slow_ones():
    optimizer = lookahead(optax.sgd(1.0), 2, 0.5, slow_dtype=jnp.float32)
    params, state = train_on_ones(optimizer, jnp.ones(1, jnp.bfloat16), 2)
    params, state = train_on_ones(optimizer, jnp.full(1, 64.0, jnp.bfloat16), 2, state)
    assert params.item() == 63.0


@pytest.mark.clause("C15")
def test_a_slow_dtype_widens_floating_leaves_alone():
    params = {
        "w": jnp.ones(1, jnp.float64),
        "n": jnp.ones(1, jnp.int32),
        "h": jnp.ones(1, jnp.float16),
    }
    slow = lookahead(optax.identity(), slow_dtype="float32").init(params).slow
    assert {name: leaf.dtype.name for name, leaf in slow.items()} == {
        "w": "float64",
        "n": "int32",
        "h": "float32",
    }


@pytest.mark.clause("C06", "C15")
def test_a_run_with_wide_slow_weights_resumes_bitwise():
    optimizer = lookahead(optax.adam(0.1), 3, 0.3, slow_dtype=jnp.float32)
    params = jnp.linspace(-1, 1, 8, dtype=jnp.bfloat16)
    halfway = train_on_ones(optimizer, params, 4)
    saved = frozen(halfway)
    whole, _ = train_on_ones(optimizer, halfway[0], 5, halfway[1])
    params, state = jax.tree.map(jnp.asarray, saved)
    resumed, _ = train_on_ones(optimizer, params, 5, state)
    assert_same(resumed, whole)


@pytest.mark.clause("C24")
@pytest.mark.parametrize("value", ["int32", 5, "fast"])
def test_a_slow_dtype_that_is_not_floating_is_refused(value):
    with pytest.raises(ValueError, match=f"slow_dtype must be a floating dtype, got {value!r}"):
        lookahead(sgd(), slow_dtype=value)
