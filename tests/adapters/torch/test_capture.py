"""The capturable step: the counter is a tensor, and every step launches the same.

No GPU was there: that a CUDA graph captures it is NOT verified. What a capture needs is: the CPU
reads no value, the launches do not depend on the step, and all tensors stay where they are.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lookahead_core import (
    AdaptiveAlpha,
    Interpolate,
    Momentum,
    PostLocal,
    QuadraticPeriod,
    Ramp,
    SyncRule,
    lookahead,
    nested,
    swa,
    switch_ema,
)
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from reference_loop import POLICIES, STEPS
from torch_runs import INNERS, Drift, Quadratic, assert_same, flat, make, pull_down, single, train

ALPHA, K = 0.5, 5


def capturable(model, policy, inner, **options):
    return Lookahead(inner(model.parameters()), K, ALPHA, policy, capturable=True, **options)


class Recorder(TorchDispatchMode):
    """Operations with the addresses of the tensors that they overwrite."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        into = args[0].data_ptr() if name == "copy_" else None
        self.seen.append((name, into))
        return func(*args, **(kwargs or {}))


def recorded(step):
    with Recorder() as recorder:
        step()
    return recorder.seen


@pytest.mark.clause("C19", "C45")
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("policy", POLICIES)
def test_it_is_bitwise_the_step_that_branches(policy, inner):
    ours, other = Quadratic(), Quadratic()
    optimizer, branching = (
        capturable(ours, policy, INNERS[inner]),
        make(other, policy, INNERS[inner]),
    )
    for _ in range(STEPS):
        train(optimizer, ours, 1)
        train(branching, other, 1)
        assert_same(dict(ours.state_dict()), dict(other.state_dict()))
    assert_same(optimizer.state_dict()["state"][0], branching.state_dict()["state"][0])
    counters = [
        o.state_dict()["param_groups"][0]["lookahead_syncs"] for o in (optimizer, branching)
    ]
    assert counters == [4, 4]


@pytest.mark.clause("C05", "C45")
@pytest.mark.parametrize("kernel", ["foreach", "plain"])
def test_a_forced_sync_leaves_nothing_to_steps_that_a_graph_replays(kernel):
    weight = single()
    inner = torch.optim.SGD([weight], lr=1.0)
    optimizer = Lookahead(inner, 4, 0.5, capturable=True, kernel=kernel)
    pull_down(optimizer, weight)
    pull_down(optimizer, weight)
    optimizer.sync()
    pull_down(optimizer, weight)
    with optimizer.slow_weights():
        assert weight.item() == -1.0
    for _ in range(3):
        pull_down(optimizer, weight)
    assert weight.item() == -3.0  # half of the way from -1 to -5


@pytest.mark.clause("C05", "C06", "C45")
@pytest.mark.parametrize("kernel", ["foreach", "plain"])
def test_a_checkpoint_right_after_a_forced_sync_has_the_slow_weights(kernel):
    weight = torch.nn.Parameter(torch.zeros(1 << 14))  # large: a sync leaves them to the anchor
    inner = torch.optim.SGD([weight], lr=1.0)
    optimizer = Lookahead(inner, 4, 0.5, capturable=True, kernel=kernel)
    pull_down(optimizer, weight)
    optimizer.sync()
    slow = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert_same(slow, torch.full_like(slow, -0.5))


@pytest.mark.clause("C45")
@pytest.mark.parametrize("policy", POLICIES)
def test_every_step_launches_the_same_on_the_same_tensors_and_reads_none(policy):
    weight = single()
    # Not Adam: torch's reads its step count on the CPU unless it is capturable, on a GPU alone.
    inner = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
    optimizer = Lookahead(inner, 3, 0.5, policy, capturable=True)
    pull_down(optimizer, weight)
    pull_down(optimizer, weight)
    steps = [recorded(optimizer.step) for _ in range(7)]
    assert all(step == steps[0] for step in steps)
    assert "_local_scalar_dense" not in [name for name, _ in steps[0]]
    assert "where" in [name for name, _ in steps[0]]


FAMILY = {
    "nesterov": SyncRule(3, Momentum(0.7, 0.9)),
    "heavy ball, reset": SyncRule(3, Momentum(0.7, 0.5, nesterov=False), "reset"),
    "momentum, restart, start": SyncRule(
        3, Momentum(lambda syncs: 0.5 / (1 + syncs)), restart=0.5, restart_period=2, start=4
    ),
    "interpolate, start": SyncRule(3, Interpolate(0.5), "interpolate", start=4),
    "swa": swa(3, start=4),
    "switch_ema": switch_ema(4, 0.9, "reset"),
    "post-local": lookahead(PostLocal(2, 3), 0.3, "interpolate"),
    "quadratic period": lookahead(QuadraticPeriod(Ramp(0.5, 0.1, 3), 1.0, 2, 9), 0.3),
    "nested": nested(lookahead(2, 0.3), SyncRule(6, Momentum())),
    "adaptive": lookahead(3, AdaptiveAlpha(low=0.0)),
}


@pytest.mark.clause("C19", "C45", "C71", "C72", "C73", "C75", "C77", "C78", "C90")
@pytest.mark.parametrize("rule", FAMILY.values(), ids=FAMILY)
def test_every_rule_is_the_one_that_branches_within_rounding(rule):
    ours, other = Quadratic(), Quadratic()
    optimizer = MetaOptimizer(INNERS["sgd"](ours.parameters()), rule, capturable=True)
    branching = MetaOptimizer(INNERS["sgd"](other.parameters()), rule)
    for _ in range(STEPS):
        train(optimizer, ours, 1)
        train(branching, other, 1)
        for ourselves, itself in ((ours.x, other.x), (ours.y, other.y)):
            torch.testing.assert_close(ourselves, itself, rtol=0, atol=1e-13)
        with optimizer.slow_weights(), branching.slow_weights():
            torch.testing.assert_close(ours.x, other.x, rtol=0, atol=1e-13)
    states = [o.state_dict()["state"][0] for o in (optimizer, branching)]
    assert states[0].keys() == states[1].keys()
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[1][key], rtol=0, atol=1e-12)


@pytest.mark.clause("C45", "C71", "C73", "C78")
@pytest.mark.parametrize("rule", FAMILY.values(), ids=FAMILY)
def test_every_step_of_every_rule_launches_the_same(rule):
    weights = [single(), single()]
    inner = torch.optim.SGD(weights, lr=0.5, momentum=0.9)
    optimizer = MetaOptimizer(inner, rule, capturable=True)
    pull_down(optimizer, *weights)
    pull_down(optimizer, *weights)
    steps = [recorded(optimizer.step) for _ in range(9)]
    assert all(step == steps[0] for step in steps)
    assert "_local_scalar_dense" not in [name for name, _ in steps[0]]


@pytest.mark.clause("C19")
@pytest.mark.parametrize("rule", FAMILY.values(), ids=FAMILY)
def test_a_step_of_tensors_without_values_reads_none_on_a_device_of_its_own(rule):
    """torch's meta device: to read a number of it is an error, and so is to mix it with the CPU."""
    weight = torch.nn.Parameter(torch.empty(2, device="meta"))
    inner = torch.optim.SGD([weight], lr=0.5, momentum=0.9)
    optimizer = MetaOptimizer(inner, rule, capturable=True)
    steps = []
    for _ in range(4):
        weight.grad = torch.empty_like(weight)
        steps.append(recorded(optimizer.step))
    assert steps[2:] == steps[1:3]
    with pytest.raises(RuntimeError, match="meta tensors"):
        weight.sum().item()


@pytest.mark.clause("C06", "C45")
@pytest.mark.parametrize("phase", range(K))
def test_it_resumes_at_any_phase_as_either_kind(phase):
    whole, first = Quadratic(), Quadratic()
    train(make(whole, "interpolate"), whole, STEPS)
    before = capturable(first, "interpolate", INNERS["sgd"])
    train(before, first, K + phase)
    for kind in (True, False):
        second = Quadratic()
        second.load_state_dict(first.state_dict())
        after = Lookahead(
            INNERS["sgd"](second.parameters()), K, ALPHA, "interpolate", capturable=kind
        )
        after.load_state_dict(flat(before.state_dict()))
        train(after, second, STEPS - K - phase)
        assert torch.equal(second.x, whole.x)


@pytest.mark.clause("C05", "C22", "C45")
def test_it_is_evaluated_and_synced_on_demand():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 3, 0.5, capturable=True)
    for _ in range(2):
        pull_down(optimizer, weight)
    with optimizer.slow_weights():
        assert weight.item() == 0.0
    optimizer.sync()
    for expected in (-2.0, -3.0, -2.5):
        pull_down(optimizer, weight)
        assert weight.item() == expected


@pytest.mark.clause("C25", "C45")
def test_a_count_that_is_a_plain_number_cannot_be_reset_on_the_device():
    weight = single()
    kinds = {"drift": "moment", "age": "count"}
    inner = Drift([weight])
    optimizer = Lookahead(inner, 3, 0.5, "reset", capturable=True, state_kinds=kinds)
    with pytest.raises(ValueError, match="'reset' cannot restart 'age' of Drift if capturable"):
        pull_down(optimizer, weight)


@pytest.mark.clause("C24")
def test_one_graph_has_one_device():
    inner = torch.optim.SGD([single()], lr=1.0)
    with pytest.raises(ValueError, match=r"slow_device must be None if capturable .* got 'cpu'"):
        Lookahead(inner, capturable=True, slow_device="cpu")
