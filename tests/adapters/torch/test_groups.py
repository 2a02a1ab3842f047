"""Parameter groups of the torch adapter: settings of their own, one counter for all."""

import pytest
import torch

from lookahead_core import SyncRule
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from torch_runs import assert_same, flat, pull_down, single


def two_groups(first=None, second=None, **settings):
    """Two weights in groups of their own, around plain SGD with a rate of one."""
    weights = [single(), single()]
    groups = [
        {"params": [weight], **(own or {})}
        for weight, own in zip(weights, (first, second), strict=True)
    ]
    return weights, Lookahead(torch.optim.SGD(groups, lr=1.0), **settings)


@pytest.mark.clause("C42")
def test_alpha_in_a_group_overrides_the_rule():
    weights, optimizer = two_groups({"lookahead_alpha": 0.25}, sync_period=2, alpha=0.5)
    for _ in range(2):
        pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [-0.5, -1.0]


@pytest.mark.clause("C42")
def test_alpha_can_be_scheduled():
    weights, optimizer = two_groups(sync_period=1, alpha=0.5)
    for alpha in (1.0, 0.5, 0.25):
        optimizer.param_groups[0]["lookahead_alpha"] = alpha
        pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [-1.75, -1.5]


@pytest.mark.clause("C42")
def test_a_period_in_a_group_overrides_the_rule_and_one_counter_keeps_them_in_phase():
    weights, optimizer = two_groups({"lookahead_sync_period": 2}, sync_period=4, alpha=0.5)
    trace = []
    for _ in range(8):
        pull_down(optimizer, *weights)
        trace.append([weight.item() for weight in weights])
    first, second = zip(*trace, strict=True)
    assert first == (-1.0, -1.0, -2.0, -2.0, -3.0, -3.0, -4.0, -4.0)
    assert second == (-1.0, -2.0, -3.0, -2.0, -3.0, -4.0, -5.0, -4.0)


@pytest.mark.clause("C26", "C42")
@pytest.mark.parametrize("kernel", ["foreach", "plain"])
def test_a_period_that_is_set_between_cycles_leaves_an_edit_there_one_between_cycles(kernel):
    (weight, _), optimizer = two_groups(sync_period=4, alpha=0.5, kernel=kernel)
    for _ in range(4):
        pull_down(optimizer, weight)
    optimizer.param_groups[0]["lookahead_sync_period"] = 3  # four steps are no multiple of it
    weight.data.fill_(10.0)
    with optimizer.slow_weights():
        assert weight.item() == 10.0
    for _ in range(2):
        pull_down(optimizer, weight)
    assert weight.item() == 9.0  # half of the way from 10 to 8


@pytest.mark.clause("C05", "C42")
def test_a_forced_sync_restarts_all_groups():
    weights, optimizer = two_groups({"lookahead_sync_period": 2}, sync_period=3, alpha=0.5)
    pull_down(optimizer, *weights)
    optimizer.sync()
    assert [weight.item() for weight in weights] == [-0.5, -0.5]
    for _ in range(2):
        pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [-1.5, -2.5]
    pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [-2.5, -2.0]


@pytest.mark.clause("C22", "C42")
def test_each_group_is_evaluated_at_its_own_phase():
    weights, optimizer = two_groups({"lookahead_sync_period": 2}, sync_period=4, alpha=0.5)
    for _ in range(3):
        pull_down(optimizer, *weights)
    weights[0].data.add_(0.0)
    with optimizer.slow_weights():
        assert [weight.item() for weight in weights] == [-1.0, 0.0]
    assert [weight.item() for weight in weights] == [-2.0, -3.0]


@pytest.mark.clause("C06", "C42")
@pytest.mark.parametrize("steps", range(13))
def test_groups_with_periods_of_their_own_resume_exactly(steps):
    settings = ({"lookahead_sync_period": 2}, {"lookahead_sync_period": 3})
    whole, undisturbed = two_groups(*settings, alpha=0.3)
    first, before = two_groups(*settings, alpha=0.3)
    second, after = two_groups(*settings, alpha=0.3)
    for _ in range(13):
        pull_down(undisturbed, *whole)
    for _ in range(steps):
        pull_down(before, *first)
    weights, saved = flat([[weight.detach() for weight in first], before.state_dict()])
    for weight, value in zip(second, weights, strict=True):
        weight.data.copy_(value)
    after.load_state_dict(saved)
    for _ in range(13 - steps):
        pull_down(after, *second)
    assert_same([w.item() for w in second], [w.item() for w in whole])
    assert [group["lookahead_count"] for group in saved["param_groups"]] == [steps % 2, steps % 3]


@pytest.mark.clause("C42")
def test_a_group_added_in_mid_cycle_takes_its_own_settings_and_the_common_phase():
    weights, optimizer = two_groups(sync_period=4, alpha=0.5)
    pull_down(optimizer, *weights)
    late = single()
    optimizer.add_param_group({"params": [late], "lookahead_sync_period": 2})
    pull_down(optimizer, *weights, late)
    assert [late.item(), weights[0].item()] == [-0.5, -2.0]


@pytest.mark.clause("C27", "C42")
def test_a_parameter_that_thaws_before_a_group_is_added_takes_part_in_the_next_cycle():
    weights = [single(), single(), single()]
    weights[1].requires_grad_(False)
    optimizer = Lookahead(torch.optim.SGD(weights[:2], lr=1.0), sync_period=1, alpha=0.5)
    weights[1].requires_grad_(True)
    optimizer.add_param_group({"params": weights[2:]})
    pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [-0.5, -0.5, -0.5]


@pytest.mark.clause("C27", "C34", "C42")
@pytest.mark.parametrize("capturable", [False, True])
def test_a_group_that_is_frozen_whole_keeps_the_phase_of_the_others(capturable):
    settings = {"lookahead_sync_period": 3}
    frozen, weight, late = single(), single(), single()
    frozen.requires_grad_(False)
    inner = torch.optim.SGD([{"params": [frozen], **settings}, {"params": [weight]}], lr=1.0)
    optimizer = Lookahead(inner, 2, 0.5, capturable=capturable)
    for _ in range(4):
        pull_down(optimizer, weight)
    optimizer.load_state_dict(flat(optimizer.state_dict()))
    optimizer.add_param_group({"params": [late], **settings})
    for _ in range(2):
        pull_down(optimizer, weight, late)
    assert late.item() == -1.0  # six steps are two cycles of three


@pytest.mark.clause("C42", "C73")
@pytest.mark.parametrize("capturable", [False, True])
def test_a_group_that_is_added_before_the_start_waits_for_it(capturable):
    weight, late = single(), single()
    inner = torch.optim.SGD([weight], lr=1.0)
    optimizer = MetaOptimizer(inner, SyncRule(2, start=2), capturable=capturable)
    optimizer.add_param_group({"params": [late], "lookahead_sync_period": 1})
    trace = []
    for _ in range(4):
        pull_down(optimizer, weight, late)
        trace.append(late.item())
    assert trace == [-1.0, -2.0, -2.5, -3.0]


@pytest.mark.clause("C24", "C42")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lookahead_alpha": 7}, r"alpha must be a number in \[0, 1\] .* got 7"),
        ({"lookahead_sync_period": 2.5}, "lookahead_sync_period must be an int >= 1 .* got 2.5"),
        ({"lookahead_sync_period": 0}, "lookahead_sync_period must be an int >= 1 .* got 0"),
    ],
)
def test_settings_out_of_range_in_a_group_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        two_groups(settings)
    weights, optimizer = two_groups(sync_period=1)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [single()], **settings})
    assert len(optimizer.param_groups) == 2
    optimizer.param_groups[1].update(settings)
    with pytest.raises(ValueError, match=message):
        pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [0.0, 0.0]


@pytest.mark.clause("C06", "C43")
def test_alpha_follows_the_checkpoint_as_the_learning_rate_does():
    weights, before = two_groups(sync_period=2, alpha=0.5)
    before.param_groups[0]["lookahead_alpha"] = 0.25
    pull_down(before, *weights)
    _, after = two_groups(sync_period=2, alpha=0.8)
    after.load_state_dict(flat(before.state_dict()))
    assert [group["lookahead_alpha"] for group in after.param_groups] == [0.25, 0.5]


@pytest.mark.clause("C43")
def test_an_alpha_that_is_the_rules_own_stays_out_of_the_groups():
    weights, before = two_groups({"lookahead_alpha": 0.5}, sync_period=2, alpha=0.5)
    pull_down(before, *weights)
    _, after = two_groups({"lookahead_alpha": 0.8}, sync_period=2, alpha=0.5)
    after.load_state_dict(flat(before.state_dict()))
    assert "lookahead_alpha" not in after.param_groups[0]
    assert after.state_dict()["param_groups"][0]["lookahead_alpha"] == 0.5


@pytest.mark.clause("C43")
def test_a_checkpoint_with_another_period_in_a_group_is_refused():
    weights, before = two_groups({"lookahead_sync_period": 2}, sync_period=4)
    pull_down(before, *weights)
    _, after = two_groups(sync_period=4)
    with pytest.raises(
        ValueError, match="made with sync_period=2, this optimizer has sync_period=4"
    ):
        after.load_state_dict(flat(before.state_dict()))


def test_groups_whose_clocks_differ_are_refused():
    weights, optimizer = two_groups(sync_period=4)
    pull_down(optimizer, *weights)
    saved = flat(optimizer.state_dict())
    saved["param_groups"][1]["lookahead_elapsed"] = 3
    with pytest.raises(ValueError, match=r"lookahead_elapsed must be the same .* got \[1, 3\]"):
        optimizer.load_state_dict(saved)


def test_the_inner_optimizers_groups_get_no_entries_of_ours():
    weights, optimizer = two_groups(sync_period=4)
    pull_down(optimizer, *weights)
    optimizer.load_state_dict(flat(optimizer.state_dict()))
    keys = {key for group in optimizer.inner.param_groups for key in group}
    assert [key for key in keys if key.startswith("lookahead")] == []
