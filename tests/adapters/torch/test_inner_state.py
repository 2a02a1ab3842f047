"""Policies on inner state that the torch adapter does not know by itself, and what is no array."""

import pytest
import torch

from lookahead_core import Interpolate, SyncRule
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from torch_runs import Drift, Quadratic, adam, assert_same, flat, pull_down, single, train

KINDS = {"drift": "moment", "age": "count"}


def drifting(policy, kinds, sync_period=2):
    weight = single()
    return weight, Lookahead(Drift([weight]), sync_period, 0.5, policy, state_kinds=kinds)


@pytest.mark.clause("C17")
def test_a_declared_moment_and_plain_numbers_are_reset():
    weight, optimizer = drifting("reset", KINDS)
    for _ in range(2):
        pull_down(optimizer, weight)
    assert optimizer.state[weight]["drift"].item() == 0.0
    assert optimizer.state[weight]["age"] == 0
    assert optimizer.param_groups[0]["step"] == 0


@pytest.mark.clause("C18")
def test_a_declared_moment_is_blended_and_a_count_kept():
    weight, optimizer = drifting("interpolate", KINDS)
    for _ in range(2):
        pull_down(optimizer, weight)
    assert optimizer.state[weight]["drift"].item() == 1.0
    assert optimizer.state[weight]["age"] == 2
    assert optimizer.param_groups[0]["step"] == 2


@pytest.mark.clause("C17", "C18")
@pytest.mark.parametrize("policy", ["reset", "interpolate"])
def test_what_is_declared_to_be_kept_no_policy_touches(policy):
    weight, optimizer = drifting(policy, {"drift": "keep", "age": "keep"})
    for _ in range(2):
        pull_down(optimizer, weight)
    assert optimizer.state[weight]["drift"].item() == 2.0
    assert optimizer.state[weight]["age"] == 2


@pytest.mark.clause("C25", "C46")
@pytest.mark.parametrize("sync_period", [1, 3])
def test_a_state_that_nobody_declared_is_named_at_the_first_step_and_nothing_has_moved(sync_period):
    weight, optimizer = drifting("reset", {"drift": "moment"}, sync_period)
    before = flat([weight.detach(), optimizer.state_dict()])
    with pytest.raises(ValueError, match=r"know the state 'age' .* state_kinds=\{'age': 'moment'"):
        pull_down(optimizer, weight)
    assert_same(flat([weight.detach(), optimizer.state_dict()]), before)
    assert "step" not in optimizer.param_groups[0]


@pytest.mark.clause("C25", "C46")
@pytest.mark.parametrize("capturable", [False, True])
def test_a_state_that_appears_later_is_named_before_the_sync(capturable):
    weight = single()
    inner = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    optimizer = Lookahead(inner, 2, 0.5, "reset", capturable=capturable)
    pull_down(optimizer, weight)
    optimizer.state[weight]["surprise"] = torch.zeros(1)
    with pytest.raises(ValueError, match="does not know the state 'surprise' of SGD"):
        pull_down(optimizer, weight)
    assert weight.item() == -1.0


@pytest.mark.clause("C25", "C46")
def test_a_forced_sync_refuses_it_before_any_group_moves():
    weights = [single(), single()]
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], "lookahead_alpha": 0.25}]
    optimizer = Lookahead(torch.optim.SGD(groups, lr=1.0, momentum=0.9), 4, 0.5, "reset")
    pull_down(optimizer, *weights)
    optimizer.state[weights[1]]["surprise"] = torch.zeros(1)
    with pytest.raises(ValueError, match="does not know the state 'surprise' of SGD"):
        optimizer.sync()
    assert [weight.item() for weight in weights] == [-1.0, -1.0]


@pytest.mark.clause("C18")
def test_inner_state_that_was_moved_takes_its_slow_copy_along():
    weight = single()
    inner = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    optimizer = Lookahead(inner, 2, 0.5, "interpolate")
    for _ in range(3):
        pull_down(optimizer, weight)
    optimizer.state[weight]["momentum_buffer"] = optimizer.state[weight]["momentum_buffer"].double()
    optimizer.sync()
    saved = optimizer.state_dict()["state"][0]
    assert saved["lookahead_slow_momentum_buffer"].dtype == torch.float64


@pytest.mark.clause("C46")
def test_a_moment_that_is_a_plain_number_is_not_taken_for_a_count():
    weight, optimizer = drifting("interpolate", {"drift": "moment", "age": "moment"})
    with pytest.raises(ValueError, match="does not know the state 'age'"):
        pull_down(optimizer, weight)


@pytest.mark.clause("C18")
def test_the_slow_copy_of_the_inner_state_is_no_alias():
    model = Quadratic()
    optimizer = Lookahead(adam(model.parameters()), 2, 0.5, "interpolate")
    for _ in range(5):
        train(optimizer, model, 1)
        entries = optimizer.state_dict()["state"][0]
        for key in ("exp_avg", "exp_avg_sq"):
            slow, live = entries[f"lookahead_slow_{key}"], entries[key]
            assert slow.untyped_storage().data_ptr() != live.untyped_storage().data_ptr()


@pytest.mark.clause("C18")
def test_an_inner_optimizer_that_has_run_before_is_blended_with_the_state_it_had():
    weight = single()
    inner = torch.optim.SGD([weight], lr=0.0, momentum=1.0)
    for _ in range(2):
        pull_down(inner, weight)
    optimizer = Lookahead(inner, 2, 0.5, "interpolate")
    for _ in range(2):
        pull_down(optimizer, weight)
    assert optimizer.state[weight]["momentum_buffer"].item() == 3.0  # between 2 and 4


@pytest.mark.clause("C18", "C73")
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("forced", [False, True])
def test_with_a_start_it_is_blended_with_the_state_it_has_there(forced, capturable):
    weight = single()
    inner = torch.optim.SGD([weight], lr=0.0, momentum=1.0)
    pull_down(inner, weight)
    rule = SyncRule(2, Interpolate(0.5), "interpolate", start=3 if forced else 1)
    optimizer = MetaOptimizer(inner, rule, capturable=capturable)
    pull_down(optimizer, weight)
    if forced:
        optimizer.sync()
        assert optimizer.state[weight]["momentum_buffer"].item() == 2.0
    for _ in range(2):
        pull_down(optimizer, weight)
    assert optimizer.state[weight]["momentum_buffer"].item() == 3.0  # between 2 and 4


@pytest.mark.clause("C17")
def test_a_dampened_momentum_starts_again_as_torchs_own_does():
    ours, fresh = single(), single()
    settings = {"lr": 1.0, "momentum": 0.5, "dampening": 0.5}
    optimizer = Lookahead(torch.optim.SGD([ours], **settings), 1, 1.0, "reset")
    pull_down(optimizer, ours)
    pull_down(optimizer, ours)
    inner = torch.optim.SGD([fresh], **settings)
    pull_down(inner, fresh)
    assert ours.item() == 2 * fresh.item()
