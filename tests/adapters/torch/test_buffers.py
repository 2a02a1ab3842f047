"""Buffers of the model that are averaged with its weights, beside plain loops."""

import copy
import io

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from lookahead_core import AdaptiveAlpha, Interpolate, SyncRule, ema, gpa, lookahead, snoo
from lookahead_core.adapters.torch import Buffers, Lookahead, MetaOptimizer

STEPS = 13
AVERAGED = ("mean", "inner.variance")
RULES = {
    "lookahead": (lookahead(3, 0.4), 3, 0.4, 1.0, 0),
    "ema": (ema(0.75), 1, 0.25, 0.0, 0),
    "half way back, start": (SyncRule(2, Interpolate(0.4), restart=0.5, start=3), 2, 0.4, 0.5, 3),
}
WAYS = ({"kernel": "foreach"}, {"kernel": "plain"}, {"capturable": True})


class Model(torch.nn.Module):
    """One weight, and buffers that its forward passes move, one of them by a new tensor."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("other", torch.zeros(1))
        self.inner = torch.nn.Module()
        self.inner.register_buffer("variance", torch.ones((), dtype=torch.float64))

    def forward(self):
        with torch.no_grad():
            self.count += 1
            self.other += 1
            self.mean.lerp_(self.weight * self.count, 0.25)
            self.inner.variance = 0.9 * self.inner.variance + 0.1 * self.mean.square().mean()
        return (self.weight * torch.tensor([1.0, 3.0])).square().sum() / 2


def made(rule, *patterns, **options):
    model = Model()
    inner = torch.optim.SGD(model.parameters(), lr=0.0625)
    which = Buffers(model, *(patterns or ("mean", "*.var*", "count")))
    return model, MetaOptimizer(inner, rule, buffers=which, **options)


def step(model, optimizer):
    optimizer.zero_grad()
    model().backward()
    optimizer.step()


def values(model):
    """All numbers of the model, by name."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def plain_loop(k, alpha, restart, start):
    """The model after each step, and what is to be evaluated, by plain tensors."""
    model, trace, count = Model(), [], -start
    inner, slow = torch.optim.SGD(model.parameters(), lr=0.0625), values(model)
    for number in range(STEPS):
        if number == start:
            slow["weight"] = values(model)["weight"]
        inner.zero_grad()
        model().backward()
        if number == start:
            slow |= {name: values(model)[name] for name in AVERAGED}
        inner.step()
        count += 1
        now = values(model)
        if count == k:
            count = 0
            for name in ("weight", *AVERAGED):
                slow[name] = slow[name] + alpha * (now[name] - slow[name])
                now[name] = now[name] + restart * (slow[name] - now[name])
            slow["count"] = now["count"]
            model.load_state_dict(now)
        shown = {**now, **slow, "other": now["other"]} if number >= start else now
        trace.append((now, shown))
    return trace


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-13, msg=name)


@pytest.mark.clause("C14", "C22", "C45", "C72", "C73")
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_they_are_averaged_with_the_weights_as_in_a_plain_loop(name, way):
    rule, *settings = RULES[name]
    model, optimizer = made(rule, **way)
    for number, (now, shown) in enumerate(plain_loop(*settings)):
        step(model, optimizer)
        assert_close(values(model), now)
        with optimizer.slow_weights():
            read = values(model)
        if number >= rule.start:  # an integer is copied at a sync
            assert_close(read, {**shown, "count": read["count"]})
        assert_close(values(model), now)
    assert read["count"].dtype == torch.int64


@pytest.mark.clause("C14", "C22")
def test_an_integer_keeps_its_live_value_and_what_is_evaluated_is_that_of_the_last_sync():
    model, optimizer = made(lookahead(3, 0.4))
    for _ in range(5):
        step(model, optimizer)
    with optimizer.slow_weights():
        assert model.count.item() == 3
    assert model.count.item() == 5


@pytest.mark.clause("C03")
def test_the_inner_optimizer_never_sees_them():
    model, optimizer = made(lookahead(2, 0.5))
    seen = []
    optimizer.inner.register_step_pre_hook(lambda inner, *_: seen.append(inner.param_groups))
    step(model, optimizer)
    (groups,) = seen
    assert [leaf for group in groups for leaf in group["params"]] == [model.weight]
    assert optimizer.inner.state.keys() <= {model.weight}
    assert model.mean.grad_fn is None


@pytest.mark.clause("C01", "C26")
def test_what_is_loaded_before_the_first_step_counts_and_later_by_anchor():
    model, optimizer = made(ema(0.75))
    model.mean.fill_(8.0)
    model().backward()
    loaded = values(model)["mean"]
    optimizer.step()
    with optimizer.slow_weights():
        assert torch.equal(model.mean, loaded)
    model.mean.fill_(-8.0)
    optimizer.anchor()
    with optimizer.slow_weights():
        assert torch.equal(model.mean, torch.full_like(loaded, -8.0))


# --- checkpoints ---


def saved_bytes(model, optimizer):
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.clause("C06", "C41")
@pytest.mark.parametrize("inside", [False, True], ids=["fast", "inside slow_weights"])
@pytest.mark.parametrize("when", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("name", RULES)
def test_a_run_resumed_at_any_step_goes_on_bitwise(name, when, inside):
    rule = RULES[name][0]
    whole, undisturbed = made(rule)
    first, before = made(rule)
    for _ in range(when):
        step(whole, undisturbed)
        step(first, before)
    if inside:
        with before.slow_weights():
            saved = saved_bytes(first, before)
    else:
        saved = saved_bytes(first, before)
    step(first, before)  # what was saved must not follow
    second, after = made(rule)
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    for _ in range(6):
        step(whole, undisturbed)
        step(second, after)
        for ours, theirs in ((whole, second),):
            assert all(torch.equal(v, values(theirs)[n]) for n, v in values(ours).items())
        with undisturbed.slow_weights(), after.slow_weights():
            assert all(torch.equal(v, values(second)[n]) for n, v in values(whole).items())


@pytest.mark.clause("C06")
def test_a_checkpoint_of_other_buffers_is_refused_and_one_without_any_is_told_of():
    model, optimizer = made(lookahead(2, 0.5), "mean")
    step(model, optimizer)
    saved = saved_bytes(model, optimizer)["optimizer"]
    other, loading = made(lookahead(2, 0.5), "mean", "count")
    with pytest.raises(ValueError, match=r"made with buffers=\['mean'\], this optimizer has buf"):
        loading.load_state_dict(saved)
    inner = torch.optim.SGD(other.parameters(), lr=0.0625)
    with pytest.raises(ValueError, match=r"made with buffers=\['mean'\], this optimizer has buf"):
        MetaOptimizer(inner, lookahead(2, 0.5)).load_state_dict(saved)
    bare = MetaOptimizer(inner, lookahead(2, 0.5))
    step(other, bare)
    other.mean.fill_(4.0)
    with pytest.warns(UserWarning, match="the checkpoint has no buffers: the model's are taken"):
        loading.load_state_dict(bare.state_dict())
    with loading.slow_weights():
        assert other.mean.tolist() == [4.0, 4.0]


@pytest.mark.clause("C06")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("when", [0, 4])
def test_torchs_distributed_checkpoint_carries_them(when, tmp_path):
    whole, undisturbed = made(lookahead(3, 0.4))
    first, before = made(lookahead(3, 0.4))
    second, after = made(lookahead(3, 0.4))
    for _ in range(when):
        step(whole, undisturbed)
        step(first, before)

    def both(model, optimizer):
        model.zero_grad()
        ours = get_optimizer_state_dict(model, optimizer)
        return {"model": model.state_dict(), "optimizer": ours}

    dcp.save(both(first, before), checkpoint_id=tmp_path, no_dist=True)
    state = both(second, after)
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    second.load_state_dict(state["model"])
    set_optimizer_state_dict(second, after, state["optimizer"])
    for _ in range(4):
        step(whole, undisturbed)
        step(second, after)
        assert all(torch.equal(v, values(second)[n]) for n, v in values(whole).items())


@pytest.mark.clause("C06")
def test_a_copy_of_both_goes_on_by_itself():
    model, optimizer = made(lookahead(3, 0.4))
    for _ in range(4):
        step(model, optimizer)
    twin, other = copy.deepcopy((model, optimizer))
    for _ in range(3):
        step(twin, other)
    assert model.count.item() == 4
    for _ in range(3):
        step(model, optimizer)
    assert all(torch.equal(v, values(twin)[n]) for n, v in values(model).items())


@pytest.mark.clause("C15")
def test_slow_values_are_wider_where_slow_dtype_says_so():
    model = torch.nn.BatchNorm1d(2, dtype=torch.bfloat16)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    which = Buffers(model, "running_mean")
    optimizer = MetaOptimizer(inner, ema(0.999), slow_dtype=torch.float32, buffers=which)
    model.weight.grad = torch.zeros_like(model.weight)
    for value in (0.0, *[1.0] * 100):
        model.running_mean.fill_(value)
        optimizer.step()
    with optimizer.slow_weights():
        assert model.running_mean[0].item() == pytest.approx(1 - 0.999**100, rel=1e-2)


# --- what is refused ---


@pytest.mark.clause("C24")
@pytest.mark.parametrize("rule", [snoo(2), gpa(), lookahead(2, AdaptiveAlpha())], ids=str)
def test_a_rule_that_goes_past_what_it_has_seen_is_refused(rule):
    with pytest.raises(ValueError, match="buffers need a rule that interpolates"):
        made(rule)


@pytest.mark.clause("C24")
def test_what_is_no_buffer_is_refused():
    model = Model()
    with pytest.raises(ValueError, match=r"match a buffer of the model, .*mean, count.* got 'wei"):
        Buffers(model, "mean", "weight")
    with pytest.raises(ValueError, match="patterns must each match a buffer"):
        Buffers(model)
    with pytest.raises(ValueError, match=r"model must be a torch.nn.Module, got \['mean'\]"):
        Buffers(["mean"], "mean")
    with pytest.raises(ValueError, match="must have a shape: run one forward"):
        Buffers(torch.nn.LazyBatchNorm1d(), "running_*")
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"buffers must be Buffers\(model, patterns...\), got 'me"):
        Lookahead(inner, buffers="mean")
