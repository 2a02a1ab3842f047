"""Every optimizer that ships with torch, by torch's own table of optimizers and their arguments.

The table (`optim_db`) has foreach and fused variants as well. `capturable=True` of the inner
optimizer is not in it here: torch refuses that on the CPU.
"""

import copy
import warnings
from itertools import product

import pytest
import torch

from lookahead_core.adapters.torch import Lookahead
from reference_loop import POLICIES
from torch_runs import assert_same, flat, generator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own, while its test package is imported
    from torch.testing._internal.common_optimizers import (
        _get_optim_inputs_including_global_cliquey_kwargs as inputs_of,
    )
    from torch.testing._internal.common_optimizers import optim_db

CASES = {
    f"{info.optim_cls.__name__}, {given.desc}": (info, given.kwargs)
    for info in optim_db
    for given in inputs_of("cpu", torch.float32, info, skip=("differentiable",))
}
FOREACH = {
    f"{info.optim_cls.__name__}, {given.desc} & foreach": (info, {**given.kwargs, "foreach": True})
    for info in optim_db
    for given in info.optim_inputs_func(device="cpu")
    if "foreach" in info.supported_impls
}
# LBFGS keeps a history of whole steps, which no policy knows.
TENSOR_STATES = [name for name in CASES if not name.startswith("LBFGS")]
ONE_EACH = [f"{info.optim_cls.__name__}, default" for info in optim_db]


class Model:
    """Two matrices, which every optimizer takes, and the gradient that its kind needs."""

    def __init__(self, case):
        self.info, self.arguments = (CASES | FOREACH)[case]
        own, shapes = generator(0), ((3, 4), (4, 2))
        self.params = [torch.nn.Parameter(torch.randn(s, generator=own)) for s in shapes]

    def inner(self):
        # A copy: a learning rate that is a tensor would be shared.
        return self.info.optim_cls(self.params, **copy.deepcopy(self.arguments))

    def loss(self):
        for leaf in self.params:
            leaf.grad = None
        loss = sum(((leaf - i) ** 2 + leaf.sin()).sum() for i, leaf in enumerate(self.params))
        loss.backward()
        for leaf in self.params if self.info.only_supports_sparse_grads else ():
            leaf.grad = leaf.grad.to_sparse()
        return loss

    def step(self, optimizer):
        if self.info.step_requires_closure:
            optimizer.step(self.loss)
        else:
            self.loss()
            optimizer.step()

    def weights(self):
        return [leaf.detach().clone() for leaf in self.params]


def test_the_table_is_there():
    assert len(optim_db) >= 15
    assert {"Muon, default", "Adam, amsgrad & fused"} <= set(CASES)
    assert "SGD, momentum & foreach" in FOREACH


@pytest.mark.clause("C01", "C02", "C09")
@pytest.mark.parametrize(
    ("case", "alpha"), [*((c, 0.3) for c in CASES | FOREACH), *((c, 1.0) for c in ONE_EACH)]
)
def test_it_is_the_bare_optimizer_with_a_sync_written_by_hand(case, alpha):
    ours, bare = Model(case), Model(case)
    optimizer, inner = Lookahead(ours.inner(), 3, alpha), bare.inner()
    slow = bare.weights()
    for step in range(1, 8):
        ours.step(optimizer)
        bare.step(inner)
        if step % 3 == 0 and alpha < 1:
            for i, leaf in enumerate(bare.params):
                slow[i] = torch.lerp(slow[i], leaf.detach(), alpha)
                leaf.data.copy_(slow[i])
    assert_same(ours.weights(), bare.weights())
    assert all(leaf.isfinite().all() for leaf in ours.weights())


@pytest.mark.clause("C17")
@pytest.mark.parametrize("case", TENSOR_STATES)
def test_after_a_reset_it_goes_on_like_a_new_optimizer(case):
    ours, bare = Model(case), Model(case)
    optimizer = Lookahead(ours.inner(), 3, 1.0, "reset")
    for _ in range(3):
        ours.step(optimizer)
    with torch.no_grad():
        for leaf, value in zip(bare.params, ours.weights(), strict=True):
            leaf.copy_(value)
    inner = bare.inner()
    for _ in range(2):
        ours.step(optimizer)
        bare.step(inner)
        torch.testing.assert_close(ours.weights(), bare.weights(), rtol=0, atol=0)
        states = [flat(opt.state_dict()["state"]) for opt in (optimizer.inner, inner)]
        torch.testing.assert_close(*states, rtol=0, atol=0)


@pytest.mark.clause("C17", "C28")
@pytest.mark.parametrize(
    "inner",
    [
        torch.optim.Rprop,
        lambda p: torch.optim.Adagrad(p, initial_accumulator_value=0.5),
        torch.optim.Adam,
    ],
    ids=["Rprop", "Adagrad", "Adam"],
)
def test_complex_state_is_reset_to_what_a_new_optimizer_has(inner):
    ours, fresh = (torch.nn.Parameter(torch.tensor([1.0 + 2.0j])) for _ in range(2))
    optimizer = Lookahead(inner([ours]), 2, 1.0, "reset")
    for _ in range(2):
        ours.grad = torch.tensor([1.0 + 2.0j])
        optimizer.step()
    fresh.data.copy_(ours.data)
    bare = inner([fresh])
    for leaf, opt in ((ours, optimizer), (fresh, bare)):
        leaf.grad = torch.tensor([1.0 + 2.0j])
        opt.step()
    assert_same(ours.detach(), fresh.detach())


@pytest.mark.clause("C18")
@pytest.mark.parametrize("case", TENSOR_STATES)
def test_interpolating_everything_all_the_way_changes_nothing(case):
    ours, bare = Model(case), Model(case)
    optimizer, inner = Lookahead(ours.inner(), 2, 1.0, "interpolate"), bare.inner()
    for _ in range(5):
        ours.step(optimizer)
        bare.step(inner)
    assert_same(ours.weights(), bare.weights())


@pytest.mark.clause("C18")
@pytest.mark.parametrize("case", [n for n in ONE_EACH if not n.startswith(("LBFGS", "SGD"))])
def test_interpolation_blends_every_state_of_the_parameters_shape_with_its_start(case):
    ours, bare = Model(case), Model(case)
    optimizer, inner = Lookahead(ours.inner(), 1, 0.5, "interpolate"), bare.inner()
    fresh = bare.inner()
    ours.step(optimizer)
    bare.step(inner)
    blended = 0
    for leaf, twin in zip(ours.params, bare.params, strict=True):
        for key, full in inner.state[twin].items():
            if getattr(full, "shape", None) != twin.shape:
                continue
            start = starting_value(fresh, twin, key, full)
            expected = torch.lerp(start, full, 0.5)
            torch.testing.assert_close(optimizer.state[leaf][key], expected, rtol=0, atol=0)
            blended += 1
    assert blended or case.startswith("Adafactor")  # whose moments of a matrix are factored


def starting_value(fresh, leaf, key, like):
    """The value of a new optimizer's state: zero but for Adagrad and Rprop."""
    if key in fresh.state.get(leaf, {}):
        return fresh.state[leaf][key]
    return torch.full_like(like, fresh.defaults["lr"] if key == "step_size" else 0.0)


@pytest.mark.clause("C06")
@pytest.mark.parametrize(
    ("case", "policy"),
    [
        ("LBFGS, default", "maintain"),
        *product([c for c in ONE_EACH if c in TENSOR_STATES], POLICIES),
    ],
)
def test_it_resumes_bitwise_in_mid_cycle(case, policy):
    whole, first, second = Model(case), Model(case), Model(case)
    undisturbed = Lookahead(whole.inner(), 3, 0.5, policy)
    before = Lookahead(first.inner(), 3, 0.5, policy)
    for _ in range(5):
        whole.step(undisturbed)
        first.step(before)
    saved = flat([first.weights(), before.state_dict()])
    after = Lookahead(second.inner(), 3, 0.5, policy)
    for leaf, value in zip(second.params, saved[0], strict=True):
        leaf.data.copy_(value)
    after.load_state_dict(saved[1])
    for _ in range(4):
        whole.step(undisturbed)
        second.step(after)
    assert_same(second.weights(), whole.weights())


@pytest.mark.clause("C25")
@pytest.mark.parametrize("policy", ["reset", "interpolate"])
def test_lbfgs_under_a_policy_that_cannot_know_its_history_is_refused_before_it_moves(policy):
    model = Model("LBFGS, default")
    optimizer, before = Lookahead(model.inner(), 1, 0.5, policy), model.weights()
    with pytest.raises(ValueError, match="does not know the state 'func_evals' of LBFGS"):
        model.step(optimizer)
    assert_same(model.weights(), before)
    assert not optimizer.state


def test_a_differentiable_inner_optimizer_is_refused():
    model = Model("SGD, default")
    inner = torch.optim.SGD(model.params, lr=0.1, differentiable=True)
    with pytest.raises(ValueError, match=r"differentiable must be False .* got True"):
        Lookahead(inner)
