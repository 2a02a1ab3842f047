"""The split form and the nested scan: the same method, with nothing selected between syncs."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest

from lookahead_core import SyncRule
from lookahead_core.adapters.optax import (
    find_state,
    lookahead,
    meta_optimizer,
    park,
    resync,
    slow_params,
    split,
    unpark,
)
from optax_runs import INNERS, assert_close, assert_same, frozen, gradients, make, sgd, start, train
from reference_loop import ALPHA, POLICIES, STEPS, K

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    pytest.mark.clause("C54"),
]


def alternate(halves, params, state, steps, k=K, first=1, compiled=jax.jit):
    """The loop on the host: it knows which step is the k-th."""
    plain, syncing = compiled(halves.update), compiled(halves.update_and_sync)
    for step in range(first, first + steps):
        update = syncing if step % k == 0 else plain
        updates, state = update(gradients(params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.clause("C54")
@pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("inner", INNERS)
def test_the_split_form_follows_the_trajectory(inner, policy, compiled):
    optimizer = make(policy, INNERS[inner])
    expected = train(optimizer, start(), optimizer.init(start()), STEPS)
    halves = split(optimizer)
    runs = jax.jit if compiled else lambda update: update
    got = alternate(halves, start(), halves.init(start()), STEPS, compiled=runs)
    assert_close(got[0], expected[0], rtol=1e-12)
    assert_close(slow_params(got[1], got[0]), slow_params(expected[1], expected[0]), rtol=1e-12)
    assert_close(got[1].inner, expected[1].inner, rtol=1e-12)


# --- parked slow weights ---


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("chained", [False, True], ids=["alone", "in a chain"])
def test_parked_slow_weights_come_back_for_the_sync(policy, chained):
    ours = make(policy, INNERS["adam"])
    halves = split(optax.chain(optax.clip(1.0), ours) if chained else ours)
    expected = alternate(halves, start(), halves.init(start()), STEPS)
    plain, syncing = jax.jit(halves.update), jax.jit(halves.update_and_sync)
    params, (state, parked) = start(), park(halves.init(start()))
    for step in range(1, STEPS + 1):
        if step % K:
            updates, state = plain(gradients(params), state, params)
        else:
            updates, whole = syncing(gradients(params), unpark(state, parked), params)
            state, parked = park(whole)
        params = optax.apply_updates(params, updates)
    assert_same((params, unpark(state, parked)), expected)


def test_each_of_several_states_gets_its_own_back():
    ours = {"a": make("maintain", sgd), "b": make("interpolate", INNERS["adam"])}
    optimizer = optax.multi_transform(ours, {"layer": "a", "other": "b"})
    state = optimizer.init(start())
    assert_same(unpark(*park(state)), state)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_parked_state_hands_no_slow_weights_to_a_program(policy):
    bare = INNERS["adam"]().init(start())
    state, _ = park(make(policy, INNERS["adam"]).init(start()))
    counters = 2
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(bare)) + counters


@pytest.mark.clause("C25")
def test_a_parked_state_is_refused_where_its_slow_weights_are_needed():
    optimizer, params = make("maintain", sgd), start()
    halves = split(optimizer)
    whole = optimizer.init(params)
    state, parked = park(whole)
    for needs in (
        lambda: optimizer.update(params, state, params),
        lambda: halves.update_and_sync(params, state, params),
        lambda: optimizer.sync(state, params),
        lambda: slow_params(state, params),
        lambda: resync(state, params),
    ):
        with pytest.raises(ValueError, match="must hold its slow weights here"):
            needs()
    with pytest.raises(ValueError, match="parked already"):
        park(state)
    with pytest.raises(ValueError, match="got 1, of which 0 without"):
        unpark(whole, parked)
    with pytest.raises(ValueError, match="must hold 2 LookaheadStates"):
        unpark(state, (*parked, *parked))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_nested_scan_follows_the_trajectory(policy):
    optimizer = make(policy, INNERS["adam"])
    halves = split(optimizer)

    def step(carry, update):
        params, state = carry
        updates, state = update(gradients(params), state, params)
        return optax.apply_updates(params, updates), state

    def cycle(carry, _):
        carry, _ = jax.lax.scan(lambda c, _: (step(c, halves.update), None), carry, length=K - 1)
        return step(carry, halves.update_and_sync), None

    carry = (start(), halves.init(start()))
    (params, state), _ = jax.jit(lambda carry: jax.lax.scan(cycle, carry, length=4))(carry)
    expected, _ = train(optimizer, start(), optimizer.init(start()), 4 * K)
    assert_close(params, expected, rtol=1e-12)
    assert (state.step.item(), state.syncs.item()) == (0, 4)


def test_a_period_of_one_syncs_at_every_step():
    optimizer = lookahead(sgd(), 1, 0.3)
    halves = split(optimizer)
    got, _ = alternate(halves, start(), halves.init(start()), 6, k=1)
    assert_close(got, train(optimizer, start(), optimizer.init(start()), 6)[0])


@pytest.mark.clause("C05")
def test_update_and_sync_syncs_whatever_the_counter_says():
    halves = split(lookahead(optax.sgd(1.0), 5, 0.5))
    params = jnp.zeros(1)
    state = halves.init(params)
    for update in (halves.update, halves.update_and_sync):
        updates, state = update(jnp.ones(1), state, params)
        params = optax.apply_updates(params, updates)
    assert (params.item(), state.step.item(), state.syncs.item()) == (-1.0, 0, 1)


@pytest.mark.clause("C05", "C73")
def test_a_sync_before_the_start_moves_nothing_in_any_form():
    optimizer = meta_optimizer(optax.sgd(1.0, 0.5), SyncRule(2, inner_state="interpolate", start=3))
    halves, alone = split(optimizer), optax.sgd(1.0, 0.5)
    state, bare = optimizer.init(jnp.zeros(1)), alone.init(jnp.zeros(1))
    params = jnp.zeros(1)
    for update in (optimizer.update, halves.update_and_sync, optimizer.update):
        expected, bare = alone.update(jnp.ones(1), bare)
        updates, state = update(jnp.ones(1), state, params)
        params = optax.apply_updates(params, updates)
        assert_same((updates, state.inner), (expected, bare))
    assert (state.step.item(), state.syncs.item()) == (1, 1)


AROUND = {
    "chain": lambda ours: optax.chain(optax.clip(1.0), ours),
    "masked": lambda ours: optax.masked(ours, {"layer": True, "other": False}),
    "partition": lambda ours: optax.transforms.partition(
        {"ours": ours, "plain": sgd()}, {"layer": "ours", "other": "plain"}
    ),
    "inject_hyperparams": lambda ours: optax.inject_hyperparams(
        lambda rate: optax.chain(optax.scale(rate), ours)
    )(0.5),
    "MultiSteps": lambda ours: optax.MultiSteps(ours, 1),
}


@pytest.mark.parametrize("around", AROUND)
def test_the_decision_travels_through_what_is_around_it(around):
    optimizer = AROUND[around](make())
    halves = split(optimizer)
    got = alternate(halves, start(), halves.init(start()), 2 * K + 1)
    expected = train(optimizer, start(), optimizer.init(start()), 2 * K + 1)
    assert_close(got[0], expected[0], rtol=1e-12)
    # It would come out the same if the decision were lost and the counter asked instead.
    never = alternate(halves, start(), halves.init(start()), 2 * K, k=10**6)
    assert (find_state(never[1]).step.item(), find_state(never[1]).syncs.item()) == (2 * K, 0)


def test_a_step_between_syncs_selects_nothing():
    optimizer = make("interpolate", INNERS["adam"])
    halves, params = split(optimizer), start()
    arguments = (params, halves.init(params), params)
    plain = str(jax.make_jaxpr(halves.update)(*arguments))
    bare = str(jax.make_jaxpr(INNERS["adam"]().update)(params, arguments[1].inner, params))
    dropin = str(jax.make_jaxpr(optimizer.update)(*arguments))
    assert plain.count("select_n") == bare.count("select_n") < dropin.count("select_n")


@pytest.mark.parametrize("policy", POLICIES)
def test_the_state_can_be_donated_after_a_sync(policy):
    halves = split(make(policy))
    params, state = alternate(halves, start(), halves.init(start()), K)
    expected = frozen(alternate(halves, params, state, K))
    donating = {"compiled": lambda f: jax.jit(f, donate_argnums=1)}
    assert_close(frozen(alternate(halves, params, state, K, **donating)), expected)
    params, state = alternate(halves, start(), halves.init(start()), K, compiled=lambda f: f)
    assert_close(frozen(alternate(halves, params, state, K, **donating)), expected)


# --- one state for all forms ---


@pytest.mark.parametrize("phase", range(1, K))
def test_the_forms_can_change_in_mid_cycle(phase):
    optimizer = make("interpolate")
    halves = split(optimizer)
    expected, _ = train(optimizer, start(), optimizer.init(start()), 2 * K)
    first = train(optimizer, start(), optimizer.init(start()), phase)
    got, _ = alternate(halves, *first, 2 * K - phase, first=phase + 1)
    assert_close(got, expected, rtol=1e-12)
    first = alternate(halves, start(), halves.init(start()), phase)
    got, _ = train(optimizer, *first, 2 * K - phase)
    assert_close(got, expected, rtol=1e-12)


def test_after_a_sync_of_the_drop_in_form_resync_takes_the_anchor():
    optimizer = make("interpolate")
    halves = split(optimizer)
    expected, _ = train(optimizer, start(), optimizer.init(start()), 2 * K)
    params, state = train(optimizer, start(), optimizer.init(start()), K)
    got, _ = alternate(halves, params, resync(state, params), K)
    assert_close(got, expected, rtol=1e-12)


@pytest.mark.clause("C26")
def test_weights_loaded_between_cycles_are_honoured_after_resync():
    halves = split(lookahead(optax.sgd(1.0), 2, 0.5))
    state, params = halves.init(jnp.zeros(1)), jnp.full(1, 100.0)
    state = resync(state, params)
    for update in (halves.update, halves.update_and_sync):
        updates, state = update(jnp.ones(1), state, params)
        params = optax.apply_updates(params, updates)
    assert params.item() == 99.0


@pytest.mark.clause("C10", "C15")
def test_wide_slow_weights_keep_their_bits():
    halves = split(lookahead(optax.sgd(2.0**-7), 1, 0.25, slow_dtype=jnp.float32))
    params = jnp.ones(1, jnp.bfloat16)
    state = halves.init(params)
    for _ in range(8):
        updates, state = halves.update_and_sync(-params, state, params)
        params = optax.apply_updates(params, updates)
    (slow,) = slow_params(state, params).tolist()
    assert slow > 1.0078125
    assert_same(state.slow.astype(jnp.bfloat16), params)


# --- what is refused ---


@pytest.mark.clause("C25")
def test_what_is_no_lookahead_cannot_be_split():
    with pytest.raises(ValueError, match=r"optimizer must be an optax\.Grad.*, got 5"):
        split(5)
    with pytest.raises(ValueError, match="state must hold a LookaheadState, got none in"):
        split(sgd()).init(start())


@pytest.mark.clause("C25")
def test_the_decision_must_be_known_to_python():
    optimizer = make()
    with pytest.raises(ValueError, match="lookahead_sync must be True, False or None, got"):
        optimizer.update(
            start(), optimizer.init(start()), start(), lookahead_sync=jnp.asarray(True)
        )


# --- what a compiled step allocates ---


def big():
    return {f"w{i}": jnp.ones(2**20, jnp.float32) for i in range(4)}


def compiled(update, optimizer):
    def step(params, state, gradient):
        updates, state = update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    arguments = (big(), optimizer.init(big()), big())
    return jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()


@pytest.mark.clause("C56")
@pytest.mark.parametrize("form", ["update", "plain", "update_and_sync"])
@pytest.mark.parametrize("inner", INNERS)
def test_no_form_allocates_a_temporary_of_the_size_of_the_parameters(inner, form):
    optimizer = lookahead(INNERS[inner](), K, ALPHA)
    halves = split(optimizer)
    updates = {
        "update": optimizer.update,
        "plain": halves.update,
        "update_and_sync": halves.update_and_sync,
    }
    program = compiled(updates[form], optimizer)
    assert program.memory_analysis().temp_size_in_bytes < 2**20
    assert program.memory_analysis().alias_size_in_bytes > 3 * 2**24


@pytest.mark.clause("C56")
def test_a_program_that_allocates_would_be_seen():
    theirs = optax.lookahead(sgd(), K, ALPHA)
    pair = optax.LookaheadParams(big(), big())

    def step(params, state, gradient):
        updates, state = theirs.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(pair, theirs.init(pair), big())
    assert lowered.compile().memory_analysis().temp_size_in_bytes > 2**24


@pytest.mark.clause("C56")
@pytest.mark.parametrize("inner", INNERS)
def test_the_drop_in_form_copies_no_array(inner):
    optimizer = lookahead(INNERS[inner](), K, ALPHA)
    text = compiled(optimizer.update, optimizer).as_text()
    assert re.findall(r"= f32\[1048576\]\S* copy\(", text) == []
