"""Schedule-free optimizers inside: their `train` and `eval` are called by ours."""

import pytest
import schedulefree
import torch

from lookahead_core.adapters.torch import Lookahead
from torch_runs import Quadratic, assert_same, snapshot, train

INNERS = {
    "SGD": lambda p: schedulefree.SGDScheduleFree(p, lr=0.1, foreach=False),
    "SGD foreach": lambda p: schedulefree.SGDScheduleFree(p, lr=0.1),
    "AdamW": lambda p: schedulefree.AdamWScheduleFree(p, lr=0.1),
    "RAdam": lambda p: schedulefree.RAdamScheduleFree(p, lr=0.1),
}


def make(inner, alpha=0.5, period=3):
    model = Quadratic()
    optimizer = Lookahead(INNERS[inner](model.parameters()), period, alpha)
    optimizer.train()
    return model, optimizer


@pytest.mark.clause("C09", "C22")
@pytest.mark.parametrize("inner", INNERS)
def test_with_alpha_one_and_one_step_training_and_evaluation_are_its_own(inner):
    model, optimizer = make(inner, alpha=1.0, period=1)
    bare_model = Quadratic()
    bare = INNERS[inner](bare_model.parameters())
    for _ in range(8):
        for own, leaves in ((optimizer, model), (bare, bare_model)):
            own.train()
            train(own, leaves, 1)
            own.eval()
        torch.testing.assert_close(model.x, bare_model.x, rtol=0, atol=1e-13)


@pytest.mark.clause("C22")
@pytest.mark.parametrize("inner", INNERS)
def test_evaluating_leaves_training_bitwise_unchanged(inner):
    (read, optimizer), (unread, other) = make(inner), make(inner)
    for _ in range(10):
        with optimizer.slow_weights():
            evaluated = read.x.detach().clone()
        train(optimizer, read, 1)
        train(other, unread, 1)
        assert torch.equal(read.x, unread.x)
    assert not torch.equal(evaluated, read.x)


@pytest.mark.clause("C06", "C41")
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("steps", [3, 4], ids=["after a sync", "in mid-cycle"])
def test_a_run_saved_while_evaluating_resumes_bitwise(steps, inner):
    (model, optimizer), (other_model, other) = make(inner), make(inner)
    train(optimizer, model, steps)
    optimizer.eval()
    saved = snapshot(model, optimizer)
    optimizer.train()
    other_model.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    train(optimizer, model, 5)
    train(other, other_model, 5)
    assert_same(snapshot(other_model, other), snapshot(model, optimizer))


def test_its_wrapper_goes_around_ours():
    model = Quadratic()
    optimizer = schedulefree.ScheduleFreeWrapper(
        Lookahead(torch.optim.SGD(model.parameters(), lr=0.1), 3, 0.5)
    )
    optimizer.train()
    train(optimizer, model, 4)
    assert optimizer.base.state_dict()["param_groups"][0]["lookahead_syncs"] == 1
