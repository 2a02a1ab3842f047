"""The best alpha on a quadratic: against a search, against each other, and against print."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.same_examples import examples
from lookahead_core import interpolate
from lookahead_core.analysis import adaptive_alpha, optimal_alpha, secant_alpha

HESSIAN, LINEAR = np.asarray([1.0, 3.0, 10.0]), np.asarray([1.0, -2.0, 0.5])
SLOW, FAST = np.asarray([1.0, -1.0, 2.0]), np.asarray([0.4, -0.9, -0.5])
BEST = 0.7767530608999841


def gradient(weights):
    return HESSIAN * weights - LINEAR


def loss(weights):
    return (HESSIAN * weights**2).sum() / 2 - LINEAR @ weights


def test_the_optimal_alpha_is_the_printed_one():
    assert optimal_alpha(SLOW, FAST, HESSIAN, LINEAR / HESSIAN) == pytest.approx(BEST, rel=1e-14)


def test_no_other_alpha_has_a_lower_loss():
    losses = [loss(interpolate(SLOW, FAST, BEST + shift)) for shift in (-1e-3, 0.0, 1e-3)]
    assert losses[1] < min(losses[0], losses[2])


def test_both_estimates_are_the_optimal_alpha_where_their_input_is_exact():
    assert adaptive_alpha(SLOW, FAST, gradient(FAST), HESSIAN) == pytest.approx(BEST, rel=1e-14)
    found = secant_alpha(SLOW, FAST, gradient(SLOW), gradient(FAST))
    assert found == pytest.approx(BEST, rel=1e-14)


def test_the_estimate_is_the_paper_s_formula_with_an_inverse():
    approximate, way = np.sqrt(HESSIAN), SLOW - FAST
    optimum = FAST - gradient(FAST) / approximate
    paper = (SLOW - optimum) @ (approximate * way) / (way @ (approximate * way))
    assert paper == pytest.approx(0.30293369187711094, rel=1e-14)
    assert adaptive_alpha(SLOW, FAST, gradient(FAST), approximate) == pytest.approx(paper)


def test_estimates_are_clipped_to_alpha_low_and_1():
    ones = np.ones(3)
    assert adaptive_alpha(SLOW, FAST, gradient(FAST), ones, alpha_low=0.2) == 0.2
    assert adaptive_alpha(SLOW, FAST, gradient(SLOW), HESSIAN) == 1.0
    assert secant_alpha(SLOW, FAST, gradient(SLOW), 0.9 * gradient(SLOW)) == 1.0


def test_a_full_hessian_and_its_diagonal_are_one():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    hessian = turn @ np.diag(HESSIAN) @ turn.T
    args = [turn @ x for x in (SLOW, FAST)]
    assert optimal_alpha(*args, hessian, turn @ (LINEAR / HESSIAN)) == pytest.approx(BEST)
    assert adaptive_alpha(*args, turn @ gradient(FAST), hessian) == pytest.approx(BEST)


@examples
@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.floats(0.1, 10))
def test_the_optimal_alpha_does_not_change_with_the_scale_of_the_loss(numbers, scale):
    slow, fast = np.asarray(numbers[:3]), np.asarray(numbers[3:])
    if np.abs(slow - fast).max() < 1e-3:
        fast = fast + 1.0
    best = optimal_alpha(slow, fast, HESSIAN, LINEAR / HESSIAN)
    scaled = optimal_alpha(slow, fast, scale * HESSIAN, LINEAR / HESSIAN)
    assert scaled == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_arrays_of_a_namespace_give_its_arrays(xp):
    as_xp = [xp.asarray(x.tolist(), dtype=xp.float64) for x in (SLOW, FAST, HESSIAN, LINEAR)]
    best = optimal_alpha(*as_xp[:3], as_xp[3] / as_xp[2])
    assert float(best) == pytest.approx(BEST, rel=1e-14)
    slope = as_xp[2] * as_xp[1] - as_xp[3]
    assert float(adaptive_alpha(*as_xp[:2], slope, as_xp[2], 0.1)) == pytest.approx(BEST, rel=1e-14)


def test_a_line_without_a_minimum_is_refused():
    with pytest.raises(ValueError, match=r"slow and fast must differ .* got 0"):
        optimal_alpha(SLOW, SLOW, HESSIAN, LINEAR)
    with pytest.raises(ValueError, match="direction of positive curvature, got -"):
        secant_alpha(SLOW, FAST, gradient(FAST), gradient(SLOW))
    with pytest.raises(ValueError, match=r"alpha_low must be a number in \[0, 1\] .* got 2"):
        adaptive_alpha(SLOW, FAST, gradient(FAST), HESSIAN, alpha_low=2.0)
