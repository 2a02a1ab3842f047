"""The period as a schedule of the syncs, in torch: plain loops, groups, checkpoints, refusals."""

import pytest
import torch
import torch.distributed as dist

from lookahead_core import PostLocal, QuadraticPeriod, Ramp, lookahead
from lookahead_core.adapters.torch import Lookahead, StreamingOptimizer
from torch_runs import Quadratic, flat, pull_down, sgd, single, train

QUADRATIC = QuadraticPeriod(Ramp(0.5, 0.125, 3), growth=1.0, least=1, most=7)
SCHEDULES = {"post-local": (PostLocal(3, 4), [1, 1, 1, 4, 4]), "quadratic": (QUADRATIC, [4, 7, 7])}
WAYS = ({"kernel": "foreach"}, {"kernel": "plain"}, {"capturable": True})


@pytest.mark.clause("C02", "C45", "C90")
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_a_plain_loop(name, way):
    period, lengths = SCHEDULES[name]
    ours, other = Quadratic(), Quadratic()
    optimizer = Lookahead(sgd(ours.parameters()), period, 0.3, **way)
    inner, slow = sgd(other.parameters()), [leaf.detach().clone() for leaf in other.parameters()]
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    for step in range(1, sum(lengths) + 1):
        train(optimizer, ours, 1)
        other.backward()
        inner.step()
        for leaf, held in zip(other.parameters(), slow, strict=True) if step in ends else ():
            held += 0.3 * (leaf.detach() - held)
            leaf.data.copy_(held)
        for leaf, plain in zip(ours.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(leaf, plain, rtol=0, atol=1e-13)


def two_groups(*settings, **options):
    weights = [single(), single()]
    pairs = zip(weights, (*settings, {}, {}), strict=False)
    groups = [{"params": [weight], **own} for weight, own in pairs]
    return weights, Lookahead(torch.optim.SGD(groups, lr=1.0), alpha=0.5, **options)


@pytest.mark.clause("C42", "C90")
def test_a_group_may_have_a_schedule_of_its_own_and_changes_to_one_for_a_whole_cycle():
    weights, optimizer = two_groups({"lookahead_sync_period": PostLocal(2, 3)}, sync_period=4)
    trace = []
    for _ in range(5):
        pull_down(optimizer, *weights)
        trace.append([weight.item() for weight in weights])
    assert trace == [[-0.5, -1.0], [-1.0, -2.0], [-2.0, -3.0], [-3.0, -2.0], [-2.5, -3.0]]
    optimizer.param_groups[1]["lookahead_sync_period"] = lambda syncs: 2
    pull_down(optimizer, *weights)
    assert weights[1].item() == -4.0  # two steps from here, and not one
    again, after = two_groups({"lookahead_sync_period": PostLocal(2, 3)}, sync_period=4)
    after.param_groups[1]["lookahead_sync_period"] = lambda syncs: 2
    for weight, value in zip(again, weights, strict=True):
        weight.data.copy_(value.detach())
    after.load_state_dict(flat(optimizer.state_dict()))
    for both in ((optimizer, weights), (after, again)):
        pull_down(both[0], *both[1])
        assert both[1][1].item() == -3.5  # half of the way from -2 to -5


@pytest.mark.clause("C42", "C90")
def test_what_joins_or_gets_another_alpha_in_mid_cycle_syncs_with_the_others():
    weights, optimizer = two_groups(sync_period=PostLocal(1, 3))
    for _ in range(2):
        pull_down(optimizer, *weights)
    late = single()
    optimizer.add_param_group({"params": [late]})
    optimizer.param_groups[1]["lookahead_alpha"] = 0.25
    for _ in range(2):
        pull_down(optimizer, *weights, late)
    assert [weight.item() for weight in (*weights, late)] == [-2.0, -1.25, -1.0]


@pytest.mark.clause("C24", "C90")
def test_a_schedule_that_gives_no_whole_number_is_refused_before_anything_moves():
    weights, optimizer = two_groups(sync_period=lambda syncs: 2.5 if syncs else 1)
    pull_down(optimizer, *weights)
    with pytest.raises(ValueError, match=r"sync_period must be an int >= 1 .* got 2.5"):
        pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [-0.5, -0.5]


@pytest.mark.clause("C06", "C90")
def test_a_checkpoint_says_that_the_period_was_a_schedule():
    _, optimizer = two_groups(sync_period=PostLocal(2, 3))
    saved = flat(optimizer.state_dict())
    assert saved["param_groups"][0]["lookahead_sync_period"] == "a schedule"
    with pytest.raises(ValueError, match="made with sync_period='a schedule', this optimizer has"):
        two_groups(sync_period=3)[1].load_state_dict(saved)


@pytest.mark.clause("C49", "C90")
def test_steps_past_it_are_told_of_after_the_cycle_that_it_is_in():
    model = Quadratic()
    optimizer = Lookahead(sgd(model.parameters()), PostLocal(2, 4), 0.5)
    train(optimizer, model, 2)
    train(optimizer.inner, model, 3)
    with pytest.warns(UserWarning, match=r"step\(\) of SGD was called by itself"):
        train(optimizer.inner, model, 1)


@pytest.mark.clause("C48", "C90")
def test_a_checkpoint_without_a_period_needs_one_that_is_a_number():
    weight = single()
    inner = torch.optim.SGD([weight], lr=1.0)
    theirs = {
        "lookahead_state": {(0, 0): {"slow_params": torch.zeros(1)}},
        "base_optimizer": {**inner.state_dict()},
    }
    theirs["base_optimizer"]["param_groups"][0]["counter"] = 1
    with pytest.raises(ValueError, match="sync_period must be a number for a checkpoint of pytor"):
        Lookahead(inner, PostLocal(2, 3)).load_state_dict(theirs)


@pytest.mark.clause("C24", "C82", "C90")
def test_fragments_need_a_period_that_is_a_number():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="sync_period must be a number with fragments"):
            StreamingOptimizer(
                sgd(Quadratic().parameters()),
                lookahead(PostLocal(2, 3)),
                process_group=dist.group.WORLD,
                fragments=2,
            )
    finally:
        dist.destroy_process_group()
