"""The optax adapter: the paper's trajectory on plain trees, resuming, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lookahead_core import ema, nested, polyak, swa, switch_ema
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.adapters.optax import (
    LookaheadState,
    lookahead,
    meta_optimizer,
    slow_params,
    split,
    unpark,
)
from optax_runs import (
    INNERS,
    adam,
    assert_same,
    frozen,
    gradients,
    make,
    pull_down,
    sgd,
    start,
    train,
)
from reference_loop import (
    ALPHA,
    POLICIES,
    START,
    STEPS,
    A,
    B,
    K,
    Sync,
    distance,
    momentum_trajectory,
)

pytestmark = pytest.mark.usefixtures("double_precision")


# --- the trajectory ---


@pytest.mark.clause("C01", "C02", "C16", "C17", "C18", "C21")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_trajectory_with_momentum_is_algorithm_1(policy, compiled):
    optimizer, params = make(policy), start()
    state, fast, slow = optimizer.init(params), [], []
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    for _ in range(STEPS):
        params, state = train(optimizer, params, state, 1, update)
        fast.append(params["layer"]["x"].tolist())
        slow.append(slow_params(state, params)["layer"]["x"].tolist())
    expected = momentum_trajectory(policy)
    assert distance(fast, expected.fast) <= 1e-12
    assert distance(slow, expected.slow) <= 1e-12


def adam_trajectory(policy):
    """optax's own Adam with a sync around it that is written by hand."""
    bare, params = adam(), {"x": jnp.asarray(START)}
    state = bare.init(params)
    sync, fast, slow = Sync(list(START), policy, [[0.0] * 3, [0.0] * 3]), [], []
    for _ in range(STEPS):
        gradient = {"x": jnp.asarray(A) @ params["x"] - jnp.asarray(B)}
        updates, (moments, rest) = bare.update(gradient, state, params)
        weights = optax.apply_updates(params, updates)["x"].tolist()
        weights, (mu, nu), restart = sync(
            weights, [moments.mu["x"].tolist(), moments.nu["x"].tolist()]
        )
        params = {"x": jnp.asarray(weights)}
        count = jnp.zeros_like(moments.count) if restart else moments.count
        state = (
            moments._replace(count=count, mu={"x": jnp.asarray(mu)}, nu={"x": jnp.asarray(nu)}),
            rest,
        )
        fast.append(weights)
        slow.append(list(sync.slow))
    return fast, slow


@pytest.mark.clause("C01", "C02", "C16", "C17", "C18")
@pytest.mark.parametrize("policy", POLICIES)
def test_the_trajectory_with_adam_is_algorithm_1(policy):
    optimizer, params = make(policy, adam), start()
    state, fast, slow = optimizer.init(params), [], []
    for _ in range(STEPS):
        params, state = train(optimizer, params, state, 1)
        fast.append(params["layer"]["x"].tolist())
        slow.append(slow_params(state, params)["layer"]["x"].tolist())
    expected_fast, expected_slow = adam_trajectory(policy)
    assert distance(fast, expected_fast) <= 1e-12
    assert distance(slow, expected_slow) <= 1e-12


@pytest.mark.clause("C04")
def test_a_period_of_one_around_plain_sgd_is_sgd_at_alpha_times_the_rate():
    ours, control = lookahead(optax.sgd(0.1), 1, 0.3), optax.sgd(0.03)
    weights, _ = train(ours, start(), ours.init(start()), 10)
    scaled, _ = train(control, start(), control.init(start()), 10)
    np.testing.assert_allclose(weights["layer"]["x"], scaled["layer"]["x"], rtol=1e-13)


@pytest.mark.clause("C09")
@pytest.mark.parametrize("inner", INNERS)
def test_alpha_one_is_the_inner_optimizer_bit_for_bit_in_eager_mode(inner):
    ours, bare = lookahead(INNERS[inner](), K, 1.0), INNERS[inner]()
    weights, _ = train(ours, start(), ours.init(start()), STEPS)
    theirs, _ = train(bare, start(), bare.init(start()), STEPS)
    assert_same(weights, theirs)


@pytest.mark.clause("C13")
def test_with_alpha_zero_the_slow_weights_move_by_rounding_alone():
    optimizer = lookahead(sgd(), K, 0.0)
    weights, _ = train(optimizer, start(), optimizer.init(start()), 4 * K)
    np.testing.assert_allclose(weights["layer"]["x"], START, rtol=1e-14)


@pytest.mark.clause("C10", "C26")
def test_after_a_sync_the_parameters_are_the_slow_weights_whatever_comes_later():
    optimizer = optax.chain(make(), optax.scale(0.5))
    params = start()
    params, state = train(optimizer, params, optimizer.init(params), K)
    assert_same(slow_params(state, params), params)
    anchor = frozen(params)
    params, state = train(optimizer, params, state, 1)
    assert_same(frozen(slow_params(state, params)), anchor)


@pytest.mark.clause("C11")
def test_a_leaf_with_a_zero_gradient_at_step_k_is_still_synced():
    optimizer = lookahead(optax.sgd(1.0), 5, 0.5)
    params = [jnp.zeros(1), jnp.zeros(1)]
    state = optimizer.init(params)
    for step in range(1, 6):
        gradient = [jnp.ones(1), jnp.zeros(1) if step == 5 else jnp.ones(1)]
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    assert [p.item() for p in params] == [-2.5, -2.0]


@pytest.mark.clause("C12")
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_non_finite_gradient_that_does_not_sync_leaves_the_slow_weights_alone(policy, poison):
    optimizer = lookahead(optax.sgd(0.1, momentum=0.9), 3, 0.5, policy)
    params = jnp.ones(2)
    updates, state = optimizer.update(jnp.full(2, poison), optimizer.init(params), params)
    params = optax.apply_updates(params, updates)
    assert slow_params(state, params).tolist() == [1.0, 1.0]


@pytest.mark.clause("C12")
def test_weights_that_stay_nan_do_not_reach_the_slow_ones_either():
    optimizer = lookahead(optax.sgd(0.1), 4, 0.5)
    params = jnp.ones(2)
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(jnp.full(2, jnp.nan), state, params)
        params = optax.apply_updates(params, updates)
    assert slow_params(state, params).tolist() == [1.0, 1.0]


@pytest.mark.clause("C02")
def test_the_state_counts_steps_and_syncs():
    optimizer = make()
    _, state = train(optimizer, start(), optimizer.init(start()), 4 * K + 2)
    assert (state.step.item(), state.syncs.item()) == (2, 4)


@pytest.mark.clause("C15", "C23")
def test_updates_wider_than_the_parameters_stay_wide():
    inner = optax.stateless(lambda g, _: jax.tree.map(lambda x: -x.astype(jnp.float32), g))
    optimizer = lookahead(inner, 1, 0.25)
    params = jnp.ones(2, jnp.bfloat16)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates.dtype == jnp.float32
    assert updates.tolist() == [-0.25, -0.25]


@pytest.mark.clause("C14")
def test_an_integer_leaf_takes_the_inner_update():
    optimizer = lookahead(optax.identity(), 2, 0.5)
    params = {"w": jnp.zeros(1), "n": jnp.zeros(1, jnp.int32)}
    state = optimizer.init(params)
    for _ in range(2):
        moves = {"w": -jnp.ones(1), "n": jnp.ones(1, jnp.int32)}
        updates, state = optimizer.update(moves, state, params)
        params = optax.apply_updates(params, updates)
    assert (params["w"].item(), params["n"].item()) == (-1.0, 2)
    assert params["n"].dtype == jnp.int32


@pytest.mark.clause("C26")
def test_weights_loaded_between_cycles_are_where_the_next_one_starts():
    optimizer = lookahead(optax.sgd(1.0), 2, 0.5)
    state = optimizer.init([jnp.zeros(1)])
    for value in (10.0, 100.0):
        weights, state = pull_down(optimizer, [value], 2, state)
        assert weights == [value - 1.0]


# --- resuming ---


@pytest.mark.clause("C06")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("phase", range(K))
def test_a_run_resumed_at_any_phase_goes_on_bitwise(phase, policy):
    optimizer = make(policy, adam)
    whole, _ = train(optimizer, start(), optimizer.init(start()), STEPS)
    halfway = train(optimizer, start(), optimizer.init(start()), K + phase)
    saved = frozen(halfway)
    params, state = jax.tree.map(jnp.asarray, saved)
    assert isinstance(state, LookaheadState)
    resumed, _ = train(make(policy, adam), params, state, STEPS - K - phase)
    assert_same(resumed, whole)


# --- what is refused ---


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: lookahead(sgd(), sync_period=2.5), r"sync_period must be .* got 2\.5"),
        (lambda: lookahead(sgd(), alpha=7), "alpha must be .* got 7"),
        (lambda: lookahead(sgd(), inner_state="x"), "inner_state must be .* got 'x'"),
        (lambda: lookahead(0.1), r"inner must be an optax.GradientTransformation, got 0\.1"),
        (lambda: meta_optimizer(sgd(), 5), "rule must be a SyncRule, got 5"),
        (lambda: lookahead([sgd(), adam()]), r"inner must be .* \(of several .*chain\(\*them\)"),
        (lambda: lookahead(sgd(), 2**31), "sync_period must be at most 2147483647, .*2147483648"),
        (lambda: meta_optimizer(sgd(), ema(start=2**31)), "start must be at most .*2147483648"),
        (lambda: meta_optimizer(sgd(), switch_ema(10**40)), "restart_period must be at most"),
        (
            lambda: meta_optimizer(sgd(), nested(lookahead_rule(1), lookahead_rule(2**31))),
            "syncs of the first rule between two of the second must be at most .*2147483648",
        ),
    ],
)
def test_settings_out_of_range_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


def test_the_preset_and_its_rule_are_the_same():
    preset = make("reset")
    ours = meta_optimizer(sgd(), lookahead_rule(K, ALPHA, "reset"))
    expected, _ = train(preset, start(), preset.init(start()), STEPS)
    weights, _ = train(ours, start(), ours.init(start()), STEPS)
    assert_same(weights, expected)


X = jnp.ones(3)
BAD_ARGUMENTS = {
    "no params": (lambda s, p: (gradients(p), s, None), "params must be given"),
    "no gradient at all": (
        lambda s, p: ({"layer": {"x": None}, "other": [None]}, s, p),
        r"updates\['layer'\]\['x'\] must be what params\['layer'\]\['x'\] is, .* got absent",
    ),
    "a gradient too many": (
        lambda s, p: ({**gradients(p), "z": X}, s, p),
        r"updates\['z'\] must be what params\['z'\] is, absent \(None\), got an array",
    ),
    "gradient of another shape": (
        lambda s, p: ({**gradients(p), "other": [X]}, s, p),
        r"updates\['other'\]\[0\] must be .* of shape \(2,\), got an array of shape \(3,\)",
    ),
    "gradient of another structure": (
        lambda s, p: ({**gradients(p), "other": tuple(p["other"])}, s, p),
        "updates must have the structure of params",
    ),
    "slow weights of another shape": (
        lambda s, p: (gradients(p), s._replace(slow={**s.slow, "other": [X]}), p),
        r"state\.slow\['other'\]\[0\] must be .* of shape \(2,\), got an array of shape \(3,\)",
    ),
    "inner state of another shape": (
        lambda s, p: (gradients(p), s._replace(inner=jax.tree.map(lambda _: X[:1], s.inner)), p),
        r"state\.inner.* must be .* got an array of shape \(1,\)",
    ),
    "another state": (
        lambda s, p: (gradients(p), s.inner, p),
        "state must be the lookahead_core.adapters.optax.LookaheadState that .* got tuple",
    ),
    "the state of optax's own": (
        lambda s, p: (
            gradients(p),
            optax.lookahead(sgd(), K, ALPHA).init(optax.LookaheadParams.init_synced(p)),
            p,
        ),
        r"lookahead_core\.adapters\.optax\.LookaheadState .* got optax\..*\.LookaheadState",
    ),
    "the state of a whole chain": (
        lambda s, p: (gradients(p), (optax.EmptyState(), s), p),
        "got tuple with one inside: call the optimizer that made all of it, of the whole chain",
    ),
}


@pytest.mark.clause("C25")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_arguments_that_do_not_match_are_refused(case, compiled):
    change, message = BAD_ARGUMENTS[case]
    optimizer, params = make("interpolate"), start()
    state = optimizer.init(params)
    before = frozen((params, state))
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    with pytest.raises(ValueError, match=message):
        update(*change(state, params))
    assert_same(frozen((params, state)), before)


@pytest.mark.clause("C25")
@pytest.mark.parametrize("leaf", ["a name", jnp.tanh, np.asarray(["a name"]), object()])
@pytest.mark.parametrize("call", ["init", "update", "sync"])
def test_a_tree_that_is_not_of_arrays_is_refused_by_the_leaf(call, leaf):
    optimizer, params = make(), {**start(), "z": jnp.ones(1)}
    state, bad = optimizer.init(params), {**start(), "z": leaf}
    calls = {
        "init": lambda: optimizer.init(bad),
        "update": lambda: optimizer.update(params, state, bad),
        "sync": lambda: optimizer.sync(state, bad),
    }
    with pytest.raises(ValueError, match=r"params must be a tree of arrays .* as params\['z'\]"):
        calls[call]()


@pytest.mark.clause("C25")
def test_something_that_park_did_not_return_is_refused():
    with pytest.raises(ValueError, match=r"parked must be what park returned .* got None"):
        unpark(make().init(start()), None)


# --- wrapped once ---


@pytest.mark.clause("C24")
@pytest.mark.parametrize("around", [lambda ours: ours, lambda ours: optax.chain(sgd(), ours)])
def test_an_optimizer_that_is_wrapped_already_is_refused(around):
    with pytest.raises(ValueError, match=r"inner must not be wrapped already .*nested\(first, "):
        lookahead(around(make())).init(start())


@pytest.mark.clause("C24")
def test_it_is_refused_when_it_is_made_where_that_can_be_seen():
    with pytest.raises(ValueError, match="inner must not be wrapped already"):
        lookahead(make())
    split(make())  # is no second wrapper


# --- counters that are full ---

FULL = 2**31 - 2  # one more is the largest number of an int32, which is left to schedules


def full(optimizer, params, syncs=FULL):
    state = optimizer.init(params)
    return state._replace(syncs=jnp.asarray(syncs, jnp.int32))


@pytest.mark.clause("C51", "C75")
@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("make_rule", [lambda: swa(1), polyak], ids=["swa", "polyak"])
def test_a_mean_of_more_syncs_than_can_be_counted_stays_a_mean(make_rule, compiled, wide):
    with jax.enable_x64(wide):
        optimizer, params = meta_optimizer(optax.sgd(1.0), make_rule()), jnp.zeros(1)
        state = full(optimizer, params)
        update = jax.jit(optimizer.update) if compiled else optimizer.update
        for _ in range(3):
            updates, state = update(jnp.full(1, -(2.0**30)), state, params)
            params = optax.apply_updates(params, updates)
            assert (state.syncs.item(), state.syncs.dtype) == (FULL, jnp.int32)
        # Each of three syncs has moved it by about 2 ** -31 of the way.
        assert 1.0 < slow_params(state, params).item() < 4.0


@pytest.mark.clause("C51")
@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
def test_a_schedule_of_alpha_stays_at_its_end(wide):
    with jax.enable_x64(wide):
        schedule = optax.linear_schedule(1.0, 0.25, 1000)
        optimizer, params = lookahead(optax.sgd(1.0), 1, schedule), jnp.zeros(1)
        state = full(optimizer, params)
        for _ in range(2):
            updates, state = optimizer.update(jnp.ones(1), state, params)
            assert updates.item() == -0.25
        updates, state = optimizer.sync(state, params)
        _, state = split(optimizer).update_and_sync(jnp.ones(1), state, params)
        assert state.syncs.item() == FULL


@pytest.mark.clause("C72", "C78")
@pytest.mark.parametrize("wide", [False, True], ids=["32 bits", "64 bits"])
def test_what_happens_at_every_so_many_syncs_goes_on(wide):
    rules = {"average": switch_ema(3, 0.5), "nested": nested(lookahead_rule(1), lookahead_rule(3))}
    with jax.enable_x64(wide):
        for rule in rules.values():
            traces = []
            for syncs in (FULL - 3 - FULL % 3, 3):
                optimizer, params = meta_optimizer(optax.sgd(1.0), rule), jnp.zeros(1)
                state, trace = full(optimizer, params, syncs), []
                for _ in range(9):
                    updates, state = optimizer.update(jnp.ones(1), state, params)
                    params = optax.apply_updates(params, updates)
                    trace.append(params.item())
                traces.append(trace)
            assert traces[0] == traces[1]


@pytest.mark.clause("C54")
def test_steps_of_the_split_form_that_never_sync_are_counted_as_far_as_they_can():
    optimizer, params = make(), start()
    state = optimizer.init(params)._replace(step=jnp.asarray(FULL, jnp.int32))
    _, state = split(optimizer).update(gradients(params), state, params)
    assert state.step.item() == FULL
