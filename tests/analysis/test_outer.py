"""Effective learning rates and momentum outer rules: against loops, and against print."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.coefficients import bare, run, variance
from analysis.same_examples import examples
from lookahead_core import AdaptiveAlpha, Interpolate, Momentum, SyncRule, lookahead
from lookahead_core.analysis import (
    contraction_rate,
    effective_learning_rate,
    lookahead_variance_factor,
    outer_gain,
    reset_gain,
    variance_factor,
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
    rule = SyncRule(k, Momentum(lr, momentum, nesterov))
    factors = variance_factor(rule, np.asarray([0.001, 0.01, 0.1, 0.5]), 1.0)
    np.testing.assert_allclose(factors, [a, b, c, d], rtol=1e-9)


@pytest.mark.parametrize("inner_state", ["maintain", "reset", "interpolate"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("step", "k", "lr"), [(0.1, 5, 0.7), (0.5, 3, 0.3), (0.9, 4, 0.5)])
def test_the_factor_of_a_momentum_rule_is_that_of_the_real_core(step, k, lr, nesterov, inner_state):
    rule = SyncRule(k, Momentum(lr, 0.5, nesterov), inner_state)
    slow = run(rule, step, 900, momentum=0.6).slow[900 - 900 % k - 1]
    alone = run(bare(), step, 900, momentum=0.6).fast[-1]
    expected = variance(slow) / variance(alone)
    assert variance_factor(rule, step, 1.0, 0.6) == pytest.approx(expected, rel=1e-10)


@examples
@given(st.floats(0.01, 1.99), st.integers(1, 20), st.floats(0.05, 1.0), st.booleans())
def test_without_outer_momentum_it_is_lookahead(step, k, alpha, nesterov):
    found = variance_factor(SyncRule(k, Momentum(alpha, 0.0, nesterov)), step, 1.0)
    assert found == pytest.approx(lookahead_variance_factor(step, 1.0, k, alpha), rel=1e-9)


@pytest.mark.parametrize(
    ("outer", "gain"),
    [
        (Momentum(0.7, 0.9), 7.0),
        (Momentum(0.6, 0.5, False), 1.2),
        (Interpolate(0.3), 0.3),
    ],
)
def test_the_gain_is_the_factor_in_flat_directions(outer, gain):
    rule = SyncRule(5, outer)
    assert outer_gain(rule) == pytest.approx(gain, rel=1e-12)
    assert variance_factor(rule, 1e-7, 1.0) == pytest.approx(gain, rel=1e-4)


@pytest.mark.parametrize("inner_state", ["maintain", "reset", "interpolate"])
def test_the_rate_of_a_momentum_rule_is_that_of_the_real_core(inner_state):
    rule = SyncRule(4, Momentum(0.6, 0.5), inner_state)
    places = abs(run(rule, 0.02, 2000, momentum=0.3).slow[:, 0])
    measured = (places[-1] / places[-1001]) ** (1 / 1000)
    assert contraction_rate(rule, 0.02, 1.0, 0.3) == pytest.approx(measured, rel=1e-12)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="learning_rate must be a finite number > 0"):
        effective_learning_rate(lookahead(), 0.0)
    for outer in (
        Interpolate(lambda syncs: 0.5),
        Momentum(lambda syncs: 0.5),
        Interpolate(AdaptiveAlpha()),
    ):
        with pytest.raises(ValueError, match="outer must be Interpolate or Momentum of fixed"):
            effective_learning_rate(SyncRule(5, outer), 0.1)
    with pytest.raises(ValueError, match="lr must be > 0 here"):
        outer_gain(SyncRule(5, Momentum(0.0)))
    for outer in (Interpolate(0.5), Momentum()):
        with pytest.raises(ValueError, match="rule must have restart=1"):
            variance_factor(SyncRule(5, outer, restart=0.5), 0.1, 1.0)
    with pytest.raises(ValueError, match="are stable"):
        variance_factor(SyncRule(5, Momentum()), 2.5, 1.0)
