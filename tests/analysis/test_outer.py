"""Effective learning rates and momentum outer rules: against loops, and against print."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookahead_core import lookahead
from lookahead_core.analysis import (
    effective_learning_rate,
    lookahead_variance_factor,
    momentum_outer_gain,
    momentum_outer_variance_factor,
    reset_gain,
    sgd_variance,
)

# Outer lr, momentum, Nesterov, k; then V_slow / V_SGD at lr * curvature = .001, .01, .1, .5.
PRINTED = [
    (0.7, 0.9, True, 5, 6.818627696, 5.596372368, 2.720899164, 1.929057428),
    (0.3, 0.9, True, 30, 2.787547874, 1.794475075, 0.7639550416, 0.7275383499),
    (0.68, 0.37, True, 5, 1.078568208, 1.071553682, 1.013465397, 0.9034670566),
    (1.0, 0.5, False, 5, 1.998333892, 1.983392031, 1.841917938, 1.523076923),
    (1.0, 0.5, False, 30, 1.990045541, 1.904989747, 1.531133477, 1.500000001),
]


@pytest.mark.parametrize("inner_state", ["maintain", "reset", "interpolate"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_slow_weights_move_at_the_effective_rate_along_a_constant_gradient(inner_state, momentum):
    rule = lookahead(5, 0.5, inner_state)
    fast, velocity = [np.asarray(0.0)], [np.asarray(0.0)]
    state, places = rule.init(fast, velocity), []
    for _ in range(2000):
        velocity = [momentum * velocity[0] + 1.0]
        fast, velocity, state = rule.step([fast[0] - 0.1 * velocity[0]], velocity, state)
        places.append(float(rule.slow(fast, state)[0]))
    measured = (places[-6] - places[-1]) / 5
    assert effective_learning_rate(rule, 0.1, momentum) == pytest.approx(measured, rel=1e-10)


@pytest.mark.parametrize(
    ("momentum", "k", "gain"),
    [(0.9, 1, 0.1), (0.9, 5, 0.262882), (0.9, 20, 0.6047094946), (0.99, 10, 0.0533825426)],
)
def test_reset_gains_are_the_printed_ones(momentum, k, gain):
    assert reset_gain(momentum, k) == pytest.approx(gain, abs=1e-10)


@pytest.mark.parametrize(("lr", "momentum", "nesterov", "k", "a", "b", "c", "d"), PRINTED)
def test_variance_factors_of_momentum_rules_are_the_printed_ones(
    lr, momentum, nesterov, k, a, b, c, d
):
    steps = np.asarray([0.001, 0.01, 0.1, 0.5])
    factors = momentum_outer_variance_factor(steps, 1.0, k, lr, momentum, nesterov)
    np.testing.assert_allclose(factors, [a, b, c, d], rtol=1e-9)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("step", "k"), [(0.1, 5), (0.5, 3), (1.4, 4)])
def test_the_factor_is_that_of_the_loop_on_symbols(step, k, nesterov):
    lr, momentum, steps = 0.7, 0.6, 480
    slow = fast = buffer = np.zeros(steps)
    for index, noise in enumerate(np.eye(steps), start=1):
        fast = fast - step * (fast - noise)
        if index % k == 0:
            pseudo_gradient = slow - fast
            buffer = momentum * buffer + pseudo_gradient
            move = pseudo_gradient + momentum * buffer if nesterov else buffer
            slow = fast = slow - lr * move
    expected = (slow**2).sum() / sgd_variance(step, 1.0)
    found = momentum_outer_variance_factor(step, 1.0, k, lr, momentum, nesterov)
    assert found == pytest.approx(expected, rel=1e-10)


@given(st.floats(0.01, 1.99), st.integers(1, 20), st.floats(0.05, 1.0), st.booleans())
def test_without_outer_momentum_it_is_lookahead(step, k, alpha, nesterov):
    found = momentum_outer_variance_factor(step, 1.0, k, alpha, 0.0, nesterov)
    assert found == pytest.approx(lookahead_variance_factor(step, 1.0, k, alpha), rel=1e-9)


@pytest.mark.parametrize(("lr", "momentum", "gain"), [(0.7, 0.9, 7.0), (0.68, 0.37, 0.68 / 0.63)])
def test_the_gain_is_the_factor_in_flat_directions(lr, momentum, gain):
    assert momentum_outer_gain(lr, momentum) == pytest.approx(gain, rel=1e-12)
    flat = momentum_outer_variance_factor(1e-7, 1.0, 5, lr, momentum)
    assert flat == pytest.approx(gain, rel=1e-4)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="learning_rate must be a finite number > 0"):
        effective_learning_rate(lookahead(), 0.0)
    with pytest.raises(ValueError, match="must interpolate with a fixed alpha"):
        effective_learning_rate(lookahead(5, lambda syncs: 0.5), 0.1)
    with pytest.raises(ValueError, match=r"lr must be a finite number > 0 .* got -1"):
        momentum_outer_gain(-1, 0.9)
    with pytest.raises(ValueError, match=r"momentum must be a number in \[0, 1\) .* got 1"):
        momentum_outer_variance_factor(0.1, 1.0, 5, 0.7, 1)
    with pytest.raises(ValueError, match="inner_state must be one of 'maintain', 'reset'"):
        momentum_outer_variance_factor(0.1, 1.0, 5, 0.7, 0.9, inner_state="interpolate")
    with pytest.raises(ValueError, match="are stable"):
        momentum_outer_variance_factor(2.5, 1.0, 5, 0.7, 0.9)
