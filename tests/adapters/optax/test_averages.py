"""Slow weights that the parameters do not carry: read, synced on demand, begun again; a start."""

import jax
import jax.numpy as jnp
import optax
import pytest

from lookahead_core import Interpolate, Momentum, SyncRule, ema, swa, switch_ema
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
from optax_runs import assert_close, assert_same, frozen, start, train

pytestmark = pytest.mark.usefixtures("double_precision")


def stepped(optimizer, params, state, steps=1, update=None):
    """Steps with a gradient of one: around SGD at a rate of one the weights fall by one."""
    update = update or optimizer.update
    for _ in range(steps):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def of_one(rule, **options):
    optimizer = meta_optimizer(optax.sgd(1.0), rule, **options)
    return optimizer, jnp.zeros(1), optimizer.init(jnp.zeros(1))


# --- read ---


@pytest.mark.clause("C22", "C72")
def test_an_average_is_read_at_every_step_and_never_taken_from_the_parameters():
    optimizer, params, state = of_one(ema(0.5, sync_period=2))
    assert slow_params(state, params).tolist() == [0.0]
    seen = []
    for _ in range(5):
        params, state = stepped(optimizer, params, state)
        seen.append((params.item(), slow_params(state, params).item()))
    assert seen == [(-1.0, 0.0), (-2.0, -1.0), (-3.0, -1.0), (-4.0, -2.5), (-5.0, -2.5)]


@pytest.mark.clause("C22", "C73")
@pytest.mark.parametrize("rule", [ema(0.5, start=3), SyncRule(2, Momentum(), start=3)])
def test_until_the_start_the_slow_weights_are_the_parameters(rule):
    optimizer, params, state = of_one(rule)
    for step in range(1, 5):
        params, state = stepped(optimizer, params, state)
        assert state.step.item() == {1: -2, 2: -1, 3: 0, 4: 1 % rule.sync_period}[step]
        is_slow = slow_params(state, params).item() == params.item()
        assert is_slow == (step < 4)
    assert slow_params(state, params).item() == {1: -3.5, 2: -3.0}[rule.sync_period]


@pytest.mark.clause("C26", "C72")
def test_weights_loaded_before_the_first_cycle_are_where_the_average_begins():
    optimizer, _, state = of_one(ema(0.5))
    loaded = jnp.full(1, 100.0)
    assert slow_params(state, loaded).item() == 100.0
    params, state = stepped(optimizer, loaded, state)
    assert slow_params(state, params).item() == 99.5
    params, state = stepped(optimizer, loaded, state)
    assert slow_params(state, params).item() == 99.25


@pytest.mark.clause("C10", "C72")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_where_the_weights_go_back_whole_they_are_the_average_bit_for_bit(compiled):
    optimizer = meta_optimizer(optax.adam(0.1), switch_ema(3, 0.9))
    params = {"w": jnp.linspace(-1.0, 7.0, 999, dtype=jnp.float32)}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    for step in range(1, 7):
        updates, state = update(jax.tree.map(jnp.cos, params), state, params)
        params = optax.apply_updates(params, updates)
        equal = bool((state.slow["w"] == params["w"]).all())
        assert equal == (step % 3 == 0)


@pytest.mark.clause("C15", "C72")
def test_a_wide_average_of_bfloat16_weights_keeps_its_bits():
    rule = SyncRule(1, Interpolate(2.0**-9), restart_period=4)
    optimizer = meta_optimizer(optax.sgd(2.0**-6), rule, slow_dtype=jnp.float32)
    params = jnp.ones(1, jnp.bfloat16)
    state = optimizer.init(params)
    average, fast = 1.0, 1.0
    for step in range(1, 9):
        params, state = stepped(optimizer, params, state)
        fast -= 2.0**-6
        average += (fast - average) * 2.0**-9
        if step % 4 == 0:
            fast = float(jnp.asarray(average, jnp.bfloat16))
        assert slow_params(state, params).dtype == jnp.float32
        assert slow_params(state, params).item() == pytest.approx(average, abs=1e-7)
        assert params.item() == fast
    assert average != fast


# --- a sync on demand, and a new start ---


@pytest.mark.clause("C05", "C72")
def test_a_sync_on_demand_averages_and_leaves_the_parameters_alone():
    optimizer, params, state = of_one(ema(0.5, sync_period=5))
    params, state = stepped(optimizer, params, state, 2)
    updates, state = optimizer.sync(state, params)
    assert updates.tolist() == [0.0]
    assert (state.step.item(), state.syncs.item()) == (0, 1)
    assert slow_params(state, params).item() == -1.0


@pytest.mark.clause("C13", "C72")
def test_a_slow_weight_is_kept_where_the_parameter_cannot_be_put_back():
    optimizer, params, state = of_one(SyncRule(1, Interpolate(0.0), restart_period=2))
    slow = params.item()
    for _ in range(2):
        updates, state = optimizer.update(jnp.full_like(params, jnp.nan), state, params)
        params = optax.apply_updates(params, updates)
    assert jnp.isnan(params.item())  # no update brings it back
    assert slow_params(state, params).item() == slow


@pytest.mark.clause("C05", "C72")
def test_a_sync_on_demand_puts_the_parameters_back_where_it_is_its_turn():
    optimizer, params, state = of_one(SyncRule(5, Interpolate(0.5), restart_period=2))
    trace = []
    for _ in range(2):
        params, state = stepped(optimizer, params, state)
        updates, state = optimizer.sync(state, params)
        params = optax.apply_updates(params, updates)
        trace.append((params.item(), slow_params(state, params).item()))
    assert trace == [(-1.0, -0.5), (-1.25, -1.25)]


@pytest.mark.clause("C52", "C72")
def test_resync_begins_an_average_again_at_the_parameters():
    optimizer, params, state = of_one(ema(0.5, sync_period=2))
    params, state = stepped(optimizer, params, state, 3)
    again = resync(state, jnp.full(1, 100.0))
    assert (again.step.item(), again.syncs.item()) == (0, 1)
    params, again = stepped(optimizer, jnp.full(1, 100.0), again)
    assert slow_params(again, params).item() == 100.0
    params, again = stepped(optimizer, params, again)
    assert slow_params(again, params).item() == 99.0


@pytest.mark.clause("C25", "C52")
def test_resync_of_an_average_must_be_given_the_parameters():
    optimizer, params, state = of_one(ema(0.5))
    _, state = stepped(optimizer, params, state)
    with pytest.raises(ValueError, match=r"params must be given to resync under .* got None"):
        resync(state)


@pytest.mark.clause("C52", "C71")
def test_resync_keeps_the_buffer():
    optimizer, params, state = of_one(SyncRule(2, Momentum(1.0, 0.5, nesterov=False)))
    params, state = stepped(optimizer, params, state, 2)
    again = resync(state, params)
    assert (again.outer[0].item(), again.slow.item()) == (2.0, -2.0)


# --- split ---


@pytest.mark.clause("C54", "C73")
@pytest.mark.parametrize("restart", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("begin", [0, 4])
def test_the_split_form_follows_an_average_and_a_start(restart, begin):
    rule = SyncRule(3, Interpolate(0.3), restart=restart, start=begin)
    optimizer = meta_optimizer(optax.sgd(0.1, momentum=0.5), rule)
    expected = train(optimizer, start(), optimizer.init(start()), 13)
    halves = split(optimizer)
    params, state = start(), halves.init(start())
    for step in range(1, 14):
        due = step > begin and (step - begin) % 3 == 0
        update = halves.update_and_sync if due else halves.update
        params, state = train(halves, params, state, 1, jax.jit(update))
    assert_close(params, expected[0])
    assert_close(slow_params(state, params), slow_params(expected[1], expected[0]))
    assert state.step.item() == expected[1].step.item() == (13 - begin) % 3


@pytest.mark.clause("C54", "C72")
def test_a_parked_average_comes_back():
    optimizer, params, state = of_one(swa(3))
    halves = split(optimizer)
    state, parked = park(state)
    params, state = stepped(halves, params, state, 2)
    params, state = stepped(halves, params, unpark(state, parked), 1, halves.update_and_sync)
    assert (params.item(), slow_params(state, params).item()) == (-3.0, -1.5)


@pytest.mark.clause("C25", "C54", "C73")
def test_with_a_start_a_parked_state_is_refused():
    optimizer, params, state = of_one(ema(0.5, start=3))
    parked, _ = park(state)
    with pytest.raises(ValueError, match="must hold its slow weights here"):
        split(optimizer).update(params, parked, params)


# --- saved ---


@pytest.mark.clause("C06", "C73", "C74")
@pytest.mark.parametrize("phase", range(7))
@pytest.mark.parametrize(
    "rule", [ema(0.9), swa(3, start=2), switch_ema(4, 0.9, "reset"), SyncRule(3, start=2)]
)
def test_a_run_resumed_at_any_phase_goes_on_bitwise(rule, phase):
    optimizer = meta_optimizer(optax.adam(0.1), rule)
    halfway = train(optimizer, start(), optimizer.init(start()), phase)
    saved = frozen(halfway)
    whole = train(optimizer, *halfway, 7)
    params, state = jax.tree.map(jnp.asarray, saved)
    assert type(state) is type(halfway[1])
    assert_same(train(meta_optimizer(optax.adam(0.1), rule), params, state, 7), whole)


# --- the inner state ---


@pytest.mark.clause("C17", "C72")
def test_the_inner_state_is_reset_where_the_weights_go_back_alone():
    optimizer = meta_optimizer(optax.adam(0.1), switch_ema(3, 0.9, "reset"))
    state, params, counts = optimizer.init(start()), start(), []
    for _ in range(7):
        params, state = train(optimizer, params, state, 1)
        counts.append(state.inner[0].count.item())
    assert counts == [1, 2, 0, 1, 2, 0, 1]


@pytest.mark.clause("C22", "C72")
def test_an_average_beside_lookahead_is_read_as_one_tree():
    groups = {
        "ours": lookahead(optax.sgd(1.0), 2),
        "average": meta_optimizer(optax.sgd(1.0), ema(0.5)),
    }
    optimizer = optax.transforms.partition(groups, {"a": "ours", "b": "average"})
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    params, state = stepped(optimizer, params, optimizer.init(params), 3)
    slow = slow_params(state, params)
    assert (slow["a"].item(), slow["b"].item()) == (-1.0, -2.125)
    with pytest.raises(ValueError, match="exactly one LookaheadState, got 2"):
        find_state(state)
