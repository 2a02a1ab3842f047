"""What a step leaves that fails at its sync, and an evaluation that fails (clause C88)."""

from copy import deepcopy

import pytest
import torch
import torch.distributed as dist

from lookahead_core import ema, lookahead, nested
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer, StreamingOptimizer
from lookahead_core.adapters.torch._leaves import Home
from torch_runs import Quadratic, assert_same, pull_down, single, snapshot, train


class Alpha:
    """A schedule that may be out of range for a while."""

    value = 0.5

    def __call__(self, syncs):
        return self.value


def fails(alpha, step):
    """Take a step while alpha is out of range."""
    alpha.value = 2.0
    with pytest.raises(ValueError, match=r"alpha must be .* got 2\.0"):
        step()
    alpha.value = 0.5


def numbers(optimizer, name):
    return [group[f"lookahead_{name}"] for group in optimizer.state_dict()["param_groups"]]


@pytest.mark.clause("C42", "C88")
def test_no_part_counts_a_step_whose_sync_has_failed_and_all_stay_in_phase():
    weights, alpha = [single(), single()], Alpha()
    groups = [{"params": weights[:1]}, {"params": weights[1:], "lookahead_sync_period": 3}]
    optimizer = Lookahead(torch.optim.SGD(groups, lr=1.0), 2, alpha)
    pull_down(optimizer, *weights)
    fails(alpha, lambda: pull_down(optimizer, *weights))
    assert [numbers(optimizer, name) for name in ("count", "elapsed")] == [[1, 1], [1, 1]]
    for _ in range(2):
        pull_down(optimizer, *weights)
    # Halfway back from -3 and one step further, and halfway back from -4.
    assert [weight.item() for weight in weights] == [-2.5, -2.0]


@pytest.fixture
def alone():
    """A group of one worker."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.clause("C82", "C88")
@pytest.mark.parametrize(("delay", "codec"), [(0, None), (1, None), (1, "int8")])
def test_a_fragment_whose_sync_has_failed_is_synced_at_the_next_step(alone, delay, codec):
    weight, alpha = single(), Alpha()
    optimizer = StreamingOptimizer(
        torch.optim.SGD([weight], lr=1.0),
        lookahead(2, alpha),
        process_group=alone,
        delay=delay,
        codec=codec,
    )
    for _ in range(1 + delay):
        pull_down(optimizer, weight)
    fails(alpha, lambda: pull_down(optimizer, weight))
    assert numbers(optimizer, "syncs") == [0]
    pull_down(optimizer, weight)
    # Halfway to where it was when its mean was taken: without a delay at this step, at -3.
    assert (weight.item(), numbers(optimizer, "syncs")) == (-1.0 if delay else -1.5, [1])


@pytest.mark.clause("C75", "C78", "C88")
@pytest.mark.parametrize("kernel", ["foreach", "plain"])
def test_a_second_rule_that_is_refused_leaves_the_first_as_it_was(kernel):
    model, alpha = Quadratic(), Alpha()
    rule = nested(lookahead(2, 0.5), lookahead(4, alpha))
    optimizer = MetaOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), rule, kernel=kernel)
    train(optimizer, model, 3)
    before = deepcopy(optimizer.state_dict()["state"][0])
    fails(alpha, lambda: train(optimizer, model, 1))
    assert_same(optimizer.state_dict()["state"][0], before)


@pytest.mark.clause("C72", "C88")
def test_an_interrupt_where_a_cycle_begins_loses_no_average(monkeypatch):
    weight, other = single(), single()
    inner = torch.optim.SGD([weight, other], lr=1.0)
    optimizer = MetaOptimizer(inner, ema(0.5), kernel="plain")
    pull_down(optimizer, weight, other)

    def interrupted(self, kept, leaf):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Home, "settled", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pull_down(optimizer, weight, other)
    states = optimizer.state_dict()["state"].values()
    assert [state["lookahead_slow"].item() for state in states] == [-0.5, -0.5]


class CannotEvaluate(torch.optim.SGD):
    def eval(self):
        raise RuntimeError("not today")


@pytest.mark.clause("C22", "C88")
def test_an_evaluation_that_cannot_begin_puts_the_fast_weights_back():
    model = Quadratic()
    optimizer = Lookahead(CannotEvaluate(model.parameters(), lr=0.1), 4)
    train(optimizer, model, 2)
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match="not today"):
        optimizer.eval()
    assert_same(snapshot(model, optimizer), before)
    train(optimizer, model, 1)


class CountsInPython(torch.optim.SGD):
    """Counts the steps of some groups by a number of Python, which no graph can set."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for leaf in group["params"] if group.get("counts") else ():
                self.state[leaf]["seen"] = self.state[leaf].get("seen", 0) + 1


@pytest.mark.clause("C45", "C88")
def test_a_captured_step_that_is_refused_for_one_part_syncs_no_other():
    weights = [single(), single()]
    groups = [{"params": weights[:1], "lookahead_sync_period": 1}, {"params": weights[1:]}]
    groups[1]["counts"] = True
    inner = CountsInPython(groups, lr=1.0)
    kinds = {"seen": "count"}
    optimizer = Lookahead(inner, 2, 0.5, "reset", capturable=True, state_kinds=kinds)
    with pytest.raises(ValueError, match="cannot restart 'seen'"):
        pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [-1.0, -1.0]
