"""The torch adapter follows the paper, whatever happens around it."""

import pytest
import torch

from lookahead_core import interpolate
from lookahead_core.adapters.torch import Lookahead
from reference_loop import (
    POLICIES,
    START,
    STEPS,
    K,
    Sync,
    distance,
    momentum_trajectory,
)
from torch_runs import (
    DOUBLE,
    INNERS,
    Quadratic,
    adam,
    generator,
    make,
    pull_down,
    sgd,
    single,
    train,
)


@pytest.mark.clause("C01", "C02", "C16", "C17", "C18")
@pytest.mark.parametrize("policy", POLICIES)
def test_the_trajectory_with_momentum_is_algorithm_1(policy):
    model = Quadratic()
    optimizer, fast, slow = make(model, policy), [], []
    for _ in range(STEPS):
        train(optimizer, model, 1)
        fast.append(model.x.tolist())
        with optimizer.slow_weights():
            slow.append(model.x.tolist())
    expected = momentum_trajectory(policy)
    assert distance(fast, expected.fast) <= 1e-12
    assert distance(slow, expected.slow) <= 1e-12


def adam_trajectory(policy):
    """torch's own Adam with a sync around it that is written by hand."""
    model = Quadratic()
    bare = adam([model.x])
    sync, fast, slow = Sync(list(START), policy, [[0.0] * 3, [0.0] * 3]), [], []
    for _ in range(STEPS):
        model.backward()
        bare.step()
        state = bare.state[model.x]
        moments = [state["exp_avg"].tolist(), state["exp_avg_sq"].tolist()]
        weights, (first, second), restart = sync(model.x.tolist(), moments)
        with torch.no_grad():
            model.x.copy_(torch.tensor(weights, dtype=DOUBLE))
            state["exp_avg"].copy_(torch.tensor(first, dtype=DOUBLE))
            state["exp_avg_sq"].copy_(torch.tensor(second, dtype=DOUBLE))
            if restart:
                state["step"].zero_()
        fast.append(weights)
        slow.append(list(sync.slow))
    return fast, slow


@pytest.mark.clause("C01", "C02", "C16", "C17", "C18")
@pytest.mark.parametrize("policy", POLICIES)
def test_the_trajectory_with_adam_is_algorithm_1(policy):
    model = Quadratic()
    optimizer, fast, slow = make(model, policy, adam), [], []
    for _ in range(STEPS):
        train(optimizer, model, 1)
        fast.append(model.x.tolist())
        with optimizer.slow_weights():
            slow.append(model.x.tolist())
    expected_fast, expected_slow = adam_trajectory(policy)
    assert distance(fast, expected_fast) <= 1e-12
    assert distance(slow, expected_slow) <= 1e-12


@pytest.mark.clause("C04")
def test_a_period_of_one_around_plain_sgd_is_sgd_at_alpha_times_the_rate():
    ours, control = Quadratic(), Quadratic()
    optimizer = Lookahead(torch.optim.SGD(ours.parameters(), lr=0.1), 1, 0.3)
    train(optimizer, ours, 10)
    train(torch.optim.SGD(control.parameters(), lr=0.03), control, 10)
    torch.testing.assert_close(ours.x, control.x, rtol=1e-13, atol=0)


@pytest.mark.clause("C09")
@pytest.mark.parametrize("inner", INNERS)
def test_alpha_one_is_the_inner_optimizer_bit_for_bit(inner):
    ours, bare = Quadratic(), Quadratic()
    train(Lookahead(INNERS[inner](ours.parameters()), K, 1.0), ours, STEPS)
    train(INNERS[inner](bare.parameters()), bare, STEPS)
    assert torch.equal(ours.x, bare.x)


@pytest.mark.clause("C13")
def test_with_alpha_zero_the_slow_weights_never_move():
    model = Quadratic()
    optimizer = Lookahead(sgd(model.parameters()), K, 0.0)
    for _ in range(3):
        train(optimizer, model, K)
        assert model.x.tolist() == list(START)


@pytest.mark.clause("C10", "C22")
def test_fast_equals_slow_after_a_sync():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, K)
    fast = model.x.tolist()
    saved = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert saved.tolist() == fast
    assert saved.data_ptr() != model.x.data_ptr()


@pytest.mark.clause("C05")
def test_a_forced_sync_restarts_the_counter():
    weight, trace = single(), []
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 3, 0.5)
    for step in range(6):
        pull_down(optimizer, weight)
        if step == 1:
            optimizer.sync()
        trace.append(weight.item())
    assert trace == [-1.0, -1.0, -2.0, -3.0, -2.5, -3.5]


@pytest.mark.clause("C11")
def test_a_parameter_without_a_gradient_at_step_k_is_still_synced():
    first, second = single(), single()
    optimizer = Lookahead(torch.optim.SGD([first, second], lr=1.0), 5, 0.5)
    for step in range(1, 6):
        pull_down(optimizer, *([first] if step == 5 else [first, second]))
    assert (first.item(), second.item()) == (-2.5, -2.0)


@pytest.mark.clause("C03", "C12")
@pytest.mark.filterwarnings("ignore:.*GradScaler.*:UserWarning")
def test_a_step_that_the_loss_scaler_skips_does_not_count():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 3, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    trace = []
    for step in range(5):
        optimizer.zero_grad()
        loss = weight.sum() * (float("inf") if step in (1, 2) else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        trace.append(weight.item())
    assert trace == [-1.0, -1.0, -1.0, -2.0, -1.5]


@pytest.mark.clause("C12")
def test_a_nan_gradient_that_does_not_sync_leaves_the_slow_weights_alone():
    weight = single(1.0)
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 3, 0.5)
    weight.grad = torch.tensor([float("nan")])
    optimizer.step()
    with optimizer.slow_weights():
        assert weight.item() == 1.0


@pytest.mark.clause("C15")
@pytest.mark.parametrize(("slow_dtype", "moved"), [(None, False), (torch.float32, True)])
def test_bfloat16_weights_move_with_float32_slow_weights(slow_dtype, moved):
    weight = single(1.0, torch.bfloat16)
    inner = torch.optim.SGD([weight], lr=2.0**-7, maximize=True)
    optimizer = Lookahead(inner, 1, 0.25, slow_dtype=slow_dtype)
    for _ in range(8):
        pull_down(optimizer, weight)
    assert weight.dtype == torch.bfloat16
    assert (weight.item() > 1.0) is moved


@pytest.mark.clause("C26")
@pytest.mark.parametrize("slow_dtype", [None, torch.float64])
def test_weights_loaded_between_cycles_are_where_the_next_one_starts(slow_dtype):
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 2, 0.5, slow_dtype=slow_dtype)
    for value in (10.0, 100.0):
        weight.data.copy_(torch.tensor([value]))  # .data: the version counter does not see it
        with optimizer.slow_weights():
            assert weight.item() == value
        pull_down(optimizer, weight)
        pull_down(optimizer, weight)
        assert weight.item() == value - 1.0


@pytest.mark.clause("C26")
def test_weights_changed_in_mid_cycle_leave_the_anchor():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 2, 0.5)
    pull_down(optimizer, weight)
    weight.data.fill_(11.0)
    pull_down(optimizer, weight)
    assert weight.item() == 5.0


@pytest.mark.clause("C26")
def test_a_forced_sync_at_the_start_of_a_cycle_does_not_pull_loaded_weights_back():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), 2, 0.5)
    weight.data.fill_(10.0)
    optimizer.sync()
    assert weight.item() == 10.0


@pytest.mark.clause("C27")
def test_a_frozen_parameter_edited_from_outside_is_left_alone():
    weight, frozen = single(), single()
    frozen.requires_grad_(False)
    optimizer = Lookahead(torch.optim.SGD([weight, frozen], lr=1.0), 2, 0.5)
    pull_down(optimizer, weight)
    frozen.fill_(9.0)
    pull_down(optimizer, weight)
    assert (weight.item(), frozen.item()) == (-1.0, 9.0)


@pytest.mark.clause("C01", "C27")
def test_a_parameter_unfrozen_later_joins_at_the_next_cycle():
    weight, late = single(), single()
    late.requires_grad_(False)
    optimizer = Lookahead(torch.optim.SGD([weight, late], lr=1.0), 2, 0.5)
    pull_down(optimizer, weight)
    late.requires_grad_(True)
    pull_down(optimizer, weight, late)
    assert late.item() == -1.0
    pull_down(optimizer, weight, late)
    pull_down(optimizer, weight, late)
    assert late.item() == -2.0


FAMILIES = {
    "Adam with amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "RAdam": torch.optim.RAdam,
    "Adamax": torch.optim.Adamax,
    "RMSprop": lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
    "Adadelta": torch.optim.Adadelta,
    "Adafactor": torch.optim.Adafactor,
}


@pytest.mark.clause("C17", "C18")
@pytest.mark.parametrize(("policy", "left"), [("reset", 0.0), ("interpolate", 0.5)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_policies_act_on_all_of_the_inner_state(family, policy, left):
    ours, bare = single(1.0), single(1.0)
    optimizer, inner = Lookahead(FAMILIES[family]([ours]), 1, 0.5, policy), FAMILIES[family]([bare])
    pull_down(optimizer, ours)
    pull_down(inner, bare)
    state, full = optimizer.inner.state[ours], inner.state[bare]
    assert state.keys() == full.keys()
    for key in full:
        share = {"reset": 0.0, "interpolate": 1.0}[policy] if key == "step" else left
        assert state[key].sum().item() == pytest.approx(share * full[key].sum().item()), key


@pytest.mark.clause("C07", "C08")
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_formula_is_torchs_own_at_one_half(dtype):
    slow, fast = torch.randn(2, 10_000, dtype=dtype, generator=generator(0))
    assert torch.equal(interpolate(slow, fast, 0.5), torch.lerp(slow, fast, 0.5))


@pytest.mark.clause("C15")
def test_a_narrower_slow_dtype_narrows_nothing():
    wide, narrow = single(1.0, DOUBLE), single(1.0, torch.bfloat16)
    inner = torch.optim.SGD([wide, narrow], lr=1.0)
    optimizer = Lookahead(inner, 2, 0.5, slow_dtype=torch.float32)
    for _ in range(3):
        pull_down(optimizer, wide, narrow)
        saved = optimizer.state_dict()["state"]
        dtypes = [saved[i]["lookahead_slow"].dtype for i in (0, 1)]
        assert dtypes == [DOUBLE, torch.float32]
