"""Lists that a sync keeps from cycle to cycle: whatever changes in between is noticed.

Every test runs three times. Small leaves are laid end to end; large ones go one by one, and are
copied at an anchor only if somebody has written to them; on an accelerator (a CPU that is taken for
one here) they go in lists.
"""

import pickle
from copy import deepcopy

import pytest
import torch

from lookahead_core import Interpolate, Momentum, SyncRule, ema, slowmo, snoo, swa, switch_ema
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from lookahead_core.adapters.torch._kernels import prepared, witness
from torch_runs import assert_same


@pytest.fixture(autouse=True, params=["small", "large", "on an accelerator"])
def every_leaf_is(request, monkeypatch):
    for module in (prepared, witness):
        monkeypatch.setattr(module, "LARGE", 1 if request.param == "large" else 1000)
    monkeypatch.setattr(prepared, "on_cpu", lambda leaf: request.param != "on an accelerator")


def leaf(value=0.0, size=3):
    return torch.nn.Parameter(torch.full((size,), value))


def descend(optimizer, *leaves, steps=1):
    """Gradients of one: with SGD at a rate of one, each step subtracts one."""
    for _ in range(steps):
        for weight in leaves:
            weight.grad = torch.ones_like(weight)
        optimizer.step()


def around_sgd(*leaves, period=2, alpha=0.5, **options):
    return Lookahead(torch.optim.SGD(leaves, lr=1.0), period, alpha, **options)


def slow(optimizer, index=0):
    return optimizer.state_dict()["state"][index]["lookahead_slow"]


@pytest.mark.parametrize("slow_dtype", [None, torch.float64])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 0.5, 0.8, 1.0])
def test_leaves_move_by_the_bits_of_the_plain_kernel(alpha, slow_dtype, monkeypatch):
    monkeypatch.setattr(prepared, "ROOM", 60)  # three of seven leaves
    torch.manual_seed(0)
    starts, gradient = torch.randn(7, 4, 5), torch.randn(4, 5)
    dtypes = [torch.float32] * 5 + [torch.float64] * 2
    ends = []
    for kernel in ("foreach", "plain"):
        leaves = [
            torch.nn.Parameter(s.to(d, copy=True)) for s, d in zip(starts, dtypes, strict=True)
        ]
        inner = torch.optim.SGD(leaves, lr=0.3)
        optimizer = Lookahead(inner, 2, alpha, slow_dtype=slow_dtype, kernel=kernel)
        for _ in range(5):
            for weight in leaves:
                weight.grad = gradient * weight.detach()
            optimizer.step()
        ends.append([*(w.detach() for w in leaves), *(slow(optimizer, i) for i in range(7))])
    assert_same(*ends)


AVERAGES = {
    "ema": ema(0.9),
    "ema, from the third step on": ema(0.9, sync_period=3, start=2),
    "swa": swa(2),
    "switch_ema": switch_ema(3, 0.9),
    "partly put back": SyncRule(2, Interpolate(0.3), restart=0.25),
}
MOMENTA = {
    "snoo": snoo(2),
    "slowmo": slowmo(2),
    "put back at every other sync": SyncRule(2, Momentum(0.7, 0.9), restart_period=2),
    "without a learning rate": SyncRule(2, Momentum(0.0, 0.9)),
}


def run(rule, kernel="foreach", slow_dtype=None):
    """Seven leaves of two dtypes, nine steps: what is there at the end, and in a checkpoint."""
    torch.manual_seed(0)
    starts, gradients = torch.randn(7, 4, 5), torch.randn(9, 4, 5)
    dtypes = [torch.float32] * 5 + [torch.float64] * 2
    leaves = [torch.nn.Parameter(s.to(d, copy=True)) for s, d in zip(starts, dtypes, strict=True)]
    inner = torch.optim.SGD(leaves, lr=0.3)
    optimizer = MetaOptimizer(inner, rule, slow_dtype=slow_dtype, kernel=kernel)
    for gradient in gradients:
        for weight in leaves:
            weight.grad = gradient * weight.detach()
        optimizer.step()
    saved = optimizer.state_dict()["state"].values()
    return [*(w.detach() for w in leaves), *(v for own in saved for v in own.values())]


@pytest.mark.parametrize("slow_dtype", [None, torch.float64])
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_moved_by_the_bits_of_the_plain_kernel(name, slow_dtype, monkeypatch):
    monkeypatch.setattr(prepared, "ROOM", 60)
    rule = AVERAGES[name]
    assert_same(run(rule, slow_dtype=slow_dtype), run(rule, "plain", slow_dtype))


@pytest.mark.parametrize("slow_dtype", [None, torch.float64])
@pytest.mark.parametrize("name", MOMENTA)
def test_momentum_has_the_bits_that_it_has_with_lists_that_are_made_anew(
    name, slow_dtype, monkeypatch
):
    monkeypatch.setattr(prepared, "ROOM", 60)
    kept = run(MOMENTA[name], slow_dtype=slow_dtype)
    monkeypatch.setattr(prepared.Prepared, "of", lambda *_: None)
    assert_same(kept, run(MOMENTA[name], slow_dtype=slow_dtype))


@pytest.mark.clause("C06")
def test_a_slot_in_a_checkpoint_does_not_bring_those_of_other_parameters_along():
    leaves = [leaf(), leaf(), leaf()]
    optimizer = MetaOptimizer(torch.optim.SGD(leaves, lr=1.0), snoo(2))
    descend(optimizer, *leaves, steps=3)
    for saved in (optimizer, pickle.loads(pickle.dumps(optimizer))):
        for entries in saved.state_dict()["state"].values():
            slot = entries["lookahead_outer_0"]
            assert slot.untyped_storage().nbytes() == slot.nbytes


class Halved:
    """Half of the way, as a rule of the user's own may write it: with a tuple, and twice."""

    leafwise = True

    def init(self, slow):
        return ()

    def update(self, slow, fast, state, context):
        moved = context.kernel.move(slow, fast, 0.25)
        return tuple(context.kernel.move(moved, fast, 1 / 3)), state


def test_a_rule_of_ones_own_reads_the_parameters_twice_and_returns_a_tuple(monkeypatch):
    monkeypatch.setattr(prepared, "ROOM", 60)
    assert_same(run(SyncRule(2, Halved())), run(SyncRule(2, Halved()), "plain"))


class Ahead:
    """A move with a slot by a kernel's `linear`, with one number for all leaves or one for each."""

    leafwise = True

    def __init__(self, decay):
        self.decay = decay

    def init(self, slow):
        return ([torch.zeros_like(leaf) for leaf in slow],)

    def update(self, slow, fast, state, context):
        decay = [self.decay] * len(slow) if self.decay < 0.5 else self.decay
        slow, slot = context.kernel.linear(slow, fast, state[0], decay, 0.25, 0.75, 0.5)
        return slow, (slot,)

    def update_both(self, slow, fast, state, context):
        slow, slot, fast = context.kernel.linear_both(
            slow, fast, state[0], self.decay, 0.25, 0.75, 0.5
        )
        return slow, fast, (slot,)


@pytest.mark.parametrize("decay", [0.25, 0.5])
def test_a_rule_of_ones_own_moves_linearly(decay, monkeypatch):
    monkeypatch.setattr(prepared, "ROOM", 60)
    rule = SyncRule(2, Ahead(decay))
    kept = run(rule)
    monkeypatch.setattr(prepared.Prepared, "of", lambda *_: None)
    torch.testing.assert_close(kept, run(rule))


def test_a_checkpoint_right_after_a_sync_has_the_slow_weights():
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=2)
    assert_same(slow(optimizer), torch.full((3,), -1.0))


def test_so_has_one_after_a_group_was_added():
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=2)
    optimizer.add_param_group({"params": [leaf()]})
    assert_same(slow(optimizer), torch.full((3,), -1.0))


@pytest.mark.parametrize("kernel", ["foreach", "plain"])
def test_a_sync_that_fails_has_synced_nothing(kernel):
    def alpha(syncs):
        return [0.5][syncs]

    weight = leaf()
    optimizer = around_sgd(weight, alpha=alpha, kernel=kernel)
    descend(optimizer, weight, steps=3)  # one sync, at -1; then a step to -2
    with pytest.raises(IndexError):
        optimizer.sync()
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
def test_an_edit_between_cycles_that_no_version_counter_sees_is_taken():
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=4)
    weight.data.fill_(10.0)
    descend(optimizer, weight, steps=2)
    assert_same(weight.detach(), torch.full((3,), 9.0))
    assert_same(slow(optimizer), torch.full((3,), 9.0))


def test_a_new_shape_within_a_cycle_is_as_new_or_synced_as_the_data_lies(request):
    weight = leaf(size=4)
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=3)
    weight.grad, weight.data = None, weight.data.view(2, 2)
    descend(optimizer, weight)
    expected = -2.0 if "small" in request.node.name else -3.0
    assert_same(weight.detach(), torch.full((2, 2), expected))


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


def test_data_of_another_shape_may_come_between_cycles_before_a_save():
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=2)
    weight.data = torch.full((5,), 10.0)
    optimizer.state_dict()
    descend(optimizer, weight, steps=2)
    assert_same(slow(optimizer), torch.full((5,), 9.0))


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
    monkeypatch.setattr(prepared, "way", None)  # nothing is sorted again
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


@pytest.mark.clause("C26")
def test_wider_slow_weights_keep_their_bits_where_nobody_has_edited_the_parameter():
    weight = torch.nn.Parameter(torch.ones(24, dtype=torch.bfloat16))
    inner = torch.optim.SGD([weight], lr=2.0**-8)
    optimizer = Lookahead(inner, 2, 0.5, slow_dtype=torch.float32)
    descend(optimizer, weight)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()  # from 1 - 2 ** -8 halfway back to 1 - 2 ** -9, which rounds to 1
    weight.data[5] = 8.0
    optimizer.step()
    expected = torch.full((24,), 1 - 2.0**-9)
    expected[5] = 8.0
    assert_same(slow(optimizer), expected)


@pytest.mark.clause("C26")
@pytest.mark.parametrize("size", [1, 3, 24])
def test_a_single_edit_beside_wider_slow_weights_is_seen(size):
    weight = torch.nn.Parameter(torch.ones(size, dtype=torch.bfloat16))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.0), 1, 0.5, slow_dtype=torch.float32)
    descend(optimizer, weight)
    weight.data[-1] = 1 + 2.0**-7
    descend(optimizer, weight)
    assert slow(optimizer)[-1] == 1 + 2.0**-7


@pytest.mark.clause("C06")
def test_slow_weights_in_a_checkpoint_do_not_bring_those_of_other_parameters_along():
    leaves = [leaf(), leaf(), leaf()]
    optimizer = around_sgd(*leaves)
    descend(optimizer, *leaves, steps=3)
    for index in range(3):
        saved = slow(optimizer, index)
        assert saved.untyped_storage().nbytes() == saved.nbytes


@pytest.mark.clause("C06")
@pytest.mark.parametrize("steps", [2, 3, 4])
@pytest.mark.parametrize("copied", [deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copied_optimizer_goes_on_as_the_first_does(copied, steps):
    leaves = [leaf(), leaf(1.0)]
    optimizer = around_sgd(*leaves, period=3)
    descend(optimizer, *leaves, steps=steps)
    twin, twins = copied((optimizer, leaves))
    for opt, weights in ((optimizer, leaves), (twin, twins)):
        descend(opt, *weights, steps=4)
    assert_same([*leaves, slow(optimizer), slow(optimizer, 1)], [*twins, slow(twin), slow(twin, 1)])


@pytest.mark.clause("C06")
@pytest.mark.parametrize("copied", [deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copied_optimizer_has_slow_weights_of_its_own_and_nothing_prepared(copied):
    leaves = [leaf(), leaf()]
    optimizer = around_sgd(*leaves)
    descend(optimizer, *leaves, steps=3)
    twin = copied(optimizer)
    assert [part.prepared for part in twin._parts.parts] == [None]
    for index in range(2):
        saved = slow(twin, index)
        assert saved.untyped_storage().nbytes() == saved.nbytes


def test_leaves_that_are_not_contiguous_are_synced():
    weight = torch.nn.Parameter(torch.zeros(4, 5).t())
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=4)
    assert_same(weight.detach(), torch.full((5, 4), -2.0))


def test_groups_that_are_synced_apart_for_a_while_go_on_from_their_own_slow_weights():
    leaves = [leaf(), leaf()]
    optimizer = Lookahead(torch.optim.SGD([{"params": [w]} for w in leaves], lr=1.0), 2, 0.5)
    descend(optimizer, *leaves, steps=2)  # together, to -1
    optimizer.param_groups[1]["lookahead_alpha"] = 0.25
    descend(optimizer, *leaves, steps=2)  # apart: to -2, and to -1.5
    del optimizer.param_groups[1]["lookahead_alpha"]
    descend(optimizer, *leaves, steps=3)  # together again: to -3 and -2.5, and a step
    assert_same([w.detach()[0] for w in leaves], [torch.tensor(-4.0), torch.tensor(-3.5)])
    assert_same([slow(optimizer, i)[0] for i in (0, 1)], [torch.tensor(-3.0), torch.tensor(-2.5)])


def test_data_that_is_exchanged_at_a_sync_and_comes_back_is_still_synced():
    weight = leaf()
    optimizer = around_sgd(weight)
    descend(optimizer, weight, steps=3)  # a sync at -1, and a step to -2
    own, weight.data = weight.data, weight.data.double()
    weight.grad = None
    descend(optimizer, weight)  # to -3, and halfway back to -1
    assert_same(weight.detach(), torch.full((3,), -2.0, dtype=torch.float64))
    weight.grad = None
    weight.data = own.fill_(10.0)
    descend(optimizer, weight, steps=2)
    assert_same(weight.detach(), torch.full((3,), 9.0))
    assert_same(slow(optimizer), torch.full((3,), 9.0))


@pytest.mark.clause("C09")
@pytest.mark.parametrize(("alpha", "end"), [(0.0, 0.0), (1.0, 5.0)])
def test_at_the_ends_of_alpha_nothing_infinite_on_the_other_side_is_touched(alpha, end):
    weight = leaf(value=0.0 if alpha == 0 else torch.inf)
    optimizer = around_sgd(weight, alpha=alpha)
    descend(optimizer, weight)
    weight.data.fill_(torch.inf if alpha == 0 else 6.0)
    descend(optimizer, weight)
    assert_same(weight.detach(), torch.full((3,), end))


@pytest.mark.clause("C27")
def test_a_leaf_that_was_frozen_before_a_group_is_added_is_left_alone():
    weight, added = leaf(), leaf()
    optimizer = around_sgd(weight)
    weight.requires_grad_(False)
    optimizer.add_param_group({"params": [added]})
    descend(optimizer, added)
    weight.data.fill_(4.0)
    descend(optimizer, added)  # a sync
    assert_same(weight.detach(), torch.full((3,), 4.0))
    assert "lookahead_slow" not in optimizer.state_dict()["state"].get(0, {})
