"""Averages where gradients are taken, in the array loop: loops by hand, and rates."""

import numpy as np
import pytest

from array_runs import gradients, start
from lookahead_core import ema_nesterov, gpa, schedule_free
from lookahead_core.adapters.numpy import SGD, AdamW, MetaOptimizer

STEPS = 40


def sgd(params):
    return SGD(params, 0.05, momentum=0.9)


def adamw(params):
    return AdamW(params, 0.05, weight_decay=0.1)


INNERS = {"sgd": sgd, "adamw": adamw}


def flat(params):
    return np.concatenate([params["layer"]["x"], params["other"][0]])


def put(params, values):
    params["layer"]["x"][:], params["other"][0][:] = values[:-2], values[-2:]


def run(inner, rule):
    params = start()
    optimizer, trace = MetaOptimizer(inner(params), rule), []
    for _ in range(STEPS):
        optimizer.step(gradients(params))
        trace.append([flat(params), flat(optimizer.slow_weights())])
    return np.asarray(trace)


def papers_loop(inner, move):
    """`move(step, y, after)` gives the next y and what is shipped."""
    params = start()
    optimizer, trace = inner(params), []
    for step in range(STEPS):
        y = flat(params)
        optimizer.step(gradients(params))
        y, x = move(step, y, flat(params))
        put(params, y)
        trace.append([y, x])
    return np.asarray(trace)


class Primal:
    """The lines of Schedule-Free and of GPA."""

    def __init__(self, mu_x, mu_y):
        self.mu_x, self.mu_y, self.z, self.x = mu_x, mu_y, flat(start()), flat(start())

    def __call__(self, step, y, after):
        self.z = self.z + (after - y)
        mu_x = self.mu_x(step)
        self.x = mu_x * self.x + (1 - mu_x) * self.z
        return self.mu_y * self.x + (1 - self.mu_y) * self.z, self.x


@pytest.mark.clause("C79", "C85", "C86")
@pytest.mark.parametrize("inner", INNERS)
def test_gpa_is_its_papers_lines(inner):
    expected = papers_loop(INNERS[inner], Primal(lambda step: 0.9967, 0.7))
    np.testing.assert_allclose(run(INNERS[inner], gpa()), expected, rtol=0, atol=1e-13)


@pytest.mark.clause("C79", "C85", "C86")
@pytest.mark.parametrize("inner", INNERS)
def test_ema_nesterov_is_its_papers_lines(inner):
    state = {"x": flat(start()), "m": 0.0}

    def move(step, y, after):
        state["m"] = 0.9 * state["m"] + (1 - 0.9) * (after - state["x"])
        state["x"] = after
        return after + 0.5 * state["m"], after

    expected = papers_loop(INNERS[inner], move)
    ours = run(INNERS[inner], ema_nesterov(0.5, 0.9))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-13)


def warming_up(step):
    return 0.05 * min(1.0, step / 10)


def falling(step):
    return 0.05 * 0.9**step


@pytest.mark.clause("C87")
def test_schedule_free_goes_by_schedules_and_by_the_rate_of_each_group():
    """The rate of the step that was taken, not of the next; each group has its own."""

    def inner(params):
        return SGD(params, warming_up, groups={"other/*": {"lr": falling}})

    def kept(step):
        weights = [
            np.asarray([max(map(rate, range(n + 1))) ** 2 for n in range(step + 1)])
            for rate in (warming_up, falling)
        ]
        parts = [w[:-1].sum() / w.sum() if w.sum() else 1.0 for w in weights]
        return np.repeat(parts, [len(flat(start())) - 2, 2])

    expected = papers_loop(inner, Primal(kept, 0.9))
    np.testing.assert_allclose(run(inner, schedule_free()), expected, rtol=0, atol=1e-13)


class Bare:
    """An inner optimizer of one's own."""

    def __init__(self, params):
        self.params, self.state = params, {}

    def step(self, grads):
        self.params["w"] -= 0.1 * grads["w"]


@pytest.mark.clause("C25", "C87")
def test_an_inner_optimizer_without_rates_is_refused_before_anything_moves():
    params = {"w": np.ones(2)}
    optimizer = MetaOptimizer(Bare(params), schedule_free())
    for action in (optimizer.sync, lambda: optimizer.step({"w": np.ones(2)})):
        with pytest.raises(ValueError, match=r"a method `learning_rates` \(SGD, Adam\), got Bare"):
            action()
    assert params["w"].tolist() == [1.0, 1.0]
    MetaOptimizer(Bare(params), schedule_free(weight_lr_power=0.0)).step({"w": np.ones(2)})
