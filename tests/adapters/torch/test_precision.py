"""The torch adapter with loss scaling, autocast, complex, tied and frozen parameters."""

import copy

import pytest
import torch

from lookahead_core.adapters.torch import Lookahead
from torch_runs import assert_same, flat, pull_down, single

INNERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "Adam, foreach": lambda p: torch.optim.Adam(p, lr=0.1, foreach=True),
    "Adam, fused": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
}
OVERFLOWS = {1, 4, 5, 9}


def loss_of(model, step):
    x = torch.full((2, 3), float(step % 3 + 1))
    return (model(x) - 1.0).square().mean()


def scaled_run(model, optimizer, steps=14):
    """Loss scaling with overflows, unscaling and clipping, as a trainer does it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, step) * (float("inf") if step in OVERFLOWS else 1.0)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()


def plain_run(model, optimizer, steps=14):
    """The steps of `scaled_run` that did not overflow."""
    for step in set(range(steps)) - OVERFLOWS:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


def linear():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


@pytest.mark.clause("C03")
@pytest.mark.filterwarnings("ignore:.*GradScaler.*:UserWarning")
@pytest.mark.parametrize("policy", ["maintain", "reset", "interpolate"])
@pytest.mark.parametrize("inner", INNERS)
def test_with_a_loss_scaler_it_follows_the_steps_that_were_applied(inner, policy):
    ours, reference = linear(), linear()
    optimizer, other = (
        Lookahead(INNERS[inner](model.parameters()), 3, 0.5, policy) for model in (ours, reference)
    )
    scaled_run(ours, optimizer)
    plain_run(reference, other)
    # Scales are powers of two, so unscaling is exact.
    assert_same(dict(ours.state_dict()), dict(reference.state_dict()))
    groups = [opt.state_dict()["param_groups"][0] for opt in (optimizer, other)]
    assert [group["lookahead_count"] for group in groups] == [1, 1]
    assert [group["lookahead_syncs"] for group in groups] == [3, 3]


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_never_takes_it_for_one_that_scales_by_itself(fused):
    optimizer = Lookahead(torch.optim.Adam([single()], fused=fused))
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)


@pytest.mark.clause("C09")
def test_under_autocast_alpha_one_is_the_inner_optimizer():
    ours, bare = linear(), linear()
    for model, optimizer in (
        (ours, Lookahead(torch.optim.SGD(ours.parameters(), lr=0.1), 2, 1.0)),
        (bare, torch.optim.SGD(bare.parameters(), lr=0.1)),
    ):
        for step in range(5):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model, step)
                loss.backward()
                optimizer.step()
    assert_same(dict(ours.state_dict()), dict(bare.state_dict()))


@pytest.mark.clause("C15", "C28")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters_with_wide_slow_weights_follow_the_wide_run(dtype):
    narrow, wide = single(1.0, dtype), single(1.0)
    runs = [
        (
            weight,
            Lookahead(torch.optim.SGD([weight], lr=2.0**-5), 3, 0.25, slow_dtype=torch.float32),
        )
        for weight in (narrow, wide)
    ]
    for _ in range(30):
        for weight, optimizer in runs:
            pull_down(optimizer, weight)
    # Within one rounding of the parameter's dtype a cycle; the moves themselves add up in float32.
    assert narrow.item() == pytest.approx(wide.item(), abs=10 * torch.finfo(dtype).eps)
    assert wide.item() == 1.0 - 10 * 0.25 * 3 * 2.0**-5


@pytest.mark.clause("C28")
@pytest.mark.parametrize("policy", ["maintain", "reset", "interpolate"])
@pytest.mark.parametrize("kernel", ["foreach", "plain"])
def test_complex_parameters_move_as_their_real_and_imaginary_parts(kernel, policy):
    number = torch.nn.Parameter(torch.tensor([1.0 + 2.0j, -3.0 + 0.5j]))
    parts = torch.nn.Parameter(torch.view_as_real(number.detach()).clone())
    runs = [
        Lookahead(torch.optim.SGD([p], lr=0.1, momentum=0.9), 3, 0.3, policy, kernel=kernel)
        for p in (number, parts)
    ]
    for step in range(8):
        parts.grad = parts.detach() * (step + 1) / 8
        number.grad = torch.view_as_complex(parts.grad.clone())
        for optimizer in runs:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(number.detach()), parts.detach())


def test_tied_weights_are_one_leaf():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[1].weight = model[0].weight
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=1.0), 2, 0.5)
    start = model[0].weight.detach().clone()
    for _ in range(2):
        pull_down(optimizer, model[0].weight)
    torch.testing.assert_close(model[1].weight.detach(), start - 1.0)
    assert list(optimizer.state_dict()["state"]) == [0, 1, 2]


@pytest.mark.clause("C06", "C27")
def test_a_parameter_frozen_in_mid_cycle_stays_in_that_cycle_through_a_checkpoint():
    def run(restart):
        weight, frozen = single(), single()
        optimizer = Lookahead(torch.optim.SGD([weight, frozen], lr=1.0), 3, 0.5)
        pull_down(optimizer, weight, frozen)
        frozen.requires_grad_(False)
        if restart:
            optimizer.load_state_dict(flat(optimizer.state_dict()))
        for _ in range(2):
            pull_down(optimizer, weight)
        return weight.item(), frozen.item()

    assert run(restart=True) == run(restart=False) == (-1.5, -0.5)


@pytest.mark.clause("C06", "C27")
def test_a_parameter_unfrozen_in_mid_cycle_joins_at_the_next_one_through_a_checkpoint():
    weight, late = single(), single()
    late.requires_grad_(False)
    optimizer = Lookahead(torch.optim.SGD([weight, late], lr=1.0), 3, 0.5)
    pull_down(optimizer, weight)
    late.requires_grad_(True)
    pull_down(optimizer, weight, late)
    optimizer.load_state_dict(flat(optimizer.state_dict()))
    pull_down(optimizer, weight, late)
    assert (weight.item(), late.item()) == (-1.5, -2.0)
    for _ in range(3):
        pull_down(optimizer, weight, late)
    assert (weight.item(), late.item()) == (-3.0, -3.5)


def test_a_model_that_is_copied_with_its_optimizer_keeps_its_own_slow_weights():
    weight = single(1.0)
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 2, 0.5)
    twin_weight, twin = copy.deepcopy((weight, optimizer))
    for _ in range(2):
        pull_down(optimizer, weight)
    with twin.slow_weights():
        assert twin_weight.item() == 1.0
