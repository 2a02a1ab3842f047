"""Inner optimizers of a third party: pytorch-optimizer."""

import pytest
import pytorch_optimizer
import torch

from lookahead_core.adapters.torch import Lookahead
from torch_runs import Quadratic, assert_same, flat, snapshot, train

INNERS = {
    "Lion": lambda p: pytorch_optimizer.Lion(p, lr=0.05),
    "AdaBelief": lambda p: pytorch_optimizer.AdaBelief(p, lr=0.05),
    "Adan": lambda p: pytorch_optimizer.Adan(p, lr=0.05),
}
# Names that pytorch-optimizer alone has. Adan starts the last one at its first gradient.
KINDS = {"exp_avg_var": "moment", "exp_avg_diff": "moment", "previous_grad": "keep"}


@pytest.mark.clause("C09")
@pytest.mark.parametrize("inner", INNERS)
def test_alpha_one_is_the_inner_optimizer(inner):
    ours, bare = Quadratic(), Quadratic()
    train(Lookahead(INNERS[inner](ours.parameters()), 3, 1.0), ours, 10)
    train(INNERS[inner](bare.parameters()), bare, 10)
    assert torch.equal(ours.x, bare.x)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("policy", ["maintain", "reset", "interpolate"])
@pytest.mark.parametrize("inner", INNERS)
def test_it_resumes_bitwise_in_mid_cycle(inner, policy):
    models = [Quadratic() for _ in range(3)]
    whole, before, after = (
        Lookahead(INNERS[inner](model.parameters()), 3, 0.5, policy, state_kinds=KINDS)
        for model in models
    )
    train(whole, models[0], 11)
    train(before, models[1], 5)
    saved = snapshot(models[1], before)
    models[2].load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    train(after, models[2], 6)
    assert torch.equal(models[2].x, models[0].x)


@pytest.mark.clause("C17")
@pytest.mark.parametrize("inner", ["Lion", "AdaBelief"])
def test_after_a_reset_it_goes_on_like_a_new_optimizer(inner):
    ours, bare = Quadratic(), Quadratic()
    inner_of = INNERS[inner]
    optimizer = Lookahead(inner_of(ours.parameters()), 3, 1.0, "reset", state_kinds=KINDS)
    train(optimizer, ours, 3)
    bare.load_state_dict(ours.state_dict())
    train(optimizer, ours, 2)
    train(inner_of(bare.parameters()), bare, 2)
    assert_same(flat(dict(ours.state_dict())), flat(dict(bare.state_dict())))


@pytest.mark.clause("C46")
def test_a_state_under_a_name_of_its_own_is_named_before_anything_moves():
    model = Quadratic()
    optimizer = Lookahead(INNERS["AdaBelief"](model.parameters()), 3, 0.5, "reset")
    before = flat(dict(model.state_dict()))
    with pytest.raises(ValueError, match="does not know the state 'exp_avg_var' of AdaBelief"):
        train(optimizer, model, 1)
    assert_same(flat(dict(model.state_dict())), before)
