"""What tells that nobody has written to a large tensor since a sync: then nothing is copied.

A cycle starts from the weights, and from the inner state, as they are (clauses C26 and C18).
"""

import pytest
import torch

from lookahead_core import ema, snoo
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from lookahead_core.adapters.torch._kernels import witness
from torch_runs import assert_same, launched_by

SIZE = 1 << 15


def ones(size=SIZE, dtype=torch.float32):
    return torch.nn.Parameter(torch.ones(size, dtype=dtype))


def descend(optimizer, weight, steps):
    for _ in range(steps):
        weight.grad = torch.ones_like(weight)
        optimizer.step()


def written_at_the_first_step(optimizer, weight):
    """What is written at the first step of a cycle, but for the inner step."""
    weight.grad = None
    (part,) = optimizer._parts.parts
    return [name for name in launched_by(lambda: optimizer._parts.begin([part])) if "copy" in name]


def scaled(weight):
    with torch.no_grad():
        weight.mul_(2)


def one_number(weight):
    with torch.no_grad():
        weight[1] = 9  # it is not among those that are looked at


def scaled_by_data(weight):
    weight.data.mul_(2)


def scaled_through_numpy(weight):
    weight.detach().numpy()[:] *= 2


def replaced(weight):
    weight.data = 2 * weight.data


def loaded(weight):
    weight.data.copy_(torch.full_like(weight, -1))


def half_masked(weight):
    weight.data[: SIZE // 2] = 0


EDITS = [scaled, one_number, scaled_by_data, scaled_through_numpy, replaced, loaded, half_masked]
AROUND = {
    "Lookahead": lambda inner: Lookahead(inner, 2, 0.5),
    "the plain kernel": lambda inner: Lookahead(inner, 2, 0.5, kernel="plain"),
    "wider slow weights": lambda inner: Lookahead(inner, 2, 0.5, slow_dtype=torch.float64),
    "momentum": lambda inner: MetaOptimizer(inner, snoo(2)),
}


@pytest.mark.clause("C26")
@pytest.mark.parametrize("around", AROUND)
def test_what_nobody_wrote_to_is_not_copied(around):
    weight = ones()
    optimizer = AROUND[around](torch.optim.SGD([weight], lr=0.5))
    descend(optimizer, weight, 2)
    assert written_at_the_first_step(optimizer, weight) == []


@pytest.mark.clause("C26")
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("edit", EDITS)
def test_each_kind_of_edit_is_seen(edit, around):
    weight = ones()
    optimizer = AROUND[around](torch.optim.SGD([weight], lr=0.5))
    descend(optimizer, weight, 2)
    edit(weight)
    edited = weight.detach().clone()
    optimizer._parts.begin(optimizer._parts.current())
    slow = next(iter(optimizer._parts.kept.values())).slow
    assert_same(slow, edited.to(slow.dtype))


@pytest.mark.clause("C18")
@pytest.mark.parametrize("edit", [scaled_by_data, one_number])
def test_so_is_an_edit_of_the_inner_state(edit):
    weight = ones()
    inner = torch.optim.SGD([weight], lr=0.5, momentum=0.5)
    optimizer = Lookahead(inner, 2, 0.5, "interpolate")
    descend(optimizer, weight, 2)
    edit(inner.state[weight]["momentum_buffer"])
    edited = inner.state[weight]["momentum_buffer"].clone()
    optimizer._parts.begin(optimizer._parts.current())
    (kept,) = optimizer._parts.kept.values()
    assert_same(kept.inner_slow["momentum_buffer"], edited)


@pytest.mark.clause("C18")
def test_inner_state_that_nobody_wrote_to_is_not_copied():
    weight = ones()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.5, momentum=0.5), 2, 0.5, "interpolate")
    descend(optimizer, weight, 2)
    assert written_at_the_first_step(optimizer, weight) == []


@pytest.mark.clause("C26")
def test_an_average_has_nothing_to_remember():
    weight = ones()
    optimizer = MetaOptimizer(torch.optim.SGD([weight], lr=0.5), ema(0.5))
    descend(optimizer, weight, 2)
    (part,) = optimizer._parts.parts
    assert part.witness is None


@pytest.mark.clause("C26")
def test_an_edit_of_a_few_numbers_that_torch_does_not_count_needs_anchor():
    weight = ones()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.5), 2, 0.5)
    descend(optimizer, weight, 2)
    distance = SIZE // witness.NUMBERS
    weight.data[1:distance] = 9.0  # between two numbers that are looked at
    optimizer.anchor()
    optimizer._parts.begin(optimizer._parts.current())
    (kept,) = optimizer._parts.kept.values()
    assert_same(kept.slow, weight.detach())


@pytest.mark.parametrize("size", [SIZE, SIZE + 1])
def test_the_numbers_lie_over_the_whole_tensor(size):
    places = witness.spread(torch.arange(size))
    assert witness.NUMBERS <= len(places) <= witness.NUMBERS + 1
    assert places[-1] >= size - size // witness.NUMBERS - 1
