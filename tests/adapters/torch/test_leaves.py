"""What is kept of each parameter: it comes and goes with it, and saving makes nothing lasting."""

import gc
from weakref import ref

import pytest
import torch

from lookahead_core import Momentum, SyncRule, diloco
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from reference_loop import POLICIES
from torch_runs import pull_down, single


@pytest.mark.parametrize("kernel", ["foreach", "plain"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_parameter_that_was_replaced_is_held_by_nothing(policy, kernel):
    weight = single()
    inner = torch.optim.SGD([weight], lr=1.0, momentum=0.5)
    optimizer, gone = Lookahead(inner, 2, 0.5, policy, kernel=kernel), []
    for _ in range(20):
        for _ in range(3):
            pull_down(optimizer, weight)
        inner.state.pop(weight)
        gone.append(ref(weight))
        weight = single()
        optimizer.param_groups[0]["params"] = [weight]
    for _ in range(2):
        pull_down(optimizer, weight)
    gc.collect()
    assert [own() for own in gone] == [None] * 20


@pytest.mark.clause("C06", "C18")
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_state_that_is_saved_under_inference_mode_leaves_nothing_behind(policy, steps):
    weight, undisturbed = single(), single()
    optimizers = [
        Lookahead(torch.optim.SGD([leaf], lr=1.0, momentum=0.5), 2, 0.5, policy)
        for leaf in (weight, undisturbed)
    ]
    for step in range(6):
        if step == steps:
            with torch.inference_mode():
                optimizers[0].state_dict()
        pull_down(optimizers[0], weight)
        pull_down(optimizers[1], undisturbed)
    assert weight.item() == undisturbed.item()


@pytest.mark.clause("C18")
@pytest.mark.parametrize("way", [{}, {"kernel": "plain"}, {"capturable": True}], ids=str)
def test_a_momentum_that_is_edited_between_cycles_is_where_the_next_one_starts(way):
    weight = single()
    inner = torch.optim.SGD([weight], lr=1.0, momentum=0.5)
    optimizer = Lookahead(inner, 2, 0.5, "interpolate", **way)
    for _ in range(2):
        pull_down(optimizer, weight)
    optimizer.state[weight]["momentum_buffer"].fill_(8.0)
    for _ in range(2):
        pull_down(optimizer, weight)
    # Buffers of 5 and 3.5 in the cycle, and halfway back to the 8 that it began with.
    assert optimizer.state[weight]["momentum_buffer"].item() == 5.75


class Renamed(Momentum):
    """A rule of the user's own that is one of the core's."""


@pytest.mark.clause("C45", "C71", "C76")
def test_a_subclass_of_a_rule_goes_leaf_by_leaf_as_it_does():
    ours, theirs = (
        MetaOptimizer(torch.optim.SGD([single(), single()], lr=1.0), rule)
        for rule in (SyncRule(2, Renamed(0.7, 0.9)), diloco(2, 0.7, 0.9))
    )
    assert [o._parts.parts[0].rule.leafwise for o in (ours, theirs)] == [True, True]


@pytest.mark.clause("C42", "C75")
def test_a_schedule_counts_the_syncs_of_its_own_part():
    weights = [single(), single()]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "lookahead_sync_period": 2}]
    inner = torch.optim.SGD(groups, lr=1.0)
    optimizer = Lookahead(inner, 1, lambda syncs: 1.0 if syncs == 0 else 0.5)
    for _ in range(4):
        pull_down(optimizer, *weights)
    # The first syncs of both go the whole way: after one step, and after two.
    assert [weight.item() for weight in weights] == [-2.5, -3.0]


@pytest.mark.clause("C75")
@pytest.mark.parametrize("kernel", ["foreach", "plain"])
def test_a_sync_that_fails_in_a_step_loses_no_slow_weights_and_is_due_at_the_next(kernel):
    weight, alphas = single(), iter([2.0, 0.5])
    inner = torch.optim.SGD([weight], lr=1.0)
    optimizer = Lookahead(inner, 2, lambda syncs: next(alphas), kernel=kernel)
    pull_down(optimizer, weight)
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, 1\] .* got 2.0"):
        pull_down(optimizer, weight)
    assert optimizer.state_dict()["state"][0]["lookahead_slow"].item() == 0.0
    pull_down(optimizer, weight)
    assert weight.item() == -1.5  # halfway back from -3
