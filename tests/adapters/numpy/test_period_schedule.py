"""The period as a schedule of the syncs, in the array loop: a plain loop, saving, a refusal."""

import numpy as np
import pytest

from lookahead_core import PostLocal, QuadraticPeriod, Ramp
from lookahead_core.adapters.numpy import SGD, Lookahead

QUADRATIC = QuadraticPeriod(Ramp(0.5, 0.125, 4), growth=1.0, least=1, most=7)
SCHEDULES = {"post-local": (PostLocal(3, 4), [1, 1, 1, 4, 4]), "quadratic": (QUADRATIC, [4, 6, 7])}


def made(period):
    params = {"w": np.asarray([1.0, -2.0])}
    return params, Lookahead(SGD(params, lr=0.125, momentum=0.5), period, 0.3)


@pytest.mark.clause("C02", "C06", "C90")
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_a_plain_loop_also_where_it_is_loaded_in_mid_cycle(name):
    period, lengths = SCHEDULES[name]
    (params, optimizer), (plain, inner) = made(period), made(10**6)
    slow = plain["w"].copy()
    ends = np.cumsum(lengths)
    for step in range(1, ends[-1] + 1):
        optimizer.step({"w": params["w"] - 3.0})
        inner.step({"w": plain["w"] - 3.0})
        if step in ends:
            slow += 0.3 * (plain["w"] - slow)
            plain["w"][:] = slow
        np.testing.assert_allclose(params["w"], plain["w"], rtol=0, atol=1e-13)
        saved, weights = optimizer.state_dict(), params["w"].copy()
        assert saved["sync_period"] == "a schedule"
        params, optimizer = made(period)
        params["w"][:] = weights
        optimizer.load_state_dict(saved)


@pytest.mark.clause("C24", "C25", "C90")
def test_a_schedule_that_gives_no_whole_number_is_refused_before_anything_moves():
    params, optimizer = made(lambda syncs: 0)
    with pytest.raises(ValueError, match=r"sync_period must be an int >= 1 .* got 0"):
        optimizer.step({"w": np.ones(2)})
    assert params["w"].tolist() == [1.0, -2.0]
    assert not any(moment.any() for moment in optimizer.inner.state.values())
