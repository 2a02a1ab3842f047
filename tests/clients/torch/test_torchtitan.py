"""torchtitan: the functions by which its trainer saves optimizers, flat and by parameter names."""

import copy
import runpy
from importlib.metadata import distribution

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lookahead_core import ema, lookahead, snoo
from lookahead_core.adapters.torch import MetaOptimizer
from torch_runs import Quadratic, assert_same, snapshot, train

# It says so where there is one process and no process group, as here.
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled, unavailable or uninitialized"
)
# By its file: the package around it imports all of the trainer, and this needs torch alone.
FILE = distribution("torchtitan").locate_file("torchtitan/components/optimizer/utils.py")
TITAN = runpy.run_path(str(FILE))
STEPS, K = 20, 5
RULES = {
    "lookahead": lookahead(K),
    "interpolate": lookahead(K, inner_state="interpolate"),
    "snoo": snoo(sync_period=K),
    "ema": ema(0.9),
}


def new(rule):
    """A model and its optimizer, made from names and parameters as torchtitan does."""
    model = Quadratic()
    inner = torch.optim.AdamW([*model.named_parameters()], lr=0.05)
    return model, MetaOptimizer(inner, RULES[rule])


def saved(*optimizers):
    """As its `OptimizersContainer.state_dict`."""
    found = {}
    for optimizer in optimizers:
        TITAN["init_optim_state"](optimizer)
        found |= TITAN["get_flat_optim_state_dict"](optimizer)
    return found


def load(optimizer, state_dict):
    """As its `OptimizersContainer.load_state_dict`."""
    TITAN["init_optim_state"](optimizer)
    TITAN["load_flat_optim_state_dict"](optimizer, state_dict)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cut", [0, *range(K, 2 * K)])
def test_torchtitan_resumes_bitwise_at_each_phase(cut, rule):
    (whole, straight), (first, before), (second, after) = new(rule), new(rule), new(rule)
    train(straight, whole, STEPS)
    train(before, first, cut)
    first.zero_grad()
    state_dict = copy.deepcopy(saved(before))
    assert all(name.split(".")[1] in ("x", "y") for name in state_dict)
    second.load_state_dict(first.state_dict())
    load(after, state_dict)
    train(after, second, STEPS - cut)
    assert_same(snapshot(second, after), snapshot(whole, straight))


@pytest.mark.clause("C06")
def test_torchtitan_resumes_bitwise_from_files(tmp_path):
    (whole, straight), (first, before), (second, after) = (new("interpolate") for _ in range(3))
    train(straight, whole, STEPS)
    train(before, first, 7)
    first.zero_grad()
    dcp.save({"optimizer": saved(before)}, checkpoint_id=tmp_path, no_dist=True)
    state = {"optimizer": saved(after)}
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    second.load_state_dict(first.state_dict())
    load(after, state["optimizer"])
    train(after, second, STEPS - 7)
    assert_same(snapshot(second, after), snapshot(whole, straight))
