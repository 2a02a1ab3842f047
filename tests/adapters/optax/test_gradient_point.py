"""Averages where gradients are taken, in optax: optax's own, the papers' lines, rates."""

import jax
import jax.numpy as jnp
import optax
import pytest

from family_runs import MODES, by_hand, inner, mixed, run
from lookahead_core import ema_nesterov, gpa, schedule_free
from lookahead_core.adapters.optax import meta_optimizer, slow_params
from optax_runs import assert_close, start

pytestmark = pytest.mark.usefixtures("double_precision")


def require_equal(rule, sync, mode, transformation=None):
    transformation = inner() if transformation is None else transformation
    optimizer = meta_optimizer(transformation, rule)
    fast, slow, _ = run(optimizer, mode, read=optimizer.slow_params)
    assert_close((fast, slow), by_hand(sync, transformation=transformation), rtol=1e-13)


class Primal:
    """The lines of Schedule-Free and of GPA, in trees."""

    def __init__(self, mu_x, mu_y):
        self.mu_x, self.mu_y, self.y, self.z, self.x = mu_x, mu_y, *[start()] * 3

    def __call__(self, step, after):
        self.z = mixed(lambda z, moved, y: z + (moved - y), self.z, after, self.y)
        mu_x = self.mu_x(step)
        self.x = mixed(lambda x, z: mu_x * x + (1 - mu_x) * z, self.x, self.z)
        self.y = mixed(lambda x, z: self.mu_y * x + (1 - self.mu_y) * z, self.x, self.z)
        return self.y, self.x


@pytest.mark.clause("C79", "C85", "C86")
@pytest.mark.parametrize("mode", MODES)
def test_gpa_is_its_papers_lines(mode):
    require_equal(gpa(0.9, 0.7), Primal(lambda step: 0.9, 0.7), mode)


@pytest.mark.clause("C79", "C85", "C86")
@pytest.mark.parametrize("mode", MODES)
def test_ema_nesterov_is_its_papers_lines(mode):
    state = {"x": start(), "m": mixed(jnp.zeros_like, start())}

    def move(step, after):
        moves = mixed(jnp.subtract, after, state["x"])
        state["m"] = mixed(lambda m, move: 0.9 * m + (1 - 0.9) * move, state["m"], moves)
        state["x"] = after
        return mixed(lambda x, m: x + 0.5 * m, after, state["m"]), after

    require_equal(ema_nesterov(0.5, 0.9), move, mode)


def warming_up(count):
    count = jnp.asarray(count, float)  # an int32 would make it float32
    return 0.1 * jnp.minimum(1.0, (count + 1) / 8) * 0.97**count


def injected(schedule=warming_up):
    return optax.inject_hyperparams(optax.adamw, hyperparam_dtype=jnp.float64)(
        learning_rate=schedule, b1=0.0, b2=0.99, weight_decay=0.1
    )


@pytest.mark.clause("C79", "C85", "C86", "C87")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", [0.9, 0.5])
def test_schedule_free_goes_by_the_injected_rate(beta, mode):
    tops = [max(float(warming_up(count)) for count in range(n + 1)) ** 2 for n in range(32)]
    sync = Primal(lambda step: sum(tops[: step - 1]) / sum(tops[:step]), beta)
    require_equal(schedule_free(beta), sync, mode, injected())


@pytest.mark.clause("C79", "C85", "C86")
@pytest.mark.parametrize("beta", [0.9, 0.5])
def test_schedule_free_is_optaxs_own_but_for_the_step_that_its_rate_is_of(beta):
    """optax 0.2.8 counts its weights from one, so in a warm-up they are of the rate to come."""
    base = optax.adamw(warming_up, b1=0.0, b2=0.99, weight_decay=0.1)
    shifted = meta_optimizer(injected(), schedule_free(beta))
    theirs = optax.contrib.schedule_free(base, lambda count: warming_up(count - 1), b1=beta)
    fast, slow, _ = run(shifted, read=shifted.slow_params)
    expected = run(theirs, read=optax.contrib.schedule_free_eval_params)
    assert_close((fast, slow), expected[:2], rtol=1e-12)


@pytest.mark.clause("C87")
def test_the_rate_may_come_as_an_extra_argument():
    optimizer, leaf = meta_optimizer(optax.adamw(0.1), schedule_free()), jnp.ones(2)
    state = optimizer.init(leaf)
    for rate in (0.0, 0.5, 0.25):
        _, state = jax.jit(optimizer.update)(leaf, state, leaf, learning_rate=rate)
    assert state.outer[1].tolist() == [0.5, 0.5]  # 0.5 squared, twice, and the largest


@pytest.mark.clause("C25", "C87")
def test_a_rate_that_is_not_to_be_known_is_asked_for():
    params = start()
    for transformation in (
        optax.sgd(0.1),
        optax.chain(injected(), optax.inject_hyperparams(optax.scale_by_learning_rate)(0.1)),
    ):
        optimizer = meta_optimizer(transformation, schedule_free())
        with pytest.raises(ValueError, match=r"inject_hyperparams.*weight_lr_power=0.*got [02] in"):
            optimizer.update(params, optimizer.init(params), params)
    optimizer = meta_optimizer(optax.sgd(0.1), schedule_free(weight_lr_power=0.0))
    optimizer.update(params, optimizer.init(params), params)


@pytest.mark.clause("C22", "C86")
def test_the_read_out_needs_the_optimizer_and_says_so():
    optimizer, params = meta_optimizer(optax.sgd(0.1), gpa()), start()
    with pytest.raises(ValueError, match=r"call optimizer\.slow_params\(state, params\)"):
        slow_params(optimizer.init(params), params)


@pytest.mark.clause("C32", "C87")
@pytest.mark.parametrize("power", [0.0, 2.0])
def test_a_complex_leaf_of_two_numbers_has_two_real_weights_and_a_real_rate(power):
    params = jnp.asarray([1.0 + 2.0j, -3.0j])
    injected_rate = optax.inject_hyperparams(optax.sgd)(0.5)  # of the dtype of the parameters
    optimizer = meta_optimizer(injected_rate, schedule_free(beta=0.5, weight_lr_power=power))
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(jnp.ones_like(params), state, params)
        params = optax.apply_updates(params, updates)
    # The iterates are half a step and a whole one down; y is between the last and their mean.
    assert_close(optimizer.slow_params(state, params), jnp.asarray([0.25 + 2.0j, -0.75 - 3.0j]))
    assert_close(params, jnp.asarray([0.125 + 2.0j, -0.875 - 3.0j]))
