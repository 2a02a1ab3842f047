"""alpha as a schedule, through the NumPy adapter."""

import numpy as np
import pytest

from lookahead_core.adapters.numpy import SGD, Lookahead


@pytest.mark.clause("C51")
@pytest.mark.parametrize("kind", [float, np.float64, np.asarray])
def test_a_value_may_be_a_number_or_a_0_d_array(kind):
    optimizer = Lookahead(SGD([np.zeros(1)], lr=1.0), 2, lambda syncs: kind(0.25))
    for _ in range(2):
        optimizer.step([np.ones(1)])
    assert optimizer.inner.params[0].item() == -0.5


@pytest.mark.clause("C06", "C51")
def test_a_schedule_of_the_syncs_is_followed_and_resumed():
    def make(weights):
        return Lookahead(SGD([weights], lr=1.0), 2, lambda syncs: 1 / (1 + syncs))

    first = make(np.zeros(1))
    for _ in range(4):
        first.step([np.ones(1)])
    # alpha is 1 and 1/2: -2, and half of the way from there to -4.
    assert first.inner.params[0].item() == -3.0
    second = make(first.inner.params[0].copy())
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        second.step([np.ones(1)])
    assert second.inner.params[0].item() == pytest.approx(-3.0 - 2 / 3)
