"""The period as a schedule of the syncs, in optax: eager, jit and scan; the split form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from family_runs import MODES, by_hand, inner, mixed, run
from lookahead_core import PostLocal, QuadraticPeriod, Ramp, lookahead
from lookahead_core.adapters.optax import find_state, meta_optimizer, split
from lookahead_core.adapters.optax import lookahead as lookahead_around
from optax_runs import assert_close, start

pytestmark = pytest.mark.usefixtures("double_precision")

QUADRATIC = QuadraticPeriod(Ramp(0.5, 0.125, 4), growth=1.0, least=1, most=7)
SCHEDULES = {
    "post-local": (PostLocal(3, 4), {1, 2, 3, 7, 11, 15, 19, 23}),
    "quadratic": (QUADRATIC, {4, 10, 17}),
}


@pytest.mark.clause("C02", "C19", "C90")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_a_plain_loop(name, mode):
    period, ends = SCHEDULES[name]
    held = {"slow": start()}

    def sync(step, fast):
        if step not in ends:
            return fast, held["slow"]
        held["slow"] = mixed(lambda s, f: s + 0.3 * (f - s), held["slow"], fast)
        return held["slow"], held["slow"]

    optimizer = meta_optimizer(inner(), lookahead(period, 0.3))
    fast, slow, state = run(optimizer, mode)
    assert_close((fast, slow), by_hand(sync), rtol=1e-13)
    assert int(state.syncs) == len(ends)


@pytest.mark.clause("C54", "C90")
def test_the_split_form_follows_a_loop_that_asks_the_schedule():
    period = PostLocal(2, 3)
    params = {"w": jnp.ones(2)}
    whole = lookahead_around(optax.sgd(0.25), period, 0.5)
    halves, updates_of = split(whole), jax.jit(whole.update)
    ours, state, other, theirs = params, halves.init(params), params, whole.init(params)
    count = syncs = 0
    for _ in range(9):
        count += 1
        due = count == period(syncs)
        update = halves.update_and_sync if due else halves.update
        updates, state = update(ours, state, ours)
        ours = optax.apply_updates(ours, updates)
        updates, theirs = updates_of(other, theirs, other)
        other = optax.apply_updates(other, updates)
        count, syncs = (0, syncs + 1) if due else (count, syncs)
        np.testing.assert_allclose(ours["w"], other["w"], rtol=0, atol=1e-13)
    assert int(find_state(theirs).syncs) == syncs == 4


@pytest.mark.clause("C24", "C90")
def test_a_schedule_of_floats_is_refused_while_it_is_traced():
    """optax's own give floats; `lambda syncs: schedule(syncs).astype(int)` is the way."""
    optimizer = lookahead_around(optax.sgd(0.25), lambda syncs: 1.0 * syncs + 2, 0.5)
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="sync_period must be an int >= 1"):
        jax.jit(optimizer.update)(params, optimizer.init(params), params)
