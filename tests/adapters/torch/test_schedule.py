"""alpha as a schedule of the syncs, through the torch adapter."""

import pytest
import torch

from lookahead_core.adapters.torch import Lookahead
from torch_runs import flat, pull_down, single


def harmonic(syncs):
    return 1 / (1 + syncs)


def make(weight, alpha=harmonic, **options):
    return Lookahead(torch.optim.SGD([weight], lr=1.0), 2, alpha, **options)


@pytest.mark.clause("C51")
@pytest.mark.parametrize(
    "options",
    [{"kernel": "foreach"}, {"kernel": "plain"}, {"capturable": True}],
    ids=["foreach", "plain", "capturable"],
)
@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
def test_each_sync_uses_the_value_for_the_syncs_before_it(as_tensor, options):
    def schedule(syncs):
        return torch.as_tensor(harmonic(syncs)) if as_tensor else harmonic(syncs)

    weight = single()
    optimizer = make(weight, schedule, **options)
    for _ in range(6):
        pull_down(optimizer, weight)
    # 1, 1/2 and 1/3 of the way: -2, then from there to -4, then from -3 to -5.
    assert weight.item() == pytest.approx(-3.0 - 2 / 3)


@pytest.mark.clause("C06", "C51")
def test_a_schedule_resumes_from_the_checkpoints_syncs():
    first = single()
    before = make(first)
    for _ in range(4):
        pull_down(before, first)
    second = single(first.item())
    after = make(second)
    after.load_state_dict(flat(before.state_dict()))
    for _ in range(2):
        pull_down(after, second)
    assert second.item() == pytest.approx(-3.0 - 2 / 3)
    assert "lookahead_alpha" not in after.param_groups[0]


@pytest.mark.clause("C06", "C25", "C51")
@pytest.mark.parametrize(("saved", "alpha"), [(harmonic, 0.5), (0.5, harmonic)])
def test_a_number_and_a_schedule_do_not_load_each_other(saved, alpha):
    state = make(single(), saved).state_dict()
    weight = single(3.0)
    optimizer = make(weight, alpha)
    with pytest.raises(ValueError, match="alpha"):
        optimizer.load_state_dict(state)
    assert weight.item() == 3.0


@pytest.mark.clause("C42", "C51")
def test_a_group_may_have_a_schedule_of_its_own():
    weights = [single(), single()]
    groups = [{"params": [weights[0]], "lookahead_alpha": harmonic}, {"params": [weights[1]]}]
    optimizer = Lookahead(torch.optim.SGD(groups, lr=1.0), 1, 0.5)
    for _ in range(2):
        pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [-1.5, -1.0]
    optimizer.load_state_dict(flat(optimizer.state_dict()))
    assert optimizer.param_groups[0]["lookahead_alpha"] is harmonic


@pytest.mark.clause("C24", "C51")
def test_a_value_out_of_range_is_refused_and_nothing_has_moved():
    weight = single()
    optimizer = make(weight, lambda syncs: 1.5)
    pull_down(optimizer, weight)
    with pytest.raises(ValueError, match=r"alpha must be a number in \[0, 1\]"):
        optimizer.sync()
    assert weight.item() == -1.0
