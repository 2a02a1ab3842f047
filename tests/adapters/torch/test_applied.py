"""Only steps that the inner optimizer has applied are counted (clause C03)."""

import pytest
import torch
from torch.optim import SGD

from lookahead_core.adapters.torch import Lookahead
from reference_loop import K
from torch_runs import Quadratic, assert_same, make, pull_down, single, snapshot, train

NO_GRADIENT = r"step\(\) without a gradient: no parameter has one"


def counted(optimizer):
    """Syncs, and steps since the last one."""
    group = optimizer.state_dict()["param_groups"][0]
    return group["lookahead_syncs"], group["lookahead_count"]


# --- no parameter has a gradient ---


@pytest.mark.clause("C03", "C25")
@pytest.mark.parametrize("closure", [None, lambda: torch.tensor(7.0)], ids=["plain", "closure"])
@pytest.mark.parametrize("steps", [0, K - 1], ids=["cycle start", "sync due"])
def test_a_step_without_any_gradient_calls_the_inner_optimizer_and_changes_nothing(closure, steps):
    model, calls = Quadratic(), []
    optimizer = make(model)
    train(optimizer, model, steps)
    model.zero_grad()
    before = snapshot(model, optimizer)
    optimizer.inner.register_step_post_hook(lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match=NO_GRADIENT):
        loss = optimizer.step(closure)
    assert_same(snapshot(model, optimizer), before)
    assert (calls, loss) == ([1], closure and closure())


@pytest.mark.clause("C03")
@pytest.mark.parametrize("way", [{}, {"capturable": True}], ids=str)
def test_steps_without_a_gradient_between_others_leave_no_trace(way):
    weight, undisturbed = single(), single()
    optimizer, other = (
        Lookahead(SGD([leaf], lr=1.0), 3, 0.5, **way) for leaf in (weight, undisturbed)
    )
    with pytest.warns(UserWarning, match=NO_GRADIENT):
        pull_down(optimizer)
    for _ in range(7):
        pull_down(optimizer)  # a second warning would be an error
        pull_down(optimizer, weight)
        pull_down(other, undisturbed)
    assert weight.item() == undisturbed.item() == -4.0


class Clearing(SGD):
    """Clears the gradients when it has used them."""

    def step(self, closure=None):
        loss = super().step(closure)
        self.zero_grad()
        return loss


@pytest.mark.clause("C03")
def test_a_step_that_clears_the_gradients_of_its_closure_counts():
    weight = single()
    optimizer = Lookahead(Clearing([weight], lr=1.0), 3, 0.5)

    def closure():
        weight.grad = torch.ones(1)
        return 7.0

    assert [optimizer.step(closure) for _ in range(4)] == [7.0] * 4
    assert weight.item() == -2.5


# --- an inner optimizer that skips ---


class Skipping(SGD):
    """Skips the steps at which its gradients are not finite."""

    @torch.no_grad()
    def step(self, closure=None):
        if all(leaf.grad.isfinite().all() for g in self.param_groups for leaf in g["params"]):
            super().step(closure)


class ThroughData(torch.optim.Optimizer):
    """Writes through `.data`, which no version counter shows."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1.0})

    def step(self, closure=None):
        for group in self.param_groups:
            for leaf in group["params"]:
                leaf.data.sub_(leaf.grad.data)


class Accumulating(torch.optim.Optimizer):
    """Steps the optimizer that it is around at every second step, as accelerate's does."""

    def __init__(self, optimizer):
        self.optimizer, self.calls = optimizer, 0

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)
    defaults = property(lambda self: self.optimizer.defaults)

    def state_dict(self):
        return self.optimizer.state_dict()

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self, closure=None):
        self.calls += 1
        if self.calls % 2 == 0:
            self.optimizer.step(closure)


def skip(optimizer, weight):
    weight.grad = torch.full_like(weight, torch.inf)
    optimizer.step()


@pytest.mark.clause("C03")
@pytest.mark.parametrize("patched", [False, True], ids=["its class", "the instance"])
def test_a_step_that_the_inner_optimizer_skips_without_a_word_does_not_count(patched):
    weight = single()
    inner = SGD([weight], lr=1.0) if patched else Skipping([weight], lr=1.0)
    if patched:
        inner.step = lambda: weight.grad.isfinite().all() and SGD.step(inner)
    optimizer = Lookahead(inner, 3, 0.5)
    pull_down(optimizer, weight)
    with pytest.warns(UserWarning, match=r"(SGD|Skipping).step\(\) has changed no parameter"):
        skip(optimizer, weight)
    for _ in range(5):
        skip(optimizer, weight)
        pull_down(optimizer, weight)
    assert counted(optimizer) == (2, 0)
    assert weight.item() == -3.0


@pytest.mark.clause("C03")
def test_an_inner_optimizer_that_leaves_no_trace_is_believed():
    weight = single()
    optimizer = Lookahead(ThroughData([weight]), 3, 0.5)
    for _ in range(7):
        pull_down(optimizer, weight)
    assert counted(optimizer) == (2, 1)
    assert weight.item() == -4.0


@pytest.mark.clause("C03")
@pytest.mark.parametrize("inner", [lambda p: SGD(p, lr=1.0), ThroughData], ids=["SGD", "data"])
@pytest.mark.parametrize("deep", [False, True], ids=["one", "two"])
def test_around_one_that_accumulates_the_steps_of_what_it_is_around_count(deep, inner):
    weight = single()
    wrapped = Accumulating(inner([weight]))
    optimizer = Lookahead(Accumulating(wrapped) if deep else wrapped, 3, 0.5)
    for _ in range(28 if deep else 14):
        pull_down(optimizer, weight)
    assert counted(optimizer) == (2, 1)
    assert weight.item() == -4.0


@pytest.mark.clause("C03")
def test_one_whose_inside_never_steps_is_named_with_the_right_order():
    weight = single()
    wrapped = Accumulating(SGD([weight], lr=1.0))
    wrapped.step = lambda: None
    optimizer = Lookahead(wrapped, 3, 0.5)
    for _ in range(99):
        pull_down(optimizer, weight)
    with pytest.warns(UserWarning, match=r"Accumulating has not .* 100 steps.*prepare\(Lookahead"):
        pull_down(optimizer, weight)
    for _ in range(101):
        pull_down(optimizer, weight)
    assert counted(optimizer) == (0, 0)


def test_what_the_hooks_of_the_inner_optimizer_tell_leaves_none_behind():
    inner = SGD([single()], lr=1.0)
    optimizer = Lookahead(Accumulating(inner), 3, 0.5)
    pull_down(optimizer, inner.param_groups[0]["params"][0])
    assert not inner._optimizer_step_post_hooks


class Engine:
    """Steps in its backward(), as DeepSpeed's does."""

    def step(self):
        pass


@pytest.mark.clause("C25")
def test_one_around_something_that_nobody_sees_step_is_refused_with_the_right_order():
    inner = SGD([single()], lr=1.0)
    inner.optimizer = Engine()
    with pytest.raises(ValueError, match=r"around a Engine.*accelerator.prepare\(Lookahead\(inner"):
        Lookahead(inner)
    inner.optimizer = "sgd"
    Lookahead(inner)


@pytest.mark.clause("C25")
def test_one_around_an_optimizer_that_is_wrapped_already_is_refused():
    with pytest.raises(ValueError, match="inner must not be wrapped already"):
        Lookahead(Accumulating(Lookahead(SGD([single()], lr=1.0))))
