"""Inner optimizers that are made in another way than torch's."""

import copy

import pytest
import torch
from torch.optim import SGD

from lookahead_core.adapters.torch import Lookahead
from torch_runs import Quadratic, assert_same, pull_down, single, snapshot, train

# --- what is in their groups ---


class Relative(torch.optim.Optimizer):
    """Its learning rate may be anything: Adafactor of transformers has None by default."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for leaf in group["params"]:
                leaf.sub_(leaf.grad)


@pytest.mark.parametrize("lr", [None, "auto", len, torch.zeros(2), torch.zeros(0), [0.0]], ids=repr)
def test_a_learning_rate_that_is_no_number_is_not_read(lr):
    weight = single()
    optimizer = Lookahead(Relative([weight], lr), 2, 0.5)
    for _ in range(2):
        pull_down(optimizer, weight)
    assert weight.item() == -1.0


# --- the form of their state_dict ---


class Listed(SGD):
    def state_dict(self):
        return [group["lr"] for group in self.param_groups]


class Flat(SGD):
    def state_dict(self):
        return {f"group.{i}.lr": group["lr"] for i, group in enumerate(self.param_groups)}


class Later(SGD):
    """As ZeroRedundancyOptimizer's, which is to be consolidated first."""

    def state_dict(self):
        raise RuntimeError("consolidate first")


@pytest.mark.clause("C25")
@pytest.mark.parametrize(
    ("kind", "found"), [(Listed, "Listed is list"), (Flat, r"Flat is \['group.0.lr'\]")]
)
def test_a_state_dict_of_another_form_is_refused_at_construction(kind, found):
    inner = kind([single()], lr=1.0)
    with pytest.raises(ValueError, match=rf"must have a state_dict\(\) with 'state' .*{found}"):
        Lookahead(inner)


def test_one_that_cannot_be_asked_yet_and_torchs_own_with_hooks_are_not():
    weight, asked = single(), []
    inner = SGD([weight], lr=1.0)
    inner.register_state_dict_pre_hook(asked.append)
    for own in (inner, Later([weight], lr=1.0)):
        pull_down(Lookahead(own), weight)
    assert asked == []


# --- modes of their own ---


class Averaging(torch.optim.Optimizer):
    """Trains at one point and evaluates at another, as schedule-free ones do."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr, "train_mode": False})

    @torch.no_grad()
    def move(self, train_mode, weight):
        for group in self.param_groups:
            for leaf in group["params"] if group["train_mode"] != train_mode else ():
                if self.state[leaf]:
                    leaf.lerp_(self.state[leaf]["exp_avg"], weight)
            group["train_mode"] = train_mode

    def train(self):
        self.move(True, 1 - 0.75)

    def eval(self):
        self.move(False, 1 - 1 / 0.75)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("call train() first")
            for leaf in group["params"]:
                own = self.state[leaf].setdefault("exp_avg", leaf.clone())
                own.sub_(leaf.grad, alpha=group["lr"])
                leaf.lerp_(own, 0.3).sub_(leaf.grad, alpha=0.1 * group["lr"])


def averaging(alpha=0.5):
    model = Quadratic()
    optimizer = Lookahead(Averaging(model.parameters()), 3, alpha)
    optimizer.train()
    return model, optimizer


@pytest.mark.clause("C09", "C22")
def test_with_alpha_one_and_one_step_it_trains_and_evaluates_as_the_inner_optimizer_does():
    model, bare_model = Quadratic(), Quadratic()
    optimizer = Lookahead(Averaging(model.parameters()), 1, 1.0)
    bare = Averaging(bare_model.parameters())
    for _ in range(5):
        for own, leaves in ((optimizer, model), (bare, bare_model)):
            own.train()
            train(own, leaves, 1)
            own.eval()
        torch.testing.assert_close(model.x, bare_model.x, rtol=0, atol=1e-15)


@pytest.mark.clause("C22")
@pytest.mark.parametrize("steps", [3, 4], ids=["after a sync", "in mid-cycle"])
def test_evaluation_is_the_inner_optimizers_own_of_the_slow_weights(steps):
    model, optimizer = averaging()
    train(optimizer, model, 3)
    slow = model.x.detach().clone()
    train(optimizer, model, steps - 3)
    own = optimizer.state[model.x]["exp_avg"]
    with optimizer.slow_weights():
        assert torch.equal(model.x, slow.lerp(own, 1 - 1 / 0.75))


@pytest.mark.clause("C22")
def test_evaluating_leaves_training_bitwise_unchanged():
    (read, optimizer), (unread, other) = averaging(), averaging()
    for _ in range(8):
        with optimizer.slow_weights():
            pass
        optimizer.eval()
        optimizer.train()
        train(optimizer, read, 1)
        train(other, unread, 1)
        assert torch.equal(read.x, unread.x)


@pytest.mark.clause("C06", "C41")
@pytest.mark.parametrize("steps", [3, 4], ids=["after a sync", "in mid-cycle"])
def test_a_run_saved_while_evaluating_resumes_in_training(steps):
    (model, optimizer), (other_model, other) = averaging(), averaging()
    train(optimizer, model, steps)
    optimizer.eval()
    saved = copy.deepcopy(snapshot(model, optimizer))
    optimizer.train()
    other_model.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    train(optimizer, model, 4)
    train(other, other_model, 4)
    assert_same(snapshot(other_model, other), snapshot(model, optimizer))


class Strict(SGD):
    def zero_grad(self):
        super().zero_grad()


def test_a_zero_grad_that_takes_no_argument_is_called_without_one():
    weight = single()
    optimizer = Lookahead(Strict([weight], lr=1.0))
    weight.grad = torch.ones(1)
    optimizer.zero_grad()
    assert weight.grad is None
