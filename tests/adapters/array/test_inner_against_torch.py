"""Inner optimizers and schedules of the array loop are torch's own, step by step, in float64."""

import numpy as np
import pytest
import torch

from lookahead_core.adapters.numpy import (
    SGD,
    Adam,
    AdamW,
    clip_by_global_norm,
    clip_by_value,
    exponential,
    one_cycle,
)

STEPS = 50
START = ([1.0, -2.0, 3.0], [[0.5, 4.0], [-1.5, 0.25]])
OPTIMIZERS = {
    "SGD": (SGD, torch.optim.SGD, {}),
    "momentum": (SGD, torch.optim.SGD, {"momentum": 0.9}),
    "Nesterov": (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "dampening": (SGD, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.4}),
    "coupled decay": (SGD, torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.03}),
    "Adam": (Adam, torch.optim.Adam, {}),
    "Adam, other settings": (Adam, torch.optim.Adam, {"betas": (0.0, 0.9), "eps": 1e-3}),
    "Adam, coupled decay": (Adam, torch.optim.Adam, {"weight_decay": 0.03}),
    "AdamW": (AdamW, torch.optim.AdamW, {}),
    "AdamW, other decay": (AdamW, torch.optim.AdamW, {"weight_decay": 0.3}),
}


def gradients(leaves, step):
    """Of a quadratic and a wave; the second leaf has none at every third step."""
    first, second = leaves
    return [0.3 * first + 0.1 * step, None if step % 3 == 0 else second - 0.5 * second**3 / 8]


def theirs(make, steps=STEPS, before=None, after=None):
    """Weights after each step of the torch optimizer that `make` makes."""
    leaves = [torch.nn.Parameter(torch.tensor(values, dtype=torch.float64)) for values in START]
    optimizer, trace = make(leaves), []
    follow = after(optimizer) if after else None
    for step in range(steps):
        with torch.no_grad():
            for leaf, gradient in zip(leaves, gradients(leaves, step), strict=True):
                leaf.grad = gradient
            if before:
                before(leaves)
        optimizer.step()
        if follow:
            follow.step()
        trace.append([leaf.detach().numpy().copy() for leaf in leaves])
    return trace


def ours(make, array=np.asarray, steps=STEPS):
    """Weights after each step of the optimizer of the array loop that `make` makes."""
    optimizer, trace = make([array(values) for values in START]), []
    for step in range(steps):
        optimizer.step(gradients(optimizer.params, step))
        trace.append([np.asarray(leaf).copy() for leaf in optimizer.params])
    return trace


def distance(one, other):
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return max(np.abs(a - b).max() for a, b in pairs)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("array", [np.asarray, double], ids=["NumPy", "torch"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_steps_are_torchs_own(name, array):
    mine, yours, settings = OPTIMIZERS[name]
    trace = ours(lambda params: mine(params, 0.1, **settings), array)
    assert distance(trace, theirs(lambda params: yours(params, 0.1, **settings))) <= 1e-12


def test_decoupled_decay_of_sgd_is_a_factor_before_torchs_step():
    def decay(leaves):
        for leaf in leaves:
            if leaf.grad is not None:
                leaf.mul_(1 - 0.1 * 0.03)

    settings = {"momentum": 0.9}
    expected = theirs(lambda p: torch.optim.SGD(p, 0.1, **settings), before=decay)
    settings |= {"weight_decay": 0.03, "decoupled_weight_decay": True}
    assert distance(ours(lambda p: SGD(p, 0.1, **settings)), expected) <= 1e-12


def test_decoupled_decay_of_adam_is_adamw():
    settings = {"weight_decay": 0.03, "decoupled_weight_decay": True}
    expected = theirs(lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.03))
    assert distance(ours(lambda p: Adam(p, 0.1, **settings)), expected) <= 1e-12


def test_parameter_groups_by_path_are_torchs_groups():
    own = {"lr": 0.02, "momentum": 0.5, "weight_decay": 0.1}
    expected = theirs(
        lambda p: torch.optim.SGD([{"params": p[:1]}, {"params": p[1:], **own}], 0.1, momentum=0.9)
    )
    trace = ours(lambda p: SGD(p, 0.1, momentum=0.9, groups={"1": own}))
    assert distance(trace, expected) <= 1e-12


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (exponential(0.1, 0.95), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.95)),
        (
            one_cycle(0.1, STEPS + 1),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, STEPS + 1, cycle_momentum=False),
        ),
        (
            one_cycle(0.1, STEPS + 1, 0.55, 5.0, 100.0),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(
                o,
                0.1,
                STEPS + 1,
                pct_start=0.55,
                div_factor=5,
                final_div_factor=100,
                cycle_momentum=False,
            ),
        ),
    ],
    ids=["exponential", "one-cycle", "one-cycle, other settings"],
)
def test_schedules_are_torchs_own(schedule, make):
    expected = theirs(lambda p: torch.optim.SGD(p, 0.1), after=make)
    assert distance(ours(lambda p: SGD(p, schedule)), expected) <= 1e-12


def test_clipping_by_value_is_torchs_own():
    expected = theirs(
        lambda p: torch.optim.SGD(p, 0.1),
        before=lambda p: torch.nn.utils.clip_grad_value_(p, 0.5),
    )
    assert distance(ours(lambda p: SGD(p, 0.1, grad_clip_value=0.5)), expected) <= 1e-12
    grad = double([3.0, -0.2])
    assert clip_by_value([grad], 0.5)[0].tolist() == [0.5, -0.2]


def test_clipping_by_norm_is_torchs_but_for_the_constant_that_torch_adds():
    grads = [double([3.0, 4.0]), double([12.0])]
    leaves = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for leaf, grad in zip(leaves, grads, strict=True):
        leaf.grad = grad.clone()
    torch.nn.utils.clip_grad_norm_(leaves, 6.5)
    for mine, leaf in zip(clip_by_global_norm(grads, 6.5), leaves, strict=True):
        np.testing.assert_allclose(mine, leaf.grad * (13 + 1e-6) / 13, rtol=1e-14)
