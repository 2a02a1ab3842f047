"""The family is one rule: each method equals its textbook, in float64, on noisy quadratics."""

import pytest

from lookahead_core import (
    Interpolate,
    Momentum,
    SyncRule,
    bmuf,
    diloco,
    ema,
    lookahead,
    nested,
    polyak,
    reptile,
    slowmo,
    snoo,
    swa,
    switch_ema,
)
from lookahead_core.settings import as_real
from quadratic import Quadratic, distance, run, sgd

EXACT = 1e-13
LR = 0.1
COUNTERS = {"branches": lambda xp: 0, "selects": lambda xp: xp.asarray(0)}


@pytest.fixture(params=COUNTERS)
def count(request, xp):
    return COUNTERS[request.param](xp)


@pytest.fixture(params=range(3))
def problem(request):
    return Quadratic(request.param)


def fast(runs):
    return [point for point, _ in runs]


def slow(runs):
    return [point for _, point in runs]


def toward(start, end, part):
    return [s + part * (e - s) for s, e in zip(start, end, strict=True)]


# --- where k is 1, and where alpha is ---


@pytest.mark.clause("C09")
def test_alpha_one_is_the_inner_optimizer(xp, problem, count):
    runs = run(xp, lookahead(5, 1.0), problem, LR, 0.9, count)
    assert distance(fast(runs), sgd(problem, LR, 0.9)) < EXACT


@pytest.mark.clause("C04")
def test_period_one_around_sgd_is_sgd_at_alpha_times_the_rate(xp, problem, count):
    runs = run(xp, lookahead(1, 0.3), problem, LR, count=count)
    assert distance(fast(runs), sgd(problem, 0.3 * LR)) < EXACT


@pytest.mark.clause("C71", "C79")
def test_snoo_at_period_one_is_nesterov_at_the_product_of_the_rates(xp, problem, count):
    runs = run(xp, snoo(1, 0.68, 0.37), problem, LR, count=count)
    assert distance(fast(runs), sgd(problem, 0.68 * LR, 0.37, nesterov=True)) < EXACT


@pytest.mark.clause("C71", "C79")
@pytest.mark.parametrize("preset", [slowmo, bmuf])
def test_slowmo_and_bmuf_at_period_one_are_the_heavy_ball(preset, xp, problem, count):
    runs = run(xp, preset(1, 0.5, 0.7), problem, LR, count=count)
    assert distance(fast(runs), sgd(problem, 0.7 * LR, 0.5)) < EXACT


@pytest.mark.clause("C71")
@pytest.mark.parametrize("nesterov", [True, False])
def test_without_momentum_it_is_lookahead_with_alpha_the_rate(nesterov, xp, problem, count):
    runs = run(xp, SyncRule(5, Momentum(0.3, 0.0, nesterov)), problem, LR, 0.5, count)
    others = run(xp, lookahead(5, 0.3), problem, LR, 0.5, count)
    assert distance(fast(runs), fast(others)) < EXACT


# --- averages ---


@pytest.mark.clause("C72", "C79")
def test_ema_is_the_exponential_average(xp, problem, count):
    average, expected = problem.start, []
    for point in sgd(problem, LR, 0.9):
        average = [0.9 * a + 0.1 * p for a, p in zip(average, point, strict=True)]
        expected.append(average)
    runs = [*run(xp, ema(0.9), problem, LR, 0.9, count)]
    assert distance(slow(runs), expected) < EXACT
    assert distance(fast(runs), sgd(problem, LR, 0.9)) == 0


@pytest.mark.clause("C73", "C79")
@pytest.mark.parametrize("start", [0, 7])
def test_polyak_is_the_mean_of_the_points_after_the_start(start, xp, problem, count):
    points = [*sgd(problem, LR)]
    expected = [
        mean(points[start:end]) if end > start else points[end - 1]
        for end in range(1, len(points) + 1)
    ]
    assert distance(slow(run(xp, polyak(start), problem, LR, count=count)), expected) < EXACT


@pytest.mark.clause("C73", "C79")
def test_swa_is_the_mean_of_the_start_and_every_kth_point(xp, problem, count):
    points = [*sgd(problem, LR)]
    expected = [mean(points[9:end:10]) for end in range(10, len(points) + 1)]
    runs = [*run(xp, swa(10, start=10), problem, LR, count=count)]
    assert distance(slow(runs)[9:], expected) < EXACT


@pytest.mark.clause("C72", "C79")
def test_switch_ema_is_keras_with_an_overwrite_frequency(xp, problem, count):
    x = average = problem.start
    expected = []
    for step in range(problem.steps):
        x = toward(x, [a - g for a, g in zip(x, problem.gradient(x, step), strict=True)], LR)
        # keras.optimizers.Optimizer: use_ema, ema_momentum=0.8, ema_overwrite_frequency=7.
        average = [0.8 * a + (1 - 0.8) * p for a, p in zip(average, x, strict=True)]
        x = average if (step + 1) % 7 == 0 else x
        expected.append(x)
    assert distance(fast(run(xp, switch_ema(7, 0.8), problem, LR, count=count)), expected) < EXACT


def mean(points):
    return [sum(values) / len(points) for values in zip(*points, strict=True)]


@pytest.mark.clause("C80")
def test_a_closed_form_of_lookahead_is_an_average_of_cycle_ends(xp, problem):
    """The paper's eq. 2, with the index that Algorithm 1 has (docs/theory.md)."""
    alpha, k, ends = 0.3, 5, []
    x = problem.start
    slow_now, expected = problem.start, []
    for cycle in range(problem.steps // k):
        x = slow_now
        for step in range(k):
            g = problem.gradient(x, cycle * k + step)
            x = [a - LR * d for a, d in zip(x, g, strict=True)]
        ends.append(x)
        weights = [alpha * (1 - alpha) ** j for j in range(len(ends))]
        old = (1 - alpha) ** len(ends)
        slow_now = [
            old * start + sum(w * end[i] for w, end in zip(weights, reversed(ends), strict=True))
            for i, start in enumerate(problem.start)
        ]
        expected.append(slow_now)
    runs = [*run(xp, lookahead(k, alpha), problem, LR)]
    assert distance(slow(runs)[k - 1 :: k], expected) < EXACT


# --- between, and nested ---


@pytest.mark.clause("C72")
def test_a_restart_between_zero_and_one_pulls_both_ways(xp, problem, count):
    x = center = problem.start
    expected = []
    for step in range(problem.steps):
        g = problem.gradient(x, step)
        x = [a - LR * d for a, d in zip(x, g, strict=True)]
        if (step + 1) % 3 == 0:
            center = toward(center, x, 0.4)
            x = toward(x, center, 0.25)
        expected.append(x)
    rule = SyncRule(3, Interpolate(0.4), restart=0.25)
    assert distance(fast(run(xp, rule, problem, LR, count=count)), expected) < EXACT


@pytest.mark.clause("C78")
def test_nested_with_equal_periods_is_the_product_of_the_alphas(xp, problem, count):
    rule = nested(lookahead(5, 0.8), lookahead(5, 0.5))
    others = run(xp, lookahead(5, 0.4), problem, LR, 0.5, count)
    assert distance(fast(run(xp, rule, problem, LR, 0.5, count)), fast(others)) < EXACT


@pytest.mark.clause("C78")
def test_nested_is_lookahead_around_lookahead(xp, problem, count):
    x = first = second = problem.start
    expected = []
    for step in range(problem.steps):
        g = problem.gradient(x, step)
        x = [a - LR * d for a, d in zip(x, g, strict=True)]
        if (step + 1) % 2 == 0:
            x = first = toward(first, x, 0.7)
        if (step + 1) % 6 == 0:
            x = first = second = toward(second, first, 0.4)
        expected.append(x)
    rule = nested(lookahead(2, 0.7), lookahead(6, 0.4))
    assert distance(fast(run(xp, rule, problem, LR, count=count)), expected) < EXACT


@pytest.mark.clause("C78")
def test_a_super_slow_copy_of_momentum_is_read_without_feedback(xp, problem):
    rule = nested(snoo(2, 0.68, 0.37), ema(0.9, sync_period=4))
    others = run(xp, snoo(2, 0.68, 0.37), problem, LR)
    assert distance(fast(run(xp, rule, problem, LR)), fast(others)) < EXACT


@pytest.mark.clause("C79")
def test_a_schedule_of_reptile_is_followed(xp, problem, count):
    x = phi = problem.start
    expected = []
    for step in range(problem.steps):
        g = problem.gradient(x, step)
        x = [a - LR * d for a, d in zip(x, g, strict=True)]
        if (step + 1) % 4 == 0:
            x = phi = toward(phi, x, 1 / (2 + step // 4))
        expected.append(x)
    rule = reptile(4, lambda syncs: 1 / as_real(syncs + 2))
    assert distance(fast(run(xp, rule, problem, LR, count=count)), expected) < EXACT


@pytest.mark.clause("C79")
def test_diloco_of_one_worker_is_snoo_with_other_numbers(xp, problem):
    others = run(xp, snoo(5, 0.7, 0.9), problem, LR)
    assert distance(fast(run(xp, diloco(5), problem, LR)), fast(others)) == 0
