"""Checkpoints of other people's Lookaheads, in the layouts that they were recorded in.

tests/clients/torch has the packages themselves, at every phase.
"""

import copy

import pytest
import torch

from lookahead_core import ema
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer, ranger
from torch_runs import assert_same, flat, pull_down, single

# What SGD(lr=1) and RAdam save of one parameter.
SGD = {"lr": 1.0, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False}
SGD |= {"maximize": False, "foreach": None, "differentiable": False, "fused": None, "params": [0]}
RANGER = {"lr": 1.0, "alpha": 0.25, "k": 3, "step_counter": 0, "betas": (0.95, 0.999)}
RANGER |= {"N_sma_threshhold": 5, "eps": 1e-5, "weight_decay": 0.1, "params": [0]}

MOMENTUM, SLOW, FAST = torch.tensor([2.0]), torch.tensor([8.0]), torch.tensor([4.0])


def timm(**group):
    """1.0.31, after step 7 of k = 3."""
    own = {"lookahead_alpha": 0.25, "lookahead_k": 3, "lookahead_step": 7}
    state = {"momentum_buffer": MOMENTUM.clone(), "lookahead_slow_buff": SLOW.clone()}
    return {"state": {0: state}, "param_groups": [{**SGD, **own, **group}]}


def pytorch_optimizer(**beside):
    """4.1.0, after one step of a cycle."""
    state = {0: {"momentum_buffer": MOMENTUM.clone()}}
    return {
        "lookahead_state": {(0, 0): {"slow_params": SLOW.clone(), **beside}},
        "base_optimizer": {"state": state, "param_groups": [{**SGD, "counter": 1}]},
    }


def pytorch_ranger():
    """0.1.1, after step 7 of k = 3."""
    moments = {"exp_avg": torch.tensor([2.0]), "exp_avg_sq": torch.tensor([3.0])}
    state = {"step": 7, **moments, "slow_buffer": SLOW.clone()}
    return {"state": {0: state}, "param_groups": [dict(RANGER)]}


def around_sgd(alpha=0.25, policy="maintain", period=3):
    inner = torch.optim.SGD([single(FAST.item())], lr=1.0, momentum=0.9)
    return Lookahead(inner, period, alpha, policy)


def around_radam():
    return ranger([single(FAST.item())], lr=1.0, sync_period=3, alpha=0.5)


LAYOUTS = {
    "timm": (timm, around_sgd, 2),
    "pytorch-optimizer": (pytorch_optimizer, around_sgd, 0),
    "pytorch-ranger": (pytorch_ranger, around_radam, 2),
}


def load(optimizer, saved, message="the checkpoint is one of"):
    with pytest.warns(UserWarning, match=message):
        optimizer.load_state_dict(saved)
    return optimizer


@pytest.mark.clause("C48")
@pytest.mark.parametrize("name", LAYOUTS)
def test_slow_weights_place_in_the_cycle_and_alpha_are_taken(name):
    made, around, syncs = LAYOUTS[name]
    saved = made()
    before = copy.deepcopy(saved)
    optimizer = load(around(), saved, f"one of {name}'s .*1 of 3 steps with alpha=0.25")
    assert_same(flat(saved), flat(before))
    ours = optimizer.state_dict()
    group = ours["param_groups"][0]
    counters = [group[f"lookahead_{key}"] for key in ("count", "syncs", "alpha", "sync_period")]
    assert counters == [1, syncs, 0.25, 3]
    assert torch.equal(ours["state"][0]["lookahead_slow"], SLOW)


@pytest.mark.clause("C48")
@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_of_theirs_stays_in_the_inner_optimizer(name):
    made, around, _ = LAYOUTS[name]
    untouched, optimizer = around(), load(around(), made())
    group, own = optimizer.inner.param_groups[0], untouched.inner.param_groups[0]
    # alpha is a setting of ours that a group may have.
    assert group.keys() - {"lookahead_alpha"} == own.keys()
    (state,) = optimizer.inner.state.values()
    assert state.keys() <= {"momentum_buffer", "exp_avg", "exp_avg_sq", "step"}


@pytest.mark.clause("C48")
def test_what_ranger_does_not_save_stays_as_radam_has_it():
    group = load(around_radam(), pytorch_ranger()).param_groups[0]
    assert group["decoupled_weight_decay"]
    assert (group["weight_decay"], group["eps"]) == (0.1, 1e-5)


@pytest.mark.clause("C48")
def test_the_next_sync_comes_when_theirs_would_and_goes_where_theirs_would():
    optimizer = load(around_sgd(alpha=0.9), timm())
    (weight,) = optimizer.param_groups[0]["params"]
    pull_down(optimizer, weight)
    pull_down(optimizer, weight)
    first = 0.9 * 2.0 + 1.0
    fast = 4.0 - first - (0.9 * first + 1.0)
    assert weight.item() == pytest.approx(8.0 + 0.25 * (fast - 8.0))


@pytest.mark.clause("C48", "C18")
def test_a_momentum_that_is_pulled_back_is_interpolated():
    optimizer = around_sgd(policy="interpolate")
    load(optimizer, pytorch_optimizer(slow_momentum=torch.tensor([5.0])))
    saved = optimizer.state_dict()["state"][0]
    assert saved["lookahead_slow_momentum_buffer"].item() == 5.0


@pytest.mark.clause("C48")
def test_before_version_4_pytorch_optimizer_saved_by_parameter():
    saved = pytorch_optimizer()
    saved["lookahead_state"] = {single(): saved["lookahead_state"][0, 0]}
    optimizer = load(around_sgd(), saved)
    assert torch.equal(optimizer.state_dict()["state"][0]["lookahead_slow"], SLOW)


@pytest.mark.clause("C48", "C41")
def test_fast_weights_that_were_set_aside_are_put_back():
    optimizer = load(around_sgd(), pytorch_optimizer(backup_params=torch.tensor([9.0])))
    assert optimizer.param_groups[0]["params"][0].item() == 9.0


@pytest.mark.clause("C48", "C27")
def test_what_is_frozen_is_left_alone():
    optimizer = around_sgd()
    (weight,) = optimizer.param_groups[0]["params"]
    weight.requires_grad_(False)
    load(optimizer, timm())
    optimizer.sync()
    assert torch.equal(weight, FAST)


@pytest.mark.clause("C48")
def test_slow_weights_that_are_not_there_yet_are_the_current_weights():
    saved = timm(lookahead_step=1)
    del saved["state"][0]["lookahead_slow_buff"]
    optimizer = load(around_sgd(), saved, "slow weights of 1 parameters, which it lacks, are the")
    assert torch.equal(optimizer.state_dict()["state"][0]["lookahead_slow"], FAST)


@pytest.mark.clause("C48")
def test_a_ranger_around_which_ours_was_put_keeps_its_own():
    class Ranger(torch.optim.SGD):
        """An inner optimizer with the groups of pytorch-ranger's."""

    theirs = {key: value for key, value in RANGER.items() if key not in ("params", "lr")}
    optimizer = Lookahead(Ranger([{"params": [single()], **theirs}], lr=1.0), 3, 0.5)
    optimizer.load_state_dict(flat(optimizer.state_dict()))
    assert optimizer.param_groups[0]["N_sma_threshhold"] == 5


WRONG = {
    "sync_period=3, this optimizer has sync_period=5": (lambda: around_sgd(period=5), timm),
    "inner_state='maintain', this optimizer has inner_state='reset'": (
        lambda: around_sgd(policy="reset"),
        timm,
    ),
    "inner_state='interpolate', this optimizer has inner_state='maintain'": (
        around_sgd,
        lambda: pytorch_optimizer(slow_momentum=torch.tensor([5.0])),
    ),
    "inner_state='maintain', this optimizer has inner_state='interpolate'": (
        lambda: around_sgd(policy="interpolate"),
        pytorch_optimizer,
    ),
    "restart=1.0, this optimizer has restart=0.0": (
        lambda: MetaOptimizer(torch.optim.SGD([single()], lr=1.0), ema(0.75, 3)),
        timm,
    ),
    "lookahead_step must be an int >= 0, got -1": (around_sgd, lambda: timm(lookahead_step=-1)),
    "groups of .1. parameters, got .2.": (around_sgd, lambda: timm(params=[0, 1])),
    r"must hold 1 parameters, got 0": (
        around_sgd,
        lambda: {**pytorch_optimizer(), "lookahead_state": {}},
    ),
    "inner must be RAdam with decoupled_weight_decay=True": (around_sgd, pytorch_ranger),
}


@pytest.mark.clause("C48", "C25", "C43")
@pytest.mark.filterwarnings("ignore:the checkpoint is one of")
@pytest.mark.parametrize("message", WRONG)
def test_one_that_cannot_be_taken_is_refused_and_nothing_changes(message):
    around, made = WRONG[message]
    optimizer = around()
    before = flat(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(made())
    assert_same(flat(optimizer.state_dict()), before)


@pytest.mark.clause("C48", "C42")
def test_each_group_goes_on_at_its_own_place_in_the_cycle():
    weights = [single(FAST.item()), single(FAST.item())]
    groups = [{"params": [weight]} for weight in weights]
    optimizer = Lookahead(torch.optim.SGD(groups, lr=1.0, momentum=0.9), 3, 0.5)
    saved = timm()
    saved["state"][1] = copy.deepcopy(saved["state"][0])
    # A group that was added later has had two steps less.
    saved["param_groups"] += timm(params=[1], lookahead_step=5)["param_groups"]
    load(optimizer, saved)
    pull_down(optimizer, *weights)
    syncs = [group["lookahead_syncs"] for group in optimizer.state_dict()["param_groups"]]
    assert syncs == [2, 2]
    assert weights[0].item() == pytest.approx(4.0 - 2.8)
    assert weights[1].item() == pytest.approx(8.0 + 0.25 * (4.0 - 2.8 - 8.0))
