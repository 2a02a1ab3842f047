"""Several inner optimizers under one rule: Muon for matrices and AdamW for the rest. float64."""

import copy
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from lookahead_core import AdaptiveAlpha, Interpolate, SyncRule, diloco, lookahead, schedule_free
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from torch_runs import DOUBLE, assert_same, flat, generator

STEPS = 11
RULES = {
    "lookahead": lookahead(3, 0.5),
    "diloco": diloco(sync_period=3),
    "reset": lookahead(3, 0.5, "reset"),
    "interpolate": lookahead(3, 0.5, "interpolate"),
    "schedule-free": schedule_free(),
}


class Network(torch.nn.Module):
    """Two matrices, a bias and a scale."""

    def __init__(self):
        super().__init__()
        numbers = generator(0)
        for name, shape in {"first": (3, 2), "second": (1, 3), "bias": (3,), "scale": ()}.items():
            value = torch.randn(shape, generator=numbers, dtype=DOUBLE)
            setattr(self, name, torch.nn.Parameter(value))

    def loss(self, step):
        inputs = torch.randn(4, 2, generator=generator(step), dtype=DOUBLE)
        hidden = torch.tanh(inputs @ self.first.T + self.bias)
        return (self.scale * hidden @ self.second.T - 1).square().mean()


def pair(model, options=None):
    """Muon for the matrices and AdamW for the rest."""
    muon = torch.optim.Muon([model.first, model.second], lr=0.02)
    return [muon, torch.optim.AdamW([model.bias, model.scale], lr=0.01, **(options or {}))]


def three(model):
    """One of them without state."""
    muon = torch.optim.Muon([model.first], lr=0.02)
    adam = torch.optim.AdamW([model.second, model.bias], lr=0.01)
    return [torch.optim.SGD([model.scale], lr=0.1), muon, adam]


JOINED = {"two": pair, "three": three}


def train(optimizer, model, steps):
    for step in steps:
        optimizer.zero_grad()
        model.loss(step).backward()
        optimizer.step()


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_near(model, expected):
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], rtol=0, atol=1e-13)


# --- what it is ---


@pytest.mark.clause("C08", "C71")
def test_muloco_is_nesterov_on_what_muon_and_adamw_did_in_a_cycle():
    ours, plain = Network(), Network()
    optimizer = MetaOptimizer(pair(ours), diloco(sync_period=4, lr=0.7, momentum=0.9))
    train(optimizer, ours, range(STEPS))

    muon, adamw = pair(plain)
    slow = [torch.nn.Parameter(leaf.detach().clone()) for leaf in plain.parameters()]
    outer = torch.optim.SGD(slow, lr=0.7, momentum=0.9, nesterov=True)
    for step in range(STEPS):
        plain.zero_grad()
        plain.loss(step).backward()
        muon.step()
        adamw.step()
        if (step + 1) % 4 == 0:
            for s, leaf in zip(slow, plain.parameters(), strict=True):
                s.grad = (s - leaf).detach()
            outer.step()
            for s, leaf in zip(slow, plain.parameters(), strict=True):
                leaf.data.copy_(s)
    assert_near(ours, weights(plain))


@pytest.mark.clause("C08")
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("make", JOINED.values(), ids=JOINED)
def test_each_moves_as_it_does_in_an_optimizer_of_its_own(make, rule):
    together, apart = Network(), Network()
    train(MetaOptimizer(make(together), rule), together, range(STEPS))
    alone = [MetaOptimizer(one, rule) for one in make(apart)]
    for step in range(STEPS):
        apart.zero_grad()
        apart.loss(step).backward()
        for one in alone:
            one.step()
    assert_same(weights(together), weights(apart))


def test_capturable_is_the_step_that_branches():
    captured, branching = Network(), Network()
    rule = RULES["interpolate"]
    train(MetaOptimizer(pair(captured), rule, capturable=True), captured, range(STEPS))
    train(MetaOptimizer(pair(branching), rule), branching, range(STEPS))
    assert_near(captured, weights(branching))


def test_a_tuple_will_do_and_one_in_a_list_is_that_one():
    model = Network()
    assert len(Lookahead(tuple(pair(model))).param_groups) == 2
    (adamw,) = [torch.optim.AdamW(model.parameters())]
    train(Lookahead([adamw]), model, range(2))
    assert adamw.state[model.bias]["step"] == 2


# --- what schedulers, scalers, hooks and closures see ---


def test_a_scheduler_moves_the_rates_of_all():
    model = Network()
    muon, adamw = pair(model)
    optimizer = Lookahead([muon, adamw])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train(optimizer, model, range(1))
    schedule.step()
    assert (muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"]) == (0.01, 0.005)


def test_a_scheduler_of_momenta_is_told_that_not_all_have_one():
    with pytest.raises(ValueError, match="momentum"):
        torch.optim.lr_scheduler.OneCycleLR(Lookahead(pair(Network())), 0.1, total_steps=9)


def test_a_scaler_that_finds_an_infinite_gradient_skips_the_step_of_all():
    model = Network()
    optimizer = Lookahead(pair(model))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = weights(model)
    for infinite in (True, False):
        optimizer.zero_grad()
        scaler.scale(model.loss(0)).backward()
        if infinite:
            model.bias.grad.fill_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
        assert (weights(model)["first"].equal(before["first"])) is infinite
    assert [g["lookahead_count"] for g in optimizer.state_dict()["param_groups"]] == [1, 1]


def test_hooks_are_called_once_a_step_ours_and_those_of_each():
    model = Network()
    muon, adamw = pair(model)
    optimizer = Lookahead([muon, adamw])
    called = []
    for name, one in {"ours": optimizer, "muon": muon, "adamw": adamw}.items():
        one.register_step_post_hook(lambda *_, name=name: called.append(name))
    train(optimizer, model, range(2))
    assert called == ["muon", "adamw", "ours"] * 2


def test_a_closure_is_called_once_a_step():
    ours, plain = Network(), Network()
    optimizer, calls = Lookahead(pair(ours)), []

    def closure():
        optimizer.zero_grad()
        calls.append(ours.loss(len(calls)))
        calls[-1].backward()
        return calls[-1]

    assert [optimizer.step(closure) for _ in range(STEPS)] == calls
    train(Lookahead(pair(plain)), plain, range(STEPS))
    assert_same(weights(ours), weights(plain))


def test_zero_grad_reaches_all():
    model = Network()
    optimizer = Lookahead(pair(model))
    model.loss(0).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(leaf.grad.count_nonzero() == 0 for leaf in model.parameters())
    optimizer.zero_grad()
    assert all(leaf.grad is None for leaf in model.parameters())


class Averaging(torch.optim.SGD):
    """One that wants to know when weights are evaluated, as schedule-free ones do."""

    mode = ""

    def eval(self):
        self.mode = "eval"

    def train(self):
        self.mode = "train"


def test_those_that_have_an_eval_are_told():
    model = Network()
    averaging = Averaging([model.bias, model.scale], lr=0.1)
    optimizer = Lookahead([torch.optim.Muon([model.first, model.second]), averaging])
    with optimizer.slow_weights():
        assert averaging.mode == "eval"
    assert averaging.mode == "train"


@pytest.mark.clause("C03")
@pytest.mark.filterwarnings("ignore:JointOptimizer.step.. has changed no parameter")
def test_a_step_that_all_of_them_skip_does_not_count():
    class Skipping(torch.optim.SGD):
        skips = False

        def step(self, closure=None):
            return None if self.skips else super().step(closure)

    model = Network()
    both = [Skipping([model.first, model.second], lr=0.1), Skipping([model.bias, model.scale])]
    optimizer = Lookahead(both)
    for skips, counted in ((False, 1), (True, 1), (False, 2)):
        Skipping.skips = skips
        train(optimizer, model, range(1))
        assert optimizer.state_dict()["param_groups"][0]["lookahead_count"] == counted


def test_steps_past_it_are_warned_of_after_a_cycle_of_all():
    model = Network()
    muon, adamw = pair(model)
    optimizer = Lookahead([muon, adamw], sync_period=2)
    train(optimizer, model, range(5))  # no warning, although each step is one of both
    muon.step()
    adamw.step()
    with pytest.warns(UserWarning, match=r"step\(\) of AdamW was called by itself"):
        adamw.step()


# --- groups ---


@pytest.mark.clause("C43")
def test_groups_keep_their_settings_and_may_override_the_rule():
    model = Network()
    optimizer = Lookahead(pair(model), sync_period=2)
    optimizer.param_groups[1]["lookahead_alpha"] = 0.0
    before = weights(model)
    train(optimizer, model, range(2))
    assert torch.equal(model.bias, before["bias"])
    assert not torch.equal(model.first, before["first"])


def test_a_group_is_added_to_the_one_that_is_named():
    model, more = Network(), torch.nn.Parameter(torch.ones(2, dtype=DOUBLE))
    muon, adamw = pair(model)
    optimizer = Lookahead([muon, adamw], sync_period=2, alpha=0.0)
    train(optimizer, model, range(1))
    with pytest.raises(ValueError, match=r"inner must be one of .*\(Muon, AdamW\), got None"):
        optimizer.add_param_group({"params": [more]})
    with pytest.raises(ValueError, match=r"alpha must be .* got 7"):
        optimizer.add_param_group({"params": [more], "lookahead_alpha": 7}, muon)
    assert [len(one.param_groups) for one in (muon, adamw)] == [1, 1]
    optimizer.add_param_group({"params": [more]}, adamw)
    assert [len(one.param_groups) for one in (muon, adamw)] == [1, 2]
    more.grad = torch.ones_like(more)
    optimizer.step()
    assert torch.equal(more, torch.ones(2, dtype=DOUBLE))  # synced with the others, alpha 0


# --- checkpoints ---


@pytest.mark.clause("C06")
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("make", JOINED.values(), ids=JOINED)
@pytest.mark.parametrize("cut", [0, 4, 6])
def test_a_run_resumes_bitwise(make, rule, cut):
    whole, first, second = Network(), Network(), Network()
    train(MetaOptimizer(make(whole), rule), whole, range(STEPS))
    optimizer = MetaOptimizer(make(first), rule)
    train(optimizer, first, range(cut))
    saved = flat({"model": first.state_dict(), "optimizer": optimizer.state_dict()})
    second.load_state_dict(saved["model"])
    resumed = MetaOptimizer(make(second), rule)
    resumed.load_state_dict(saved["optimizer"])
    train(resumed, second, range(cut, STEPS))
    assert_same(weights(second), weights(whole))


# It says so where there is one process and no process group, as here.
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.clause("C06")
@pytest.mark.parametrize("make", JOINED.values(), ids=JOINED)
@pytest.mark.parametrize("cut", [0, 3, 4])
def test_a_run_resumes_bitwise_from_distributed_files(make, cut, tmp_path):
    rule = RULES["lookahead"]
    whole, first, second = Network(), Network(), Network()
    train(MetaOptimizer(make(whole), rule), whole, range(STEPS))

    def contents(model, optimizer):
        model.zero_grad()
        return {"model": model.state_dict(), "state": get_optimizer_state_dict(model, optimizer)}

    optimizer = MetaOptimizer(make(first), rule)
    train(optimizer, first, range(cut))
    dcp.save(contents(first, optimizer), checkpoint_id=tmp_path, no_dist=True)
    resumed = MetaOptimizer(make(second), rule)
    state = contents(second, resumed)
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    second.load_state_dict(state["model"])
    set_optimizer_state_dict(second, resumed, state["state"])
    train(resumed, second, range(cut, STEPS))
    assert_same(weights(second), weights(whole))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_as_the_original_does(copied):
    model = Network()
    optimizer = Lookahead(pair(model), 3)
    train(optimizer, model, range(4))
    other, resumed = copied((model, optimizer))
    train(optimizer, model, range(4, STEPS))
    train(resumed, other, range(4, STEPS))
    assert_same(weights(other), weights(model))


# --- what is refused ---


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (
            lambda model: [*pair(model), torch.optim.SGD([model.bias], lr=0.1)],
            r"inner\[2\] must have parameters of its own, got one that inner\[1\] has",
        ),
        (lambda model: [*pair(model), model], r"inner\[2\] must be a torch.optim.Optimizer, got N"),
        (
            lambda model: [pair(model)[0], torch.optim.LBFGS([model.bias])],
            r"inner\[1\] must have a step\(\) without a closure .* got LBFGS",
        ),
        (lambda model: [pair(model)[0], Lookahead(pair(model)[1])], "must not be wrapped already"),
        (lambda model: [], r"a torch.optim.Optimizer, got \[\] \(or a list of some"),
    ],
)
def test_what_cannot_be_joined_is_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        Lookahead(make_it(Network()))


@pytest.mark.clause("C24", "C25")
def test_a_curvature_that_one_of_them_does_not_keep_is_refused():
    rule = SyncRule(3, Interpolate(AdaptiveAlpha(curvature="inner")))
    with pytest.raises(ValueError, match=r"exp_avg_sq.* got Muon"):
        MetaOptimizer(pair(Network()), rule)
