"""The family against torch's own: SGD and Adam on the pseudo-gradient, AveragedModel. float64."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lookahead_core import Momentum, SyncRule, ema, lookahead, nested, polyak, swa
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer, ranger
from lookahead_core.adapters.torch._kernels import KERNELS
from reference_loop import ALPHA, K
from torch_runs import Quadratic, generator, sgd, train

# torch's own, when its compiler is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
STEPS = 31
WAYS = {name: {"kernel": name} for name in KERNELS} | {"capturable": {"capturable": True}}


@pytest.fixture(params=WAYS)
def way(request):
    """The ways that a sync can run."""
    return WAYS[request.param]


def noisy_step(optimizer, model, step):
    """One step with the oracle's gradient and noise that belongs to this step."""
    numbers = generator(step)
    model.backward()
    for leaf in (model.x, model.y):
        leaf.grad += torch.randn(leaf.shape, generator=numbers, dtype=leaf.dtype)
    optimizer.step()


def run(rule, steps=STEPS, **options):
    """Fast and slow weights after a noisy run under `rule`."""
    model = Quadratic()
    optimizer = MetaOptimizer(sgd(model.parameters()), rule, **options)
    for step in range(steps):
        noisy_step(optimizer, model, step)
    fast = [leaf.detach().clone() for leaf in model.parameters()]
    with optimizer.slow_weights():
        return fast, [leaf.detach().clone() for leaf in model.parameters()]


def assert_close(ours, theirs):
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours.detach(), rtol=0, atol=1e-13)


# --- torch's optimizers on the pseudo-gradient ---


def outer_loop_by_hand(outer, period):
    """Fast weights of a run whose slow weights `outer` moves, and the slow ones."""
    model = Quadratic()
    inner = sgd(model.parameters())
    slow = [torch.nn.Parameter(leaf.detach().clone()) for leaf in model.parameters()]
    outer = outer(slow)
    for step in range(STEPS):
        noisy_step(inner, model, step)
        if (step + 1) % period == 0:
            for s, leaf in zip(slow, model.parameters(), strict=True):
                s.grad = (s - leaf).detach()
            outer.step()
            for s, leaf in zip(slow, model.parameters(), strict=True):
                leaf.data.copy_(s)
    return list(model.parameters()), slow


@pytest.mark.clause("C71")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.5), (0.1, 0.37), (1.3, 0.25)])
def test_momentum_is_torchs_sgd_on_the_pseudo_gradient(lr, momentum, nesterov, way):
    ours = run(SyncRule(3, Momentum(lr, momentum, nesterov)), **way)
    theirs = outer_loop_by_hand(
        lambda slow: torch.optim.SGD(slow, lr=lr, momentum=momentum, nesterov=nesterov), 3
    )
    assert_close(ours[0], theirs[0])
    # The last step is the first of a cycle: torch's slow weights are those of the last sync.
    assert_close(ours[1], theirs[1])


class OuterAdam:
    """An outer rule as a user writes it: Adam on the pseudo-gradient."""

    def __init__(self, lr=0.3, betas=(0.8, 0.9), eps=1e-8):
        self.lr, self.betas, self.eps = lr, betas, eps

    def init(self, slow):
        return [torch.zeros_like(s) for s in slow], [torch.zeros_like(s) for s in slow]

    def update(self, slow, fast, state, context):
        (b1, b2), t = self.betas, context.syncs + 1
        gradients = [s - f for s, f in zip(slow, fast, strict=True)]
        first = [b1 * m + (1 - b1) * g for m, g in zip(state[0], gradients, strict=True)]
        second = [b2 * v + (1 - b2) * g * g for v, g in zip(state[1], gradients, strict=True)]
        moved = [
            s - self.lr * m / (1 - b1**t) / ((v / (1 - b2**t)) ** 0.5 + self.eps)
            for s, m, v in zip(slow, first, second, strict=True)
        ]
        return moved, (first, second)


@pytest.mark.clause("C76")
def test_a_rule_of_the_users_own_is_torchs_adam_on_the_pseudo_gradient(way):
    ours = run(SyncRule(4, OuterAdam()), **way)
    theirs = outer_loop_by_hand(
        lambda slow: torch.optim.Adam(slow, lr=0.3, betas=(0.8, 0.9), eps=1e-8), 4
    )
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])


@pytest.mark.clause("C76")
@pytest.mark.parametrize("place", [{}, {"slow_device": "cpu"}], ids=["near", "slow_device"])
def test_what_a_rule_of_the_users_own_returns_is_written_into_our_tensors(place):
    model = Quadratic()
    optimizer = MetaOptimizer(sgd(model.parameters()), SyncRule(2, OuterAdam()), **place)
    kept = optimizer._parts.kept.values()
    addresses = [t.data_ptr() for own in kept for t in (own.slow, *own.slots)]
    addresses += [leaf.data_ptr() for leaf in model.parameters()]
    train(optimizer, model, 4)
    kept = optimizer._parts.kept.values()
    after = [t for own in kept for t in (own.slow, *own.slots)]
    assert [t.data_ptr() for t in (*after, *model.parameters())] == addresses
    assert all(bool(tensor.any()) for tensor in after)


@pytest.mark.clause("C78")
@pytest.mark.parametrize("alphas", [(0.5, 0.4), (0.8, 1.0)])
def test_nested_lookahead_at_every_sync_is_one_with_the_product_of_both(alphas, way):
    first, second = alphas
    ours = run(nested(lookahead(K, first), lookahead(K, second)), **way)
    assert_close(ours[0], run(lookahead(K, first * second), **way)[0])


# --- torch's averages ---


def averaged_by_torch(averaged_model, period, start, with_the_start):
    """Fast weights of a bare run, and torch's average of them at the syncs."""
    model = Quadratic()
    inner, average = sgd(model.parameters()), averaged_model(model)
    for step in range(STEPS):
        if step == start and with_the_start:
            average.update_parameters(model)
        noisy_step(inner, model, step)
        if step >= start and (step + 1 - start) % period == 0:
            average.update_parameters(model)
    return list(model.parameters()), list(average.module.parameters())


@pytest.mark.clause("C79")
@pytest.mark.parametrize(("period", "start"), [(1, 0), (3, 0), (1, 5)])
def test_ema_is_torchs_averaged_model(period, start, way):
    ours = run(ema(0.9, period, start), **way)
    theirs = averaged_by_torch(
        lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
        period,
        start,
        with_the_start=True,
    )
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])


@pytest.mark.clause("C79")
@pytest.mark.parametrize(("period", "start"), [(1, 0), (4, 0), (4, 6)])
def test_swa_is_torchs_averaged_model_with_the_start(period, start, way):
    ours = run(swa(period, start), **way)
    theirs = averaged_by_torch(AveragedModel, period, start, with_the_start=True)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])


@pytest.mark.clause("C79")
@pytest.mark.parametrize("start", [0, 7])
def test_polyak_is_torchs_averaged_model_without_the_start(start, way):
    ours = run(polyak(start), **way)
    theirs = averaged_by_torch(AveragedModel, 1, start, with_the_start=False)
    assert_close(ours[0], theirs[0])
    assert_close(ours[1], theirs[1])


@pytest.mark.clause("C72")
@pytest.mark.parametrize("rule", [ema(0.9), swa(3, 4), polyak()], ids=["ema", "swa", "polyak"])
def test_an_average_leaves_training_bitwise_alone(rule, way):
    model = Quadratic()
    bare = sgd(model.parameters())
    for step in range(STEPS):
        noisy_step(bare, model, step)
    fast, _ = run(rule, **way)
    assert all(map(torch.equal, fast, model.parameters()))


# --- Ranger ---


@pytest.mark.clause("C79")
def test_ranger_is_lookahead_around_radam_with_decoupled_weight_decay():
    ours, theirs = Quadratic(), Quadratic()
    radam = torch.optim.RAdam(
        theirs.parameters(),
        lr=0.05,
        betas=(0.95, 0.999),
        eps=1e-5,
        weight_decay=0.1,
        decoupled_weight_decay=True,
    )
    one = ranger(ours.parameters(), lr=0.05, weight_decay=0.1)
    other = Lookahead(radam, sync_period=6, alpha=ALPHA)
    for step in range(40):  # rectified from the sixth on
        noisy_step(one, ours, step)
        noisy_step(other, theirs, step)
    assert torch.equal(ours.x, theirs.x)
    assert not torch.equal(ours.x, Quadratic().x)


@pytest.mark.clause("C79")
def test_ranger_has_the_defaults_of_its_repository():
    optimizer = ranger(Quadratic().parameters())
    expected = {"lr": 1e-3, "betas": (0.95, 0.999), "eps": 1e-5, "weight_decay": 0.0}
    assert {name: optimizer.defaults[name] for name in expected} == expected
    assert optimizer.rule == lookahead(6, 0.5)
