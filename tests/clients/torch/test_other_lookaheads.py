"""Checkpoints of timm's, pytorch-optimizer's and pytorch-ranger's Lookahead go on here.

Each is saved by the real package at every phase of two cycles, through a file; ours then goes on as
theirs does, to a rounding. What is a defect of theirs is named where it shows.
"""

import warnings

import pytest
import pytorch_optimizer
import torch

from experiments.peers.timm_modules import Lookahead as TimmLookahead
from lookahead_core.adapters.torch import Lookahead, ranger
from torch_runs import INNERS, Quadratic, flat, train

with warnings.catch_warnings():  # it imports names that torch has deprecated
    warnings.simplefilter("ignore")
    from pytorch_ranger import Ranger

pytestmark = [pytest.mark.clause("C48"), pytest.mark.filterwarnings("ignore:This overload")]

K, ALPHA = 3, 0.4
REST = 2 * K + 2
PHASES = range(2 * K + 1)


def assert_goes_on(model, theirs, make, rtol=1e-12):
    """Go on from a file of `theirs`, as `theirs` itself does."""
    saved = flat({"model": dict(model.state_dict()), "optimizer": theirs.state_dict()})
    ours = Quadratic()
    ours.load_state_dict(saved["model"])
    optimizer = make(ours.parameters())
    with pytest.warns(UserWarning, match="its slow weights and its place in the cycle are taken"):
        optimizer.load_state_dict(saved["optimizer"])
    for _ in range(REST):
        train(theirs, model, 1)
        train(optimizer, ours, 1)
        torch.testing.assert_close(ours.x, model.x, rtol=rtol, atol=rtol)
        torch.testing.assert_close(ours.y, model.y, rtol=rtol, atol=rtol)
    return optimizer


def trained(model, optimizer, steps):
    train(optimizer, model, steps)
    return optimizer


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("steps", PHASES[1:])
def test_timm(steps, inner):
    model = Quadratic()
    base = INNERS[inner](model.parameters())
    theirs = trained(model, TimmLookahead(base, ALPHA, K), steps)
    if steps < K:
        # Its first sync moves nothing, and takes the slow weights: ours are taken at the load.
        for leaf in model.parameters():
            base.state[leaf]["lookahead_slow_buff"] = leaf.detach().clone()
    optimizer = assert_goes_on(model, theirs, lambda p: Lookahead(INNERS[inner](p), K, 0.9))
    group = optimizer.state_dict()["param_groups"][0]
    assert group["lookahead_alpha"] == ALPHA
    assert group["lookahead_syncs"] == (steps + REST) // K


def test_timm_before_its_first_sync_has_no_slow_weights_to_take():
    model = Quadratic()
    theirs = trained(model, TimmLookahead(torch.optim.SGD(model.parameters(), 0.1), ALPHA, K), 2)
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), 0.1), K, ALPHA)
    message = "slow weights of 2 parameters, which it lacks, are the current weights"
    with pytest.warns(UserWarning, match=message):
        optimizer.load_state_dict(theirs.state_dict())
    slow = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert torch.equal(slow, model.x)


@pytest.mark.parametrize("policy", ["none", "reset", "pullback"])
@pytest.mark.parametrize("steps", PHASES)
def test_pytorch_optimizer(steps, policy):
    ours = {"none": "maintain", "reset": "reset", "pullback": "interpolate"}[policy]
    model, sgd = Quadratic(), INNERS["sgd"]
    theirs = pytorch_optimizer.Lookahead(sgd(model.parameters()), K, ALPHA, policy)
    trained(model, theirs, steps)
    assert_goes_on(model, theirs, lambda p: Lookahead(sgd(p), K, ALPHA, ours))


@pytest.mark.parametrize("steps", PHASES)
def test_pytorch_optimizer_around_adam(steps):
    model, adam = Quadratic(), INNERS["adam"]
    # Around Adam "pullback" pulls nothing back.
    theirs = pytorch_optimizer.Lookahead(adam(model.parameters()), K, ALPHA, "pullback")
    trained(model, theirs, steps)
    assert_goes_on(model, theirs, lambda p: Lookahead(adam(p), K, ALPHA))


def test_pytorch_optimizer_while_its_slow_weights_are_evaluated():
    model, sgd = Quadratic(), INNERS["sgd"]
    theirs = trained(model, pytorch_optimizer.Lookahead(sgd(model.parameters()), K, ALPHA), K + 1)
    fast = model.x.detach().clone()
    theirs.backup_and_load_cache()
    optimizer = Lookahead(sgd(model.parameters()), K, ALPHA)
    with pytest.warns(UserWarning, match="pytorch-optimizer's Lookahead"):
        optimizer.load_state_dict(theirs.state_dict())
    assert torch.equal(model.x, fast)


@pytest.mark.parametrize("steps", PHASES)
def test_pytorch_ranger(steps):
    model = Quadratic()
    theirs = Ranger(model.parameters(), 0.1, ALPHA, K, weight_decay=0.1)
    trained(model, theirs, steps)
    # It computes in float32, whatever the weights are.
    optimizer = assert_goes_on(model, theirs, lambda p: ranger(p, 0.02, K, 0.9), rtol=1e-5)
    group = optimizer.param_groups[0]
    assert group["decoupled_weight_decay"]
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.1)
    assert "N_sma_threshhold" not in group
    assert "slow_buffer" not in optimizer.state[optimizer.param_groups[0]["params"][0]]
