"""ZeroRedundancyOptimizer: inside it works where nobody needs its state; around it is refused."""

from copy import deepcopy
from warnings import catch_warnings, simplefilter

import pytest
import torch

from lookahead_core import AdaptiveAlpha, diloco, lookahead
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer, ranger
from sharded_runs import Leaves, give_gradients, together

with catch_warnings():
    simplefilter("ignore", DeprecationWarning)  # of torch, from torch: torch.jit.script
    from torch.distributed.optim import ZeroRedundancyOptimizer

STEPS = 8
RULES = {"lookahead": lookahead(3, 0.4), "diloco": diloco(3)}
INNERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adam": (torch.optim.Adam, {"lr": 0.1}),
}


def around_zero(inner, rule):
    model, (kind, settings) = Leaves(), INNERS[inner]
    zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=kind, **settings)
    return model, MetaOptimizer(zero, rule)


def train(model, optimizer, steps):
    for step in steps:
        give_gradients(list(model.parameters()), step)
        optimizer.step()


def assert_same(model, other):
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.clause("C02", "C71")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("inner", INNERS)
def test_around_it_a_run_is_the_one_around_its_optimizer(inner, rule):
    model, optimizer = around_zero(inner, RULES[rule])
    kind, settings = INNERS[inner]
    other = Leaves()
    reference = MetaOptimizer(kind(other.parameters(), **settings), RULES[rule])
    for step in range(STEPS):
        train(model, optimizer, [step])
        train(other, reference, [step])
        assert_same(model, other)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("saved_at", [0, 3, 4, 5])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("inner", INNERS)
def test_its_state_consolidated_the_run_resumes_to_the_bit(inner, rule, saved_at, rank):
    model, optimizer = around_zero(inner, RULES[rule])
    train(model, optimizer, range(saved_at))
    optimizer.inner.consolidate_state_dict(to=0)
    saved = together(deepcopy(optimizer.state_dict()) if rank == 0 else None)
    again, resumed = around_zero(inner, RULES[rule])
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(saved)
    train(model, optimizer, range(saved_at, STEPS))
    train(again, resumed, range(saved_at, STEPS))
    assert_same(again, model)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (lookahead(3, 0.4, "reset"), "inner_state='reset'"),
        (lookahead(3, 0.4, "interpolate"), "inner_state='interpolate'"),
        (lookahead(3, AdaptiveAlpha(curvature="inner")), r"AdaptiveAlpha\(curvature='inner'\)"),
    ],
)
def test_a_rule_that_needs_its_state_is_refused(rule, told):
    with pytest.raises(ValueError, match=f"inner must not be a ZeroRedundancy.* with {told}"):
        around_zero("adam", rule)


def test_one_that_steps_during_the_backward_pass_is_refused():
    zero = ZeroRedundancyOptimizer(
        Leaves().parameters(), optimizer_class=torch.optim.Adam, overlap_with_ddp=True
    )
    with pytest.raises(ValueError, match="overlap_with_ddp must be False"):
        Lookahead(zero)


def test_it_cannot_make_one_by_its_class():
    with pytest.raises(ValueError, match=r"inner must be a torch\.optim\.Optimizer, got \["):
        ZeroRedundancyOptimizer(Leaves().parameters(), optimizer_class=Lookahead, sync_period=3)


@pytest.mark.world(2)  # each has parameters
def test_a_checkpoint_that_it_loads_around_one_is_found_at_the_next_step(rank):
    def made():
        model = Leaves()
        return model, ZeroRedundancyOptimizer(model.parameters(), optimizer_class=ranger)

    model, optimizer = made()
    train(model, optimizer, range(4))
    optimizer.consolidate_state_dict(to=0)
    saved = together(optimizer.state_dict() if rank == 0 else None)
    again, resumed = made()
    resumed.load_state_dict(saved)
    before = deepcopy(list(again.parameters()))
    with pytest.raises(RuntimeError, match="loaded past load_state_dict"):
        train(again, resumed, range(1))
    assert all(map(torch.equal, again.parameters(), before))
