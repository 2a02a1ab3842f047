"""`metrics()`: what torch alone has, groups of their own, evaluation and slow weights elsewhere."""

import pytest
import torch

from lookahead_core import ema
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from torch_runs import pull_down, single


def sgd(*parameters):
    return torch.optim.SGD(parameters, lr=1.0)


@pytest.mark.clause("C42", "C91")
def test_groups_with_settings_of_their_own_have_numbers_of_their_own():
    first, second = single(), single()
    groups = [{"params": [first]}, {"params": [second], "lookahead_alpha": 0.25}]
    optimizer = Lookahead(torch.optim.SGD(groups, lr=1.0), sync_period=5)
    pull_down(optimizer, first)
    found = optimizer.metrics()
    assert (found["distance/0"], found["distance/1"]) == (1.0, 0.0)
    assert (found["alpha/0"], found["alpha/1"]) == (0.5, 0.25)


@pytest.mark.clause("C22", "C91")
def test_they_are_the_same_while_the_slow_weights_are_evaluated():
    leaf = single()
    optimizer = MetaOptimizer(sgd(leaf), ema(0.5))
    pull_down(optimizer, leaf)
    found = optimizer.metrics()
    assert found == {"syncs": 1, "distance": 0.5, "pseudo_gradient_norm": 0.5, "alpha": 0.5}
    with optimizer.slow_weights():
        assert optimizer.metrics() == found


@pytest.mark.clause("C91")
def test_a_parameter_that_is_frozen_does_not_count():
    leaf, frozen = single(), single().requires_grad_(False)
    optimizer = Lookahead(sgd(leaf, frozen), sync_period=5)
    pull_down(optimizer, leaf)
    frozen.fill_(100.0)
    assert optimizer.metrics()["distance"] == 1.0
