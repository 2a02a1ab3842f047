"""Checkpoints that go through the bare inner optimizer and come back."""

import copy

import pytest
import torch

from lookahead_core import ema
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from reference_loop import ALPHA, STEPS, K
from torch_runs import (
    INNERS,
    Quadratic,
    adam,
    assert_same,
    flat,
    make,
    pull_down,
    single,
    snapshot,
    train,
)


def plain(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


ALL_INNERS = {**INNERS, "plain sgd": plain}
STALE = r"lookahead_\* entries of the checkpoint are older than the rest of it"


def through(inner, saved, model, steps):
    """What `inner` saves after it has loaded `saved` and trained on."""
    inner.load_state_dict(saved)
    train(inner, model, steps)
    return flat(inner.state_dict())


@pytest.mark.clause("C06")
@pytest.mark.parametrize("inner", ALL_INNERS)
@pytest.mark.parametrize("phase", range(K))
def test_entries_that_the_bare_optimizer_has_carried_along_pull_nothing_back(phase, inner):
    model = Quadratic()
    first = make(model, inner=ALL_INNERS[inner])
    train(first, model, K + phase)
    saved = through(ALL_INNERS[inner](model.parameters()), flat(first.state_dict()), model, 3)
    expected_model = copy.deepcopy(model)
    expected = Lookahead(ALL_INNERS[inner](expected_model.parameters()), K, ALPHA)
    bare = flat(saved)
    for entries in [*bare["param_groups"], *bare["state"].values()]:
        for key in [key for key in entries if key.startswith("lookahead_")]:
            del entries[key]
    with pytest.warns(UserWarning, match="no lookahead_.* entries"):
        expected.load_state_dict(bare)
    second = make(model, inner=ALL_INNERS[inner])
    with pytest.warns(UserWarning, match=STALE):
        second.load_state_dict(saved)
    train(second, model, STEPS)
    train(expected, expected_model, STEPS)
    assert_same(snapshot(model, second), snapshot(expected_model, expected))


@pytest.mark.clause("C06")
def test_of_complex_parameters_the_step_count_tells():
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = Lookahead(adam([weight]), K, ALPHA)
    pull_down(optimizer, weight)
    inner = adam([weight])
    inner.load_state_dict(flat(optimizer.state_dict()))
    pull_down(inner, weight)
    with pytest.warns(UserWarning, match=STALE):
        Lookahead(adam([weight]), K, ALPHA).load_state_dict(flat(inner.state_dict()))


@pytest.mark.clause("C06")
@pytest.mark.parametrize("rule", [None, ema(0.9)], ids=["lookahead", "ema"])
@pytest.mark.parametrize("inner", ALL_INNERS)
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "one without gradients"])
def test_the_bare_optimizer_trains_on_from_a_checkpoint_of_a_run_that_has_not_moved(
    frozen, inner, rule
):
    model = Quadratic()
    make_inner = ALL_INNERS[inner]
    optimizer = make(model, inner=make_inner)
    if rule:
        optimizer = MetaOptimizer(make_inner(model.parameters()), rule)
    if frozen:
        pull_down(optimizer, model.x)  # and y has no inner state
    saved, bare = flat(optimizer.state_dict()), make_inner(model.parameters())
    expected_model = copy.deepcopy(model)
    expected = make_inner(expected_model.parameters())
    expected.load_state_dict(copy.deepcopy(optimizer.inner.state_dict()))
    bare.load_state_dict(saved)
    train(bare, model, 3)
    train(expected, expected_model, 3)
    assert_same(flat(list(model.parameters())), flat(list(expected_model.parameters())))


@pytest.mark.clause("C06")
@pytest.mark.parametrize("inner", ALL_INNERS)
def test_what_it_saves_after_that_is_known_to_be_its_own(inner):
    model, make_inner = Quadratic(), ALL_INNERS[inner]
    saved = flat(make(model, inner=make_inner).state_dict())
    saved = through(make_inner(model.parameters()), saved, model, 2)
    here, second = model.x.tolist(), make(model, inner=make_inner)
    if saved["state"]:
        with pytest.warns(UserWarning, match=STALE):
            second.load_state_dict(saved)
    else:  # nothing but the numbers of a start, which are right
        second.load_state_dict(saved)
    with second.slow_weights():
        assert model.x.tolist() == here


@pytest.mark.clause("C06")
@pytest.mark.parametrize("policy", ["maintain", "interpolate"])
@pytest.mark.parametrize("steps", [0, 1, K - 1])
def test_a_parameter_that_has_had_no_gradient_resumes_too(steps, policy):
    whole, second = [single(), single()], [single(), single()]
    optimizers = [Lookahead(adam(pair), K, ALPHA, policy) for pair in (whole, second)]
    for _ in range(steps):
        pull_down(optimizers[0], whole[0])
    second[0].data.copy_(whole[0].data)
    optimizers[1].load_state_dict(flat(optimizers[0].state_dict()))
    for optimizer, pair in zip(optimizers, (whole, second), strict=True):
        for _ in range(2 * K):
            pull_down(optimizer, *pair)
    assert_same(flat(second), flat(whole))


@pytest.mark.clause("C06")
def test_a_step_count_may_have_become_a_number():
    model = Quadratic()
    optimizer = make(model, "interpolate", adam)
    train(optimizer, model, K + 2)
    saved = flat(optimizer.state_dict())
    for entries in saved["state"].values():
        entries["step"] = int(entries["step"])
    other_model = copy.deepcopy(model)
    other = make(other_model, "interpolate", adam)
    other.load_state_dict(saved)
    train(optimizer, model, STEPS)
    train(other, other_model, STEPS)
    assert torch.equal(other_model.x, model.x)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut short"])
def test_one_that_says_only_how_many_tensors_there_were_loads_unless_it_is_cut_short(cut):
    model = Quadratic()
    optimizer = make(model, "interpolate", adam)
    train(optimizer, model, K + 2)
    saved = flat(optimizer.state_dict())
    for entries in saved["state"].values():
        del entries["lookahead_inner_step"], entries["lookahead_numbers"]
    saved["param_groups"][0]["lookahead_entries"] = [6, 6]
    if not cut:
        optimizer.load_state_dict(saved)
        return
    del saved["state"][0]["exp_avg"]
    with pytest.raises(ValueError, match=r"\[0\] must hold 6 tensors, got step, exp_avg_sq, "):
        optimizer.load_state_dict(saved)


@pytest.mark.clause("C06", "C25")
@pytest.mark.parametrize("inner", ALL_INNERS)
@pytest.mark.parametrize("steps", [0, K + 1])
def test_around_an_optimizer_that_has_loaded_our_entries_itself_nothing_begins(steps, inner):
    model, make_inner = Quadratic(), ALL_INNERS[inner]
    optimizer = make(model, inner=make_inner)
    train(optimizer, model, steps)
    bare = make_inner(model.parameters())
    bare.load_state_dict(flat(optimizer.state_dict()))
    before = model.x.tolist()
    around = Lookahead(bare, 2, 0.25)
    with pytest.raises(RuntimeError, match=r"loaded past load_state_dict\(\)"):
        train(around, model, 1)
    assert model.x.tolist() == before
