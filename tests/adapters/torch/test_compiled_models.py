"""A model under torch.compile computes with the weights that are swapped in for its evaluation."""

from contextlib import nullcontext

import pytest
import torch
from torch._dynamo.utils import counters
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from lookahead_core import ema, lookahead
from lookahead_core.adapters.torch import MetaOptimizer
from torch_runs import assert_same, flat, generator

RULES = {"lookahead": lookahead(3), "ema": ema(0.5)}
MODES = {"grad": nullcontext, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
PREFIX = "_orig_mod."


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def inputs():
    return torch.randn(5, 3, generator=generator(1))


class Network(torch.nn.Module):
    """A class of its own: what torch itself defines, `compile()` in place does not compile."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 1)

    def forward(self, values):
        return self.second(self.first(values).tanh())


def optimizer_of(model, rule):
    return MetaOptimizer(torch.optim.AdamW(model.parameters(), lr=0.1), RULES[rule])


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs()).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()


def around(model, backend):
    return torch.compile(model, backend=backend)


def in_place(model, backend):
    model.compile(backend=backend)
    return model


@pytest.mark.clause("C22")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.parametrize("compiled", [around, in_place])
def test_it_computes_with_the_slow_weights_and_needs_no_new_graph(compiled, compiler, rule, mode):
    model, plain = compiled(Network(), compiler), Network()
    optimizer = optimizer_of(model, rule)
    train(model, optimizer, 4)
    with MODES[mode]():
        fast = model(inputs())
    graphs = counters["stats"]["unique_graphs"]
    with optimizer.slow_weights(), MODES[mode]():
        weights = {name.removeprefix(PREFIX): v.clone() for name, v in model.state_dict().items()}
        slow = model(inputs())
    assert torch.equal(slow, torch.func.functional_call(plain, weights, inputs()))
    assert not torch.equal(slow, fast)
    with MODES[mode]():
        assert torch.equal(model(inputs()), fast)
    assert 0 < graphs == counters["stats"]["unique_graphs"]


@pytest.mark.clause("C06", "C41")
@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize("to_compiled", [False, True])
def test_a_run_goes_on_bitwise_with_the_model_compiled_or_no_longer(to_compiled, flattened):
    options = StateDictOptions(flatten_optimizer_state_dict=flattened)
    first, second = Network(), torch.compile(Network(), backend="eager")
    first, second = (first, second) if to_compiled else (second, first)
    before, after = optimizer_of(first, "lookahead"), optimizer_of(second, "lookahead")
    train(first, before, 4)
    weights = {name.removeprefix(PREFIX): v for name, v in flat(dict(first.state_dict())).items()}
    saved = flat(get_optimizer_state_dict(first, before, options=options))
    assert PREFIX not in str(saved)
    getattr(second, "_orig_mod", second).load_state_dict(weights)
    set_optimizer_state_dict(second, after, saved, options=options)
    train(first, before, 3)
    train(second, after, 3)
    assert_same(flat(after.state_dict()), flat(before.state_dict()))
