"""Variances: the formulas against the real core on symbols, against samples, and against print."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.coefficients import bare, run, variance
from analysis.same_examples import examples
from lookahead_core import lookahead
from lookahead_core.analysis import (
    Moments,
    expected_loss,
    lookahead_variance,
    lookahead_variance_factor,
    moments_after_step,
    moments_after_sync,
    sgd_variance,
    variance_factor,
)

GRID = [(step, k, a) for step in (0.05, 0.5, 1.0, 1.9) for k in (1, 5, 10) for a in (0.2, 0.5, 0.8)]
POLICIES = ("maintain", "reset", "interpolate")
# research values of V_LA / V_SGD with 16 digits: lr * curvature, alpha, k, factor.
PRINTED = [
    (0.01, 0.2, 5, 0.1960598935499494),
    (0.1, 0.5, 5, 0.4429729646928414),
    (0.1, 0.5, 20, 0.3592981299822275),
    (0.5, 0.8, 1, 0.75),
    (1.0, 0.5, 10, 0.3333333333333333),
    (1.5, 0.2, 5, 0.10801393728223),
    (1.9, 0.8, 5, 0.4502534331673099),
    (1.9, 0.5, 20, 0.3592981299822275),
]
steps = st.floats(0.001, 1.999)
alphas = st.floats(0.01, 0.99)
periods = st.integers(1, 40)


def moments_of_run(rule, step, count):
    """Exact moments after each of `count` steps, from mean 1."""
    moments = Moments.at(1.0)
    for index in range(1, count + 1):
        moments = moments_after_step(moments, step, 1.0)
        if index % rule.sync_period == 0:
            moments = moments_after_sync(moments, rule.outer.alpha)
        yield moments


@pytest.mark.parametrize(("step", "k", "alpha"), GRID)
def test_moments_are_those_of_the_real_core_at_every_step(step, k, alpha):
    rule = lookahead(k, alpha)
    real = run(rule, step, 43)
    moments = [np.asarray(side) for side in zip(*moments_of_run(rule, step, 43), strict=True)]
    slow_mean, fast_mean, slow_variance, fast_variance, covariance = moments
    expected = (real.slow[:, 1:] * real.fast[:, 1:]).sum(axis=1)
    np.testing.assert_allclose(slow_mean, real.slow[:, 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fast_mean, real.fast[:, 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(slow_variance, variance(real.slow), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(fast_variance, variance(real.fast), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(covariance, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("step", "k", "alpha"), GRID)
def test_the_fixed_point_of_proposition_2_is_where_the_real_core_settles(step, k, alpha):
    slow = run(lookahead(k, alpha), step, 1600).slow[-1]
    assert lookahead_variance(step, 1.0, k, alpha) == pytest.approx(variance(slow), rel=1e-12)


@pytest.mark.parametrize("step", [0.05, 0.5, 1.0, 1.9])
def test_sgd_settles_where_equation_6_says(step):
    fast = run(bare(), step, 600).fast[-1]
    assert sgd_variance(step, 1.0) == pytest.approx(variance(fast), rel=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("step", [0.1, 0.7])
def test_the_factor_with_momentum_is_that_of_the_real_core(step, policy, nesterov):
    rule = lookahead(5, 0.5, policy)
    slow = run(rule, step, 800, 0.9, nesterov).slow[-1]
    alone = run(bare(), step, 800, 0.9, nesterov).fast[-1]
    expected = variance(slow) / variance(alone)
    assert variance_factor(rule, step, 1.0, 0.9, nesterov) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("step", "alpha", "k", "factor"), PRINTED)
def test_factors_are_the_printed_ones(step, alpha, k, factor):
    assert lookahead_variance_factor(step, 1.0, k, alpha) == pytest.approx(factor, rel=1e-14)


@pytest.mark.parametrize(("step", "k", "alpha"), [(0.1, 5, 0.5), (0.5, 5, 0.5), (1.5, 10, 0.2)])
def test_the_variance_is_that_of_sampled_chains_within_their_error(step, k, alpha):
    chains = 100_000
    rng = np.random.default_rng(8)
    slow = fast = np.zeros(chains)
    moments = Moments.at(0.0)
    for index in range(1, 6 * k + 1):
        fast = fast - step * (fast - rng.normal(size=chains))
        moments = moments_after_step(moments, step, 1.0)
        if index % k == 0:
            slow = fast = slow + alpha * (fast - slow)
            moments = moments_after_sync(moments, alpha)
    error = moments.slow_variance * np.sqrt(2 / (chains - 1))
    assert abs(slow.var(ddof=1) - moments.slow_variance) / error < 3


@examples
@given(steps, periods, alphas)
def test_the_general_factor_is_proposition_2_without_momentum(step, k, alpha):
    general = variance_factor(lookahead(k, alpha), step, 1.0)
    assert general == pytest.approx(lookahead_variance_factor(step, 1.0, k, alpha), rel=1e-9)


@examples
@given(st.floats(0.001, 1.0), periods, alphas)
def test_the_factor_lies_between_its_two_limits(step, k, alpha):
    factor = lookahead_variance_factor(step, 1.0, k, alpha)
    assert alpha / (2 - alpha) * (1 - 1e-12) <= factor <= alpha * (1 + 1e-12)


@examples
@given(steps, alphas)
def test_with_k_1_lookahead_is_sgd_at_alpha_times_the_rate(step, alpha):
    slow = lookahead_variance(step, 1.0, 1, alpha)
    assert slow == pytest.approx(sgd_variance(alpha * step, 1.0), rel=1e-12)


def test_arrays_of_a_namespace_give_its_arrays(xp):
    curvature = xp.asarray([0.1, 1.0], dtype=xp.float64)
    factor = lookahead_variance_factor(0.5, curvature, 5, 0.5)
    assert type(factor) is type(curvature)
    expected = [lookahead_variance_factor(0.5, a, 5, 0.5) for a in (0.1, 1.0)]
    assert [float(factor[0]), float(factor[1])] == pytest.approx(expected, rel=1e-15)
    general = variance_factor(lookahead(5, 0.5), 0.5, curvature)
    assert [float(general[0]), float(general[1])] == pytest.approx(expected, rel=1e-12)


def test_variances_are_proportional_to_that_of_the_noise():
    assert sgd_variance(0.5, 1.0, 3.0) == pytest.approx(3 * sgd_variance(0.5, 1.0))
    thrice = lookahead_variance(0.5, 1.0, 5, 0.5, 3.0)
    assert thrice == pytest.approx(3 * lookahead_variance(0.5, 1.0, 5, 0.5))
    moments = moments_after_step(Moments.at(0.0), 0.5, 1.0, 3.0)
    assert moments.fast_variance == pytest.approx(3 * 0.25)


def test_the_expected_loss_is_the_mean_over_samples():
    curvature, noise = np.asarray([1.0, 4.0]), np.asarray([2.0, 0.5])
    rng = np.random.default_rng(0)
    weights = 0.3 + rng.normal(size=(100_000, 2)) * np.sqrt([0.7, 0.1])
    optima = rng.normal(size=(100_000, 2)) * np.sqrt(noise)
    losses = (curvature * (weights - optima) ** 2).sum(axis=1) / 2
    expected = expected_loss(0.3, np.asarray([0.7, 0.1]), curvature, noise)
    assert abs(losses.mean() - expected) / (losses.std() / np.sqrt(len(losses))) < 3


@pytest.mark.parametrize("step", [-0.1, 0.0, 2.0, float("nan")])
def test_a_rate_at_which_sgd_settles_nowhere_is_refused(step):
    with pytest.raises(ValueError, match=r"learning_rate \* curvature must lie in \(0, 2\)"):
        sgd_variance(step, 1.0)
    with pytest.raises(ValueError, match=r"learning_rate \* curvature must lie in \(0, 2\)"):
        lookahead_variance_factor(0.5, np.asarray([1.0, step / 0.5]), 5, 0.5)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"sync_period must be an int >= 1 .* got 2\.5"):
        lookahead_variance_factor(0.1, 1.0, 2.5, 0.5)
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, 1\] .* got 1\.5"):
        moments_after_sync(Moments.at(1.0), 1.5)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\] everywhere"):
        lookahead_variance_factor(0.1, 1.0, 5, np.asarray([0.5, 1.5]))
    with pytest.raises(ValueError, match="are stable"):
        variance_factor(lookahead(5, 0.5), 2.7, 1.0, momentum=0.9)
