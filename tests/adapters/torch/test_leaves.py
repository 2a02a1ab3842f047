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


def resize(optimizer, leaf, size):
    """As pruning does: the first numbers of the data and of the moments stay."""
    leaf.data, leaf.grad = leaf.data[:size].clone(), None
    for key, value in optimizer.state[leaf].items():
        if value.dim():
            optimizer.state[leaf][key] = value[:size].clone()


@pytest.mark.clause("C18", "C26")
@pytest.mark.parametrize("kernel", ["foreach", "plain"])
@pytest.mark.parametrize("policy", ["maintain", "interpolate"])
@pytest.mark.parametrize("before", [3, 4, 5, 6], ids="after {} steps".format)
def test_a_parameter_that_is_resized_in_mid_cycle_starts_anew_and_others_sync(
    before, policy, kernel
):
    def make(alpha):
        leaves = [torch.nn.Parameter(torch.full((n,), 2.0)) for n in (4, 3)]
        inner = torch.optim.SGD(leaves, lr=0.25, momentum=0.5)
        return Lookahead(inner, 3, alpha, policy, kernel=kernel), *leaves

    optimizer, leaf, other = make(0.5)
    bare, bare_leaf, _ = make(1.0)
    undisturbed, whole, whole_other = make(0.5)
    for _ in range(before):
        pull_down(optimizer, leaf, other)
        pull_down(undisturbed, whole, whole_other)
    resize(optimizer, leaf, 2)
    bare_leaf.data = leaf.data.clone()
    bare.state[bare_leaf]["momentum_buffer"] = optimizer.state[leaf]["momentum_buffer"].clone()
    for _ in range(6 - before):
        pull_down(optimizer, leaf, other)
        pull_down(undisturbed, whole, whole_other)
        pull_down(bare, bare_leaf)
    assert torch.equal(other, whole_other)
    expected = whole[:2] if before in (3, 6) else bare_leaf  # between two cycles nothing is new
    assert torch.equal(leaf, expected)
    for _ in range(3):
        pull_down(optimizer, leaf, other)
    assert leaf.isfinite().all()


@pytest.mark.clause("C06", "C22")
def test_a_parameter_that_is_resized_in_mid_cycle_is_evaluated_and_saved_as_it_is():
    leaf = torch.nn.Parameter(torch.ones(4))
    inner = torch.optim.SGD([leaf], lr=0.25, momentum=0.5)
    optimizer = Lookahead(inner, 3, 0.5, "interpolate")
    pull_down(optimizer, leaf)
    resize(optimizer, leaf, 2)
    here = leaf.tolist()
    with optimizer.slow_weights():
        assert leaf.tolist() == here
    entries = optimizer.state_dict()["state"][0]
    assert entries["lookahead_slow"].tolist() == here
    assert torch.equal(entries["lookahead_slow_momentum_buffer"], entries["momentum_buffer"])


# --- parameters that have no shape yet ---


@pytest.mark.clause("C25")
def test_a_parameter_without_a_shape_is_refused_until_the_model_has_run():
    model = torch.nn.LazyLinear(2)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"params\[0\] must have a shape, .* run one forward"):
        Lookahead(inner)
    model(torch.ones(1, 3))
    optimizer = Lookahead(inner, 2)
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()


@pytest.mark.clause("C25")
@pytest.mark.parametrize("given", [list, iter], ids=["list", "generator"])
def test_a_group_with_one_is_refused_and_leaves_no_trace(given):
    weight, lazy = single(), torch.nn.LazyLinear(2)
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 2, 0.5)
    with pytest.raises(ValueError, match=r"params\[0\] must have a shape"):
        optimizer.add_param_group({"params": given(lazy.parameters())})
    assert len(optimizer.param_groups) == len(optimizer.inner.param_groups) == 1
    for _ in range(2):
        pull_down(optimizer, weight)
    assert weight.item() == -1.0
    lazy(torch.ones(1, 3))
    optimizer.add_param_group({"params": given(lazy.parameters())})
    pull_down(optimizer, weight, lazy.weight)


@pytest.mark.clause("C25")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lookahead_alpha": 7}, "alpha must be"),
        ({"lookahead_sync_period": 0}, "lookahead_sync_period must be"),
        ({"differentiable": True}, "differentiable must be False"),
    ],
)
def test_a_group_with_settings_that_are_refused_leaves_no_trace(settings, message):
    optimizer = Lookahead(torch.optim.SGD([single()], lr=1.0), 2, 0.5)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [single()], **settings})
    assert len(optimizer.param_groups) == 1
