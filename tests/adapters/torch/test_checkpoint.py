"""The torch adapter's checkpoints: exact resume, and what is refused."""

import copy

import pytest
import torch

from lookahead_core.adapters.torch import Lookahead
from reference_loop import (
    POLICIES,
    STEPS,
    K,
)
from torch_runs import (
    INNERS,
    Quadratic,
    adam,
    assert_same,
    flat,
    make,
    pull_down,
    sgd,
    single,
    snapshot,
    train,
)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("phase", range(K))
def test_a_run_resumed_at_any_phase_goes_on_bitwise(phase, policy, inner):
    whole = Quadratic()
    train(make(whole, policy, INNERS[inner]), whole, STEPS)
    first = Quadratic()
    before = make(first, policy, INNERS[inner])
    train(before, first, K + phase)
    saved = snapshot(first, before)
    second = Quadratic()
    after = make(second, policy, INNERS[inner])
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    train(after, second, STEPS - K - phase)
    assert torch.equal(second.x, whole.x)
    assert torch.equal(second.y, whole.y)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("inner", INNERS)
def test_loading_leaves_the_inner_optimizer_clean_and_the_checkpoint_alone(inner):
    model = Quadratic()
    optimizer = make(model, "interpolate", INNERS[inner])
    train(optimizer, model, 2 * K + 2)
    saved = copy.deepcopy(optimizer.state_dict())
    # torch itself takes the tensors of the step count as they are: ours are not to be.
    ours = {k: v for k, v in saved["state"][0].items() if k.startswith("lookahead_")}
    before = copy.deepcopy(ours)
    optimizer.load_state_dict(saved)
    train(optimizer, model, K)
    assert len(ours) >= 2
    assert_same(ours, before)
    entries = [*optimizer.param_groups[0], *(key for s in optimizer.state.values() for key in s)]
    assert [key for key in entries if key.startswith("lookahead_")] == []
    assert optimizer.state_dict()["param_groups"][0]["lookahead_syncs"] == 3


@pytest.mark.clause("C06")
def test_groups_keep_their_own_settings_through_a_checkpoint():
    first, second = single(), single()
    groups = [{"params": [first], "lr": 1.0}, {"params": [second], "lr": 2.0}]
    optimizer = Lookahead(torch.optim.SGD(groups), 3, 0.5)
    pull_down(optimizer, first, second)
    optimizer.load_state_dict(flat(optimizer.state_dict()))
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 2.0]
    assert optimizer.state == {}


@pytest.mark.clause("C06", "C15")
def test_wide_slow_weights_stay_wide_through_a_checkpoint():
    weight = single(1.0, torch.bfloat16)
    inner = torch.optim.SGD([weight], lr=2.0**-7, maximize=True)
    optimizer = Lookahead(inner, 1, 0.25, slow_dtype=torch.float32)
    pull_down(optimizer, weight)
    saved = flat(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    slow = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert slow.dtype == torch.float32
    assert slow.item() == 1.0 + 2.0**-9


@pytest.mark.clause("C06")
def test_saving_changes_nothing_and_leaves_the_inner_state_clean():
    model = Quadratic()
    optimizer = make(model, "interpolate", adam)
    train(optimizer, model, 7)
    keys = [set(state) for state in optimizer.state.values()]
    before = snapshot(model, optimizer)
    assert_same(snapshot(model, optimizer), before)
    assert [set(state) for state in optimizer.state.values()] == keys
    assert "lookahead_count" not in optimizer.param_groups[0]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("steps", [0, 1, K])
def test_a_checkpoint_is_no_part_of_a_graph_and_can_be_copied(steps, policy):
    model = Quadratic()
    optimizer = make(model, policy, adam)
    train(optimizer, model, steps)
    saved = optimizer.state_dict()
    assert_same(copy.deepcopy(saved), saved)


def test_a_checkpoint_of_the_inner_optimizer_alone_loads_with_a_warning():
    model = Quadratic()
    inner = sgd(model.parameters())
    train(inner, model, 3)
    optimizer = make(model)
    train(optimizer, model, 2)
    with pytest.warns(UserWarning, match="no lookahead_.* entries"):
        optimizer.load_state_dict(copy.deepcopy(inner.state_dict()))
    here = model.x.tolist()
    with optimizer.slow_weights():
        assert model.x.tolist() == here
    assert optimizer.state_dict()["param_groups"][0]["lookahead_count"] == 0


class Named(torch.optim.SGD):
    """An optimizer with state under a name, and moments of a lower rank than torch's."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for leaf in self.param_groups[0]["params"]:
            self.state[leaf]["exp_avg"] = torch.ones(())
            self.state[leaf][0] = {"block": torch.ones(2)}
        self.state["factors"] = {"rank": 3}


@pytest.mark.clause("C06")
def test_state_of_other_forms_goes_through_a_checkpoint():
    models = [Quadratic(), Quadratic()]
    first, second = (Lookahead(Named(m.parameters(), lr=0.1), K, 0.5) for m in models)
    train(first, models[0], 2)
    second.load_state_dict(flat(first.state_dict()))
    assert second.state["factors"] == {"rank": 3}
    assert second.state[models[1].x][0]["block"].tolist() == [1.0, 1.0]


def drop(state, key):
    del state["state"][0][key]


BAD_STATES = {
    "slow of another shape": (
        lambda s: s["state"][0].update(lookahead_slow=torch.ones(2)),
        r"\['state'\]\[0\]\['lookahead_slow'\] must be a Tensor of shape \(3,\) .*, got \(2,\)",
    ),
    "moment of another shape": (
        lambda s: s["state"][0].update(exp_avg=torch.ones(2)),
        r"\['exp_avg'\] must be a Tensor of shape \(3,\) .*, got \(2,\)",
    ),
    "slow moment of another shape": (
        lambda s: s["state"][0].update(lookahead_slow_exp_avg=torch.ones(2)),
        r"\['lookahead_slow_exp_avg'\] must be a Tensor of shape \(3,\) .*, got \(2,\)",
    ),
    "no states": (lambda s: s.pop("state"), "must have the key 'state'"),
    "no slow weights": (
        lambda s: drop(s, "lookahead_slow"),
        r"\['state'\]\[0\]\['lookahead_slow'\] must be a Tensor of shape \(3,\) .*, got None",
    ),
    "no slow copy of a moment": (
        lambda s: drop(s, "lookahead_slow_exp_avg"),
        r"\['state'\]\[0\] must hold lookahead_slow_exp_avg, got step, exp_avg, .*: .* was cut",
    ),
    "no moment": (
        lambda s: drop(s, "exp_avg_sq"),
        "must hold exp_avg_sq, got step, exp_avg, lookahead",
    ),
    "no state of a parameter": (
        lambda s: s["state"].pop(1),
        r"\['state'\]\[1\] must hold step, exp_avg, .*, got nothing: the checkpoint was cut short",
    ),
    "no list of what was there": (
        lambda s: s["param_groups"][0].pop("lookahead_entries"),
        "lookahead_entries must be a list of 2 strings, got None",
    ),
    "a slow copy that is no tensor": (
        lambda s: s["state"][0].update(lookahead_slow=[1.0, 2.0, 3.0]),
        r"\['lookahead_slow'\] must be a Tensor .*, got \[1.0",
    ),
    "no entries in the groups": (
        lambda s: (
            s["param_groups"].__setitem__(
                0, {k: v for k, v in s["param_groups"][0].items() if not k.startswith("lookahead_")}
            ),
            [entries.pop("lookahead_numbers") for entries in s["state"].values()],
        ),
        "lookahead_elapsed must be an int >= 0, got None",
    ),
    "no groups": (lambda s: s.pop("param_groups"), "must have the key 'param_groups'"),
    "another number of parameters": (
        lambda s: s["param_groups"][0]["params"].pop(),
        r"must hold groups of \[2\] parameters, got \[1\]",
    ),
    "an unknown parameter": (lambda s: s["state"].update({9: {}}), "numbers of parameters, got 9"),
    "a counter beyond the period": (
        lambda s: s["param_groups"][0].update(lookahead_count=99),
        "count must be below sync_period=5, got 99",
    ),
    "no counter": (
        lambda s: s["param_groups"][0].pop("lookahead_count"),
        "the checkpoint's count must be an int >= 0, got None",
    ),
    "a counter that is no number": (
        lambda s: s["param_groups"][0].update(lookahead_count=True),
        "count must be an int >= 0, got True",
    ),
    "a clock that is no number": (
        lambda s: s["param_groups"][0].update(lookahead_elapsed=True),
        "lookahead_elapsed must be an int >= 0, got True",
    ),
    "a phase that is no number": (
        lambda s: s["param_groups"][0].update(lookahead_phase=False),
        "phase must be an int >= -8, got False",
    ),
    "a complex slow weight": (
        lambda s: s["state"][0].update(lookahead_slow=torch.ones(3, dtype=torch.complex64)),
        r"\['lookahead_slow'\] must be .* cast to torch.float64, got \(3,\) torch.complex64",
    ),
    "fast weights that are no tensor": (
        lambda s: s["state"][0].update(lookahead_fast=True),
        r"\['lookahead_fast'\] must be a Tensor of shape \(3,\) .*, got True",
    ),
    "a number of tensors that is none": (
        lambda s: s["param_groups"][0].update(lookahead_entries=[6, None]),
        "lookahead_entries must be an int >= 0, got None",
    ),
    "a start that is no number": (
        lambda s: s["param_groups"][0].update(lookahead_start=False),
        "made with start=False, this optimizer has start=0",
    ),
    "another period": (
        lambda s: s["param_groups"][0].update(lookahead_sync_period=7),
        "sync_period=7, this optimizer has sync_period=5",
    ),
    "another policy": (
        lambda s: s["param_groups"][0].update(lookahead_inner_state="reset"),
        "inner_state='reset', this optimizer has inner_state='interpolate'",
    ),
    "an alpha out of range": (
        lambda s: s["param_groups"][0].update(lookahead_alpha=7),
        r"alpha must be a number in \[0, 1\] .* got 7",
    ),
}


@pytest.mark.clause("C06", "C25")
@pytest.mark.parametrize("case", BAD_STATES)
def test_a_state_that_does_not_match_changes_nothing(case):
    damage, message = BAD_STATES[case]
    model, other = Quadratic(), Quadratic()
    optimizer, source = make(model, "interpolate", adam), make(other, "interpolate", adam)
    train(optimizer, model, 3)
    train(source, other, 8)
    saved = copy.deepcopy(source.state_dict())
    damage(saved)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert_same(snapshot(model, optimizer), before)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("steps", [1, 5, 16])  # 16 is past the first step that both periods share
@pytest.mark.parametrize(
    "changed",
    [{"lookahead_sync_period": 4}, {"lookahead_alpha": 0.25}, {"lookahead_sync_period": 7}],
    ids=str,
)
def test_a_run_resumes_bitwise_where_a_group_changes_later(changed, steps):
    runs = []
    for model in (Quadratic(), Quadratic()):
        first, second = model.parameters()
        groups = [{"params": [first]}, {"params": [second], "lookahead_sync_period": 3}]
        runs.append((Lookahead(sgd(groups), K, 0.5), model))
    (optimizer, model), (resumed, again) = runs
    train(optimizer, model, steps)
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for run, own in runs:
        train(run, own, 2)
        run.param_groups[1].update(changed)
        train(run, own, 12)
    assert_same(snapshot(again, resumed), snapshot(model, optimizer))


ADAM_ALONE = {
    "without step": lambda entries: entries.pop("step"),
    "with step under another name": lambda entries: entries.update(steps=entries.pop("step")),
}


@pytest.mark.clause("C06")
@pytest.mark.parametrize("damage", ADAM_ALONE)
def test_what_the_inner_optimizer_cannot_load_changes_nothing(damage):
    model, other = Quadratic(), Quadratic()
    optimizer, bare = make(model, inner=adam), adam(other.parameters())
    train(optimizer, model, 2)
    train(bare, other, 3)
    damaged = copy.deepcopy(bare.state_dict())
    ADAM_ALONE[damage](damaged["state"][0])
    before = snapshot(model, optimizer)
    with pytest.warns(UserWarning, match="inner optimizer alone"), pytest.raises(ValueError) as no:
        optimizer.load_state_dict(damaged)
    assert "Adam cannot load its part of state_dict (KeyError('step'))" in str(no.value)
    assert_same(snapshot(model, optimizer), before)
