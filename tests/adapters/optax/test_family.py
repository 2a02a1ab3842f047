"""Each method of the family is its textbook's, written as a plain loop, or optax's own."""

import jax
import jax.numpy as jnp
import optax
import pytest

from family_runs import MODES, by_hand, inner, mixed, run
from lookahead_core import (
    Interpolate,
    Momentum,
    SyncRule,
    bmuf,
    diloco,
    ema,
    nested,
    polyak,
    reptile,
    slowmo,
    snoo,
    swa,
    switch_ema,
)
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.adapters.optax import lookahead, meta_optimizer, slow_params
from optax_runs import assert_close, assert_same, start

pytestmark = pytest.mark.usefixtures("double_precision")

PERIOD = 3


def require_equal(optimizer, sync, mode, params=None, read=slow_params):
    """Fast and slow weights after each step are those of the loop by hand."""
    fast, slow, _ = run(optimizer, mode, params, read=read)
    expected = by_hand(sync, params)
    assert_close((fast, slow), expected, rtol=1e-13)


# --- averages that training does not see ---


class Average:
    """The mean of what it was given, as a sum and a number."""

    def __init__(self, first=None):
        self.total, self.number = first, 0 if first is None else 1

    def take(self, weights):
        self.total = weights if self.number == 0 else mixed(jnp.add, self.total, weights)
        self.number += 1

    def mean(self):
        return mixed(lambda total: total / self.number, self.total)


def exponential(decay, begin=0, period=1):
    """average = decay * average + (1 - decay) * weights, from the weights at `begin` on."""
    average = start()

    def sync(step, fast):
        nonlocal average
        if step <= begin:
            average = fast
        elif (step - begin) % period == 0:
            average = mixed(lambda a, f: decay * a + (1 - decay) * f, average, fast)
        return fast, average

    return sync


def mean_of_all(begin):
    """Polyak and Ruppert: the mean of the weights after each step, after `begin` of them."""
    average = Average()

    def sync(step, fast):
        if step > begin:
            average.take(fast)
        return fast, average.mean() if step > begin else fast

    return sync


def mean_of_every(period, begin):
    """SWA: the mean of the weights at `begin` and of every period-th after it."""
    average = Average(None if begin else start())

    def sync(step, fast):
        if step >= begin and (step - begin) % period == 0:
            average.take(fast)
        return fast, average.mean() if step >= begin else fast

    return sync


AVERAGES = {
    "ema": (ema(0.9), lambda: exponential(0.9)),
    "ema, begun late": (ema(0.9, start=4), lambda: exponential(0.9, 4)),
    "ema, of every third": (ema(0.75, PERIOD, 2), lambda: exponential(0.75, 2, PERIOD)),
    "polyak": (polyak(), lambda: mean_of_all(0)),
    "polyak, begun late": (polyak(start=5), lambda: mean_of_all(5)),
    "swa": (swa(PERIOD), lambda: mean_of_every(PERIOD, 0)),
    "swa, begun late": (swa(PERIOD, start=4), lambda: mean_of_every(PERIOD, 4)),
}


@pytest.mark.clause("C72", "C73", "C75", "C79")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_is_that_of_its_text(name, mode):
    rule, text = AVERAGES[name]
    require_equal(meta_optimizer(inner(), rule), text(), mode)


@pytest.mark.clause("C79")
def test_ema_from_zero_is_optax_ema_of_the_parameters():
    zero = mixed(jnp.zeros_like, start())
    average = optax.ema(0.9, debias=False)
    state = average.init(zero)

    def sync(step, fast):
        nonlocal state
        slow, state = average.update(fast, state)
        return fast, slow

    require_equal(meta_optimizer(inner(), ema(0.9)), sync, "jit", zero)


@pytest.mark.clause("C72")
@pytest.mark.parametrize("rule", [ema(0.9), swa(PERIOD, 4), SyncRule(2, Momentum(), restart=0.0)])
def test_without_a_restart_the_updates_are_the_inner_ones_bit_for_bit(rule):
    optimizer, bare = meta_optimizer(inner(), rule), inner()
    params, state, alone = start(), optimizer.init(start()), bare.init(start())
    for _ in range(9):
        updates, state = optimizer.update(params, state, params)
        expected, alone = bare.update(params, alone, params)
        assert_same(updates, expected)
        params = optax.apply_updates(params, updates)
    assert_same(state.inner, alone)


# --- averages that training goes on from ---


def overwriting(decay, period, first_is_copied):
    """Keras' use_ema, ema_momentum and ema_overwrite_frequency, as base_optimizer.py has them."""
    average = start()

    def sync(step, fast):
        nonlocal average
        momentum = 0.0 if step == 1 and first_is_copied else decay
        average = mixed(lambda a, f: momentum * a + (1 - momentum) * f, average, fast)
        return (average if step % period == 0 else fast), average

    return sync


@pytest.mark.clause("C72", "C79")
@pytest.mark.parametrize("mode", MODES)
def test_switch_ema_overwrites_the_weights_as_keras_does(mode):
    optimizer = meta_optimizer(inner(), switch_ema(4, decay=0.9))
    require_equal(optimizer, overwriting(0.9, 4, first_is_copied=False), mode)


@pytest.mark.clause("C72", "C75")
def test_keras_3_begins_with_the_weights_after_the_first_step_which_a_schedule_does():
    alpha = Interpolate(lambda syncs: jnp.where(syncs == 0, 1.0, 1 - 0.9))
    optimizer = meta_optimizer(inner(), SyncRule(1, alpha, restart_period=4))
    require_equal(optimizer, overwriting(0.9, 4, first_is_copied=True), "jit")


@pytest.mark.clause("C72")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("restart", "period"), [(0.4, 1), (0.25, 2), (1.0, 3)])
def test_fast_weights_go_back_in_part_or_now_and_then(restart, period, mode):
    slow, syncs = start(), 0

    def sync(step, fast):
        nonlocal slow, syncs
        if step % PERIOD:
            return fast, slow
        syncs += 1
        slow = mixed(lambda s, f: s + 0.3 * (f - s), slow, fast)
        if syncs % period == 0:
            fast = mixed(lambda s, f: f + restart * (s - f), slow, fast)
        return fast, slow

    rule = SyncRule(PERIOD, Interpolate(0.3), restart=restart, restart_period=period)
    require_equal(meta_optimizer(inner(), rule), sync, mode)


# --- momentum ---


def by_optax(outer, period=PERIOD, begin=0):
    """Any transformation of optax on the pseudo-gradient."""
    slow, state = start(), outer.init(start())

    def sync(step, fast):
        nonlocal slow, state
        if step <= begin:
            slow = fast
        elif (step - begin) % period == 0:
            updates, state = outer.update(mixed(jnp.subtract, slow, fast), state, slow)
            fast = slow = optax.apply_updates(slow, updates)
        return fast, slow

    return sync


MOMENTA = {
    "slowmo": (slowmo(PERIOD), lambda: optax.sgd(1.0, 0.5)),
    "bmuf": (bmuf(PERIOD), lambda: optax.sgd(1.0, 0.875)),
    "bmuf, nesterov": (bmuf(PERIOD, nesterov=True), lambda: optax.sgd(1.0, 0.875, nesterov=True)),
    "snoo": (snoo(PERIOD), lambda: optax.sgd(0.68, 0.37, nesterov=True)),
    "diloco": (diloco(PERIOD), lambda: optax.sgd(0.7, 0.9, nesterov=True)),
}


@pytest.mark.clause("C71", "C79")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MOMENTA)
def test_momentum_is_optax_sgd_on_the_pseudo_gradient(name, mode):
    rule, outer = MOMENTA[name]
    require_equal(meta_optimizer(inner(), rule), by_optax(outer()), mode)


@pytest.mark.clause("C71", "C73")
def test_momentum_that_begins_late_is_the_inner_optimizer_until_then():
    rule = SyncRule(PERIOD, Momentum(0.7, 0.9), start=4)
    outer = optax.sgd(0.7, 0.9, nesterov=True)
    require_equal(meta_optimizer(inner(), rule), by_optax(outer, begin=4), "jit")


@pytest.mark.clause("C71")
@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_zero_is_lookahead_with_the_rate_for_alpha(nesterov):
    ours = meta_optimizer(inner(), SyncRule(PERIOD, Momentum(0.3, 0.0, nesterov)))
    plain = lookahead(inner(), PERIOD, 0.3)
    assert_close(run(ours)[:2], run(plain)[:2], rtol=1e-13)


@pytest.mark.clause("C71", "C79")
def test_snoo_around_one_step_of_sgd_is_nesterovs_method():
    ours = run(meta_optimizer(optax.sgd(0.1), snoo(1)))[0]
    nesterov = optax.sgd(0.068, 0.37, nesterov=True)
    assert_close(ours, by_hand(lambda _, fast: (fast, fast), transformation=nesterov)[0])


# --- nested, and rules of one's own ---


@pytest.mark.clause("C78")
def test_nested_with_equal_periods_is_one_rule_with_the_product_of_both_alphas():
    rules = (
        nested(lookahead_rule(PERIOD, 0.5), lookahead_rule(PERIOD, 0.6)),
        lookahead_rule(PERIOD, 0.3),
    )
    optimizers = [meta_optimizer(inner(), rule) for rule in rules]
    assert_close(*(run(o, read=o.slow_params)[:2] for o in optimizers), rtol=1e-13)


@pytest.mark.clause("C78")
@pytest.mark.parametrize("mode", MODES)
def test_nested_syncs_the_slow_weights_with_a_slower_copy(mode):
    slow, deep = start(), start()

    def sync(step, fast):
        nonlocal slow, deep
        if step % 2 == 0:
            fast = slow = mixed(lambda s, f: s + 0.5 * (f - s), slow, fast)
        if step % 6 == 0:
            fast = slow = deep = mixed(lambda d, s: d + 0.6 * (s - d), deep, slow)
        return fast, deep  # the slower copy is what is evaluated

    optimizer = meta_optimizer(inner(), nested(lookahead_rule(2, 0.5), lookahead_rule(6, 0.6)))
    require_equal(optimizer, sync, mode, read=optimizer.slow_params)


class OuterAdam:
    """A rule as a user writes it, with jnp: Adam on the pseudo-gradient."""

    def init(self, slow):
        moments = [jnp.zeros_like(s) for s in slow]
        return moments, list(moments)

    def update(self, slow, fast, state, context):
        count = context.syncs + 1
        gradient = [s - f for s, f in zip(slow, fast, strict=True)]
        first = [0.9 * m + 0.1 * g for m, g in zip(state[0], gradient, strict=True)]
        second = [0.99 * v + 0.01 * g**2 for v, g in zip(state[1], gradient, strict=True)]
        root = [jnp.sqrt(v / (1 - 0.99**count)) + 1e-3 for v in second]
        ways = [m / (1 - 0.9**count) / r for m, r in zip(first, root, strict=True)]
        return [s - 0.05 * way for s, way in zip(slow, ways, strict=True)], (first, second)


@pytest.mark.clause("C76")
@pytest.mark.parametrize("mode", MODES)
def test_a_rule_of_ones_own_works_as_the_built_in_ones(mode):
    outer = optax.adam(0.05, 0.9, 0.99, eps=1e-3)
    optimizer = meta_optimizer(inner(), SyncRule(PERIOD, OuterAdam()))
    fast, slow, state = run(optimizer, mode)
    # optax has its bias corrections in float32.
    assert_close((fast, slow), by_hand(by_optax(outer)), rtol=1e-6)
    assert [jax.tree.structure(slot) for slot in state.outer] == 2 * [jax.tree.structure(start())]


# --- schedules ---


@pytest.mark.clause("C51", "C75")
@pytest.mark.parametrize("mode", MODES)
def test_a_schedule_is_computed_in_the_precision_of_the_weights(mode):
    slow = start()

    def sync(step, fast):
        nonlocal slow
        if step % PERIOD == 0:
            alpha = 1 / (step // PERIOD + 2)
            fast = slow = mixed(lambda s, f: s + alpha * (f - s), slow, fast)
        return fast, slow

    rule = reptile(PERIOD, step_size=lambda syncs: 1 / (syncs + 3))
    require_equal(meta_optimizer(inner(), rule), sync, mode)


@pytest.mark.clause("C75")
@pytest.mark.parametrize("mode", MODES)
def test_the_outer_rate_and_the_momentum_may_be_schedules(mode):
    slow, buffer = start(), mixed(jnp.zeros_like, start())

    def sync(step, fast):
        nonlocal slow, buffer
        if step % PERIOD == 0:
            syncs = step // PERIOD - 1
            lr, momentum = 1 / (syncs + 1), syncs / (syncs + 2)
            gradient = mixed(jnp.subtract, slow, fast)
            buffer = mixed(lambda b, g: momentum * b + g, buffer, gradient)
            fast = slow = mixed(lambda s, b: s - lr * b, slow, buffer)
        return fast, slow

    outer = Momentum(lambda n: 1 / (n + 1), lambda n: n / (n + 2), nesterov=False)
    require_equal(meta_optimizer(inner(), SyncRule(PERIOD, outer)), sync, mode)


@pytest.mark.clause("C75")
def test_the_derivative_by_the_outer_rate_is_the_difference_quotient():
    @jax.jit
    def loss(lr):
        last = run(meta_optimizer(inner(), SyncRule(PERIOD, Momentum(lr, 0.5))), "scan")[0][-1]
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(last))

    derivative = jax.jit(jax.grad(loss))(0.7)
    quotient = (loss(0.7 + 1e-6) - loss(0.7 - 1e-6)) / 2e-6
    assert derivative.item() == pytest.approx(quotient.item(), rel=1e-6)


@pytest.mark.clause("C19", "C72")
def test_an_average_can_be_mapped_over_its_decay():
    decays = jnp.asarray([0.0, 0.5, 0.9])

    def last(alpha):
        rule = SyncRule(1, Interpolate(alpha), restart=0.0)
        return jax.tree.map(lambda *leaves: leaves[-1], *run(meta_optimizer(inner(), rule))[1])

    swept = jax.vmap(last)(1 - decays)
    for index, decay in enumerate(decays.tolist()):
        expected = by_hand(exponential(decay))[1][-1]
        assert_close(jax.tree.map(lambda leaf, i=index: leaf[i], swept), expected, rtol=1e-12)
