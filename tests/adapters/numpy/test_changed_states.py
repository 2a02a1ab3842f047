"""State dicts of the array loop that were changed at random (clauses C06, C89)."""

import copy
import random
import re

import numpy as np
import pytest

from damaged import PLAIN, STRUCTURES, changed
from lookahead_core import Momentum, SyncRule, schedule_free
from lookahead_core.adapters.numpy import SGD, Adam, Lookahead, MetaOptimizer

K = 3
OPTIMIZERS = {
    "maintain": lambda params: Lookahead(SGD(params, 0.1, 0.9), K),
    "reset": lambda params: Lookahead(Adam(params, 0.1), K, 0.5, "reset"),
    "interpolate": lambda params: Lookahead(Adam(params, 0.1), K, 0.5, "interpolate"),
    "momentum outside": lambda params: MetaOptimizer(
        SGD(params, 0.1), SyncRule(K, Momentum(0.5, 0.5))
    ),
    "schedule_free": lambda params: MetaOptimizer(SGD(params, 0.1), schedule_free()),
}
ARRAYS = (
    *(np.array(1.5), np.array(3), np.zeros(3), np.zeros(0), np.zeros((2, 2))),
    *(np.array([1 + 2j, 2j]), np.zeros(2, np.int64), np.ones(2, bool), np.array(["a", "b"])),
    *(np.array([None, 1]), np.full(2, np.nan)),
)


def others(value, draw):
    """What may stand in the place of `value`."""
    if isinstance(value, np.ndarray) and draw.random() < 0.4:
        return value.astype(draw.choice((np.float32, np.float16, np.complex128)))
    return draw.choice((*PLAIN, *STRUCTURES, *ARRAYS))


def trained(kind, steps):
    """An optimizer after so many steps."""
    optimizer = OPTIMIZERS[kind]([np.array([1.0, -2.0]), np.array([[3.0], [4.0]])])
    train(optimizer, steps)
    return optimizer


def train(optimizer, steps):
    for _ in range(steps):
        optimizer.step([np.ones(2), np.ones((2, 1))])


def everything(optimizer):
    return repr((optimizer.state_dict(), optimizer.params))


@pytest.mark.clause("C06", "C89")
@pytest.mark.parametrize("part", ["all of it", "the inner optimizer's"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_changed_state_dict_is_loaded_or_refused(kind, part):
    draw = random.Random(f"{kind} {part}")
    for number in range(40):
        whole, other = trained(kind, draw.randrange(2 * K + 1)), trained(kind, 2)
        saved, loading = (o if part == "all of it" else o.inner for o in (whole, other))
        damaged = changed(copy.deepcopy(saved.state_dict()), draw, others)
        before = everything(other)
        told = refused(loading, damaged)
        if told:
            assert re.search("state_dict|checkpoint", told), number
            assert everything(other) == before, number
        else:
            train(other, 2 * K)
            other.state_dict()


def refused(optimizer, state_dict):
    """What is told, if it is not loaded."""
    try:
        optimizer.load_state_dict(state_dict)
    except ValueError as error:
        return str(error)
    return None
