"""Rates, limits and bands: against the real core, NumPy's eigenvalues, and print."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.same_examples import examples
from lookahead_core import lookahead
from lookahead_core.analysis import (
    best_heavy_ball,
    bilinear_game_rate,
    contraction_rate,
    inner_contraction_rate,
    inner_stability_limit,
    sgd_stability_limit,
    stability_limit,
    unstable_bands,
)
from lookahead_core.analysis.matrices import spectral_radius, steady_state_covariance

POLICIES = ("maintain", "interpolate", "reset")
# lr * curvature, momentum, k, alpha; then the rates alone, maintained, interpolated, reset.
PRINTED = [
    ((0.001, 0.9, 5, 0.5), 0.98887321424522, 0.99480865599978, 0.99449884930099, 0.9986852353652),
    ((0.1, 0.9, 5, 0.5), 0.94868329805051, 0.88068140333861, 0.90849950773475, 0.86541323597013),
    ((3, 0.9, 5, 0.8), 0.94868329805051, 0.84093127853853, 0.91374721633115, 1.0573146046807),
    ((3, 0.9, 20, 0.5), 0.94868329805051, 0.98329960699195, 0.98030757591274, 0.98473961158541),
    ((1, 0.99, 5, 0.5), 0.99498743710662, 0.9302426426294, 0.97002625665402, 0.99799215226781),
    ((0.01, 0.99, 20, 0.5), 0.99498743710662, 0.96278853252713, 0.96733743964883, 0.94319031172789),
]
# momentum, k, alpha, policy; ends of the bands.
BANDS = [
    (0.9, 5, 0.5, "maintain", [2.597, 2.900, 3.492, 3.8]),
    (0.9, 5, 0.5, "reset", [2.906, 3.411, 3.646, 3.8]),
    (0.9, 5, 0.8, "maintain", [3.583, 3.8]),
    (0.9, 10, 0.5, "maintain", [3.111, 3.183, 3.503, 3.652, 3.712, 3.8]),
    (0.99, 5, 0.5, "maintain", [0.410, 0.435, 1.417, 1.947, 2.612, 3.144, 3.606, 3.98]),
    (0.99, 5, 0.5, "reset", [1.011, 1.361, 2.990, 3.598, 3.792, 3.98]),
]
momenta = st.floats(0.01, 0.99)
alphas = st.floats(0.05, 1.0)
periods = st.integers(1, 30)


@pytest.mark.parametrize(("setting", "alone", "maintain", "interpolate", "reset"), PRINTED)
def test_rates_are_the_printed_ones(setting, alone, maintain, interpolate, reset):
    step, momentum, k, alpha = setting
    rules = [lookahead(k, alpha, policy) for policy in POLICIES]
    found = [contraction_rate(rule, step, 1.0, momentum) for rule in rules]
    assert inner_contraction_rate(step, 1.0, momentum) == pytest.approx(alone, rel=1e-13)
    assert found == pytest.approx([maintain, interpolate, reset], rel=1e-12)


def radius_of_the_real_core(rule, step, momentum, nesterov):
    """Of the matrix that one cycle is: what it makes of two starts; and its largest entry."""
    columns = []
    for slow, velocity in ((1.0, 0.0), (0.0, 1.0)):
        fast, inner = [np.asarray(slow)], [np.asarray(velocity)]
        state = rule.init(fast, inner)
        for _ in range(rule.sync_period):
            moment = momentum * inner[0] + step * fast[0]
            move = step * fast[0] + momentum * moment if nesterov else moment
            fast, inner, state = rule.step([fast[0] - move], [moment], state)
        columns.append([float(fast[0]), float(inner[0])])
    return max(abs(np.linalg.eigvals(np.asarray(columns).T))), np.abs(columns).max()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("step", [0.003, 0.05, 0.9, 1.25, 2.7])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_the_rate_is_that_of_the_real_core(step, nesterov, policy, k):
    rule = lookahead(k, 0.6, policy)
    radius, _ = radius_of_the_real_core(rule, step, 0.8, nesterov)
    found = contraction_rate(rule, step, 1.0, 0.8, nesterov)
    assert found == pytest.approx(radius ** (1 / k), rel=1e-12)


@examples
@given(st.floats(0.001, 5.0), momenta, periods, alphas, st.sampled_from(POLICIES), st.booleans())
def test_the_rate_is_that_of_the_real_core_wherever(step, momentum, k, alpha, policy, nesterov):
    rule = lookahead(k, alpha, policy)
    radius, largest = radius_of_the_real_core(rule, step, momentum, nesterov)
    found = contraction_rate(rule, step, 1.0, momentum, nesterov) ** k
    # The two roots may nearly meet, and move like the square root of a rounding error then.
    assert abs(found - radius) <= 1e-6 * (1 + largest)


@examples
@given(st.floats(0.001, 0.999), momenta, periods, alphas, st.booleans())
def test_interpolating_the_inner_state_never_loses_stability(part, momentum, k, alpha, nesterov):
    step = part * inner_stability_limit(momentum, nesterov)
    rule = lookahead(k, alpha, "interpolate")
    assert contraction_rate(rule, step, 1.0, momentum, nesterov) < 1


@pytest.mark.parametrize(("momentum", "k", "alpha", "policy", "ends"), BANDS)
def test_bands_are_where_they_were_printed(momentum, k, alpha, policy, ends):
    bands = unstable_bands(lookahead(k, alpha, policy), momentum)
    assert [end for band in bands for end in band[:2]] == pytest.approx(ends, abs=6e-4)


@pytest.mark.parametrize(("momentum", "k", "alpha", "policy", "ends"), BANDS)
def test_outside_the_bands_and_only_there_the_rule_is_stable(momentum, k, alpha, policy, ends):
    rule = lookahead(k, alpha, policy)
    for low, high, worst in unstable_bands(rule, momentum):
        assert contraction_rate(rule, low - 1e-6, 1.0, momentum) < 1
        assert contraction_rate(rule, low + 1e-6, 1.0, momentum) > 1
        assert contraction_rate(rule, high - 1e-6, 1.0, momentum) > 1
        inside = contraction_rate(rule, np.linspace(low, high, 1001), 1.0, momentum)
        assert worst == pytest.approx(inside.max(), rel=1e-4)


def test_the_worst_rate_of_a_band_is_the_printed_one():
    bands = unstable_bands(lookahead(5, 0.5), 0.9)
    assert [band.rate for band in bands] == pytest.approx([1.021, 1.139], abs=6e-4)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.1, 0.5, 0.9, 0.99])
def test_the_inner_limit_is_where_the_inner_rate_reaches_1(momentum, nesterov):
    limit = inner_stability_limit(momentum, nesterov)
    assert inner_contraction_rate(limit * (1 - 1e-6), 1.0, momentum, nesterov) < 1
    assert inner_contraction_rate(limit * (1 + 1e-6), 1.0, momentum, nesterov) > 1


@pytest.mark.parametrize(
    ("k", "limit"), [(1, 4), (3, 2.442249570307), (5, 2.245730939616), (7, 2.169930812759), (10, 2)]
)
def test_the_limit_around_sgd_is_the_printed_one_and_where_the_rate_reaches_1(k, limit):
    assert sgd_stability_limit(k, 0.5) == pytest.approx(limit, abs=1e-12)
    assert stability_limit(lookahead(k, 0.5)) == pytest.approx(limit, rel=1e-8)


def test_the_limit_is_the_first_band_s_lower_end():
    rule = lookahead(5, 0.5)
    assert stability_limit(rule, 0.9) == unstable_bands(rule, 0.9)[0].low


def test_the_inner_optimizer_s_best_rate_diverges_inside_lookahead():
    learning_rate, _ = best_heavy_ball(0.9, 1000.0)
    curvature = np.asarray([0.001, 1.0])
    worst = [
        float(contraction_rate(lookahead(20, 0.5, p), learning_rate, curvature, 0.9).max())
        for p in POLICIES
    ]
    assert worst == pytest.approx([1.0965, 0.9782, 1.1013], abs=6e-5)


@pytest.mark.parametrize(
    ("momentum", "condition", "one_minus_rate"),
    [(0.9, 10, 5.1317e-2), (0.9, 1e4, 3.9399e-3), (0.99, 100, 5.0126e-3), (0.999, 100, 5.0013e-4)],
)
def test_the_best_heavy_ball_is_the_printed_one_and_the_best_there_is(
    momentum, condition, one_minus_rate
):
    learning_rate, rate = best_heavy_ball(momentum, condition)
    assert 1 - rate == pytest.approx(one_minus_rate, rel=5e-5)
    ends = np.asarray([1 / condition, 1.0])
    for other in learning_rate * np.linspace(0.5, 1.5, 401):
        assert inner_contraction_rate(other, ends, momentum).max() >= rate - 1e-12


@pytest.mark.parametrize(
    ("step", "k", "rate"),
    [
        (0.1, 5, 0.9962371714),
        (0.1, 10, 0.9896138946),
        (0.1, 50, 0.9981724780),
        (0.3, 6, 0.9520701266),
        (0.3, 20, 1.0252827575),
    ],
)
def test_rates_of_the_bilinear_game_are_the_printed_ones(step, k, rate):
    assert bilinear_game_rate(lookahead(k, 0.5), step) == pytest.approx(rate, abs=1e-10)


def test_the_real_core_plays_the_bilinear_game_at_the_rate():
    rule = lookahead(5, 0.5)
    fast = [np.asarray(1.0), np.asarray(0.0)]
    state = rule.init(fast)
    for _ in range(500):
        fast = [fast[0] - 0.1 * fast[1], fast[1] + 0.1 * fast[0]]
        fast, _, state = rule.step(fast, (), state)
    measured = np.hypot(*fast) ** (1 / 500)
    assert bilinear_game_rate(rule, 0.1) == pytest.approx(measured, rel=1e-12)


@examples
@given(st.lists(st.floats(-2, 2), min_size=9, max_size=9))
def test_the_radius_of_three_rows_is_numpy_s(entries):
    matrix = np.asarray(entries).reshape(3, 3)
    expected = max(abs(np.linalg.eigvals(matrix)))
    # A triple root moves like the cube root of a rounding error.
    assert spectral_radius(tuple(map(tuple, matrix.tolist()))) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rows", [((0.5, 1.0), (0.0, 0.5)), ((0.0, 1.0), (0.0, 0.0))])
def test_the_radius_of_a_matrix_without_a_basis_of_eigenvectors(rows):
    assert spectral_radius(rows) == rows[0][0]


def test_the_steady_state_covariance_solves_its_equation():
    matrix = np.asarray([[0.9, 0.3, 0.0], [-0.2, 0.7, 0.1], [0.1, 0.0, 0.5]])
    noise = np.asarray([[1.0, 0.2, 0.1], [0.2, 0.5, 0.0], [0.1, 0.0, 0.3]])
    found = np.asarray(steady_state_covariance(*(tuple(map(tuple, m)) for m in (matrix, noise))))
    np.testing.assert_allclose(found, matrix @ found @ matrix.T + noise, rtol=1e-12)


def test_arrays_of_a_namespace_give_its_arrays(xp):
    steps, rule = xp.asarray([0.001, 0.1, 3.0], dtype=xp.float64), lookahead(5, 0.5)
    rates = contraction_rate(rule, steps, 1.0, 0.9)
    assert type(rates) is type(steps)
    each = [contraction_rate(rule, step, 1.0, 0.9) for step in (0.001, 0.1, 3.0)]
    assert [float(rates[i]) for i in range(3)] == pytest.approx(each, rel=1e-14)
    assert float(bilinear_game_rate(rule, steps)[1]) == pytest.approx(0.9962371714, abs=1e-10)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"momentum must be a number in \[0, 1\) .* got 1\.0"):
        contraction_rate(lookahead(), 0.1, 1.0, momentum=1.0)
    with pytest.raises(ValueError, match=r"momentum must be > 0 with nesterov=True, got 0\.0"):
        inner_contraction_rate(0.1, 1.0, nesterov=True)
    with pytest.raises(ValueError, match="outer must be Interpolate or Momentum of fixed"):
        contraction_rate(lookahead(5, lambda syncs: 0.5), 0.1, 1.0)
    with pytest.raises(ValueError, match="alpha must be > 0 here"):
        bilinear_game_rate(lookahead(5, 0.0), 0.1)
    with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1"):
        sgd_stability_limit(5, 0.0)
    with pytest.raises(ValueError, match=r"condition_number must be >= 1, got 0\.5"):
        best_heavy_ball(0.9, 0.5)
