"""The inner optimizers of the array loop: groups, schedules, clipping, arrays that are replaced.

That their formulas are torch's is ../array/test_inner_against_torch.py.
"""

import numpy as np
import pytest

from lookahead_core.adapters.numpy import (
    SGD,
    Adam,
    AdamW,
    Lookahead,
    clip_by_global_norm,
    clip_by_value,
    exponential,
    global_norm,
    one_cycle,
    warmup_cosine,
)


def read_only(values):
    array = np.asarray(values, dtype=float)
    array.flags.writeable = False
    return array


def tree():
    return {"head": {"bias": np.zeros(1), "w": np.zeros(1)}, "body": np.zeros(1)}


def ones():
    return {"head": {"bias": np.ones(1), "w": np.ones(1)}, "body": np.ones(1)}


# --- parameter groups ---


def test_a_leaf_takes_the_settings_of_the_first_group_that_its_path_fits():
    params = tree()
    groups = {"*/bias": {"lr": 4.0}, "head/*": {"lr": 2.0}}
    SGD(params, 1.0, groups=groups).step(ones())
    moved = (params["head"]["bias"].item(), params["head"]["w"].item(), params["body"].item())
    assert moved == (-4.0, -2.0, -1.0)


def test_a_group_may_change_between_steps_and_is_a_copy():
    params, groups = tree(), {"body": {"lr": 4.0}}
    optimizer = SGD(params, 1.0, groups=groups)
    groups["body"]["lr"] = 9.0
    optimizer.step(ones())
    optimizer.groups["body"]["lr"] = 8.0
    optimizer.step(ones())
    assert params["body"].item() == -12.0


@pytest.mark.clause("C06")
def test_the_rates_of_groups_are_part_of_the_state():
    optimizer, other = (SGD(tree(), 1.0, groups={"body": {"lr": 4.0}}) for _ in range(2))
    optimizer.groups["body"]["lr"] = 0.25
    other.load_state_dict(optimizer.state_dict())
    assert (other.lr, other.groups["body"]["lr"]) == (1.0, 0.25)


# --- schedules ---


def test_a_schedule_is_called_with_the_updates_before_this_one():
    params, seen = tree(), []
    optimizer = SGD(params, lambda step: seen.append(step) or 1.0)
    for _ in range(3):
        optimizer.step(ones())
    assert seen[-3:] == [0, 1, 2]


@pytest.mark.clause("C06", "C17")
def test_a_schedule_goes_on_after_a_reset_and_after_a_restart():
    params = [np.zeros(1)]
    optimizer = Lookahead(SGD(params, exponential(1.0, 0.5), 0.9), 2, 1.0, "reset")
    for _ in range(2):
        optimizer.step([np.ones(1)])
    other = Lookahead(SGD([np.zeros(1)], exponential(1.0, 0.5), 0.9), 2, 1.0, "reset")
    other.load_state_dict(optimizer.state_dict())
    other.step([np.ones(1)])
    assert other.params[0].item() == -0.25


def test_a_schedule_that_gives_no_rate_changes_nothing():
    params = tree()
    optimizer = SGD(params, lambda step: 1.0 if step < 1 else float("nan"))
    optimizer.step(ones())
    with pytest.raises(ValueError, match=r"lr\(1\) must be a finite number >= 0 .* got nan"):
        optimizer.step(ones())
    assert (params["body"].item(), optimizer.steps) == (-1.0, 1)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (warmup_cosine(4.0, 4, 8, 2.0), {0: 0, 1: 1, 4: 4, 6: 3, 8: 2, 99: 2}),
        (exponential(4.0, 0.5), {0: 4, 1: 2, 3: 0.5}),
        (one_cycle(4.0, 11, 2 / 11, 4.0, 10.0), {0: 1, 1: 4, 10: 0.1, 99: 0.1}),
        (one_cycle(4.0, 11, 1 / 11), {0: 4}),
    ],
)
def test_schedules_start_turn_and_end_where_they_say(schedule, rates):
    assert {step: pytest.approx(schedule(step)) for step in rates} == rates


# --- clipping ---


def test_the_global_norm_is_of_all_leaves_as_one_vector():
    grads = [np.asarray([3.0], "f4"), None, np.asarray(4.0j), np.asarray([12.0])]
    assert global_norm(grads) == 13.0


def test_the_norm_of_large_halves_does_not_overflow():
    assert global_norm([np.full(2, 3e4, np.float16)]) == pytest.approx(3e4 * 2**0.5, rel=1e-3)


def test_gradients_below_the_norm_are_left_alone_bit_for_bit():
    grads = {"a": np.asarray([0.1, 0.7]), "b": None}
    clipped = clip_by_global_norm(grads, 1.0)
    assert clipped["a"].tobytes() == grads["a"].tobytes()
    assert clip_by_global_norm([np.zeros(2)], 1.0)[0].tolist() == [0.0, 0.0]


def test_clipping_keeps_dtypes_and_its_arguments():
    grads = [np.asarray([3.0, 4.0], np.float16), np.asarray([3 - 4j], np.complex64), None]
    for clip in (clip_by_global_norm, clip_by_value):
        first, second, none = clip(grads, 1.0)
        assert (first.dtype, second.dtype, none) == (np.float16, np.complex64, None)
    assert clip_by_value(grads, 1.0)[1].tolist() == [1 - 1j]
    assert grads[0].tolist() == [3.0, 4.0]


def test_an_optimizer_clips_by_norm_and_then_by_value():
    params = [np.zeros(2)]
    SGD(params, 1.0, grad_clip_norm=5.0, grad_clip_value=3.5).step([np.asarray([6.0, 8.0])])
    assert params[0].tolist() == [-3.0, -3.5]


def test_all_that_braintools_lookahead_takes_is_here_in_one_formula():
    params, fast = [np.asarray([1.0, -2.0])], np.asarray([1.0, -2.0])
    inner = SGD(
        params, exponential(0.1, 0.5), weight_decay=0.1, grad_clip_norm=5.0, grad_clip_value=3.5
    )
    optimizer = Lookahead(inner, sync_period=2, alpha=0.25)
    slow = fast
    for step in range(4):
        grad = np.asarray([6.0, 8.0]) / (step + 1)
        optimizer.step([grad])
        grad = np.clip(grad * min(1.0, 5.0 / np.sqrt(np.sum(grad**2))), -3.5, 3.5)
        fast = fast - 0.1 * 0.5**step * (grad + 0.1 * fast)
        if step % 2 == 1:
            slow = fast = slow + 0.25 * (fast - slow)
    np.testing.assert_allclose(params[0], fast, rtol=1e-14)


# --- arrays that cannot be written to, and tied ones ---


@pytest.mark.parametrize("make", [SGD, Adam])
def test_read_only_arrays_are_replaced_by_read_only_ones_in_a_new_tree(make):
    given = {"w": read_only([1.0, 2.0]), "b": read_only(0.5), "own": np.ones(1)}
    optimizer = Lookahead(make(given, 0.5), 1, 0.5)
    optimizer.step({"w": np.ones(2), "b": np.asarray(1.0), "own": np.ones(1)})
    assert optimizer.params is not given
    assert optimizer.params["own"] is given["own"]
    assert (given["w"].tolist(), given["b"].item()) == ([1.0, 2.0], 0.5)
    assert optimizer.params["w"].tolist() == pytest.approx([0.75, 1.75])
    assert not optimizer.params["w"].flags.writeable
    assert isinstance(optimizer.params["b"], np.ndarray)


def test_arrays_that_can_be_written_to_keep_their_tree():
    params = tree()
    optimizer = Lookahead(Adam(params, 0.5), 1, 0.5)
    optimizer.step(ones())
    assert optimizer.params is params


@pytest.mark.clause("C31")
@pytest.mark.parametrize("array", [np.asarray, read_only])
def test_a_tied_array_moves_once_by_the_sum_of_its_gradients(array):
    shared, alone = array([1.0]), array([1.0])
    tied, single = Adam([shared, shared], 0.1), Adam([alone], 0.1)
    for _ in range(2):
        tied.step([np.asarray([1.0]), np.asarray([2.0])])
        single.step([np.asarray([3.0])])
    assert tied.params[0] is tied.params[1]
    assert tied.params[0].tobytes() == single.params[0].tobytes()


def test_a_tie_that_is_broken_is_refused_before_anything_moves():
    shared = np.zeros(1)
    optimizer = SGD([shared, shared], 1.0)
    optimizer.params[1] = np.zeros(1)
    with pytest.raises(ValueError, match=r"params\['0'\] was tied, and its listings are two"):
        optimizer.step([np.ones(1), np.ones(1)])
    assert shared.item() == 0.0


def test_a_tie_that_is_made_later_is_refused_before_anything_moves():
    params = [np.zeros(1), np.zeros(1)]
    optimizer = SGD(params, 1.0)
    params[1] = params[0]
    with pytest.raises(ValueError, match="as many arrays as they were, got one listed twice"):
        optimizer.step([np.ones(1), np.ones(1)])
    assert params[0].item() == 0.0


# --- what is refused ---


BASE = np.zeros(8)


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: SGD(p, 1.0, dampening=2.0), r"dampening must be .* \[0, 1\] .* got 2.0"),
        (lambda p: SGD(p, 1.0, 0.9, True, dampening=0.1), "dampening must be 0 with nesterov"),
        (lambda p: SGD(p, 1.0, nesterov=0.9), "nesterov must be True or False .* got 0.9"),
        (lambda p: SGD(p, lambda step: -1.0), r"lr\(0\) must be a finite number >= 0 .* got -1.0"),
        (lambda p: SGD(p, 1.0, decoupled_weight_decay=0.1), "decoupled_weight_decay must be True"),
        (lambda p: SGD(p, 1.0, grad_clip_norm=0), "grad_clip_norm must be .* > 0 .* got 0"),
        (lambda p: SGD(p, 1.0, grad_clip_value=-1), "grad_clip_value must be .* > 0 .* got -1"),
        (lambda p: SGD(p, 1.0, groups={"x": {"lr": 1}}), r"groups\['x'\] must be the path of"),
        (lambda p: SGD(p, 1.0, groups={"*": {"eps": 1}}), r"groups\['\*'\] must .* got \['eps'\]"),
        (lambda p: SGD(p, 1.0, groups={"*": {"lr": -1}}), "lr must be .* got -1"),
        (lambda p: Adam(p, betas=(0.9, 1.0)), r"betas\[1\] must be a number in \[0, 1\) .* 1.0"),
        (lambda p: Adam(p, betas=0.9), r"betas must be a pair of numbers in \[0, 1\), got 0.9"),
        (lambda p: Adam(p, eps=-1e-8), "eps must be .* got -1e-08"),
        (lambda p: AdamW(p, weight_decay=-1), "weight_decay must be .* got -1"),
        (lambda p: Adam([np.ones(1, complex)]), "params must be real for Adam, .* complex128"),
        (lambda p: SGD([BASE[:5], BASE[3:]], 1.0), r"params\['0'\] and params\['1'\], which share"),
        (lambda p: SGD([BASE, BASE.T[::-1]], 1.0), "which share memory"),
        (lambda p: warmup_cosine(1.0, 5, 5), "total_steps must be > 5 .* got 5"),
        (lambda p: warmup_cosine(-1.0, 5, 9), "peak_lr must be .* got -1.0"),
        (lambda p: exponential(1.0, 1.5), "gamma must be .* got 1.5"),
        (lambda p: one_cycle(1.0, 9, 1.0), r"warmup_fraction must be .* \[0, 1\) .* got 1.0"),
        (lambda p: one_cycle(1.0, 9, start_factor=0), "start_factor must be .* got 0"),
        (lambda p: clip_by_value(p, 0.0), "max_value must be .* got 0.0"),
        (lambda p: clip_by_global_norm(p, float("nan")), "max_norm must be .* got nan"),
        (lambda p: global_norm([None]), "grads must hold at least one gradient, got none"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make([np.ones(2)])


def test_views_that_do_not_overlap_are_arrays_of_their_own():
    base = np.zeros(6)
    params = [base[::2], base[1::2]]
    Lookahead(SGD(params, 1.0), 1, 0.5).step([np.ones(3), 3 * np.ones(3)])
    assert base.tolist() == [-0.5, -1.5] * 3


@pytest.mark.clause("C25")
def test_a_complex_gradient_for_a_real_leaf_is_refused():
    params = [np.zeros(1)]
    with pytest.raises(ValueError, match=r"grads\[0\] must be real as params\[0\] is, float64"):
        SGD(params, 1.0).step([np.ones(1, complex)])


@pytest.mark.clause("C06", "C25")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, r"state_dict\['steps'\] must be an int >= 0, got -1"),
        ({"steps": True}, "must be an int >= 0, got True"),
        ({"count/0": np.zeros(1, np.int32)}, r"state_dict\['count/0'\] must have shape"),
        ({"lr": float("nan")}, r"state_dict\['lr'\] must be .* got nan"),
    ],
)
def test_a_state_that_does_not_match_changes_nothing(change, message):
    optimizer, source = Adam([np.zeros(2)], 0.1), Adam([np.zeros(2)], 0.2)
    source.step([np.ones(2)])
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict({**source.state_dict(), **change})
    assert repr(optimizer.state_dict()) == repr(before)


@pytest.mark.clause("C06")
def test_a_schedule_takes_no_saved_rate():
    with pytest.raises(ValueError, match=r"unknown \['lr'\]"):
        SGD([np.zeros(1)], exponential(1.0, 0.5)).load_state_dict({"steps": 0, "lr": 1.0})
