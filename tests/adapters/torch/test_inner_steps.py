"""Steps of the inner optimizer that do not come through the one around it."""

import copy
import gc
import pickle

import pytest
import torch.distributed as dist

import torch_runs
from lookahead_core import lookahead
from lookahead_core.adapters.torch import Lookahead, StreamingOptimizer
from torch_runs import Quadratic, sgd, train


def past(optimizer, model, steps):
    """Steps of the inner optimizer alone."""
    train(optimizer.inner, model, steps)


@pytest.mark.clause("C49")
@pytest.mark.parametrize("period", [1, 3])
def test_a_whole_cycle_of_steps_past_it_is_told_of_once(period):
    model = Quadratic()
    optimizer = Lookahead(sgd(model.parameters()), period, 0.5)
    train(optimizer, model, 4)
    past(optimizer, model, period - 1)
    with pytest.warns(UserWarning, match=r"step\(\) of SGD was called by itself for") as warned:
        past(optimizer, model, 1)
    assert warned[0].filename == torch_runs.__file__
    past(optimizer, model, 3 * period)


COPIES = {
    "copy": lambda model, optimizer: (model, copy.copy(optimizer)),
    "deepcopy": lambda *both: copy.deepcopy(both),
    "pickle": lambda *both: pickle.loads(pickle.dumps(both)),
}


@pytest.mark.clause("C49")
@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_counts_them_too_and_its_own_steps_are_none(copied):
    model = Quadratic()
    model, optimizer = COPIES[copied](model, Lookahead(sgd(model.parameters()), 1, 0.5))
    train(optimizer, model, 4)
    with pytest.warns(UserWarning, match=r"step\(\) of SGD was called by itself for"):
        past(optimizer, model, 2)


@pytest.fixture
def alone():
    """A group of one worker."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.clause("C49")
def test_one_that_streams_tells_of_them_too(alone):
    model = Quadratic()
    optimizer = StreamingOptimizer(
        sgd(model.parameters()), lookahead(2), process_group=alone, fragments=2
    )
    train(optimizer, model, 4)
    gc.collect()
    with pytest.warns(UserWarning, match=r"step\(\) of SGD was called by itself for"):
        past(optimizer, model, 2)


@pytest.mark.clause("C49")
def test_an_optimizer_that_is_gone_says_nothing_of_the_one_that_it_was_around():
    model = Quadratic()
    inner = sgd(model.parameters())
    Lookahead(inner, 1, 0.5)
    gc.collect()
    train(inner, model, 4)
    assert not inner._optimizer_step_post_hooks
