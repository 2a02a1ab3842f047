"""The adaptive alpha through the torch adapter: which gradient and which curvature it is given."""

import pytest
import torch

from lookahead_core import AdaptiveAlpha, lookahead
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from reference_loop import START, A, B
from torch_runs import DOUBLE, Quadratic, flat, pull_down, single, train

WAYS = {"branching": {}, "plain": {"kernel": "plain"}, "capturable": {"capturable": True}}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


class Alphas(AdaptiveAlpha):
    """Writes down what it estimated."""

    seen = ()

    def estimate(self, *arguments):
        alpha = super().estimate(*arguments)
        object.__setattr__(self, "seen", (*self.seen, alpha.item()))
        return alpha


def descend(curvature, inner, steps, model=None, **options):
    """Estimates of a run on the oracle's quadratic."""
    model = Quadratic() if model is None else model
    alpha = Alphas(low=0.0, curvature=curvature)
    optimizer = MetaOptimizer(inner(model.parameters()), lookahead(2, alpha), **options)
    train(optimizer, model, steps)
    return model, alpha.seen


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.3)


def first_estimate_by_hand():
    """alpha* of the first cycle of two steps, with the true curvature, in plain torch."""
    a = torch.block_diag(torch.tensor(A, dtype=DOUBLE), 0.5 * torch.eye(2, dtype=DOUBLE))
    b = torch.cat([torch.tensor(B, dtype=DOUBLE), torch.zeros(2, dtype=DOUBLE)])
    slow = torch.cat([torch.tensor(START, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)])
    middle = slow - 0.3 * (a @ slow - b)
    gradient = a @ middle - b
    fast = middle - 0.3 * gradient
    return slow, middle, fast, gradient, a


@pytest.mark.clause("C77")
def test_the_secant_form_is_given_the_first_and_the_last_gradient_of_the_cycle():
    slow, middle, fast, gradient, a = first_estimate_by_hand()
    way = slow - fast
    expected = 1 + gradient @ way / ((a @ (slow - middle)) @ way)
    _, seen = descend("secant", plain_sgd, 2)
    assert seen == (pytest.approx(expected.item(), abs=1e-13),)
    assert is_not_clipped(seen)


@pytest.mark.clause("C77")
def test_a_curvature_of_the_users_own_gets_the_way_of_all_leaves():
    slow, _, fast, gradient, a = first_estimate_by_hand()
    way = slow - fast
    expected = 1 + gradient @ way / (way @ (a @ way))
    curvature = lambda d: [a[:3, :3] @ d[0], 0.5 * d[1]]  # noqa: E731
    _, seen = descend(curvature, plain_sgd, 2)
    assert seen == (pytest.approx(expected.item(), abs=1e-13),)
    assert is_not_clipped(seen)


@pytest.mark.clause("C77")
@pytest.mark.parametrize("curvature", ["secant", lambda d: [2.0 * leaf for leaf in d]])
def test_all_ways_to_run_give_one_alpha_for_all_leaves(curvature, way):
    expected, seen = descend(curvature, plain_sgd, 9)
    assert is_not_clipped(seen)
    ours = Quadratic()
    rule = lookahead(2, AdaptiveAlpha(low=0.0, curvature=curvature))
    optimizer = MetaOptimizer(plain_sgd(ours.parameters()), rule, **way)
    train(optimizer, ours, 9)
    torch.testing.assert_close(ours.x, expected.x, rtol=0, atol=1e-13)
    torch.testing.assert_close(ours.y, expected.y, rtol=0, atol=1e-13)


# Rates at which the two steps of a cycle go too far: else the estimate is clipped to 1.
ADAMS = {
    "Adam": (torch.optim.Adam, 2.0, {}),
    "Adam, amsgrad": (torch.optim.Adam, 2.0, {"amsgrad": True}),
    "AdamW": (torch.optim.AdamW, 2.0, {}),
    "NAdam": (torch.optim.NAdam, 2.0, {}),
    "RAdam": (torch.optim.RAdam, 0.6, {}),
}


def adam(parameters, **options):
    return torch.optim.Adam(parameters, lr=1.5, betas=(0.5, 0.9), **options)


def is_not_clipped(alphas):
    """Whether the run tells the estimate from a constant."""
    return any(0.0 < alpha < 1.0 for alpha in alphas)


@pytest.mark.clause("C77")
@pytest.mark.parametrize("name", ADAMS)
def test_the_inner_curvature_is_the_root_of_adams_corrected_second_moment(name):
    kind, rate, options = ADAMS[name]
    beta = 0.9

    def inner(parameters):
        return kind(parameters, lr=rate, betas=(0.5, beta), **options)

    bare = Quadratic()
    optimizer, squares = inner(bare.parameters()), []
    start = torch.cat([bare.x, bare.y]).detach().clone()
    for _ in range(2):
        bare.backward()
        gradient = torch.cat([bare.x.grad, bare.y.grad])
        squares.append(gradient**2)
        optimizer.step()
    first, second = squares
    moment = (1 - beta) * (beta * first + second)
    if options:
        moment = torch.maximum(moment, (1 - beta) * first)
    way = start - torch.cat([bare.x, bare.y]).detach()
    expected = 1 + gradient @ way / (way @ ((moment / (1 - beta**2)).sqrt() * way))
    _, seen = descend("inner", inner, 2)
    assert seen == (pytest.approx(expected.item(), abs=1e-12),)
    assert is_not_clipped(seen)


@pytest.mark.clause("C77")
def test_with_the_inner_curvature_the_captured_step_is_the_one_that_branches():
    branching, seen = descend("inner", adam, 9)
    captured = Quadratic()
    rule = lookahead(2, AdaptiveAlpha(low=0.0, curvature="inner"))
    train(MetaOptimizer(adam(captured.parameters()), rule, capturable=True), captured, 9)
    assert is_not_clipped(seen)
    torch.testing.assert_close(captured.x, branching.x, rtol=0, atol=1e-13)


@pytest.mark.clause("C11", "C77")
@pytest.mark.parametrize("curvature", ["secant", "inner"])
def test_a_parameter_that_never_has_a_gradient_changes_nothing(curvature, way):
    def run(extra):
        model, unused = Quadratic(), single(3.0, DOUBLE)
        parameters = [*model.parameters(), *([unused] if extra else [])]
        alpha = Alphas(low=0.0, curvature=curvature)
        train(MetaOptimizer(adam(parameters), lookahead(2, alpha), **way), model, 6)
        assert unused.item() == 3.0
        assert is_not_clipped(alpha.seen)
        return model.x.detach()

    assert torch.equal(run(True), run(False))


@pytest.mark.clause("C77")
@pytest.mark.parametrize("curvature", ["secant", "inner"])
def test_a_sign_turned_by_maximize_is_the_same_run(curvature):
    def run(maximize):
        model = Quadratic()
        alpha = Alphas(low=0.0, curvature=curvature)
        optimizer = Lookahead(adam(model.parameters(), maximize=maximize), 2, alpha)
        for _ in range(6):
            model.backward()
            for leaf in model.parameters():
                leaf.grad *= -1.0 if maximize else 1.0
            optimizer.step()
        assert is_not_clipped(alpha.seen)
        return model.x.detach()

    assert torch.equal(run(True), run(False))


@pytest.mark.clause("C77")
def test_sparse_gradients_are_seen_like_dense_ones():
    def run(sparse):
        table = torch.nn.Embedding(4, 2, sparse=sparse, dtype=DOUBLE)
        with torch.no_grad():
            table.weight.copy_(torch.arange(8.0).reshape(4, 2))
        alpha = Alphas(low=0.0)
        optimizer = Lookahead(torch.optim.SGD(table.parameters(), lr=0.7), 2, alpha)
        for step in range(6):
            optimizer.zero_grad()
            (table(torch.tensor([step % 4, 1])) - 1.0).square().sum().backward()
            optimizer.step()
        assert is_not_clipped(alpha.seen)
        return table.weight.detach()

    torch.testing.assert_close(run(True), run(False), rtol=0, atol=1e-13)


@pytest.mark.clause("C77")
def test_a_closure_makes_the_gradients_that_are_seen():
    ours, expected = Quadratic(), Quadratic()
    rule = lookahead(2, AdaptiveAlpha(low=0.0))
    optimizer, other = (
        MetaOptimizer(plain_sgd(model.parameters()), rule) for model in (ours, expected)
    )
    for _ in range(6):
        optimizer.step(ours.backward)
        train(other, expected, 1)
    assert torch.equal(ours.x, expected.x)


@pytest.mark.clause("C24", "C77")
def test_an_inner_optimizer_without_second_moments_is_named():
    rule = lookahead(2, AdaptiveAlpha(curvature="inner"))
    message = r"curvature='inner'\) needs an inner optimizer that keeps exp_avg_sq, such as Adam; "
    with pytest.raises(ValueError, match=message + "got SGD"):
        MetaOptimizer(torch.optim.SGD([single()], lr=1.0), rule)
    weight = single()
    optimizer = MetaOptimizer(torch.optim.Adamax([weight]), rule)  # has betas, keeps another norm
    pull_down(optimizer, weight)
    before = weight.item()
    with pytest.raises(ValueError, match=message + r"got Adamax \(step, exp_avg, exp_inf\)"):
        optimizer.sync()
    assert weight.item() == before


@pytest.mark.clause("C42", "C77")
def test_a_group_may_have_a_plain_alpha_beside_an_adaptive_one():
    weights = [single(4.0, DOUBLE), single(4.0, DOUBLE)]
    groups = [{"params": [weights[0]], "lookahead_alpha": 0.25}, {"params": [weights[1]]}]
    inner = torch.optim.SGD(groups, lr=0.5)
    optimizer = Lookahead(inner, 1, AdaptiveAlpha(curvature=lambda d: list(d)))
    for _ in range(2):
        for weight in weights:
            weight.grad = weight.detach().clone()
        optimizer.step()
        optimizer.load_state_dict(flat(optimizer.state_dict()))
    assert weights[0].item() == 4.0 * 0.875**2  # a quarter of the way to its half
    # From 4 to 2 with the gradient 4 of its start: 1 + 4 * 2 / 2**2 is clipped to 1.
    assert weights[1].item() == 1.0


@pytest.mark.clause("C42", "C77")
def test_a_group_may_change_to_an_adaptive_alpha_and_back_between_cycles():
    expected, seen = descend("secant", plain_sgd, 2)
    assert is_not_clipped(seen)
    model = Quadratic()
    groups = [{"params": [*model.parameters()], "lookahead_alpha": 1.0}]
    optimizer = Lookahead(torch.optim.SGD(groups, lr=0.3), 2, AdaptiveAlpha(low=0.0))
    del optimizer.param_groups[0]["lookahead_alpha"]
    train(optimizer, model, 2)
    assert torch.equal(model.x, expected.x)
    optimizer.param_groups[0]["lookahead_alpha"] = 0.0
    before = model.x.tolist()
    train(optimizer, model, 2)
    assert model.x.tolist() == before


@pytest.mark.clause("C25", "C77")
def test_a_forced_sync_without_any_gradient_is_refused():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 3, AdaptiveAlpha())
    pull_down(optimizer, weight)
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match=r"sync\(\) needs a gradient: no parameter has one"):
        optimizer.sync()
    assert weight.item() == -1.0


@pytest.mark.clause("C77")
def test_a_group_whose_parameters_are_all_frozen_is_passed_over():
    weight, frozen = single(), single(3.0)
    frozen.requires_grad_(False)
    groups = [{"params": [frozen], "lookahead_sync_period": 2}, {"params": [weight]}]
    optimizer = Lookahead(torch.optim.SGD(groups, lr=1.0), 1, AdaptiveAlpha())
    for _ in range(2):
        pull_down(optimizer, weight)
    assert (weight.item(), frozen.item()) == (-2.0, 3.0)
