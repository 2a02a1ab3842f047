"""A small model of nested arrays for the tests of the array loop, and what happens to it."""

import numpy as np

from lookahead_core.adapters.numpy import SGD, Lookahead
from reference_loop import ALPHA, LEARNING_RATE, MOMENTUM, START, A, B, K


def start():
    return {"layer": {"x": np.asarray(START)}, "other": [np.asarray(START[:2])]}


def gradients(params):
    return {
        "layer": {"x": np.asarray(A) @ params["layer"]["x"] - np.asarray(B)},
        "other": [0.5 * params["other"][0]],
    }


def make(params, policy="maintain", **settings):
    inner = SGD(params, LEARNING_RATE, momentum=MOMENTUM)
    return Lookahead(inner, K, ALPHA, policy, **settings)


def train(optimizer, params, steps):
    for _ in range(steps):
        optimizer.step(gradients(params))


def snapshot(params, optimizer):
    """Everything that bad input must leave as it was."""
    state = {k: np.array(v) for k, v in optimizer.state_dict().items()}
    return {"x": params["layer"]["x"].copy(), "other": params["other"][0].copy(), **state}


def assert_unchanged(before, params, optimizer):
    after = snapshot(params, optimizer)
    assert after.keys() == before.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
