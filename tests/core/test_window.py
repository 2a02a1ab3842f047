"""LAWA: the mean of the latest weights."""

import pytest

from lookahead_core import LatestWeightAverage


def leaf(xp, *values, dtype="float64"):
    return xp.asarray(list(values), dtype=getattr(xp, dtype))


@pytest.mark.clause("C80")
@pytest.mark.parametrize("array", [False, True])
def test_it_is_the_mean_of_the_last_few_and_of_fewer_at_first(array, xp):
    average, fast = LatestWeightAverage(3), (leaf(xp, 9.0),)
    state, means = average.init(fast, count=xp.asarray(0) if array else 0), []
    for value in (1.0, 2.0, 6.0, 7.0):
        state = average.push((leaf(xp, value),), state)
        means.append(float(average.mean(state)[0][0]))
    assert means == [1.0, 1.5, 3.0, 5.0]


@pytest.mark.clause("C14", "C28", "C80")
def test_leaves_keep_their_dtypes_and_integers_the_newest_value(xp):
    average, state = LatestWeightAverage(2), None
    for value in (1.0, 4.0):
        fast = (leaf(xp, value, dtype="float32"), leaf(xp, int(value), dtype="int32"))
        state = average.push(fast, state or average.init(fast))
    mean, newest = average.mean(state)
    assert (float(mean[0]), int(newest[0])) == (2.5, 4)
    assert (mean.dtype, newest.dtype) == (xp.float32, xp.int32)


@pytest.mark.clause("C80")
def test_narrow_leaves_are_added_up_wide(bfloat16):
    xp, dtype = bfloat16
    average = LatestWeightAverage(3)
    state = average.init([xp.astype(xp.asarray([0.0]), dtype)])
    for value in (256.0, 1.0, 1.0):  # 256 + 1 is 256 in bfloat16
        state = average.push([xp.astype(xp.asarray([value]), dtype)], state)
    (mean,) = average.mean(state)
    assert mean.dtype == dtype
    assert float(mean[0]) == 86.0


@pytest.mark.clause("C20", "C80")
def test_it_keeps_copies(xp):
    average, fast = LatestWeightAverage(1), (leaf(xp, 1.0),)
    state = average.push(fast, average.init(fast))
    assert state.ring[-1][0] is not fast[0]
    assert average.mean(state)[0] is not state.ring[-1][0]


@pytest.mark.clause("C24", "C80")
def test_what_is_out_of_range_is_refused(xp):
    with pytest.raises(ValueError, match="size must be an int >= 1"):
        LatestWeightAverage(0)
    average = LatestWeightAverage(2)
    with pytest.raises(ValueError, match=r"the window must hold weights \(push\), got none"):
        average.mean(average.init((leaf(xp, 1.0),)))
