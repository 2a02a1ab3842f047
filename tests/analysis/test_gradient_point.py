"""Rules that decide where gradients are taken: their cycle against the real core on a quadratic."""

import numpy as np
import pytest

from lookahead_core import ema_nesterov, gpa, schedule_free
from lookahead_core.analysis import (
    contraction_rate,
    effective_learning_rate,
    stability_limit,
    variance_factor,
)
from lookahead_core.analysis.__main__ import main

RULES = [gpa(0.9, 0.7), gpa(0.75, 0.25, 3), ema_nesterov(0.5, 0.75), ema_nesterov(0.3, 0.9, 2)]


def run(rule, gradient, steps, momentum=0.0, start=0.0, shape=()):
    """The read-out after each step of SGD at rate 0.1 under `rule`."""
    fast, velocity = [np.full(shape, start)], [np.zeros(shape)]
    state = rule.init(fast, velocity)
    for _ in range(steps):
        velocity = [momentum * velocity[0] + gradient(fast[0])]
        fast, velocity, state = rule.step([fast[0] - 0.1 * velocity[0]], velocity, state)
        yield rule.slow(fast, state)[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_read_out_moves_at_the_effective_rate_along_a_constant_gradient(rule, momentum):
    places = [float(x) for x in run(rule, lambda x: 1.0, 1200, momentum)]
    measured = (places[-7] - places[-1]) / 6
    assert effective_learning_rate(rule, 0.1, momentum) == pytest.approx(measured, rel=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_the_variance_factor_is_that_of_samples(rule):
    draw = np.random.default_rng(0)
    shape = (200_000,)
    noisy = run(rule, lambda x: 5.0 * (x - draw.normal(size=shape)), 60, shape=shape)
    ends = list(noisy)[-1]
    alone = 0.5 / (2 - 0.5)  # x / (2 - x) of SGD at x = 0.1 * 5
    assert variance_factor(rule, 0.1, 5.0) == pytest.approx(ends.var() / alone, rel=0.03)


@pytest.mark.parametrize("rule", RULES)
def test_the_stability_limit_is_where_runs_diverge(rule):
    limit = stability_limit(rule)
    for factor, grows in ((0.98, False), (1.02, True)):
        curvature = factor * limit / 0.1
        *_, end = run(rule, lambda x, c=curvature: c * x, 3000, start=1.0)
        assert bool(abs(end) > 1) is grows
        assert (contraction_rate(rule, factor * limit, 1.0) > 1) == grows


def test_schedules_have_no_fixed_form_and_the_planner_knows_numbers(capsys):
    with pytest.raises(ValueError, match="mu_x and step_size must be fixed numbers here"):
        variance_factor(schedule_free(), 0.1, 1.0)
    main(["--lr", "0.1", "--sync-period", "1", "--mu-x", "0.9967"])
    shown = capsys.readouterr().out
    assert "slow weights, a difference of weights in float32" in shown
    main(["--lr", "0.1", "--sync-period", "1", "--step-size", "0.3"])
    assert "0.1429" in capsys.readouterr().out
