"""Models and runs that the tests of the torch adapter share."""

import io

import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


def generator(seed):
    """Random numbers where tests make their tensors: torch takes no others there."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


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


class Drift(torch.optim.Optimizer):
    """An optimizer of somebody else's: state of its own names, and a count in the group."""

    def __init__(self, parameters, lr=1.0):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for leaf in group["params"]:
                if leaf.grad is None:
                    continue
                state = self.state[leaf]
                if not state:
                    state["drift"], state["age"] = torch.zeros_like(leaf), 0
                state["age"] += 1
                state["drift"].add_(leaf.grad)
                leaf.sub_(state["drift"], alpha=group["lr"] / group["step"])


class Launches(TorchDispatchMode):
    """Names of the operations that reach the dispatcher, each of them a launch on a GPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not name.startswith("_record_function"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def launched_by(action):
    with Launches() as launches:
        action()
    return launches.names
