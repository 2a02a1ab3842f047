"""optimistix: OptaxMinimiser takes the transformation, and its state has the slow weights."""

import jax
import jax.numpy as jnp
import optax
import optimistix
import pytest

from lookahead_core.adapters.optax import find_state, lookahead, slow_params
from optax_runs import assert_close, by_hand

K, ALPHA, STEPS = 3, 0.5, 8
GOAL = jnp.asarray([1.0, -2.0])


def loss(params, arguments):
    return ((params - GOAL) ** 2 * jnp.asarray([1.0, 3.0])).sum()


def minimised(steps):
    # Tolerances that are never met: the run ends after so many steps.
    solver = optimistix.OptaxMinimiser(lookahead(optax.adam(0.1), K, ALPHA), rtol=0.0, atol=0.0)
    return optimistix.minimise(loss, solver, jnp.zeros(2), max_steps=steps, throw=False)


def expected(steps):
    gradient = jax.grad(lambda params: loss(params, None))
    return by_hand(optax.adam(0.1), jnp.zeros(2), steps, K, ALPHA, gradient)


@pytest.mark.parametrize("steps", [K, STEPS])
def test_a_minimiser_follows_the_method(steps):
    assert_close(minimised(steps).value, expected(steps), rtol=1e-5)


def test_the_slow_weights_are_read_from_the_state_of_a_minimiser():
    solution = minimised(STEPS)
    assert find_state(solution.state).syncs == STEPS // K
    slow = slow_params(solution.state, solution.value)
    assert_close(slow, expected(STEPS // K * K), rtol=1e-5)
