"""An alpha that each sync estimates: from the gradients that come in, and from Adam's curvature."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest

from family_runs import each, noise, noisy
from lookahead_core import AdaptiveAlpha, Interpolate, Momentum, SyncRule, nested
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.adapters.optax import find_state, lookahead, meta_optimizer, split
from optax_runs import assert_close, assert_same, start

pytestmark = pytest.mark.usefixtures("double_precision")

PERIOD, STEPS, LOW = 2, 9, 0.05
B2 = 0.97
# Large steps, which leap over the valley: small ones give an alpha of 1.
INNERS = {"secant": lambda: optax.sgd(0.4), "inner": lambda: optax.adam(2.5, b2=B2)}


def made(curvature, low=LOW):
    alpha = AdaptiveAlpha(low, twice if curvature == "callable" else curvature)
    return lookahead(INNERS.get(curvature, INNERS["secant"])(), PERIOD, alpha)


def twice(way):
    return [2.0 * leaf for leaf in way]


def product(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return sum(float((a * b).sum()) for a, b in pairs)


def subtracted(left, right):
    return jax.tree.map(jnp.subtract, left, right)


def corrected(step, moment):
    return moment / (1 - B2**step)


def by_hand(curvature):
    """Proposition 1 as a loop: the parameters after each step, and the alphas."""
    inner = INNERS.get(curvature, INNERS["secant"])()
    slow = params = start()
    state, trace, alphas = inner.init(params), [], []
    for step, of_step in enumerate(each(noise(STEPS)), 1):
        gradient = noisy(params, of_step)
        first = gradient if step % PERIOD == 1 else first  # noqa: F821
        updates, state = inner.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        if step % PERIOD == 0:
            way = subtracted(slow, params)
            if curvature == "inner":
                moments = jax.tree.map(partial(corrected, step), state[0].nu)
                curved = jax.tree.map(lambda v, d: v**0.5 * d, moments, way)
            elif curvature == "callable":
                curved = jax.tree.map(lambda d: 2.0 * d, way)
            else:
                curved = subtracted(first, gradient)
            bend = product(curved, way)
            alpha = 1 + product(gradient, way) / bend if bend > 0 else 1.0
            alphas.append(min(max(alpha, LOW), 1.0))
            slow = jax.tree.map(lambda s, f: s + alphas[-1] * (f - s), slow, params)
            params = slow
        trace.append(params)
    return trace, alphas


def run(optimizer, mode):
    def step(carry, of_step):
        params, state = carry
        updates, state = optimizer.update(noisy(params, of_step), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    carry = (start(), optimizer.init(start()))
    if mode == "scan":
        return each(jax.jit(lambda c: jax.lax.scan(step, c, noise(STEPS)))(carry)[1])
    step, trace = jax.jit(step) if mode == "jit" else step, []
    for of_step in each(noise(STEPS)):
        carry, params = step(carry, of_step)
        trace.append(params)
    return trace


@pytest.mark.clause("C77")
@pytest.mark.parametrize("mode", ["eager", "jit", "scan"])
@pytest.mark.parametrize("curvature", ["secant", "inner", "callable"])
def test_the_estimate_is_proposition_1(curvature, mode):
    expected, alphas = by_hand(curvature)
    assert any(LOW < alpha < 1 for alpha in alphas), alphas
    assert_close(run(made(curvature), mode), expected, rtol=1e-12)


@pytest.mark.clause("C77")
@pytest.mark.parametrize("curvature", ["secant", "inner"])
def test_the_split_form_estimates_it_too(curvature):
    halves = split(made(curvature))
    params, state, trace = start(), halves.init(start()), []
    for step, of_step in enumerate(each(noise(STEPS)), 1):
        update = jax.jit(halves.update if step % PERIOD else halves.update_and_sync)
        updates, state = update(noisy(params, of_step), state, params)
        params = optax.apply_updates(params, updates)
        trace.append(params)
    assert_close(trace, by_hand(curvature)[0], rtol=1e-12)


@pytest.mark.clause("C77")
@pytest.mark.parametrize("period", [1, 2])
def test_in_the_split_form_a_step_that_begins_and_ends_a_cycle_does_both(period):
    optimizer = lookahead(optax.sgd(0.4), period, AdaptiveAlpha(LOW))
    halves, both = split(optimizer), []
    for syncing in (halves.update_and_sync, None):
        params, state = start(), optimizer.init(start())
        for step, of_step in enumerate(each(noise(STEPS)), 1):
            plain = halves.update if step % period else syncing
            update = plain if syncing else optimizer.update
            updates, state = update(noisy(params, of_step), state, params)
            params = optax.apply_updates(params, updates)
        both.append((params, state.outer))
    assert_close(*both)


INSIDE = {
    "chain": lambda adam: optax.chain(optax.add_decayed_weights(1e-2), optax.clip(9.0), adam),
    "inject_hyperparams": lambda adam: optax.inject_hyperparams(optax.adam)(2.5, b2=B2),
    "masked": lambda adam: optax.masked(adam, {"layer": True, "other": True}),
    "apply_if_finite": lambda adam: optax.apply_if_finite(adam, 3),
}


@pytest.mark.clause("C77")
@pytest.mark.parametrize("name", INSIDE)
def test_adams_decay_is_found_wherever_adam_is(name):
    inner = INSIDE[name](INNERS["inner"]())
    rule = SyncRule(2, Interpolate(AdaptiveAlpha(LOW, Spy())))
    known = SyncRule(2, Interpolate(AdaptiveAlpha(LOW, "inner")))
    ours = meta_optimizer(inner, known)
    params, state = start(), ours.init(start())
    updates, state = ours.update(params, state, params)
    between = optax.apply_updates(params, updates)
    updates, _ = ours.update(between, state, between)
    # The same once more, with the root of the corrected moment given by hand.
    spying = meta_optimizer(inner, rule)
    bare = inner.init(params)
    _, bare = inner.update(params, bare, params)
    _, bare = inner.update(between, bare, between)
    nu = optax.tree_utils.tree_get(bare, "nu")
    Spy.diagonal = [jnp.sqrt(v / (1 - B2**2)) for v in jax.tree.leaves(nu)]
    again = spying.init(params)
    _, again = spying.update(params, again, params)
    expected, _ = spying.update(between, again, between)
    assert_close(updates, expected, rtol=1e-6 if name == "inject_hyperparams" else 1e-12)


class Spy:
    """Curvature that was worked out elsewhere."""

    diagonal = None

    def __call__(self, way):
        ones = [jnp.ones_like(d) for d in way]
        return [a * d for a, d in zip(self.diagonal or ones, way, strict=True)]


@pytest.mark.clause("C25", "C77")
@pytest.mark.parametrize(
    ("inner", "number"),
    [
        (lambda: optax.sgd(0.1), 0),
        (lambda: optax.chain(optax.adam(0.1), optax.adam(0.1)), 2),
    ],
)
def test_without_exactly_one_adam_there_is_no_curvature(inner, number):
    optimizer = lookahead(inner(), PERIOD, AdaptiveAlpha(curvature="inner"))
    message = f"inner must hold exactly one ScaleByAdamState .*, got {number} in"
    with pytest.raises(ValueError, match=message):
        optimizer.update(start(), optimizer.init(start()), start())


@pytest.mark.clause("C25", "C77")
def test_an_adam_of_some_parameters_alone_is_refused():
    inner = optax.masked(optax.adam(0.1), {"layer": True, "other": False})
    optimizer = lookahead(inner, PERIOD, AdaptiveAlpha(curvature="inner"))
    with pytest.raises(ValueError, match=r"the nu of ScaleByAdamState\['other'\]\[0\] must be"):
        optimizer.update(start(), optimizer.init(start()), start())


@pytest.mark.clause("C05", "C25", "C77")
@pytest.mark.parametrize("curvature", ["secant", "inner"])
def test_a_sync_on_demand_needs_a_gradient(curvature):
    optimizer = made(curvature)
    params, state = start(), optimizer.init(start())
    for _ in range(PERIOD + 1):
        updates, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
    with pytest.raises(ValueError, match="gradient must be given to a sync with AdaptiveAlpha"):
        optimizer.sync(state, params)
    updates, synced = optimizer.sync(state, params, subtracted(params, state.slow))
    assert (synced.step.item(), synced.syncs.item()) == (0, 2)
    assert any(leaf.any() for leaf in jax.tree.leaves(updates))
    with pytest.raises(ValueError, match=r"gradient must be .*gradient\['other'\]\[0\] an array"):
        optimizer.sync(state, params, {**params, "other": [jnp.ones(3)]})


@pytest.mark.clause("C77", "C78")
@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_the_first_of_two_nested_rules_may_estimate_its_alpha(mode):
    first, second = lookahead_rule(PERIOD, AdaptiveAlpha(LOW)), lookahead_rule(PERIOD, 1.0)
    ours = meta_optimizer(optax.sgd(0.4), nested(first, second))
    assert_close(run(ours, mode), by_hand("secant")[0], rtol=1e-12)


@pytest.mark.clause("C19", "C77")
def test_nothing_is_read_by_the_host():
    optimizer = made("inner")
    step = jax.make_jaxpr(optimizer.update)(start(), optimizer.init(start()), start())
    assert "callback" not in str(step)


@pytest.mark.clause("C12", "C77")
def test_a_nan_between_syncs_does_not_outlive_its_cycle_in_the_kept_gradient():
    optimizer = made("secant")
    params, state = start(), optimizer.init(start())
    bad = jax.tree.map(lambda p: p * jnp.nan, params)
    _, poisoned = optimizer.update(bad, state, params)
    assert_same(poisoned.slow, params)
    assert jnp.isnan(find_state(poisoned).outer[0]["layer"]["x"]).all()
    # The next first step of a cycle overwrites it.
    _, after = optimizer.update(params, poisoned._replace(step=jnp.asarray(0, jnp.int32)), params)
    assert_same(after.outer[0], params)


@pytest.mark.clause("C71", "C77")
def test_rules_that_ask_for_no_gradient_are_given_none():
    optimizer = meta_optimizer(optax.sgd(0.1), SyncRule(1, Momentum()))
    updates, _ = optimizer.sync(optimizer.init(start()), start(), start())
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
