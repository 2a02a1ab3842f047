"""Many workers, one rule: what the outer rule sees is slow less the mean pseudo-gradient."""

import pytest

from lookahead_core import (
    AdaptiveAlpha,
    Interpolate,
    Momentum,
    SyncRule,
    diloco,
    ema,
    local_sgd,
    lookahead,
)


def leaf(xp, *values, dtype="float64"):
    return xp.asarray(list(values), dtype=getattr(xp, dtype))


def values(array):
    return [float(array[i]) for i in range(array.shape[0])]


def others(xp, *differences, dtype="float64"):
    """The mean of this worker's differences with those of others, which are given."""

    def average(own):
        return [(d + sum(differences)) / (1 + len(differences)) for d in own]

    return average


@pytest.mark.clause("C81")
def test_local_sgd_takes_the_mean_of_the_workers(xp):
    fast, state = [leaf(xp, 2.0)], local_sgd(1).init([leaf(xp, 0.0)])
    fast, _, state = local_sgd(1).step(fast, (), state, average=others(xp, -4.0))
    assert values(fast[0]) == values(state.slow[0]) == [3.0]


@pytest.mark.clause("C81")
def test_diloco_puts_the_mean_into_its_momentum(xp):
    rule = diloco(1, lr=0.5, momentum=0.5)
    fast, _, state = rule.step(
        [leaf(xp, 1.0)], (), rule.init([leaf(xp, 0.0)]), average=others(xp, -3.0)
    )
    # D = (-1 - 3) / 2; buffer' = D; slow' = -0.5 (D + 0.5 D)
    assert values(state.outer[0][0]) == [-2.0]
    assert values(fast[0]) == values(state.slow[0]) == [1.5]


@pytest.mark.clause("C81")
def test_the_mean_may_be_there_already(xp):
    rule = diloco(1, lr=0.5, momentum=0.5)
    given = [leaf(xp, 1.0)], (), rule.init([leaf(xp, 0.0)])
    fast, _, state = rule.sync(*given, average=[leaf(xp, -2.0)])
    assert values(fast[0]) == values(state.slow[0]) == [1.5]


@pytest.mark.clause("C81")
def test_an_average_follows_the_mean_and_leaves_each_worker_alone(xp):
    rule = ema(0.5)
    fast, _, state = rule.step(
        [leaf(xp, 1.0)], (), rule.init([leaf(xp, 0.0)]), average=others(xp, -3.0)
    )
    assert values(fast[0]) == [1.0]
    assert values(state.slow[0]) == [1.0]


@pytest.mark.clause("C81")
def test_half_the_way_back_is_from_where_this_worker_is(xp):
    rule = SyncRule(1, Interpolate(1.0), restart=0.5)
    fast, _, state = rule.step(
        [leaf(xp, 1.0)], (), rule.init([leaf(xp, 0.0)]), average=others(xp, -3.0)
    )
    assert values(state.slow[0]) == [2.0]
    assert values(fast[0]) == [1.5]


@pytest.mark.clause("C81")
@pytest.mark.parametrize("outer", [Interpolate(0.3), Momentum(0.7, 0.9)], ids=["alpha", "momentum"])
def test_a_worker_alone_is_as_without_others(xp, outer):
    rule, start = SyncRule(1, outer), [leaf(xp, 1.0, -2.0)]
    alone = rule.step([leaf(xp, 0.5, 7.0)], (), rule.init(start))
    one = rule.step([leaf(xp, 0.5, 7.0)], (), rule.init(start), average=lambda own: own)
    assert values(one[0][0]) == pytest.approx(values(alone[0][0]), rel=1e-15)


@pytest.mark.clause("C81")
def test_leaves_that_are_not_averaged_are_not_sent(xp):
    rule = local_sgd(1)
    fast = [leaf(xp, 2.0), xp.asarray([5])]
    sent = []

    def average(own):
        sent.extend(own)
        return own

    fast, _, _ = rule.step(fast, (), rule.init([leaf(xp, 0.0), xp.asarray([3])]), average=average)
    assert len(sent) == 1
    assert int(fast[1][0]) == 5


@pytest.mark.clause("C81")
def test_the_mean_of_narrow_weights_is_taken_in_float32(bfloat16):
    xp, narrow = bfloat16
    rule, seen = local_sgd(1), []

    def average(own):
        seen.extend(d.dtype for d in own)
        return own

    start = [xp.asarray([1.0], dtype=narrow)]
    fast, _, _ = rule.step([xp.asarray([2.0], dtype=narrow)], (), rule.init(start), average=average)
    assert seen == [xp.float32]
    assert fast[0].dtype == narrow


@pytest.mark.clause("C81")
def test_a_counter_that_is_an_array_selects(xp):
    rule = local_sgd(2)
    state = rule.init([leaf(xp, 0.0)], count=xp.asarray(0))
    for expected in ([2.0], [3.0]):
        fast, _, state = rule.step([leaf(xp, 2.0)], (), state, average=others(xp, -4.0))
        assert values(fast[0]) == expected


@pytest.mark.clause("C81")
@pytest.mark.parametrize(
    "rule", [lookahead(1, AdaptiveAlpha()), SyncRule(1, start=3)], ids=["gradients", "start"]
)
def test_a_rule_whose_slow_weights_would_differ_is_refused(xp, rule):
    state = rule.init([leaf(xp, 0.0)])
    with pytest.raises(ValueError, match="a rule for many workers must not"):
        rule.sync([leaf(xp, 1.0)], (), state, gradient=[leaf(xp, 1.0)], average=others(xp, 1.0))
