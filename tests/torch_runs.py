"""Models and runs that the tests of the torch adapter share."""

import io

import torch

from lookahead_core.adapters.torch import Lookahead
from reference_loop import (
    ALPHA,
    LEARNING_RATE,
    MOMENTUM,
    START,
    A,
    B,
    K,
)

DOUBLE = torch.float64


class Quadratic(torch.nn.Module):
    """The oracle's quadratic, and a second parameter."""

    def __init__(self):
        super().__init__()
        self.x = torch.nn.Parameter(torch.tensor(START, dtype=DOUBLE))
        self.y = torch.nn.Parameter(torch.ones(2, dtype=DOUBLE))

    def backward(self):
        """Give both parameters the gradient of the oracle's loss and of y'y/4."""
        self.zero_grad()
        a, b = torch.tensor(A, dtype=DOUBLE), torch.tensor(B, dtype=DOUBLE)
        (self.x @ a @ self.x / 2 - b @ self.x + self.y @ self.y / 4).backward()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=LEARNING_RATE)


INNERS = {"sgd": sgd, "adam": adam}


def make(model, policy="maintain", inner=sgd):
    return Lookahead(inner(model.parameters()), K, ALPHA, policy)


def train(optimizer, model, steps):
    for _ in range(steps):
        model.backward()
        optimizer.step()


def single(value=0.0, dtype=torch.float32):
    return torch.nn.Parameter(torch.tensor([value], dtype=dtype))


def pull_down(optimizer, *parameters):
    """One step with a gradient of one for `parameters`, and none for the others."""
    optimizer.zero_grad()
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def flat(value):
    """A nested state as comparable bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def assert_same(ours, theirs, where="state"):
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for index, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, yours, f"{where}[{index}]")
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def snapshot(model, optimizer):
    return flat({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})
