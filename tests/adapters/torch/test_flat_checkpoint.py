"""Flat checkpoints: keys by parameter names, taken apart by what a new optimizer's state has."""

import copy
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from lookahead_core import diloco, ema, lookahead, nested, schedule_free, snoo
from lookahead_core.adapters.torch import Buffers, Lookahead, MetaOptimizer
from lookahead_core.conformance.family import growing
from reference_loop import ALPHA, K
from torch_runs import Quadratic, adam, assert_same, pull_down, sgd, snapshot, train

# It says so where there is one process and no process group, as here.
pytestmark = pytest.mark.filterwarnings(
    "ignore:torch.distributed is disabled, unavailable or uninitialized"
)
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
STEPS = 13


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def two(parameters):
    """One without state, and one with."""
    x, y = parameters
    return [plain_sgd([x]), adam([y])]


RULES = {
    "lookahead": lookahead(K, ALPHA),
    "reset": lookahead(K, ALPHA, "reset"),
    "interpolate": lookahead(K, ALPHA, "interpolate"),
    "scheduled": lookahead(K, lambda syncs: 0.5 / (1 + syncs)),
    "growing periods": lookahead(growing, ALPHA),
    "ema": ema(decay=0.9),
    "snoo": snoo(sync_period=3),
    "diloco": diloco(sync_period=4),
    "nested": nested(lookahead(2, 0.5), lookahead(4, 0.5)),
    "schedule-free": schedule_free(),
}
FORMS = {
    **{name: (adam, rule, {}) for name, rule in RULES.items()},
    "momentum": (sgd, RULES["interpolate"], {}),
    "no inner state": (plain_sgd, RULES["snoo"], {}),
    "several": (two, RULES["diloco"], {}),
    "capturable": (sgd, RULES["lookahead"], {"capturable": True}),
    "wide": (adam, RULES["snoo"], {"slow_dtype": torch.float64}),
}


def make(form):
    model = Quadratic()
    inner, rule, options = FORMS[form]
    return model, MetaOptimizer(inner(model.parameters()), rule, **options)


def saved_flat(model, optimizer):
    model.zero_grad()  # a gradient would keep torch from its step
    return copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=FLAT))


@pytest.mark.clause("C06")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", [0, 1, K, K + 2, 2 * K])
def test_a_run_resumes_bitwise_from_the_flat_form(cut, form):
    (whole, straight), (first, before), (second, after) = make(form), make(form), make(form)
    train(straight, whole, STEPS)
    train(before, first, cut)
    saved = saved_flat(first, before)
    assert all("." in name for name in saved)
    second.load_state_dict(first.state_dict())
    set_optimizer_state_dict(second, after, saved, options=FLAT)
    train(after, second, STEPS - cut)
    assert_same(snapshot(second, after), snapshot(whole, straight))


@pytest.mark.clause("C06")
@pytest.mark.parametrize("form", ["interpolate", "several"])
@pytest.mark.parametrize("cut", [0, K + 2])
def test_it_resumes_bitwise_from_files(cut, form, tmp_path):
    (whole, straight), (first, before), (second, after) = make(form), make(form), make(form)
    train(straight, whole, STEPS)
    train(before, first, cut)
    saved = {"model": first.state_dict(), "optimizer": saved_flat(first, before)}
    dcp.save(saved, checkpoint_id=tmp_path, no_dist=True)
    state = {"model": second.state_dict(), "optimizer": saved_flat(second, after)}
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    second.load_state_dict(state["model"])
    set_optimizer_state_dict(second, after, state["optimizer"], options=FLAT)
    train(after, second, STEPS - cut)
    assert_same(snapshot(second, after), snapshot(whole, straight))


@pytest.mark.clause("C06")
@pytest.mark.parametrize("cut", [0, K + 2])
def test_it_has_the_buffers_that_are_averaged(cut):
    def run():
        model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.BatchNorm1d(2))
        [p.data.fill_(0.5) for p in model.parameters()]
        return model, Lookahead(
            adam(model.parameters()), K, ALPHA, buffers=Buffers(model, "*_mean")
        )

    def trained(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            model(torch.tensor([[1.0], [step + 2.0]])).sum().backward()
            optimizer.step()

    (whole, straight), (first, before), (second, after) = run(), run(), run()
    trained(whole, straight, range(STEPS))
    trained(first, before, range(cut))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    set_optimizer_state_dict(second, after, saved_flat(first, before), options=FLAT)
    trained(second, after, range(cut, STEPS))
    assert_same(second.state_dict(), whole.state_dict())


@pytest.mark.clause("C06")
def test_several_wrapped_optimizers_share_one_flat_file():
    def both(model):
        return (
            Lookahead(adam([model.x]), K, ALPHA),
            MetaOptimizer(plain_sgd([model.y]), snoo(sync_period=3)),
        )

    def run(model, optimizers, steps):
        for _ in range(steps):
            model.backward()
            for optimizer in optimizers:
                optimizer.step()

    whole, first, second = Quadratic(), Quadratic(), Quadratic()
    run(whole, both(whole), STEPS)
    before, after = both(first), both(second)
    run(first, before, 7)
    saved = saved_flat(first, before)
    second.load_state_dict(first.state_dict())
    set_optimizer_state_dict(second, after, saved, options=FLAT)
    run(second, after, STEPS - 7)
    assert torch.equal(second.x, whole.x)
    assert torch.equal(second.y, whole.y)


@pytest.mark.clause("C06")
def test_an_alpha_that_a_schedule_has_moved_is_the_checkpoints():
    (first, before), (second, after) = make("lookahead"), make("lookahead")
    before.param_groups[0]["lookahead_alpha"] = 0.25
    train(before, first, 7)
    saved = saved_flat(first, before)
    del saved["param_groups.x.lookahead_alpha"], saved["param_groups.y.lookahead_alpha"]
    set_optimizer_state_dict(second, after, saved, options=FLAT)
    assert after.param_groups[0]["lookahead_alpha"] == 0.25


@pytest.mark.clause("C06", "C25")
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lookahead(K + 1, ALPHA), f"sync_period={K}, this optimizer has sync_period={K + 1}"),
        (lookahead(K, ALPHA, "reset"), "rule with other settings, .*'inner_state': 'reset'"),
    ],
)
def test_one_of_another_rule_is_refused(rule, message):
    first, before = make("lookahead")
    train(before, first, 7)
    second = Quadratic()
    after = MetaOptimizer(adam(second.parameters()), rule)
    with pytest.raises(ValueError, match=message):
        set_optimizer_state_dict(second, after, saved_flat(first, before), options=FLAT)


def test_one_of_the_bare_inner_optimizer_loads_with_a_warning():
    first, (second, after) = Quadratic(), make("lookahead")
    bare = adam(first.parameters())
    train(bare, first, 3)
    with pytest.warns(UserWarning, match=r"no lookahead_\* entries"):
        set_optimizer_state_dict(second, after, saved_flat(first, bare), options=FLAT)
    assert after.state[second.x]["step"] == 3


def test_the_bare_inner_optimizer_loads_its_part_of_it():
    first, before = make("lookahead")
    train(before, first, 3)
    second = Quadratic()
    bare = adam(second.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_optimizer_state_dict(second, bare, saved_flat(first, before), options=FLAT)
    assert bare.state[second.x].keys() == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.clause("C06")
def test_loaded_into_an_optimizer_that_was_stepped_it_is_told_that_ours_is_lost():
    (first, before), (second, after) = make("lookahead"), make("lookahead")
    train(before, first, 7)
    train(after, second, 1)
    saved = saved_flat(first, before)
    second.zero_grad()
    with pytest.warns(UserWarning, match=r"alone, or a flat one, which loads whole"):
        set_optimizer_state_dict(second, after, saved, options=FLAT)
    assert torch.equal(after.state[second.x]["exp_avg"], before.state[first.x]["exp_avg"])


# --- where the names are that it is taken apart by ---


@pytest.mark.clause("C47")
@pytest.mark.parametrize("form", FORMS)
def test_our_names_are_in_the_inner_state_until_the_first_step_alone(form):
    model, optimizer = make(form)
    saved_flat(model, optimizer)
    shown = [set(optimizer.state[leaf]) for leaf in model.parameters()]
    saved = optimizer.state_dict()["state"]
    assert shown == [set(saved[0]), set(saved[1])]
    assert "lookahead_slow" in shown[0] & shown[1]
    train(optimizer, model, 1)
    model.zero_grad()
    for _ in range(2):
        names = [key for entries in optimizer.state.values() for key in entries]
        assert not [key for key in names if key.startswith("lookahead_")]
        optimizer.state_dict()


@pytest.mark.clause("C06")
def test_a_parameter_that_was_never_stepped_is_as_new_after_it():
    def loaded_or_not(cut):
        model, optimizer = make("lookahead")
        model.zero_grad()
        for _ in range(cut):
            pull_down(optimizer, model.x)
        return model, optimizer

    (first, before), (second, after) = loaded_or_not(2), loaded_or_not(0)
    saved = saved_flat(first, before)
    second.load_state_dict(first.state_dict())
    set_optimizer_state_dict(second, after, saved, options=FLAT)
    assert_same(snapshot(second, after), snapshot(first, before))
