"""The torch adapter is a true Optimizer, and refuses bad input."""

import copy
import pickle
import warnings

import pytest
import torch
from torch.optim import SGD
from torch.optim import optimizer as torch_optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.profiler import ProfilerActivity, profile

from lookahead_core import diloco, lookahead
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from reference_loop import (
    LEARNING_RATE,
    K,
)
from torch_runs import (
    DOUBLE,
    Drift,
    Quadratic,
    assert_same,
    flat,
    make,
    pull_down,
    sgd,
    single,
    train,
)


def test_it_is_a_torch_optimizer_with_the_inner_ones_groups_state_and_defaults():
    model = Quadratic()
    optimizer = make(model)
    assert isinstance(optimizer, torch.optim.Optimizer)
    train(optimizer, model, 1)
    optimizer.inner.load_state_dict(optimizer.inner.state_dict())  # replaces list and dicts
    assert optimizer.param_groups is optimizer.inner.param_groups
    assert optimizer.state is optimizer.inner.state
    assert optimizer.defaults is optimizer.inner.defaults
    assert repr(optimizer).startswith("Lookahead(SyncRule(sync_period=5")


def test_all_hooks_fire_once():
    model = Quadratic()
    optimizer, seen = make(model), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("step pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("step post"))
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("save pre"))
    optimizer.register_state_dict_post_hook(lambda *_: seen.append("save post"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("load pre"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("load post"))
    train(optimizer, model, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [*("step pre", "step post"), *("save pre", "save post", "load pre", "load post")]


@pytest.mark.parametrize("which", ["pre", "post"])
def test_a_step_hook_fires_alone(which):
    model, seen = Quadratic(), []
    optimizer = make(model)
    getattr(optimizer, f"register_step_{which}_hook")(lambda *_: seen.append(which))
    train(optimizer, model, 1)
    assert seen == [which]


def test_hooks_on_all_optimizers_fire_for_this_one_and_for_the_one_inside():
    model, seen = Quadratic(), []
    optimizer = make(model)
    handles = [
        torch_optimizer.register_optimizer_step_pre_hook(
            lambda which, *_: seen.append(("pre", type(which)))
        ),
        torch_optimizer.register_optimizer_step_post_hook(
            lambda which, *_: seen.append(("post", type(which)))
        ),
    ]
    try:
        train(optimizer, model, 1)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [("pre", Lookahead), ("pre", SGD), ("post", SGD), ("post", Lookahead)]


def test_a_profiler_sees_the_step_under_its_name():
    model = Quadratic()
    optimizer = make(model)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        train(optimizer, model, 1)
    assert "Optimizer.step#Lookahead.step" in {event.key for event in seen.key_averages()}


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.5**epoch),
        lambda optimizer: OneCycleLR(optimizer, max_lr=0.4, total_steps=10),
        lambda optimizer: CyclicLR(optimizer, base_lr=0.01, max_lr=0.4, step_size_up=4),
    ],
    ids=["LambdaLR", "OneCycleLR", "CyclicLR"],
)
def test_a_learning_rate_scheduler_moves_the_inner_rate(schedule):
    ours, bare = Quadratic(), Quadratic()
    optimizer, inner = Lookahead(sgd(ours.parameters()), K, 1.0), sgd(bare.parameters())
    scheduler, control = schedule(optimizer), schedule(inner)
    for _ in range(6):
        for model, opt, sched in ((ours, optimizer, scheduler), (bare, inner, control)):
            train(opt, model, 1)
            sched.step()
    assert optimizer.inner.param_groups[0]["lr"] == inner.param_groups[0]["lr"] != LEARNING_RATE
    assert torch.equal(ours.x, bare.x)


def test_a_scheduler_goes_on_after_a_load():
    model = Quadratic()
    optimizer = make(model)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    train(optimizer, model, 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.inner.param_groups[0]["lr"] < LEARNING_RATE / 5


def test_a_closure_reaches_the_inner_optimizer():
    model = Quadratic()
    optimizer = Lookahead(torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=2), 3, 0.5)
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = ((model.x - 3.0) ** 2).sum() + (model.y**2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(6)]
    assert len(calls) > 6
    assert losses[-1] < losses[0] / 10
    assert optimizer.state_dict()["param_groups"][0]["lookahead_syncs"] == 2


def test_zero_grad_takes_torchs_argument():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0))
    weight.grad = torch.ones(1)
    optimizer.zero_grad(set_to_none=False)
    assert weight.grad.item() == 0.0
    optimizer.zero_grad()
    assert weight.grad is None


@pytest.mark.clause("C01", "C02")
def test_a_group_added_in_mid_cycle_syncs_with_the_others():
    first, second = single(), single(dtype=DOUBLE)
    optimizer = Lookahead(torch.optim.SGD([first], lr=1.0), 3, 0.5)
    pull_down(optimizer, first)
    optimizer.add_param_group({"params": [second], "lr": 10.0})
    pull_down(optimizer, first, second)
    pull_down(optimizer, first, second)
    assert (first.item(), second.item()) == (-1.5, -10.0)


@pytest.mark.clause("C15", "C27")
def test_a_group_added_takes_the_slow_dtype_and_leaves_frozen_parameters_out():
    first, second, frozen = single(), single(dtype=torch.bfloat16), single()
    frozen.requires_grad_(False)
    optimizer = Lookahead(torch.optim.SGD([first], lr=1.0), 3, 0.5, slow_dtype=torch.float32)
    pull_down(optimizer, first)
    optimizer.add_param_group({"params": [second, frozen]})
    saved = optimizer.state_dict()["state"]
    assert saved[1]["lookahead_slow"].dtype == torch.float32
    assert not saved[1]["lookahead_slow"].requires_grad
    assert 2 not in saved


@pytest.mark.clause("C27")
def test_adding_a_group_does_not_pull_in_what_was_frozen_when_the_cycle_began():
    first, frozen, added = single(), single(), single()
    frozen.requires_grad_(False)
    optimizer = Lookahead(torch.optim.SGD([first, frozen], lr=1.0), 3, 0.5)
    pull_down(optimizer, first)
    frozen.requires_grad_(True)
    optimizer.add_param_group({"params": [added]})
    pull_down(optimizer, first)
    frozen.data.fill_(5.0)
    pull_down(optimizer, first)
    assert frozen.item() == 5.0


def test_a_gradient_in_any_group_is_a_gradient():
    first, second = single(), single()
    optimizer = Lookahead(torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=1.0))
    pull_down(optimizer, second)
    assert second.item() == -1.0


def test_hooks_may_replace_what_is_saved_and_loaded():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 3)
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "extra": 1})
    saved = optimizer.state_dict()
    assert saved["extra"] == 1
    optimizer.register_load_state_dict_pre_hook(lambda _, state: {**state, "param_groups": []})
    with pytest.raises(ValueError, match=r"must hold groups of \[2\] parameters, got \[\]"):
        optimizer.load_state_dict(saved)


def test_a_copy_leaves_the_hooks_behind():
    model, seen = Quadratic(), []
    optimizer = make(model)
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    twin_model, twin = copy.deepcopy((model, optimizer))
    train(twin, twin_model, 1)
    assert seen == []


def test_a_parameter_listed_twice_is_synced_once():
    weight = single()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        inner = torch.optim.SGD([weight, weight], lr=1.0, foreach=False)
    optimizer = Lookahead(inner, 2, 0.5)
    for _ in range(2):
        pull_down(optimizer, weight)
    assert weight.item() == -2.0


def test_making_one_leaves_the_inner_class_and_other_instances_alone():
    before = {name: value for name, value in vars(torch.optim.SGD).items() if callable(value)}
    weight = single()
    bare = torch.optim.SGD([weight], lr=1.0)
    Lookahead(torch.optim.SGD([single()], lr=1.0))
    assert {n: v for n, v in vars(torch.optim.SGD).items() if callable(v)} == before
    pull_down(bare, weight)
    assert weight.item() == -1.0


def test_the_first_instance_changes_its_class_no_more_than_the_second():
    before = dict(vars(MetaOptimizer)), dict(vars(Lookahead))
    optimizer = make(Quadratic())
    copy.deepcopy(optimizer)
    assert (dict(vars(MetaOptimizer)), dict(vars(Lookahead))) == before


def test_the_inner_optimizers_defaults_stay_its_own():
    inner = Drift([single()])
    pickle.loads(pickle.dumps(Lookahead(inner)))
    assert inner.defaults == {"lr": 1.0}


def test_what_is_set_on_it_reaches_the_inner_optimizer():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 1)
    moved = {leaf: dict(entries) for leaf, entries in optimizer.state.items()}
    optimizer.state, optimizer.param_groups = moved, list(optimizer.param_groups)
    assert optimizer.inner.state is moved
    assert optimizer.inner.param_groups is optimizer.param_groups


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_goes_on_by_itself(copy_of):
    model = Quadratic()
    optimizer = make(model, "interpolate")
    LambdaLR(optimizer, lambda epoch: 1.0)  # puts a step of its own on the instance
    train(optimizer, model, 7)
    twin_model, twin = copy_of((model, optimizer))
    train(optimizer, model, 6)
    train(twin, twin_model, 6)
    assert torch.equal(twin_model.x, model.x)
    assert twin_model.x is not model.x
    twin.register_step_post_hook(lambda *_: None)


def test_a_model_converted_after_wrapping_is_followed():
    model = torch.nn.Linear(2, 1)
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1), 2, 0.5)
    model.double()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 2, dtype=DOUBLE)).sum().backward()
        optimizer.step()
    slow = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert slow.dtype == DOUBLE


def test_the_slow_weights_hold_no_graph():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, K + 1)
    slow = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert not slow.requires_grad
    assert slow.grad_fn is None
    assert model.x.is_leaf


# --- what is refused ---


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda inner: Lookahead(inner, sync_period=2.5), "sync_period must be .* got 2.5"),
        (lambda inner: Lookahead(inner, alpha=7), "alpha must be .* got 7"),
        (lambda inner: Lookahead(inner, inner_state="x"), "inner_state must be .* got 'x'"),
        (lambda inner: MetaOptimizer(inner, 5), "rule must be a SyncRule, got 5"),
        (
            lambda inner: Lookahead(Lookahead(inner)),
            r"inner must not be wrapped already .*nested\(first, second\).* got L",
        ),
        (lambda inner: Lookahead(inner, kernel="x"), "kernel must be one of 'foreach', .* got 'x'"),
        (
            lambda inner: Lookahead(inner, state_kinds={"age": "old"}),
            r"state_kinds\['age'\] must be one of 'moment', 'count', 'keep', got 'old'",
        ),
        (lambda inner: Lookahead([single()]), "inner must be a torch.optim.Optimizer, got"),
        (lambda inner: Lookahead(inner, slow_dtype=torch.int32), "slow_dtype must be a floating"),
        (lambda inner: Lookahead(inner, slow_dtype="f4"), "slow_dtype must be a floating"),
    ],
)
def test_settings_out_of_range_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it(torch.optim.SGD([single()], lr=0.1))


@pytest.mark.clause("C17", "C18", "C25")
@pytest.mark.parametrize("policy", ["reset", "interpolate"])
def test_an_inner_state_that_the_policy_does_not_know_is_named(policy):
    weight = single()
    optimizer = Lookahead(Drift([weight]), 3, 0.5, policy)
    before = flat([weight.detach(), optimizer.state_dict()])
    with pytest.raises(
        ValueError, match=rf"inner_state='{policy}' does not know the state .drift. of Drift"
    ):
        pull_down(optimizer, weight)
    assert_same(flat([weight.detach(), optimizer.state_dict()]), before)


@pytest.mark.clause("C16")
def test_maintain_works_around_any_state():
    weight = single()
    optimizer = Lookahead(torch.optim.Rprop([weight], lr=1.0), 2, 0.5)
    for _ in range(4):
        pull_down(optimizer, weight)
    assert weight.item() < 0.0


# --- what cannot be set ---


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("rule", lookahead(4, 0.5), "make a new optimizer"),
        ("inner", SGD([single()], lr=1.0), "make a new optimizer"),
        ("capturable", True, "make a new optimizer"),
        ("inner_state", "reset", "make a new optimizer"),
        ("slow_dtype", torch.float64, "make a new optimizer"),
        ("process_group", None, "make a new optimizer"),
        ("optimizer", SGD([single()], lr=1.0), "make a new optimizer"),
        ("alpha", 0.3, r"set param_groups\[i\]\['lookahead_alpha'\]"),
        ("k", 3, r"set param_groups\[i\]\['lookahead_sync_period'\]"),
        ("sync_period", 3, r"set param_groups\[i\]\['lookahead_sync_period'\]"),
    ],
)
def test_what_would_be_without_effect_cannot_be_set(name, value, advice):
    model = Quadratic()
    optimizer = make(model)
    before = dict(vars(optimizer))
    with pytest.raises(AttributeError, match=rf"{name} of Lookahead cannot be set: {advice}"):
        setattr(optimizer, name, value)
    assert vars(optimizer) == before


@pytest.mark.clause("C42")
def test_what_it_says_instead_works_whole():
    weight, expected = single(), single()
    optimizer = Lookahead(SGD([weight], lr=1.0), 5, 0.5)
    for group in optimizer.param_groups:
        group["lookahead_alpha"], group["lookahead_sync_period"] = 0.25, 2
    other = Lookahead(SGD([expected], lr=1.0), 2, 0.25)
    for _ in range(7):
        pull_down(optimizer, weight)
        pull_down(other, expected)
    assert weight.item() == expected.item()
    saved = flat(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert_same(flat(optimizer.state_dict()), saved)


def test_names_of_anybody_else_can_be_set():
    optimizer = make(Quadratic())
    optimizer.work, optimizer.is_logged = 2.0, True
    assert (optimizer.work, optimizer.is_logged) == (2.0, True)


# --- under torchrun ---


@pytest.mark.parametrize(("size", "said"), [("2", True), ("1", False), ("", False), (None, False)])
def test_workers_that_nobody_has_made_a_group_of_are_named(size, said, monkeypatch, recwarn):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        MetaOptimizer(
            SGD([single()], lr=1.0), diloco(5), process_group=torch.distributed.group.WORLD
        )
    messages = [str(one.message) for one in recwarn]
    assert [m.startswith("WORLD_SIZE is 2 and process_group is None") for m in messages] == [
        True
    ] * said


@pytest.mark.clause("C81")
def test_a_group_whose_backend_torch_chooses_is_one():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group(store=store, rank=0, world_size=1)
    try:
        weight, group = single(), torch.distributed.group.WORLD
        optimizer = MetaOptimizer(SGD([weight], lr=1.0), lookahead(2, 0.5), process_group=group)
        for _ in range(2):
            pull_down(optimizer, weight)
        assert weight.item() == -1.0
    finally:
        torch.distributed.destroy_process_group()
