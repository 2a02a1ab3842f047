"""Fast weights that go back in part or not at all, and a later start, through the torch adapter.

The weight goes down by one a step, so that each value can be read off.
"""

import pytest
import torch

from lookahead_core import Interpolate, Momentum, SyncRule, ema, polyak, swa
from lookahead_core.adapters.torch import MetaOptimizer
from torch_runs import Drift, assert_same, flat, pull_down, single

# Slow weights are a mean of two, and nothing feeds on them.
AVERAGE = SyncRule(2, Interpolate(0.5), restart=0.0)
WAYS = {"branching": {}, "plain": {"kernel": "plain"}, "capturable": {"capturable": True}}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


def make(rule, *weights, **options):
    return MetaOptimizer(torch.optim.SGD(weights, lr=1.0), rule, **options)


def evaluated(optimizer, weight):
    with optimizer.slow_weights():
        return weight.item()


def trace(rule, steps, **options):
    """Fast and slow weight after each step."""
    weight = single()
    optimizer = make(rule, weight, **options)
    pairs = []
    for _ in range(steps):
        pull_down(optimizer, weight)
        pairs.append((weight.item(), evaluated(optimizer, weight)))
    return pairs


# --- restart ---


@pytest.mark.clause("C22", "C72")
def test_an_average_is_evaluated_at_every_step_as_the_last_sync_left_it(way):
    assert trace(AVERAGE, 6, **way) == [
        *((-1.0, 0.0), (-2.0, -1.0)),
        *((-3.0, -1.0), (-4.0, -2.5)),
        *((-5.0, -2.5), (-6.0, -4.25)),
    ]


@pytest.mark.clause("C72")
def test_fast_weights_go_back_in_part(way):
    rule = SyncRule(2, Interpolate(0.5), restart=0.5)
    # Slow -1, fast halfway back to it from -2; then slow from -1 to half of -3.5.
    assert trace(rule, 4, **way) == [(-1.0, 0.0), (-1.5, -1.0), (-2.5, -1.0), (-2.875, -2.25)]


@pytest.mark.clause("C72")
def test_fast_weights_go_back_at_every_second_sync(way):
    rule = SyncRule(1, Interpolate(0.5), restart_period=2)
    assert trace(rule, 4, **way) == [(-1.0, -0.5), (-1.25, -1.25), (-2.25, -1.75), (-2.5, -2.5)]


@pytest.mark.clause("C17", "C72")
def test_the_inner_state_is_reset_where_the_weights_go_back(way):
    weight = single()
    inner = torch.optim.SGD([weight], lr=1.0, momentum=0.5)
    rule = SyncRule(1, Interpolate(0.5), "reset", restart_period=2)
    optimizer = MetaOptimizer(inner, rule, **way)
    moments = []
    for _ in range(4):
        pull_down(optimizer, weight)
        moments.append(inner.state[weight]["momentum_buffer"].item())
    assert moments == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.clause("C17", "C72")
def test_counts_that_are_plain_numbers_are_reset_then_and_not_between():
    weight = single()
    kinds = {"drift": "moment", "age": "count"}
    rule = SyncRule(1, Interpolate(1.0), "reset", restart_period=2)
    inner = Drift([weight])
    optimizer = MetaOptimizer(inner, rule, state_kinds=kinds)
    ages = []
    for _ in range(4):
        pull_down(optimizer, weight)
        ages.append(inner.state[weight]["age"])
    assert ages == [1, 0, 1, 0]


@pytest.mark.clause("C26", "C72")
def test_weights_that_are_edited_between_cycles_do_not_become_the_average(way):
    weight = single()
    optimizer = make(AVERAGE, weight, **way)
    for _ in range(2):
        pull_down(optimizer, weight)
    with torch.no_grad():
        weight.fill_(10.0)
    assert evaluated(optimizer, weight) == -1.0
    for _ in range(2):
        pull_down(optimizer, weight)
    assert (weight.item(), evaluated(optimizer, weight)) == (8.0, 3.5)


@pytest.mark.clause("C01", "C26", "C72")
def test_weights_that_are_loaded_before_the_first_cycle_are_its_start(way):
    weight = single()
    optimizer = make(AVERAGE, weight, **way)
    with torch.no_grad():
        weight.fill_(10.0)
    for _ in range(2):
        pull_down(optimizer, weight)
    assert evaluated(optimizer, weight) == 9.0


@pytest.mark.clause("C05", "C72")
def test_a_forced_sync_takes_the_average_on(way):
    weight = single()
    optimizer = make(AVERAGE, weight, **way)
    optimizer.sync()
    for _ in range(3):
        pull_down(optimizer, weight)
    optimizer.sync()  # -1 to half of -3
    assert (weight.item(), evaluated(optimizer, weight)) == (-3.0, -2.0)
    pull_down(optimizer, weight)
    assert evaluated(optimizer, weight) == -2.0


@pytest.mark.clause("C05", "C72")
def test_a_forced_sync_puts_the_weights_back_in_its_turn_alone(way):
    weight = single()
    optimizer = make(SyncRule(5, Interpolate(0.5), restart_period=2), weight, **way)
    seen = []
    for _ in range(2):
        pull_down(optimizer, weight)
        optimizer.sync()
        seen.append((weight.item(), evaluated(optimizer, weight)))
    assert seen == [(-1.0, -0.5), (-1.25, -1.25)]


@pytest.mark.clause("C27", "C72")
def test_a_frozen_parameter_has_no_average_and_begins_one_where_it_is_unfrozen():
    weight, frozen = single(), single()
    optimizer = make(AVERAGE, weight, frozen)
    for _ in range(2):
        pull_down(optimizer, weight, frozen)
    frozen.requires_grad_(False)
    for _ in range(2):
        pull_down(optimizer, weight)
    assert evaluated(optimizer, frozen) == -2.0
    frozen.requires_grad_(True)
    for _ in range(2):
        pull_down(optimizer, weight, frozen)
    with optimizer.slow_weights():
        assert (weight.item(), frozen.item()) == (-4.25, -3.0)


@pytest.mark.clause("C46", "C72")
def test_an_unknown_inner_state_never_puts_an_average_into_the_parameters():
    weight = single()
    rule = SyncRule(2, Interpolate(0.5), "reset", restart=0.5)
    optimizer = MetaOptimizer(Drift([weight]), rule, state_kinds={"drift": "keep", "age": "count"})
    for _ in range(2):
        pull_down(optimizer, weight)
    assert evaluated(optimizer, weight) == -1.0
    optimizer._parts.kinds.clear()
    optimizer.inner.state.clear()
    with pytest.raises(ValueError, match="does not know the state 'drift'"):
        pull_down(optimizer, weight)
    # At the very first step it would have been put back: the slow weights were taken from it then.
    assert weight.item() < -1.0


@pytest.mark.clause("C42", "C72")
def test_groups_with_periods_of_their_own_are_averaged_each_at_its_own():
    weights = [single(), single()]
    groups = [{"params": [weights[0]]}, {"params": [weights[1]], "lookahead_sync_period": 4}]
    optimizer = MetaOptimizer(torch.optim.SGD(groups, lr=1.0), AVERAGE)
    for _ in range(4):
        pull_down(optimizer, *weights)
    with optimizer.slow_weights():
        assert [weight.item() for weight in weights] == [-2.5, -2.0]
    pull_down(optimizer, *weights)
    with optimizer.slow_weights():
        assert [weight.item() for weight in weights] == [-2.5, -2.0]


# --- start ---


@pytest.mark.clause("C22", "C73")
def test_before_the_start_the_slow_weights_are_the_fast_ones(way):
    rule = SyncRule(2, Interpolate(0.5), start=3)
    assert trace(rule, 7, **way) == [
        *((-1.0, -1.0), (-2.0, -2.0), (-3.0, -3.0)),
        *((-4.0, -3.0), (-4.0, -4.0), (-5.0, -4.0), (-5.0, -5.0)),
    ]


@pytest.mark.clause("C73", "C79")
@pytest.mark.parametrize(
    ("rule", "expected"),
    [(swa(2, start=3), [-3.0, -3.0, -4.0, -4.0, -5.0]), (polyak(3), [-3.0, -4.0, -4.5, -5.0])],
    ids=["swa", "polyak"],
)
def test_an_average_that_starts_late_has_nothing_from_before_it(rule, expected, way):
    slow = [slow for _, slow in trace(rule, 2 + len(expected), **way)]
    assert slow[2:] == pytest.approx(expected)


@pytest.mark.clause("C05", "C73")
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_forced_sync_before_the_start_begins_there(steps, way):
    weight = single()
    optimizer = make(SyncRule(2, Momentum(0.5, 0.0), start=3), weight, **way)
    for _ in range(steps):
        pull_down(optimizer, weight)
    optimizer.sync()  # slow and fast are one
    assert weight.item() == -steps
    for _ in range(2):
        pull_down(optimizer, weight)
    assert weight.item() == -steps - 1.0


@pytest.mark.clause("C42", "C73")
def test_groups_with_periods_of_their_own_are_in_phase_from_the_start():
    weights = [single(), single()]
    groups = [{"params": [weights[0]], "lookahead_sync_period": 2}, {"params": [weights[1]]}]
    rule = SyncRule(4, Interpolate(0.5), start=3)
    optimizer = MetaOptimizer(torch.optim.SGD(groups, lr=1.0), rule)
    seen = []
    for _ in range(7):
        pull_down(optimizer, *weights)
        seen.append(tuple(weight.item() for weight in weights))
    assert seen[3:] == [(-4.0, -4.0), (-4.0, -5.0), (-5.0, -6.0), (-5.0, -5.0)]


@pytest.mark.clause("C06", "C73")
@pytest.mark.parametrize("steps", range(9))
def test_a_start_is_resumed_at_any_step_with_groups_of_their_own_periods(steps):
    def fresh():
        weights = [single(), single()]
        groups = [{"params": [weights[0]], "lookahead_sync_period": 3}, {"params": [weights[1]]}]
        rule = SyncRule(2, Momentum(0.5, 0.5), start=4, restart=0.5)
        return weights, MetaOptimizer(torch.optim.SGD(groups, lr=1.0), rule)

    (whole, undisturbed), (first, before), (second, after) = fresh(), fresh(), fresh()
    for _ in range(13):
        pull_down(undisturbed, *whole)
    for _ in range(steps):
        pull_down(before, *first)
    weights, saved = flat([[weight.detach() for weight in first], before.state_dict()])
    for weight, value in zip(second, weights, strict=True):
        weight.data.copy_(value)
    after.load_state_dict(saved)
    for _ in range(13 - steps):
        pull_down(after, *second)
    assert_same([w.item() for w in second], [w.item() for w in whole])


@pytest.mark.clause("C26", "C73")
def test_weights_that_are_loaded_before_the_start_are_its_start(way):
    weight = single()
    optimizer = make(ema(0.5, start=3), weight, **way)
    pull_down(optimizer, weight)
    with torch.no_grad():
        weight.fill_(10.0)
    for _ in range(3):
        pull_down(optimizer, weight)
    assert (weight.item(), evaluated(optimizer, weight)) == (7.0, 7.5)


@pytest.mark.clause("C46", "C73")
def test_an_unknown_inner_state_is_taken_back_at_the_first_step_before_the_start_too():
    weight = single(3.0)
    optimizer = MetaOptimizer(Drift([weight]), SyncRule(2, Interpolate(), "reset", start=3))
    with torch.no_grad():
        weight.fill_(5.0)
    with pytest.raises(ValueError, match="does not know the state 'drift'"):
        pull_down(optimizer, weight)
    assert weight.item() == 5.0
    assert optimizer.state_dict()["param_groups"][0]["lookahead_count"] == -3


@pytest.mark.clause("C19", "C44", "C73")
def test_a_step_before_the_start_touches_no_slow_weight():
    weight = single()
    optimizer = make(SyncRule(2, Momentum(), start=5), weight)
    pull_down(optimizer, weight)
    pull_down(optimizer, weight)
    slow = optimizer._parts.kept[weight].slow
    slow.fill_(float("nan"))
    pull_down(optimizer, weight)
    assert slow.isnan().item()
    for _ in range(4):
        pull_down(optimizer, weight)
    assert weight.isfinite().item()
