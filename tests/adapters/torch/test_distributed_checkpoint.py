"""torch.distributed.checkpoint: exact resume, and a save that perturbs nothing (pytorch#164929)."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from lookahead_core.adapters.torch import Lookahead
from reference_loop import POLICIES, STEPS, K
from torch_runs import (
    INNERS,
    Drift,
    Quadratic,
    adam,
    assert_same,
    make,
    pull_down,
    single,
    snapshot,
    train,
)

# It says so where there is one process and no process group, as here.
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled, unavailable or uninitialized"
)
STATELESS = {"plain sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1)}
ALL = INNERS | STATELESS


def parts(model, optimizer):
    return {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}


def restored(folder, policy, inner):
    """A new model and its optimizer, with the checkpoint loaded into them in place."""
    model = Quadratic()
    optimizer = make(model, policy, inner)
    model.zero_grad()
    state = parts(model, optimizer)
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    model.load_state_dict(state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    return model, optimizer


@pytest.mark.clause("C06")
@pytest.mark.parametrize("inner", ALL)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("steps", [0, *range(K, 2 * K)])
def test_a_run_resumed_from_files_at_any_phase_goes_on_bitwise(steps, policy, inner, tmp_path):
    whole, first = Quadratic(), Quadratic()
    train(make(whole, policy, ALL[inner]), whole, STEPS)
    before = make(first, policy, ALL[inner])
    train(before, first, steps)
    first.zero_grad()
    dcp.save(parts(first, before), checkpoint_id=tmp_path, no_dist=True)
    second, after = restored(tmp_path, policy, ALL[inner])
    train(after, second, STEPS - steps)
    assert torch.equal(second.x, whole.x)
    assert torch.equal(second.y, whole.y)


@pytest.mark.clause("C06", "C47")
@pytest.mark.parametrize("inner", ALL)
@pytest.mark.parametrize("policy", POLICIES)
def test_saving_between_any_two_steps_perturbs_nothing(policy, inner):
    saved, unsaved = Quadratic(), Quadratic()
    optimizer, other = make(saved, policy, ALL[inner]), make(unsaved, policy, ALL[inner])
    for _ in range(2 * K + 2):
        saved.zero_grad()  # a gradient would keep torch from its step
        for _ in range(2):
            get_optimizer_state_dict(saved, optimizer)
        train(optimizer, saved, 1)
        train(other, unsaved, 1)
        assert_same(snapshot(saved, optimizer), snapshot(unsaved, other))


def test_a_first_step_with_a_rate_of_zero_counts_if_it_has_a_gradient():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.0), 2, 0.5)
    pull_down(optimizer, weight)
    assert optimizer.state_dict()["param_groups"][0]["lookahead_count"] == 1


def test_a_count_that_the_inner_optimizer_keeps_in_its_group_does_not_move_either():
    model = torch.nn.Linear(2, 1)
    optimizer = Lookahead(Drift(model.parameters(), lr=0.1), 2, 0.5)
    get_optimizer_state_dict(model, optimizer)
    assert "step" not in optimizer.param_groups[0]


@pytest.mark.clause("C06")
def test_a_full_state_dict_is_loaded_as_well():
    first, second, whole = Quadratic(), Quadratic(), Quadratic()
    before, after = make(first, "interpolate", adam), make(second, "interpolate", adam)
    train(make(whole, "interpolate", adam), whole, 10)
    train(before, first, 7)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    saved = get_optimizer_state_dict(first, before, options=options)
    second.load_state_dict(first.state_dict())
    set_optimizer_state_dict(second, after, saved, options=options)
    train(after, second, 3)
    assert torch.equal(second.x, whole.x)
