"""Averages where gradients are taken, in torch: loops by hand, saving, low precision."""

import pytest
import torch

from lookahead_core import ema_nesterov, gpa, schedule_free
from lookahead_core.adapters.torch import MetaOptimizer
from torch_runs import DOUBLE, Quadratic, snapshot

STEPS = 60
INNERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.9, 0.99), weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.05, amsgrad=True, weight_decay=0.1),
}


def leaves(model):
    return [leaf.detach().clone() for leaf in model.parameters()]


def put(model, values):
    with torch.no_grad():
        for leaf, value in zip(model.parameters(), values, strict=True):
            leaf.copy_(value)


def papers_loop(inner, move):
    """`move(step, y, after)` gives the next y and what is shipped; the model is at y."""
    model = Quadratic()
    optimizer, trace = INNERS[inner](model.parameters()), []
    for step in range(STEPS):
        y = leaves(model)
        model.backward()
        optimizer.step()
        y, x = move(step, y, leaves(model))
        put(model, y)
        trace.append((y, x))
    return trace


def run(inner, rule, **options):
    model = Quadratic()
    optimizer, trace = MetaOptimizer(INNERS[inner](model.parameters()), rule, **options), []
    for _ in range(STEPS):
        model.backward()
        optimizer.step()
        y = leaves(model)
        with optimizer.slow_weights():
            trace.append((y, leaves(model)))
    return trace


def require_equal(ours, theirs):
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, rtol=0, atol=1e-13)


@pytest.fixture(params=[{"kernel": "foreach"}, {"kernel": "plain"}, {"capturable": True}], ids=str)
def way(request):
    return request.param


@pytest.mark.clause("C79", "C85", "C86")
@pytest.mark.parametrize("inner", INNERS)
def test_gpa_is_the_lines_of_its_code(inner, way):
    mu_x, mu_y, z, x = 0.9, 0.7, leaves(Quadratic()), leaves(Quadratic())

    def move(step, y, after):
        for i, (before, moved) in enumerate(zip(y, after, strict=True)):
            z[i] = z[i] + (moved - before)  # the step, and the decay at y
            x[i] = mu_x * x[i] + (1 - mu_x) * z[i]
        return [mu_y * a + (1 - mu_y) * b for a, b in zip(x, z, strict=True)], list(x)

    require_equal(run(inner, gpa(mu_x, mu_y), **way), papers_loop(inner, move))


def size(step):
    """Off in the middle."""
    return 0.02 * abs(step - 30)


@pytest.mark.clause("C75", "C79", "C85", "C86")
@pytest.mark.parametrize("inner", INNERS)
def test_ema_nesterov_is_its_papers_lines(inner, way):
    decay, x, m = 0.9, leaves(Quadratic()), [torch.zeros_like(w) for w in leaves(Quadratic())]

    def move(step, y, after):
        for i, moved in enumerate(after):
            m[i] = decay * m[i] + (1 - decay) * (moved - x[i])
            x[i] = moved
        return [a + size(step) * b for a, b in zip(x, m, strict=True)], list(x)

    require_equal(run(inner, ema_nesterov(size, decay), **way), papers_loop(inner, move))


@pytest.mark.clause("C06", "C41", "C86", "C87")
@pytest.mark.parametrize("rule", [schedule_free(), gpa(0.75, 0.5, 3), ema_nesterov(0.5, 0.75)])
@pytest.mark.parametrize("inside", [False, True])
def test_what_is_saved_inside_the_read_out_resumes_on_the_other_side(rule, inside):
    for when in range(1, 6):
        models = [Quadratic() for _ in range(3)]
        whole, before, after = (
            MetaOptimizer(INNERS["adamw"](m.parameters()), rule) for m in models
        )
        for step in range(12):
            models[0].backward()
            whole.step()
            if step < when:
                models[1].backward()
                before.step()
        if inside:
            before.eval()
        saved = snapshot(models[1], before)
        shipped = leaves(models[1])
        models[2].load_state_dict(saved["model"])
        after.load_state_dict(saved["optimizer"])
        if inside:
            with after.slow_weights():
                assert all(map(torch.equal, leaves(models[2]), shipped))
        for _ in range(when, 12):
            models[2].backward()
            after.step()
        assert all(map(torch.equal, leaves(models[2]), leaves(models[0])))


@pytest.mark.clause("C15", "C85", "C86")
def test_an_average_of_bfloat16_weights_moves_with_float32_slots_alone():
    """Steps that bfloat16 can tell, to and fro; a thousandth of the way, to their mean, it cannot.

    What the fast weights round away of the slow ones is no step of the inner optimizer: taken for
    one, it would add up in the iterates.
    """
    turns = torch.tensor([16, 32, 64])

    def shipped(dtype, slow_dtype=None):
        leaf = torch.nn.Parameter(torch.ones(3, dtype=dtype))
        inner = torch.optim.SGD([leaf], lr=2.0**-6)
        optimizer = MetaOptimizer(inner, gpa(0.999, 0.7), slow_dtype=slow_dtype)
        for step in range(3000):
            leaf.grad = ((-1) ** (step // turns)).to(dtype)
            optimizer.step()
        with optimizer.slow_weights():
            return leaf.detach().clone()

    exact = shipped(DOUBLE)
    assert (shipped(torch.bfloat16, torch.float32) - exact).abs().max() < 0.01
    assert shipped(torch.bfloat16).min() >= 1.0  # they have never left


class WithoutRates(torch.optim.Optimizer):
    def __init__(self, leaves):
        super().__init__(leaves, {})

    def step(self, closure=None):
        pass


@pytest.mark.clause("C24", "C87")
def test_an_optimizer_without_learning_rates_is_refused_where_weights_go_by_them():
    leaf = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"inner must have an 'lr' .*weight_lr_power=0.*Without"):
        MetaOptimizer(WithoutRates([leaf]), schedule_free())
    MetaOptimizer(WithoutRates([leaf]), schedule_free(weight_lr_power=0.0))


@pytest.mark.clause("C87")
def test_a_rate_may_be_a_tensor():
    def trained(lr):
        leaf = torch.nn.Parameter(torch.ones(2, dtype=DOUBLE))
        optimizer = MetaOptimizer(torch.optim.Adam([leaf], lr=lr), schedule_free())
        for step in range(8):
            leaf.grad = leaf.detach() * (1 + step % 2)
            optimizer.step()
        return leaf.detach()

    torch.testing.assert_close(
        trained(0.25), trained(torch.tensor(0.25, dtype=DOUBLE)), rtol=0, atol=1e-13
    )
