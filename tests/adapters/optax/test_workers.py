"""Many workers in one process, by vmap: one set of slow weights, whatever the parameters round to.

On meshes of devices, and on two processes: tests/distributed/jax.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lookahead_core import AdaptiveAlpha, Momentum, SyncRule, diloco, ema, local_sgd, snoo
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.adapters.optax import (
    LookaheadState,
    SharedState,
    find_state,
    lookahead,
    meta_optimizer,
    park,
    resync,
    slow_params,
    split,
    unpark,
    weighted_mean,
    worker_axes,
)
from optax_runs import INNERS, assert_close, assert_same, start, train
from reference_loop import POLICIES

MEAN = partial(jax.lax.pmean, axis_name="workers")
WORKERS, K = 3, 2


def alone(differences):
    """The mean over one worker."""
    return differences


def make(rule, average=MEAN, **options):
    return meta_optimizer(optax.sgd(1.0), rule, average=average, **options)


def each(function, axes=0):
    """`function` for every worker at once, with states of which nothing is shared by `axes`."""
    return jax.jit(jax.vmap(function, in_axes=axes, axis_name="workers"))


def stepped(optimizer, moves, params, state=None, update=None):
    """Parameters and states of all workers after steps of `moves`, one array for each worker."""
    state = jax.vmap(optimizer.init)(params) if state is None else state
    step = each(update or optimizer.update)
    for move in moves:
        updates, state = step(-move, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def scattered(steps, dtype="float32"):
    """Moves that cross zero and change the size of the weights, for every worker its own."""
    random = np.random.default_rng(1)
    moves = random.normal(size=(steps, WORKERS, 1000)) * 10.0 ** random.integers(
        -4, 3, size=(steps, WORKERS, 1000)
    )
    return jnp.asarray(moves, dtype)


@pytest.mark.clause("C81")
def test_all_workers_go_on_from_their_mean():
    params = jnp.zeros((2, 1))
    params, state = stepped(make(local_sgd(1)), [jnp.asarray([[2.0], [4.0]])], params)
    assert params.tolist() == state.slow.tolist() == [[3.0], [3.0]]


@pytest.mark.clause("C81")
def test_momentum_is_that_of_the_mean():
    rule, params = SyncRule(1, Momentum(0.5, 0.5)), jnp.zeros((2, 1))
    params, state = stepped(make(rule), [jnp.asarray([[1.0], [3.0]])], params)
    # D = -(1 + 3) / 2; buffer' = D; slow' = -0.5 (D + 0.5 D)
    assert state.outer[0].tolist() == [[-2.0], [-2.0]]
    assert params.tolist() == [[1.5], [1.5]]


@pytest.mark.clause("C81")
@pytest.mark.parametrize(
    ("moves", "work", "mean"),
    [
        ([2.0, 4.0], [3.0, 1.0], 2.5),
        ([2.0, 4.0], [3, 1], 2.5),
        ([2.0, 4.0], [0.0, 0.0], 3.0),  # nobody has said anything
        ([2.0, float("nan")], [1.0, 0.0], 2.0),  # one that has run away is not heard
    ],
)
def test_unequal_work_is_weighed_by_an_optimizer_made_in_the_step(moves, work, mean):
    def step(move, weight, state, params):
        average = partial(weighted_mean, weight=weight)
        return make(local_sgd(1), average).update(-move, state, params)

    params = jnp.zeros((2, 1))
    state = jax.vmap(make(local_sgd(1)).init)(params)
    updates, state = each(step)(jnp.asarray(moves)[:, None], jnp.asarray(work), state, params)
    assert jax.tree.leaves(state.slow)[0].tolist() == [[mean], [mean]]
    assert updates[0].tolist() == [mean]


@pytest.mark.clause("C81")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "rule",
    [local_sgd(K), lookahead_rule(K, 0.3), diloco(K), ema(0.9, K), SyncRule(K, restart=0.5)],
    ids=["local_sgd", "lookahead", "diloco", "ema", "in part"],
)
def test_slow_weights_are_the_same_bits_on_every_worker(rule, dtype):
    optimizer, moves = make(rule), scattered(3 * K + 1, dtype)
    params, state = stepped(optimizer, moves, jnp.ones((WORKERS, 1000), dtype))
    halves = split(optimizer)
    for update in (halves.update, halves.update_and_sync):
        params, state = stepped(optimizer, moves[:1], params, state, update)
    for shared in (state.slow, *state.outer):
        np.testing.assert_array_equal(shared, np.broadcast_to(shared[0], shared.shape))
    np.testing.assert_array_equal(slow_params(state, params), state.slow)


@pytest.mark.clause("C10", "C81")
def test_parameters_land_within_a_rounding_and_can_be_put_back():
    optimizer, moves = make(local_sgd(K)), scattered(K)
    before, state = stepped(optimizer, moves[:-1], jnp.ones((WORKERS, 1000)))
    landed, state = stepped(optimizer, moves[-1:], before, state)
    # As far apart as where they come from is from numbers that it can be told from.
    eps, way = np.finfo("float32").eps, jnp.abs(state.slow - before)
    assert (landed != state.slow).any()
    assert (jnp.abs(landed - state.slow) <= eps * (way + jnp.abs(before))).all()
    np.testing.assert_array_equal(slow_params(state, landed), state.slow)


@pytest.mark.clause("C81")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("inner", INNERS)
def test_a_worker_alone_is_as_without_others(policy, inner, double_precision):
    ends = []
    for average in (None, alone):
        optimizer = lookahead(INNERS[inner](), K, 0.3, policy, average=average)
        kind = LookaheadState if average is None else SharedState
        assert type(optimizer.init(start())) is kind
        drop_in = train(optimizer, start(), optimizer.init(start()), 3 * K + 1)
        halves = split(optimizer)
        again = (start(), optimizer.init(start()))
        for step in range(1, 3 * K + 2):
            update = halves.update if step % K else halves.update_and_sync
            again = train(optimizer, *again, 1, update)
        ends.append([(p, slow_params(s, p), s.inner, s.inner_slow) for p, s in (drop_in, again)])
    assert_close(*ends, rtol=1e-12)


@pytest.mark.clause("C81", "C15")
def test_wide_slow_weights_keep_their_bits():
    optimizer = make(local_sgd(K), slow_dtype=jnp.float32)
    params, moves = jnp.ones((WORKERS, 1000), jnp.bfloat16), scattered(2 * K, "bfloat16")
    params, state = stepped(optimizer, moves, params)
    assert (params.dtype, state.slow.dtype) == (jnp.bfloat16, jnp.float32)
    assert (state.slow != state.slow.astype(jnp.bfloat16)).any()
    np.testing.assert_array_equal(state.slow, np.broadcast_to(state.slow[0], state.slow.shape))


@pytest.mark.clause("C81", "C14")
def test_leaves_that_are_not_averaged_are_each_workers_own():
    optimizer = meta_optimizer(optax.identity(), local_sgd(1), average=MEAN)
    params = {"x": jnp.zeros((2, 1)), "n": jnp.asarray([[1], [2]])}
    moves = {"x": jnp.asarray([[2.0], [4.0]]), "n": jnp.asarray([[10], [20]])}
    updates, state = each(optimizer.update)(moves, jax.vmap(optimizer.init)(params), params)
    assert updates["n"].tolist() == [[10], [20]]
    assert state.slow["n"].tolist() == [[11], [22]]
    assert state.slow["x"].tolist() == [[3.0], [3.0]]


@pytest.mark.clause("C81")
def test_the_mean_is_taken_at_syncs_alone():
    calls = []

    def average(differences):
        return jax.pure_callback(lambda own: calls.append(1) or own, differences, differences)

    optimizer, params = make(diloco(K), average), jnp.ones(2)
    update, state = jax.jit(optimizer.update), optimizer.init(jnp.ones(2))
    for step in range(1, 3 * K + 2):
        updates, state = update(params, state, params)
        params = jax.block_until_ready(optax.apply_updates(params, updates))
        assert len(calls) == step // K


@pytest.mark.clause("C81", "C54")
def test_the_plain_half_of_the_split_form_knows_no_mean():
    def never(differences):
        raise AssertionError("average was called")

    optimizer = make(diloco(K), never)
    state, parked = park(optimizer.init(jnp.ones(2)))
    updates, state = split(optimizer).update(jnp.ones(2), state, jnp.ones(2))
    assert updates.tolist() == [-1.0, -1.0]
    assert_same(unpark(state, parked).slow, jnp.ones(2))


@pytest.mark.clause("C81", "C05")
def test_a_sync_on_demand_takes_the_mean():
    optimizer = make(local_sgd(5))
    params, state = stepped(optimizer, [jnp.asarray([[2.0], [4.0]])], jnp.zeros((2, 1)))
    updates, state = each(optimizer.sync)(state, params)
    assert optax.apply_updates(params, updates).tolist() == [[3.0], [3.0]]
    assert state.step.tolist() == [0, 0]


@pytest.mark.clause("C81", "C26", "C52")
def test_weights_from_outside_are_taken_by_resync_alone():
    optimizer, loaded = make(local_sgd(5), alone), jnp.asarray([7.0])
    state = optimizer.init(jnp.zeros(1))
    assert slow_params(state, loaded).tolist() == [0.0]
    _, state = optimizer.update(jnp.zeros(1), state, loaded)
    assert state.slow.tolist() == [0.0]
    assert resync(state, loaded).slow.tolist() == [7.0]
    with pytest.raises(ValueError, match="params must be given to resync under a rule for many"):
        resync(state)


@pytest.mark.clause("C81")
def test_what_is_shared_can_be_kept_once():
    optimizer = optax.chain(optax.trace(0.0), make(diloco(1)))
    state = optimizer.init(jnp.zeros(1))
    axes = worker_axes(state, 0, None)
    ours = find_state(axes)
    assert (ours.step, ours.syncs, ours.slow, ours.outer) == (None,) * 4
    assert (axes[0].trace, ours.inner, ours.inner_slow) == (0, 0, 0)
    spread = jax.vmap(lambda s: s, in_axes=None, out_axes=axes, axis_size=2)(state)
    step = jax.vmap(optimizer.update, in_axes=(0, axes, 0), out_axes=(0, axes), axis_name="workers")
    _, after = step(jnp.asarray([[1.0], [3.0]]), spread, jnp.zeros((2, 1)))
    assert find_state(after).slow.shape == (1,)
    assert find_state(after).outer[0].tolist() == [2.0]


@pytest.mark.clause("C81")
def test_parameters_of_another_optimizer_are_left_alone():
    optimizer = optax.masked(make(local_sgd(1)), {"x": True, "y": False})
    params = {"x": jnp.zeros((2, 1)), "y": jnp.zeros((2, 1))}
    moves = jax.tree.map(lambda _: jnp.asarray([[2.0], [4.0]]), params)
    updates, _ = each(optimizer.update)(moves, jax.vmap(optimizer.init)(params), params)
    assert updates["x"].tolist() == [[-3.0], [-3.0]]
    assert updates["y"].tolist() == [[2.0], [4.0]]


@pytest.mark.clause("C81", "C24")
@pytest.mark.parametrize(
    ("rule", "average", "message"),
    [
        (local_sgd(), 1.0, "average must be a callable, .* got 1.0"),
        (lookahead_rule(5, AdaptiveAlpha()), MEAN, "many workers must not ask for gradients"),
        (ema(0.9, 1, start=3), MEAN, "many workers must not .* have a start"),
    ],
)
def test_what_workers_cannot_share_is_refused(rule, average, message):
    with pytest.raises(ValueError, match=message):
        make(rule, average)


@pytest.mark.clause("C81", "C25")
@pytest.mark.parametrize("update", ["update", "update_and_sync"])
def test_a_mean_of_another_shape_is_refused(update):
    optimizer, params = make(local_sgd(1), lambda own: [d[:1] for d in own]), jnp.ones(2)
    with pytest.raises(
        ValueError, match=r"average\(differences\)\[0\] must have the shape of differences\[0\]"
    ):
        getattr(split(optimizer)._replace(update=optimizer.update), update)(
            params, optimizer.init(params), params
        )


@pytest.mark.clause("C81", "C25")
def test_a_state_of_one_worker_is_not_that_of_many():
    params = jnp.ones(2)
    one, many = (make(snoo(K), average) for average in (None, alone))
    assert type(one.init(params)) is LookaheadState
    assert type(many.init(params)) is SharedState
    with pytest.raises(ValueError, match=r"state must be a SharedState, .* got LookaheadState"):
        many.update(params, one.init(params), params)
    with pytest.raises(ValueError, match=r"state must be a LookaheadState, .* got SharedState"):
        one.update(params, many.init(params), params)


@pytest.mark.clause("C81")
def test_a_mean_in_a_narrower_dtype_is_taken():
    optimizer = make(local_sgd(1), lambda own: [d.astype(jnp.bfloat16) for d in own])
    updates, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2))
    assert (updates.dtype, updates.tolist()) == (jnp.float32, [-1.0, -1.0])
