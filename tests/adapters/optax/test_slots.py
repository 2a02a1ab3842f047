"""What an outer rule keeps: trees like the parameters, saved, masked, donated, never poisoned."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from family_runs import by_hand, inner, mixed, run
from lookahead_core import (
    AdaptiveAlpha,
    Interpolate,
    Momentum,
    SyncRule,
    diloco,
    ema,
    nested,
    slowmo,
    snoo,
    swa,
)
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.adapters.optax import (
    find_state,
    lookahead,
    meta_optimizer,
    park,
    slow_params,
    split,
    unpark,
)
from optax_runs import adam, assert_close, assert_same, dtypes, frozen, sgd, start, train

pytestmark = pytest.mark.usefixtures("double_precision")

PERIOD = 3
SECANT = SyncRule(PERIOD, Interpolate(AdaptiveAlpha()))
RULES = {
    "momentum": snoo(PERIOD),
    "momentum, restart in part": SyncRule(PERIOD, Momentum(), restart=0.5, restart_period=2),
    "nested": nested(lookahead_rule(PERIOD, 0.5), diloco(2 * PERIOD)),
    "secant": SECANT,
}


def made(rule="momentum", around=inner):
    return meta_optimizer(around(), RULES[rule])


# --- trees ---


@pytest.mark.parametrize("rule", RULES)
def test_slots_are_trees_like_the_parameters(rule):
    state = made(rule).init(start())
    number = {"nested": 2}.get(rule, 1)
    assert len(state.outer) == number
    for slot in state.outer:
        assert_same(slot, mixed(jnp.zeros_like, start()))


def test_a_rule_that_keeps_nothing_has_no_slots():
    assert lookahead(inner()).init(start()).outer == ()
    assert meta_optimizer(inner(), ema()).init(start()).outer == ()


@pytest.mark.clause("C14", "C71")
def test_a_leaf_that_is_not_averaged_has_no_place_in_a_slot():
    optimizer = meta_optimizer(optax.identity(), SyncRule(1, Momentum(1.0, 0.5, nesterov=False)))
    params = {"n": jnp.zeros(1, jnp.int32), "w": jnp.zeros(1)}
    state = optimizer.init(params)
    assert isinstance(state.outer[0]["n"], optax.MaskedNode)
    for _ in range(2):
        # A floating update for an integer leaf, as optax's SGD makes it.
        updates, state = optimizer.update(mixed(lambda p: jnp.ones(1), params), state, params)
        params = optax.apply_updates(params, updates)
    assert (params["n"].item(), params["w"].item()) == (2, 2.5)
    assert params["n"].dtype == jnp.int32


@pytest.mark.clause("C14", "C72")
def test_an_average_takes_the_live_value_of_a_leaf_that_is_not_averaged():
    optimizer = meta_optimizer(optax.identity(), ema(0.5, sync_period=2))
    params = {"n": jnp.zeros(1, jnp.int32), "w": jnp.zeros(1)}
    state = optimizer.init(params)
    seen = []
    for _ in range(3):
        updates, state = optimizer.update(mixed(lambda p: jnp.ones(1), params), state, params)
        params = optax.apply_updates(params, updates)
        slow = slow_params(state, params)
        seen.append((slow["n"].item(), slow["w"].item()))
    assert seen == [(0, 0.0), (2, 1.0), (2, 1.0)]


@pytest.mark.parametrize("rule", RULES)
def test_tree_map_params_finds_the_slots(rule):
    optimizer = optax.chain(optax.clip(1.0), made(rule))
    specs = mixed(lambda _: "like the parameter", start())
    mapped = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, spec: spec,
        optimizer.init(start()),
        specs,
        transform_non_params=lambda _: None,
    )
    ours = find_state(mapped)
    assert ours.slow == specs
    assert list(ours.outer) == [specs] * len(ours.outer)
    assert (ours.step, ours.syncs) == (None, None)


@pytest.mark.clause("C27")
@pytest.mark.parametrize("rule", RULES)
def test_masked_parameters_have_no_slot(rule):
    ours = made(rule)
    optimizer = optax.masked(ours, {"layer": True, "other": False})
    params, state = train(optimizer, start(), optimizer.init(start()), 8)
    for slot in find_state(state).outer:
        assert isinstance(slot["other"], optax.MaskedNode)
        assert slot["layer"]["x"].shape == params["layer"]["x"].shape
    # optax.masked hands the gradient of what it masks on as it is.
    assert_close(params["other"][0], start()["other"][0] * 1.5**8)
    assert_same(ours.slow_params(state, params)["other"], params["other"])


@pytest.mark.clause("C27", "C71")
def test_the_parameters_that_are_not_masked_follow_the_rule():
    optimizer = optax.masked(made(), {"layer": True, "other": False})
    got, _ = train(optimizer, start(), optimizer.init(start()), 8)
    whole, _ = train(made(), start(), made().init(start()), 8)
    assert_close(got["layer"], whole["layer"])


@pytest.mark.clause("C27")
def test_partition_gives_each_group_its_own_slots():
    groups = {"fast": made(), "slow": meta_optimizer(inner(), ema(0.5))}
    optimizer = optax.transforms.partition(groups, {"layer": "fast", "other": "slow"})
    params, state = train(optimizer, start(), optimizer.init(start()), 8)
    momentum, _ = train(groups["fast"], start(), groups["fast"].init(start()), 8)
    average, own = train(groups["slow"], start(), groups["slow"].init(start()), 8)
    assert_close(params, {"layer": momentum["layer"], "other": average["other"]})
    assert_close(slow_params(state, params)["other"], slow_params(own, average)["other"])


@pytest.mark.clause("C03")
def test_inside_of_multi_steps_it_counts_real_steps():
    optimizer, accumulated = optax.MultiSteps(made(), 2), optax.MultiSteps(inner(), 2)
    update, bare_update = jax.jit(optimizer.update), jax.jit(accumulated.update)
    params, state = train(optimizer, start(), optimizer.init(start()), 4 * PERIOD, update)
    assert (find_state(state).step.item(), find_state(state).syncs.item()) == (0, 2)
    outer = optax.sgd(0.68, 0.37, nesterov=True)
    slow, kept = start(), outer.init(start())
    expected, bare = start(), accumulated.init(start())
    for step in range(1, 4 * PERIOD + 1):
        expected, bare = train(accumulated, expected, bare, 1, bare_update)
        if step % (2 * PERIOD) == 0:
            updates, kept = outer.update(mixed(jnp.subtract, slow, expected), kept, slow)
            expected = slow = optax.apply_updates(slow, updates)
    assert_close(params, expected)


@pytest.mark.clause("C28")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64])
def test_every_step_keeps_the_dtypes_of_the_state(dtype, rule):
    optimizer = made(rule)
    params = {"w": jnp.ones(3, dtype)}
    state = optimizer.init(params)
    for _ in range(2 * PERIOD):
        updates, after = optimizer.update(params, state, params)
        assert updates["w"].dtype == dtype
        assert dtypes(after) == dtypes(state)
        params, state = optax.apply_updates(params, updates), after


@pytest.mark.clause("C15", "C71")
def test_a_buffer_is_kept_in_the_dtype_of_the_slow_weights():
    optimizer = meta_optimizer(
        optax.sgd(2.0**-8), SyncRule(1, Momentum(1.0, 0.5)), slow_dtype=jnp.float32
    )
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    state = optimizer.init(params)
    wide = meta_optimizer(optax.sgd(2.0**-8), SyncRule(1, Momentum(1.0, 0.5)))
    expected = mixed(lambda p: p.astype(jnp.float32), params)
    of_wide = wide.init(expected)
    for _ in range(4):
        ones = mixed(jnp.ones_like, params)
        updates, state = optimizer.update(ones, state, params)
        params = optax.apply_updates(params, updates)
        updates, of_wide = wide.update(mixed(jnp.ones_like, expected), of_wide, expected)
        expected = optax.apply_updates(expected, updates)
    assert state.outer[0]["w"].dtype == jnp.float32
    # The fast weights are rounded after each sync; what a buffer in bfloat16 would lose is more.
    np.testing.assert_allclose(state.outer[0]["w"], of_wide.outer[0]["w"], atol=2.0**-9)
    assert_same(slow_params(state, params)["w"].astype(jnp.bfloat16), params["w"])


@pytest.mark.clause("C23", "C71")
def test_updates_wider_than_the_parameters_do_not_widen_a_buffer():
    inner = optax.stateless(lambda g, _: mixed(lambda leaf: -leaf.astype(jnp.float32), g))
    optimizer = meta_optimizer(inner, SyncRule(1, Momentum(1.0, 0.5, nesterov=False)))
    params = jnp.ones(2, jnp.bfloat16)
    updates, state = optimizer.update(params, optimizer.init(params), params)
    assert (updates.dtype, updates.tolist()) == (jnp.float32, [-1.0, -1.0])
    assert (state.outer[0].dtype, state.outer[0].tolist()) == (jnp.bfloat16, [1.0, 1.0])


# --- values that are not finite ---


@pytest.mark.clause("C12")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf])
@pytest.mark.parametrize(
    "rule", [snoo(PERIOD), RULES["momentum, restart in part"], RULES["nested"], ema(0.9, PERIOD)]
)
def test_what_is_not_finite_between_syncs_reaches_neither_slow_weights_nor_slots(
    rule, poison, compiled
):
    optimizer = meta_optimizer(inner(), rule)
    params, state = train(optimizer, start(), optimizer.init(start()), PERIOD + 1)
    before = frozen((state.slow, state.outer))
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    _, after = update(mixed(lambda p: p * poison, params), state, params)
    assert after.step.item() == 2
    assert_same(frozen((after.slow, after.outer)), before)


# --- saved ---


@pytest.mark.clause("C06", "C74")
@pytest.mark.parametrize("phase", range(2 * PERIOD))
@pytest.mark.parametrize("rule", RULES)
def test_a_run_resumed_at_any_phase_goes_on_bitwise(rule, phase):
    optimizer = made(rule, adam)
    halfway = train(optimizer, start(), optimizer.init(start()), PERIOD + phase)
    saved = frozen(halfway)
    whole = train(optimizer, *halfway, 2 * PERIOD + 1)
    params, state = jax.tree.map(jnp.asarray, saved)
    assert_same(train(made(rule, adam), params, state, 2 * PERIOD + 1), whole)


@pytest.mark.clause("C06", "C74")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_a_state_of_numpy_arrays_is_taken_too(compiled):
    optimizer = made("nested")
    halfway = train(optimizer, start(), optimizer.init(start()), 2 * PERIOD - 1)
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    whole = train(optimizer, *halfway, 2, update)
    assert_same(train(optimizer, *frozen(halfway), 2, update), whole)


class Marks:
    """A rule that needs a JAX array."""

    def init(self, slow):
        return ([jnp.zeros_like(s) for s in slow],)

    def update(self, slow, fast, state, context):
        return fast, ([kept.at[0].add(1.0) for kept in state[0]],)


@pytest.mark.clause("C74", "C76")
def test_a_rule_of_ones_own_gets_jax_arrays_from_a_state_of_numpys():
    optimizer = meta_optimizer(inner(), SyncRule(1, Marks()))
    _, state = optimizer.update(start(), frozen(optimizer.init(start())), start())
    assert state.outer[0]["layer"]["x"].tolist() == [1.0, 0.0, 0.0]


# --- how it runs ---


@pytest.mark.parametrize("rule", RULES)
def test_fresh_parameters_and_state_can_be_donated_together(rule):
    optimizer, params = made(rule), start()
    state = optimizer.init(params)

    @jax.jit
    def steps(params, state):
        return train(optimizer, params, state, PERIOD)

    expected = frozen(steps(params, state))
    assert_same(frozen(jax.jit(steps, donate_argnums=(0, 1))(params, state)), expected)


@pytest.mark.parametrize("rule", RULES)
def test_the_state_can_be_made_from_shapes_alone(rule):
    optimizer = made(rule)
    shapes = jax.eval_shape(optimizer.init, start())
    state = optimizer.init(start())
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    assert dtypes(shapes) == dtypes(state)


@pytest.mark.clause("C54")
@pytest.mark.parametrize("rule", RULES)
def test_the_split_form_and_a_nested_scan_follow_the_trajectory(rule):
    optimizer = made(rule)
    halves, cycles = split(optimizer), 4
    expected = train(optimizer, start(), optimizer.init(start()), cycles * PERIOD)

    def cycle(carry, _):
        carry = train(halves, *carry, PERIOD - 1)
        return train(halves, *carry, 1, halves.update_and_sync), None

    first = (start(), halves.init(start()))
    scanned, _ = jax.jit(lambda c: jax.lax.scan(cycle, c, None, length=cycles))(first)
    for _ in range(cycles):
        first, _ = cycle(first, None)
    for params, state in (scanned, first):
        assert_close(params, expected[0], rtol=1e-12)
        assert_close(state.outer, expected[1].outer, rtol=1e-12)


@pytest.mark.clause("C54")
def test_parked_slots_come_back_for_the_sync():
    optimizer = made()
    halves = split(optimizer)
    expected = train(optimizer, start(), optimizer.init(start()), 2 * PERIOD)
    params, state = start(), halves.init(start())
    for _ in range(2):
        state, parked = park(state)
        assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(state.inner)) + 2
        params, state = train(halves, params, state, PERIOD - 1)
        params, state = train(halves, params, unpark(state, parked), 1, halves.update_and_sync)
    assert_close(params, expected[0])
    assert_close(state.outer, expected[1].outer)


@pytest.mark.clause("C25", "C54")
def test_a_rule_that_keeps_the_first_gradient_refuses_a_parked_state():
    halves = split(made("secant"))
    state, _ = park(halves.init(start()))
    with pytest.raises(ValueError, match="must hold its slow weights here"):
        halves.update(start(), state, start())


@pytest.mark.clause("C54")
def test_a_step_between_syncs_selects_nothing_under_momentum():
    optimizer = made()
    halves, state = split(optimizer), optimizer.init(start())
    plain = str(jax.make_jaxpr(halves.update)(start(), state, start()))
    bare = str(jax.make_jaxpr(inner().update)(start(), state.inner, start()))
    assert plain.count("select_n") == bare.count("select_n")


@pytest.mark.clause("C56")
@pytest.mark.parametrize(
    ("rule", "kept"),
    [(slowmo(PERIOD), 2), (ema(0.9), 1), (swa(PERIOD), 1)],
    ids=["slowmo", "ema", "swa"],  # repr has an address, which is another in each process
)
def test_a_step_that_syncs_allocates_nothing_of_the_size_of_the_parameters(rule, kept):
    # The drop-in form and Nesterov's do, on XLA's CPU backend: docs/jax-speed.md has the sizes.
    optimizer = meta_optimizer(sgd(), rule)
    update = split(optimizer).update_and_sync
    big = {f"w{i}": jnp.ones(2**20, jnp.float32) for i in range(4)}

    def step(params, state, gradient):
        updates, state = update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(big, optimizer.init(big), big)
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**20
    # The parameters, the momentum of the inner optimizer, and what the rule keeps.
    assert memory.alias_size_in_bytes >= (2 + kept) * 2**24


# --- what is refused ---


@pytest.mark.clause("C06", "C25")
def test_a_state_that_another_rule_made_is_refused():
    momentum, average = made(), meta_optimizer(inner(), ema())
    plain = lookahead(inner())
    for optimizer, state, message in (
        (momentum, plain, r"state\.outer must hold the 1 slots that Momentum\(.*\) keeps, got 0"),
        (
            plain,
            momentum,
            r"state\.outer must hold the 0 slots that Interpolate\(.*\) keeps, got 1",
        ),
        (average, plain, "state must be a PersistentState, .*restart=0.*, got LookaheadState"),
        (plain, average, "state must be a LookaheadState, .*restart=1.*, got PersistentState"),
    ):
        other = state.init(start())
        for call in (
            lambda o=optimizer, s=other: o.update(start(), s, start()),
            lambda o=optimizer, s=other: o.sync(s, start()),
        ):
            with pytest.raises(ValueError, match=message):
                call()


class Broken:
    """A rule whose slot grows."""

    def init(self, slow):
        return ([jnp.zeros(1) for _ in slow],)

    def update(self, slow, fast, state, context):
        return fast, ([s + f for s, f in zip(state[0], fast, strict=True)],)


@pytest.mark.clause("C25", "C76")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_a_rule_that_changes_the_shape_of_what_it_keeps_is_refused(compiled):
    optimizer = meta_optimizer(inner(), SyncRule(1, Broken()))
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    state = optimizer.init({"w": jnp.ones(2)})
    message = re.escape("outer.update must return slots") + r".* \[\[\(1,\)\]\], got \[\[\(2,\)\]\]"
    with pytest.raises(ValueError, match=message):
        update({"w": jnp.ones(2)}, state, {"w": jnp.ones(2)})


def test_the_kind_of_state_says_what_can_be_read_from_it_without_its_rule():
    kinds = {name: type(made(name).init(start())).__name__ for name in RULES}
    assert kinds == {
        "momentum": "LookaheadState",
        "momentum, restart in part": "PersistentState",
        "nested": "ReadOutState",
        "secant": "LookaheadState",
    }


def test_the_slots_of_a_noisy_run_are_the_buffer_by_hand():
    _, _, state = run(made(), steps=2 * PERIOD)
    slow, buffer = start(), mixed(jnp.zeros_like, start())

    def sync(step, fast):
        nonlocal slow, buffer
        if step % PERIOD == 0:
            gradient = mixed(jnp.subtract, slow, fast)
            buffer = mixed(lambda b, g: 0.37 * b + g, buffer, gradient)
            slow = mixed(lambda s, g, b: s - 0.68 * (g + 0.37 * b), slow, gradient, buffer)
            return slow, slow
        return fast, slow

    by_hand(sync, steps=2 * PERIOD)
    assert_close(state.outer[0], buffer)
