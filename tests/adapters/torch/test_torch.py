"""The torch adapter: the paper's trajectory, a true Optimizer, resuming, what is refused."""

import copy
import io
import pickle

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from lookahead_core import lookahead
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from lookahead_core.conformance import KERNEL_CHECKS
from reference_loop import (
    ALPHA,
    LEARNING_RATE,
    MOMENTUM,
    POLICIES,
    START,
    STEPS,
    A,
    B,
    K,
    Sync,
    distance,
    momentum_trajectory,
)

DOUBLE = torch.float64


class Quadratic(torch.nn.Module):
    """The oracle's quadratic, and a second parameter."""

    def __init__(self):
        super().__init__()
        self.x = torch.nn.Parameter(torch.tensor(START, dtype=DOUBLE))
        self.y = torch.nn.Parameter(torch.ones(2, dtype=DOUBLE))

    def backward(self):
        """Give both parameters the gradient of the oracle's loss and of y'y/4."""
        self.zero_grad()
        a, b = torch.tensor(A, dtype=DOUBLE), torch.tensor(B, dtype=DOUBLE)
        (self.x @ a @ self.x / 2 - b @ self.x + self.y @ self.y / 4).backward()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=LEARNING_RATE)


INNERS = {"sgd": sgd, "adam": adam}


def make(model, policy="maintain", inner=sgd):
    return Lookahead(inner(model.parameters()), K, ALPHA, policy)


def train(optimizer, model, steps):
    for _ in range(steps):
        model.backward()
        optimizer.step()


def single(value=0.0, dtype=torch.float32):
    return torch.nn.Parameter(torch.tensor([value], dtype=dtype))


def pull_down(optimizer, *parameters):
    """One step with a gradient of one for `parameters`, and none for the others."""
    optimizer.zero_grad()
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def flat(value):
    """A nested state as comparable bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


def assert_same(ours, theirs, where="state"):
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}[{key!r}]")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for index, (mine, yours) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(mine, yours, f"{where}[{index}]")
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


def snapshot(model, optimizer):
    return flat({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})


# --- the trajectory ---


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


@pytest.mark.clause("C07", "C08", "C10", "C23", "C26")
@pytest.mark.parametrize("clause", KERNEL_CHECKS)
def test_the_kernel_holds_its_contract(clause):
    import array_api_compat.torch as xp

    from lookahead_core.adapters._torch_kernel import IN_PLACE

    KERNEL_CHECKS[clause](IN_PLACE, xp)


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


# --- a true Optimizer ---


def test_it_is_a_torch_optimizer_with_the_inner_ones_groups_state_and_defaults():
    model = Quadratic()
    optimizer = make(model)
    assert isinstance(optimizer, torch.optim.Optimizer)
    train(optimizer, model, 1)
    optimizer.inner.load_state_dict(optimizer.inner.state_dict())  # replaces list and dicts
    assert optimizer.param_groups is optimizer.inner.param_groups
    assert optimizer.state is optimizer.inner.state
    assert optimizer.defaults is optimizer.inner.defaults
    assert repr(optimizer).startswith("Lookahead(SyncRule(sync_period=5")


def test_all_hooks_fire_once():
    model = Quadratic()
    optimizer, seen = make(model), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("step pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("step post"))
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("save pre"))
    optimizer.register_state_dict_post_hook(lambda *_: seen.append("save post"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("load pre"))
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("load post"))
    train(optimizer, model, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [*("step pre", "step post"), *("save pre", "save post", "load pre", "load post")]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.5**epoch),
        lambda optimizer: OneCycleLR(optimizer, max_lr=0.4, total_steps=10),
    ],
    ids=["LambdaLR", "OneCycleLR"],
)
def test_a_learning_rate_scheduler_moves_the_inner_rate(schedule):
    ours, bare = Quadratic(), Quadratic()
    optimizer, inner = Lookahead(sgd(ours.parameters()), K, 1.0), sgd(bare.parameters())
    scheduler, control = schedule(optimizer), schedule(inner)
    for _ in range(6):
        for model, opt, sched in ((ours, optimizer, scheduler), (bare, inner, control)):
            train(opt, model, 1)
            sched.step()
    assert optimizer.inner.param_groups[0]["lr"] == inner.param_groups[0]["lr"] != LEARNING_RATE
    assert torch.equal(ours.x, bare.x)


def test_a_scheduler_goes_on_after_a_load():
    model = Quadratic()
    optimizer = make(model)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    train(optimizer, model, 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.inner.param_groups[0]["lr"] < LEARNING_RATE / 5


def test_a_closure_reaches_the_inner_optimizer():
    model = Quadratic()
    optimizer = Lookahead(torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=2), 3, 0.5)
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = ((model.x - 3.0) ** 2).sum() + (model.y**2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(6)]
    assert len(calls) > 6
    assert losses[-1] < losses[0] / 10
    assert optimizer.state_dict()["param_groups"][0]["lookahead_syncs"] == 2


def test_zero_grad_takes_torchs_argument():
    weight = single()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0))
    weight.grad = torch.ones(1)
    optimizer.zero_grad(set_to_none=False)
    assert weight.grad.item() == 0.0
    optimizer.zero_grad()
    assert weight.grad is None


@pytest.mark.clause("C01", "C02")
def test_a_group_added_in_mid_cycle_syncs_with_the_others():
    first, second = single(), single(dtype=DOUBLE)
    optimizer = Lookahead(torch.optim.SGD([first], lr=1.0), 3, 0.5)
    pull_down(optimizer, first)
    optimizer.add_param_group({"params": [second], "lr": 10.0})
    pull_down(optimizer, first, second)
    pull_down(optimizer, first, second)
    assert (first.item(), second.item()) == (-1.5, -10.0)


def test_a_parameter_listed_twice_is_synced_once():
    weight = single()
    with pytest.warns(UserWarning, match="duplicate parameters"):
        inner = torch.optim.SGD([weight, weight], lr=1.0, foreach=False)
    optimizer = Lookahead(inner, 2, 0.5)
    for _ in range(2):
        pull_down(optimizer, weight)
    assert weight.item() == -2.0


def test_making_one_leaves_the_inner_class_and_other_instances_alone():
    before = {name: value for name, value in vars(torch.optim.SGD).items() if callable(value)}
    weight = single()
    bare = torch.optim.SGD([weight], lr=1.0)
    Lookahead(torch.optim.SGD([single()], lr=1.0))
    assert {n: v for n, v in vars(torch.optim.SGD).items() if callable(v)} == before
    pull_down(bare, weight)
    assert weight.item() == -1.0


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_goes_on_by_itself(copy_of):
    model = Quadratic()
    optimizer = make(model, "interpolate")
    train(optimizer, model, 7)
    twin_model, twin = copy_of((model, optimizer))
    train(optimizer, model, 6)
    train(twin, twin_model, 6)
    assert torch.equal(twin_model.x, model.x)
    assert twin_model.x is not model.x
    twin.register_step_post_hook(lambda *_: None)


def test_a_model_converted_after_wrapping_is_followed():
    model = torch.nn.Linear(2, 1)
    optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1), 2, 0.5)
    model.double()
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(1, 2, dtype=DOUBLE)).sum().backward()
        optimizer.step()
    slow = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert slow.dtype == DOUBLE


def test_the_slow_weights_hold_no_graph():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, K + 1)
    slow = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert not slow.requires_grad
    assert slow.grad_fn is None
    assert model.x.is_leaf


# --- evaluation ---


@pytest.mark.clause("C22")
def test_evaluating_on_slow_weights_leaves_training_bitwise_unchanged():
    read, unread = Quadratic(), Quadratic()
    optimizer, other = make(read), make(unread)
    for _ in range(STEPS):
        train(optimizer, read, 1)
        fast = read.x.tolist()
        with optimizer.slow_weights():
            outer = read.x.tolist()
            with optimizer.slow_weights():
                assert read.x.tolist() == outer
            assert read.x.tolist() == outer
        assert read.x.tolist() == fast
        train(other, unread, 1)
    assert torch.equal(read.x, unread.x)


@pytest.mark.clause("C22")
def test_the_fast_weights_come_back_after_an_exception():
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    fast = model.x.tolist()

    def fail_on_the_slow_weights():
        with optimizer.slow_weights():
            assert model.x.tolist() == list(START)
            raise KeyError("evaluation failed")

    with pytest.raises(KeyError, match="evaluation failed"):
        fail_on_the_slow_weights()
    assert model.x.tolist() == fast
    train(optimizer, model, 1)


@pytest.mark.clause("C25")
@pytest.mark.parametrize("action", ["step", "sync", "state_dict", "load_state_dict"])
def test_the_optimizer_refuses_to_act_while_the_slow_weights_are_in(action):
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, 2)
    saved = optimizer.state_dict()
    before = snapshot(model, optimizer)
    with optimizer.slow_weights():
        arguments = (saved,) if action == "load_state_dict" else ()
        with pytest.raises(RuntimeError, match=rf"{action}\(\) inside slow_weights\(\)"):
            getattr(optimizer, action)(*arguments)
    assert_same(snapshot(model, optimizer), before)


# --- checkpoints ---


@pytest.mark.clause("C06")
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("phase", range(K))
def test_a_run_resumed_at_any_phase_goes_on_bitwise(phase, policy, inner):
    whole = Quadratic()
    train(make(whole, policy, INNERS[inner]), whole, STEPS)
    first = Quadratic()
    before = make(first, policy, INNERS[inner])
    train(before, first, K + phase)
    saved = snapshot(first, before)
    second = Quadratic()
    after = make(second, policy, INNERS[inner])
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    train(after, second, STEPS - K - phase)
    assert torch.equal(second.x, whole.x)
    assert torch.equal(second.y, whole.y)


@pytest.mark.clause("C06", "C15")
def test_wide_slow_weights_stay_wide_through_a_checkpoint():
    weight = single(1.0, torch.bfloat16)
    inner = torch.optim.SGD([weight], lr=2.0**-7, maximize=True)
    optimizer = Lookahead(inner, 1, 0.25, slow_dtype=torch.float32)
    pull_down(optimizer, weight)
    saved = flat(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    slow = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert slow.dtype == torch.float32
    assert slow.item() == 1.0 + 2.0**-9


@pytest.mark.clause("C06")
def test_saving_changes_nothing_and_leaves_the_inner_state_clean():
    model = Quadratic()
    optimizer = make(model, "interpolate", adam)
    train(optimizer, model, 7)
    keys = [set(state) for state in optimizer.state.values()]
    before = snapshot(model, optimizer)
    assert_same(snapshot(model, optimizer), before)
    assert [set(state) for state in optimizer.state.values()] == keys
    assert "lookahead_count" not in optimizer.param_groups[0]


def test_a_checkpoint_of_the_inner_optimizer_alone_loads_with_a_warning():
    model = Quadratic()
    inner = sgd(model.parameters())
    train(inner, model, 3)
    optimizer = make(model)
    train(optimizer, model, 2)
    with pytest.warns(UserWarning, match="no lookahead_.* entries"):
        optimizer.load_state_dict(copy.deepcopy(inner.state_dict()))
    here = model.x.tolist()
    with optimizer.slow_weights():
        assert model.x.tolist() == here
    assert optimizer.state_dict()["param_groups"][0]["lookahead_count"] == 0


def drop(state, key):
    del state["state"][0][key]


BAD_STATES = {
    "slow of another shape": (
        lambda s: s["state"][0].update(lookahead_slow=torch.ones(2)),
        r"\['state'\]\[0\]\['lookahead_slow'\] must have the shape .* \(3,\), got \(2,\)",
    ),
    "moment of another shape": (
        lambda s: s["state"][0].update(exp_avg=torch.ones(2)),
        r"\['exp_avg'\] must have the shape",
    ),
    "no slow weights": (lambda s: drop(s, "lookahead_slow"), "no lookahead_slow for trainable"),
    "no groups": (lambda s: s.pop("param_groups"), "must have the key 'param_groups'"),
    "another number of parameters": (
        lambda s: s["param_groups"][0]["params"].pop(),
        r"must hold groups of \[2\] parameters, got \[1\]",
    ),
    "an unknown parameter": (lambda s: s["state"].update({9: {}}), "numbers of parameters, got 9"),
    "another period": (
        lambda s: s["param_groups"][0].update(lookahead_sync_period=7),
        "sync_period=7, this optimizer has sync_period=5",
    ),
    "another alpha": (
        lambda s: s["param_groups"][0].update(lookahead_alpha=0.8),
        "alpha=0.8, this optimizer has alpha=0.5",
    ),
}


@pytest.mark.clause("C06", "C25")
@pytest.mark.parametrize("case", BAD_STATES)
def test_a_state_that_does_not_match_changes_nothing(case):
    damage, message = BAD_STATES[case]
    model, other = Quadratic(), Quadratic()
    optimizer, source = make(model, "interpolate", adam), make(other, "interpolate", adam)
    train(optimizer, model, 3)
    train(source, other, 8)
    saved = copy.deepcopy(source.state_dict())
    damage(saved)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert_same(snapshot(model, optimizer), before)


# --- what is refused ---


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda inner: Lookahead(inner, sync_period=2.5), "sync_period must be .* got 2.5"),
        (lambda inner: Lookahead(inner, alpha=7), "alpha must be .* got 7"),
        (lambda inner: Lookahead(inner, inner_state="x"), "inner_state must be .* got 'x'"),
        (lambda inner: MetaOptimizer(inner, 5), "rule must be a SyncRule, got 5"),
        (lambda inner: Lookahead([single()]), "inner must be a torch.optim.Optimizer, got"),
        (lambda inner: Lookahead(inner, slow_dtype=torch.int32), "slow_dtype must be a floating"),
        (lambda inner: Lookahead(inner, slow_dtype="f4"), "slow_dtype must be a floating"),
    ],
)
def test_settings_out_of_range_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it(torch.optim.SGD([single()], lr=0.1))


@pytest.mark.clause("C25")
@pytest.mark.parametrize("closure", [None, lambda: torch.tensor(0.0)], ids=["plain", "closure"])
@pytest.mark.parametrize("steps", [0, K - 1], ids=["cycle start", "sync due"])
def test_a_gradient_missing_for_all_parameters_changes_nothing(closure, steps):
    model = Quadratic()
    optimizer = make(model)
    train(optimizer, model, steps)
    model.zero_grad()
    before = snapshot(model, optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) needs a gradient: no parameter has one"):
        optimizer.step(closure)
    assert_same(snapshot(model, optimizer), before)


@pytest.mark.clause("C17", "C18", "C25")
@pytest.mark.parametrize("policy", ["reset", "interpolate"])
def test_an_inner_state_that_the_policy_does_not_know_is_named(policy):
    weight = single()
    optimizer = MetaOptimizer(torch.optim.Rprop([weight]), lookahead(2, 0.5, policy))
    pull_down(optimizer, weight)
    before = flat([weight.detach(), optimizer.inner.state_dict()])
    with pytest.raises(ValueError, match=rf"inner_state='{policy}' does not know .* of Rprop"):
        pull_down(optimizer, weight)
    assert_same(flat([weight.detach(), optimizer.inner.state_dict()]), before)


@pytest.mark.clause("C16")
def test_maintain_works_around_any_state():
    weight = single()
    optimizer = Lookahead(torch.optim.Rprop([weight], lr=1.0), 2, 0.5)
    for _ in range(4):
        pull_down(optimizer, weight)
    assert weight.item() < 0.0
