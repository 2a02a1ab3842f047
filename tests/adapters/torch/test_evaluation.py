"""The torch adapter evaluates on the slow weights, and puts the fast ones back."""

import copy

import pytest
import torch

from lookahead_core import ema
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from reference_loop import START, STEPS, K
from torch_runs import (
    INNERS,
    Quadratic,
    adam,
    assert_same,
    flat,
    make,
    pull_down,
    single,
    snapshot,
    train,
)


@pytest.mark.clause("C22")
def test_evaluating_on_slow_weights_leaves_training_bitwise_unchanged():
    read, unread = Quadratic(), Quadratic()
    optimizer, other = make(read), make(unread)
    for _ in range(STEPS):
        train(optimizer, read, 1)
        fast = read.x.tolist()
        with optimizer.slow_weights():
            outer = read.x.tolist()
            with optimizer.slow_weights():
                assert read.x.tolist() == outer
            assert read.x.tolist() == outer
        assert read.x.tolist() == fast
        train(other, unread, 1)
    assert torch.equal(read.x, unread.x)


@pytest.mark.clause("C22", "C25")
def test_a_nested_context_does_not_end_the_outer_one():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    with optimizer.slow_weights():
        with optimizer.slow_weights():
            pass
        with pytest.raises(RuntimeError, match=r"add_param_group\(\) inside slow_weights"):
            optimizer.add_param_group({"params": [single()]})


@pytest.mark.clause("C22")
def test_the_fast_weights_come_back_after_an_exception():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    fast = model.x.tolist()

    def fail_on_the_slow_weights():
        with optimizer.slow_weights():
            assert model.x.tolist() == list(START)
            raise KeyError("evaluation failed")

    with pytest.raises(KeyError, match="evaluation failed"):
        fail_on_the_slow_weights()
    assert model.x.tolist() == fast
    train(optimizer, model, 1)


@pytest.mark.clause("C49")
def test_a_call_without_with_says_that_it_does_nothing():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    fast = model.x.tolist()
    with pytest.warns(UserWarning, match=r"slow_weights\(\) did nothing") as warned:
        optimizer.slow_weights()
    assert [warning.filename for warning in warned] == [__file__]
    assert model.x.tolist() == fast


@pytest.mark.clause("C22")
def test_a_context_can_be_entered_again_and_decorate_a_function():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    fast = model.x.tolist()
    context = optimizer.slow_weights()

    @context
    def read():
        with context:
            return model.x.tolist()

    assert [read(), model.x.tolist(), read(), model.x.tolist()] == [list(START), fast] * 2


@pytest.mark.clause("C22")
def test_an_interrupt_while_the_slow_weights_go_in_brings_the_fast_ones_back(monkeypatch):
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    fast = model.x.tolist()

    def interrupted():
        Lookahead.eval(optimizer)
        raise KeyboardInterrupt

    monkeypatch.setattr(optimizer, "eval", interrupted)
    with pytest.raises(KeyboardInterrupt), optimizer.slow_weights():
        pass
    assert model.x.tolist() == fast


@pytest.mark.clause("C25")
@pytest.mark.parametrize("action", ["step", "sync", "load_state_dict"])
def test_the_optimizer_refuses_to_act_while_the_slow_weights_are_in(action):
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    saved = optimizer.state_dict()
    before = snapshot(model, optimizer)
    with optimizer.slow_weights():
        arguments = (saved,) if action == "load_state_dict" else ()
        with pytest.raises(RuntimeError, match=rf"{action}\(\) inside slow_weights\(\)"):
            getattr(optimizer, action)(*arguments)
    assert_same(snapshot(model, optimizer), before)


# --- train() and eval(), in the manner of schedule-free optimizers ---


@pytest.mark.clause("C22")
def test_eval_puts_the_slow_weights_in_and_train_the_fast_ones_back():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    fast = model.x.tolist()
    optimizer.eval()
    optimizer.eval()
    assert model.x.tolist() == list(START)
    optimizer.train()
    optimizer.train()
    assert model.x.tolist() == fast


@pytest.mark.clause("C22")
def test_a_context_inside_eval_does_not_end_it():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    optimizer.eval()
    with optimizer.slow_weights():
        pass
    assert model.x.tolist() == list(START)


@pytest.mark.clause("C25")
def test_a_step_after_eval_says_what_to_call():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"step\(\) .* after eval\(\): .* call train\(\)"):
        train(optimizer, model, 1)


@pytest.mark.clause("C06", "C41")
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("phase", range(K))
def test_what_is_saved_during_an_evaluation_resumes_with_the_fast_weights(phase, inner):
    whole, first, second = Quadratic(), Quadratic(), Quadratic()
    train(make(whole, inner=INNERS[inner]), whole, STEPS)
    before, after = make(first, inner=INNERS[inner]), make(second, inner=INNERS[inner])
    train(before, first, K + phase)
    with before.slow_weights():
        saved = snapshot(first, before)  # the model file holds the slow weights
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    train(after, second, STEPS - K - phase)
    assert torch.equal(second.x, whole.x)


@pytest.mark.clause("C22")
def test_a_copy_made_during_an_evaluation_comes_back_by_itself():
    model = Quadratic()
    optimizer = make(model, inner=adam)
    train(optimizer, model, 2)
    fast = model.x.tolist()
    optimizer.eval()
    twin_model, twin = copy.deepcopy((model, optimizer))
    twin.train()
    assert twin_model.x.tolist() == fast
    assert model.x.tolist() == list(START)


class Proxy:
    """As Lightning's: methods run on it, reads fall through, and what is set stays on it."""

    def __init__(self, optimizer):
        self.__class__ = type("Proxy", (Proxy, type(optimizer)), {})
        self.__dict__.update(vars(optimizer))


def test_a_proxy_evaluates_for_the_optimizer_behind_it():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    Proxy(optimizer).eval()
    with pytest.raises(RuntimeError, match="the parameters hold the slow weights"):
        train(optimizer, model, 1)
    Proxy(optimizer).train()
    Proxy(optimizer).load_state_dict(flat(optimizer.state_dict()))
    train(optimizer, model, 1)
    assert optimizer.state_dict()["param_groups"][0]["lookahead_count"] == 3


# --- buffers ---


def test_batch_norm_statistics_are_left_alone():
    model = torch.nn.BatchNorm1d(2)
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=1.0), 2, 0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.tensor([[1.0, 2.0], [3.0, 5.0]])).square().sum().backward()
        optimizer.step()
    seen = model.running_mean.clone()
    with optimizer.slow_weights():
        assert torch.equal(model.running_mean, seen)
    assert torch.equal(model.running_mean, seen)
    assert seen.tolist() == pytest.approx([0.38, 0.665])


def test_batch_norm_statistics_can_be_taken_again_for_the_slow_weights():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=1.0), 3, 0.5)
    batch = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    model(batch).square().sum().backward()
    optimizer.step()
    with optimizer.slow_weights():
        torch.optim.swa_utils.update_bn([batch], model)
        expected = model[0](batch).mean(0)
    torch.testing.assert_close(model[1].running_mean, expected)


def test_a_model_without_parameters_in_a_cycle_is_evaluated_as_it_is():
    frozen = single(3.0)
    frozen.requires_grad_(False)
    optimizer = Lookahead(torch.optim.SGD([frozen], lr=1.0))
    with optimizer.slow_weights():
        assert frozen.item() == 3.0


# --- projections after the step: masks, clamps, norms ---


class Clamped:
    """A weight that is pulled down by one a step and must stay at -1.5 or above."""

    def __init__(self):
        self.weight = single()
        self.inner = torch.optim.SGD([self.weight], lr=1.0)
        self.average = MetaOptimizer(self.inner, ema(decay=0.5))

    def project(self, *_):
        with torch.no_grad():
            self.weight.clamp_(min=-1.5)

    def run(self, after_each):
        for _ in range(4):
            pull_down(self.average, self.weight)
            after_each()

    def shipped(self, project):
        with self.average.slow_weights():
            project()
            return self.weight.item()


@pytest.mark.clause("C22")
def test_what_is_projected_after_the_step_is_averaged_as_it_was_before():
    clamped = Clamped()
    clamped.run(after_each=clamped.project)
    assert clamped.weight.item() == -1.5
    assert clamped.shipped(lambda: None) < -1.5


@pytest.mark.clause("C22")
def test_projected_in_a_hook_of_the_inner_optimizer_it_is_averaged_as_it_is_after():
    clamped = Clamped()
    clamped.inner.register_step_post_hook(clamped.project)
    clamped.run(after_each=lambda: None)
    assert clamped.weight.item() == -1.5
    assert -1.5 < clamped.shipped(lambda: None) < -1.0


@pytest.mark.clause("C22")
def test_a_projection_of_what_is_shipped_leaves_training_alone():
    clamped = Clamped()
    clamped.run(after_each=lambda: None)
    assert clamped.shipped(clamped.project) == -1.5
    assert clamped.weight.item() == -4.0
    assert clamped.shipped(lambda: None) < -1.5


@pytest.mark.clause("C27")
@pytest.mark.parametrize("trained", [True, False])
def test_one_that_is_toggled_takes_part_if_the_first_step_of_the_cycle_finds_it_on(trained):
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 2, 0.5)
    for first in (True, False):
        weight.requires_grad_(trained == first)
        pull_down(optimizer, weight)
    assert weight.item() == (-1.0 if trained else -2.0)
