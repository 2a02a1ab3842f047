"""Schedule-Free by its authors' package, on a small model: the same weights to rounding."""

import pytest
import schedulefree
import torch

from lookahead_core import schedule_free
from lookahead_core.adapters.torch import MetaOptimizer

STEPS, WARM_UP = 200, 20


class Model(torch.nn.Sequential):
    """Two layers, each a parameter group; a batch of data for each step."""

    def __init__(self):
        numbers = torch.Generator().manual_seed(0)
        super().__init__(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
        self.double()
        for leaf in self.parameters():
            leaf.data = 0.5 * torch.randn(leaf.shape, generator=numbers, dtype=leaf.dtype)
        self.data = torch.randn(2, 64, 8, generator=numbers, dtype=torch.float64)

    def backward(self, step):
        self.zero_grad()
        data = self.data[:, step % 8 :: 8]
        (self(data[0, :, :5]) - data[1, :, :3]).square().mean().backward()

    def groups(self):
        return [{"params": [*self[0].parameters()]}, {"params": [*self[2].parameters()]}]


def weights(model):
    return torch.cat([leaf.detach().flatten() for leaf in model.parameters()])


def theirs(make, rates=None):
    """Training weights after each step, and the average at the end."""
    model = Model()
    optimizer, trace = make(model.groups()), []
    optimizer.train()
    for step in range(STEPS):
        model.backward(step)
        for group, rate in zip(optimizer.param_groups, rates(step) if rates else (), strict=False):
            group["lr"] = rate
        optimizer.step()
        trace.append(weights(model))
    optimizer.eval()
    return torch.stack([*trace, weights(model)])


def ours(make, rates=None, warm_up=lambda step: 1.0, r=0.0, beta=0.9):
    model = Model()
    inner, trace = make(model.groups()), []
    optimizer = MetaOptimizer(inner, schedule_free(beta, r=r))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm_up)
    for step in range(STEPS):
        model.backward(step)
        for group, rate in zip(optimizer.param_groups, rates(step) if rates else (), strict=False):
            group["lr"] = rate
        optimizer.step()
        scheduler.step()
        trace.append(weights(model))
    with optimizer.slow_weights():
        return torch.stack([*trace, weights(model)])


def warm_up(step):
    return min(1.0, (step + 1) / WARM_UP)


def rectification(step, beta2=0.99):
    """What RAdam multiplies its rate by; silent while the variance is not to be known."""
    t, limit = step + 1, 2 / (1 - beta2) - 1
    rho = limit - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= 4:
        return 0.0
    upper, lower = (rho - 4) * (rho - 2) * limit, (limit - 4) * (limit - 2) * rho
    return (upper / lower) ** 0.5


def require_equal(mine, yours):
    assert (yours[-1] - yours[-2]).abs().max() > 1e-3  # the average is another point
    torch.testing.assert_close(mine, yours, rtol=0, atol=1e-13)


@pytest.mark.clause("C79", "C85", "C86", "C87")
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("r", [0.0, 1.0])
def test_around_sgd_it_is_the_packages_sgd_with_its_warm_up_and_weight_decay(r, foreach):
    settings = {"lr": 0.3, "weight_decay": 0.01}
    yours = theirs(
        lambda groups: schedulefree.SGDScheduleFree(
            groups, **settings, r=r, warmup_steps=WARM_UP, foreach=foreach
        )
    )
    mine = ours(lambda groups: torch.optim.SGD(groups, **settings), warm_up=warm_up, r=r)
    require_equal(mine, yours)


@pytest.mark.clause("C79", "C85", "C86", "C87")
@pytest.mark.parametrize("beta", [0.9, 0.5])
def test_around_adamw_it_is_the_packages_adamw_with_decay_where_gradients_are_taken(beta):
    settings = {"lr": 0.05, "weight_decay": 0.1}
    yours = theirs(
        lambda groups: schedulefree.AdamWScheduleFree(
            groups, betas=(beta, 0.99), warmup_steps=WARM_UP, foreach=False, **settings
        )
    )
    mine = ours(
        lambda groups: torch.optim.AdamW(groups, betas=(0.0, 0.99), **settings),
        warm_up=warm_up,
        beta=beta,
    )
    require_equal(mine, yours)


@pytest.mark.clause("C79", "C85", "C87")
def test_with_radams_rates_around_adamw_it_is_the_packages_radam():
    """Its first steps are silent: rates of zero, which weigh nothing."""
    settings = {"lr": 0.05, "weight_decay": 0.1}
    yours = theirs(
        lambda groups: schedulefree.RAdamScheduleFree(
            groups, betas=(0.9, 0.99), foreach=False, **settings
        )
    )
    mine = ours(
        lambda groups: torch.optim.AdamW(groups, betas=(0.0, 0.99), **settings),
        warm_up=rectification,
    )
    require_equal(mine, yours)


@pytest.mark.clause("C34", "C87")
def test_groups_with_rates_of_their_own_are_the_packages():
    """One rises from zero, the other falls: other weights for the steps of each."""

    def rates(step):
        return 0.3 * warm_up(step - 5) if step > 5 else 0.0, 0.3 * 0.97**step

    yours = theirs(lambda groups: schedulefree.SGDScheduleFree(groups, foreach=False), rates)
    require_equal(ours(lambda groups: torch.optim.SGD(groups, lr=0.3), rates), yours)


@pytest.mark.clause("C03", "C11", "C87")
def test_gradients_of_zero_move_the_average_and_skipped_steps_nothing():
    """As the package; a gradient that is None it passes over, which is a gradient of zero here."""

    def run(make, read):
        leaf = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer, trace = make([leaf]), []
        if isinstance(optimizer, schedulefree.SGDScheduleFree):
            optimizer.train()
        for step in range(30):
            if step % 7 == 3:
                continue  # as a loss scaler does
            leaf.grad = torch.zeros_like(leaf) if step % 3 == 1 else leaf.detach() - 0.5
            optimizer.step()
            trace.append(leaf.detach().clone())
        read(optimizer)
        return torch.stack([*trace, leaf.detach()])

    yours = run(
        lambda leaves: schedulefree.SGDScheduleFree(leaves, lr=0.3, foreach=False),
        lambda optimizer: optimizer.eval(),
    )
    mine = run(
        lambda leaves: MetaOptimizer(torch.optim.SGD(leaves, lr=0.3), schedule_free()),
        lambda optimizer: optimizer.eval(),
    )
    torch.testing.assert_close(mine, yours, rtol=0, atol=1e-13)
