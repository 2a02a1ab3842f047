"""Where slow weights live: with their parameters, or on a device of their own.

There was no GPU. Tensors on torch's meta device stand for another device and have no values: copies
between devices, pinned memory, and that they do not wait, are NOT verified.
"""

import pytest
import torch

from lookahead_core import SyncRule
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from lookahead_core.adapters.torch._kernels.interpolation import anchor_rows, move_row
from lookahead_core.adapters.torch._kernels.lists import sort
from lookahead_core.adapters.torch._leaves import Home, Kept
from lookahead_core.adapters.torch._template import is_asked_for
from torch_runs import DOUBLE, pull_down, single


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_model_converted_at_any_phase_is_followed(steps):
    weight = single()
    model = torch.nn.ParameterList([weight])
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 3, 0.5)
    for step in range(3):
        if step == steps:
            model.double()
        pull_down(optimizer, weight)
    assert weight.dtype == DOUBLE
    assert weight.item() == -1.5
    assert optimizer.state_dict()["state"][0]["lookahead_slow"].dtype == DOUBLE


@pytest.mark.clause("C22")
def test_a_model_converted_in_mid_cycle_is_evaluated_in_its_new_dtype():
    weight = single(0.1)
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 3, 0.5)
    pull_down(optimizer, weight)
    torch.nn.ParameterList([weight]).bfloat16()
    with optimizer.slow_weights():
        assert weight.dtype == torch.bfloat16
        assert weight.item() == pytest.approx(0.1, rel=2**-8)
    assert weight.item() == pytest.approx(-0.9, rel=2**-8)


def test_a_parameter_that_changes_its_shape_between_cycles_starts_again():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 2, 0.5)
    weight.data = torch.zeros(3)
    for _ in range(2):
        pull_down(optimizer, weight)
    assert weight.tolist() == [-1.0] * 3


def test_parameters_on_several_devices_sync_together():
    here = single()
    there = torch.nn.Parameter(torch.zeros(2, device="meta"))
    optimizer = Lookahead(torch.optim.SGD([there, here], lr=1.0, foreach=False), 2, 0.5)
    for _ in range(2):
        pull_down(optimizer, here, there)
    slow = [entry["lookahead_slow"] for entry in optimizer.state_dict()["state"].values()]
    assert here.item() == -1.0
    assert [tensor.device.type for tensor in slow] == ["meta", "cpu"]


@pytest.mark.clause("C02")
def test_slow_weights_kept_on_the_cpu_mean_the_same():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 2, 0.5, slow_device="cpu")
    trace = []
    for _ in range(4):
        pull_down(optimizer, weight)
        trace.append(weight.item())
    assert trace == [-1.0, -1.0, -2.0, -2.0]


def test_a_home_of_their_own_is_where_slow_weights_go():
    home, leaf = Home(torch.float32, torch.device("meta")), single(dtype=torch.bfloat16)
    kept = home.settled(Kept(torch.zeros(1, dtype=torch.bfloat16), []), leaf)
    moved = kept.slow
    assert (moved.device.type, moved.dtype) == ("meta", torch.float32)
    assert home.settled(kept, leaf).slow is moved


@pytest.mark.clause("C10", "C15")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_leaves_on_two_devices_are_moved_by_the_same_formula(dtype):
    slow, fast = torch.zeros(5), torch.full((5,), 4.0, dtype=dtype)
    move_row((slow, fast), 0.25, both=True)
    assert slow.tolist() == fast.tolist() == [1.0] * 5


class Far(torch.Tensor):
    """As on another device: to bring it here makes a copy."""

    def to(self, *args, **kwargs):
        return self.as_subclass(torch.Tensor).clone()


@pytest.mark.clause("C10", "C26")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slow_weights_on_another_device_are_written_back_there(dtype):
    slow, fast = torch.zeros(5).as_subclass(Far), torch.full((5,), 4.0, dtype=dtype)
    anchor_rows([(slow, fast)])
    assert slow.tolist() == [4.0] * 5
    fast.fill_(8.0)
    move_row((slow, fast), 0.25, both=True)
    assert slow.tolist() == fast.tolist() == [5.0] * 5


def test_leaves_on_two_devices_are_told_from_those_on_one():
    here, there = torch.zeros(2), torch.zeros(2, device="meta")
    rows = sort("plain", [here, there, here], [here, there, there])
    assert [s.device for s, _ in rows.single] == [f.device for _, f in rows.single]
    assert [(s.device.type, f.device.type) for s, f in rows.two_devices] == [("cpu", "meta")]


@pytest.mark.parametrize("steps", [1, 2])
def test_parameters_that_a_trainer_puts_in_the_place_of_others_join_at_the_next_cycle(steps):
    old, new = single(), single()
    optimizer = Lookahead(torch.optim.SGD([old], lr=1.0), 2, 0.5)
    for _ in range(steps):
        pull_down(optimizer, old)
    optimizer.param_groups[0]["params"] = [new]
    assert len(optimizer.state_dict()["state"]) == 0
    for _ in range(4 - steps):
        pull_down(optimizer, new)
    assert new.item() == {1: -2.0, 2: -1.0}[steps]
    assert list(optimizer._parts.kept) == [new]


def test_a_learning_rate_on_another_device_is_not_read_to_tell_the_kind_of_a_step():
    weight = single()
    inner = torch.optim.SGD([weight], lr=1.0)
    inner.param_groups[0]["lr"] = torch.zeros((), device="meta")
    weight.grad = torch.zeros(1)
    assert not is_asked_for(inner, None)


@pytest.mark.clause("C24")
@pytest.mark.parametrize("device", ["nowhere", 2.5])
def test_a_device_that_is_none_is_refused(device):
    inner = torch.optim.SGD([single()], lr=1.0)
    with pytest.raises(ValueError, match=r"slow_device must be a torch.device or its name, got"):
        Lookahead(inner, slow_device=device)


class KindsOfTensor:
    """An outer rule that writes down what it is given."""

    def init(self, slow):
        return ([torch.zeros_like(s) for s in slow],)

    def update(self, slow, fast, state, context):
        self.given = [type(tensor) for tensor in (*slow, *state[0])]
        return [s + 0.5 * (f - s) for s, f in zip(slow, fast, strict=True)], (list(slow),)


@pytest.mark.clause("C76")
def test_a_rule_of_the_users_own_gets_copies_beside_the_parameters_and_they_are_written_back():
    weight, outer = single(), KindsOfTensor()
    optimizer = MetaOptimizer(torch.optim.SGD([weight], lr=1.0), SyncRule(2, outer))
    pull_down(optimizer, weight)
    kept = optimizer._parts.kept[weight]
    kept.slow = kept.slow.as_subclass(Far)
    kept.slots = [torch.ones(1).as_subclass(Far)]
    pull_down(optimizer, weight)
    assert outer.given == [torch.Tensor, torch.Tensor]
    assert [type(kept.slow), type(kept.slots[0])] == [Far, Far]
    assert (kept.slow.tolist(), kept.slots[0].tolist()) == ([-1.0], [0.0])
    assert weight.item() == -1.0
