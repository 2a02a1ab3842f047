"""Lists that a sync keeps from cycle to cycle: whatever changes in between is noticed.

Leaves count as large here, so that a sync leaves their slow weights to the next anchor.
"""

import pytest
import torch

from lookahead_core.adapters import _torch_plan
from lookahead_core.adapters.torch import Lookahead
from torch_runs import assert_same


@pytest.fixture(autouse=True)
def every_leaf_is_large(monkeypatch):
    monkeypatch.setattr(_torch_plan, "LARGE", 1)


def leaf(value=0.0, size=3):
    return torch.nn.Parameter(torch.full((size,), value))


def descend(optimizer, *leaves, steps=1):
    """Gradients of one: with SGD at a rate of one, each step subtracts one."""
    for _ in range(steps):
        for weight in leaves:
            weight.grad = torch.ones_like(weight)
        optimizer.step()


def around_sgd(*leaves, period=2, alpha=0.5):
    return Lookahead(torch.optim.SGD(leaves, lr=1.0), period, alpha)


def slow(optimizer, index=0):
    return optimizer.state_dict()["state"][index]["lookahead_slow"]


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
def test_large_and_small_leaves_move_by_the_same_bits(alpha, monkeypatch):
    torch.manual_seed(0)
    start, gradient = torch.randn(50), torch.randn(50)
    ends = []
    for threshold in (1, 1000):
        monkeypatch.setattr(_torch_plan, "LARGE", threshold)
        weight = torch.nn.Parameter(start.clone())
        optimizer = around_sgd(weight, alpha=alpha)
        for _ in range(5):
            weight.grad = gradient.clone()
            optimizer.step()
        ends.append([weight.detach(), slow(optimizer)])
    assert_same(*ends)


def test_a_checkpoint_right_after_a_sync_has_the_slow_weights():
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=2)
    assert_same(slow(optimizer), torch.full((3,), -1.0))


@pytest.mark.clause("C22")
def test_slow_weights_right_after_a_sync_are_the_parameters():
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=2)
    optimizer.param_groups[0]["lookahead_sync_period"] = 3  # two steps are no whole cycle now
    with optimizer.slow_weights():
        assert_same(weight.detach(), torch.full((3,), -1.0))


def test_a_period_that_changes_right_after_a_sync_loses_no_slow_weights():
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=2)
    optimizer.param_groups[0]["lookahead_sync_period"] = 3
    descend(optimizer, weight)  # the third step: from -1 to -2, and halfway back
    assert_same(weight.detach(), torch.full((3,), -1.5))


@pytest.mark.clause("C26")
@pytest.mark.parametrize("size", [3, 5])
def test_data_that_is_replaced_between_cycles_is_taken(size):
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=4)
    weight.data = torch.full((size,), 10.0)
    descend(optimizer, weight, steps=2)
    assert_same(weight.detach(), torch.full((size,), 9.0))
    assert_same(slow(optimizer), torch.full((size,), 9.0))


def test_data_that_is_replaced_within_a_cycle_is_interpolated_with_the_slow_weights():
    weight = leaf()
    optimizer = around_sgd(weight, period=3)
    descend(optimizer, weight, steps=4)  # one sync, at -1.5; then a step to -2.5
    weight.data = weight.data.double() + 0.5
    descend(optimizer, weight, steps=2)  # from -2 to -4, and halfway back to -1.5
    assert_same(weight.detach(), torch.full((3,), -2.75, dtype=torch.float64))


@pytest.mark.clause("C27")
def test_a_leaf_that_is_frozen_between_cycles_no_longer_moves():
    frozen, other = leaf(), leaf()
    optimizer = around_sgd(frozen, other)
    descend(optimizer, frozen, other, steps=2)
    frozen.requires_grad_(False)
    frozen.grad = None
    descend(optimizer, other)
    frozen.data.fill_(7.0)
    descend(optimizer, other)
    assert_same(frozen.detach(), torch.full((3,), 7.0))


def test_two_parameters_that_share_storage_move_once():
    storage = torch.zeros(4)
    whole, part = torch.nn.Parameter(storage), torch.nn.Parameter(storage[:2])
    optimizer = around_sgd(whole, part)
    descend(optimizer, whole, steps=2)
    assert_same(whole.detach(), torch.full((4,), -1.0))


def test_parameters_that_are_replaced_in_their_group_are_no_longer_synced():
    gone, new = leaf(), leaf()
    optimizer = around_sgd(gone)
    descend(optimizer, gone)
    optimizer.param_groups[0]["params"] = [new]
    descend(optimizer, new)
    assert_same(gone.detach(), torch.full((3,), -1.0))


def test_a_list_is_kept_from_cycle_to_cycle(monkeypatch):
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=2)
    monkeypatch.setattr(_torch_plan, "listed", None)  # nothing is sorted again
    descend(optimizer, weight, steps=4)
    assert_same(weight.detach(), torch.full((3,), -3.0))


@pytest.mark.clause("C26")
def test_a_new_shape_of_the_same_data_is_noticed():
    weight = leaf(size=4)
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=2)
    weight.grad = None
    weight.data = weight.data.view(2, 2)
    descend(optimizer, weight, steps=2)
    assert_same(slow(optimizer), torch.full((2, 2), -2.0))


def test_another_parameter_on_the_same_data_has_slow_weights_of_its_own():
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=2)
    other = optimizer.param_groups[0]["params"][0] = torch.nn.Parameter(weight.data)
    descend(optimizer, other, steps=2)
    assert_same(slow(optimizer), torch.full((3,), -2.0))


@pytest.mark.clause("C09")
@pytest.mark.parametrize(("alpha", "end"), [(0.0, 0.0), (1.0, 5.0)])
def test_at_the_ends_of_alpha_nothing_infinite_on_the_other_side_is_touched(alpha, end):
    weight = leaf(value=0.0 if alpha == 0 else torch.inf)
    optimizer = around_sgd(weight, alpha=alpha)
    descend(optimizer, weight)
    weight.data.fill_(torch.inf if alpha == 0 else 6.0)
    descend(optimizer, weight)
    assert_same(weight.detach(), torch.full((3,), end))
