"""The array loop on NumPy: the paper's trajectory, edited weights, what is refused."""

import subprocess
import sys
import weakref
from enum import Enum
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import optree
import pytest

from array_runs import assert_unchanged, gradients, make, snapshot, start, train
from lookahead_core import SyncRule, lookahead
from lookahead_core.adapters.numpy import SGD, Lookahead, MetaOptimizer, load, save
from reference_loop import (
    ALPHA,
    LEARNING_RATE,
    MOMENTUM,
    POLICIES,
    START,
    STEPS,
    K,
    distance,
    momentum_trajectory,
)


@pytest.mark.clause("C01", "C02", "C16", "C17", "C18")
@pytest.mark.parametrize("policy", POLICIES)
def test_the_trajectory_is_algorithm_1(policy):
    params = start()
    optimizer, fast, slow = make(params, policy), [], []
    for _ in range(STEPS):
        optimizer.step(gradients(params))
        fast.append(params["layer"]["x"].tolist())
        slow.append(optimizer.slow_weights()["layer"]["x"].tolist())
    expected = momentum_trajectory(policy)
    assert distance(fast, expected.fast) <= 1e-12
    assert distance(slow, expected.slow) <= 1e-12


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_its_formula(nesterov):
    params, grad = [np.asarray([1.0, -2.0])], [np.asarray([0.5, 0.25])]
    p, v = params[0].copy(), np.zeros(2)
    optimizer = SGD(params, 0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    for _ in range(5):
        optimizer.step(grad)
        g = grad[0] + 0.01 * p
        v = 0.9 * v + g
        p = p - 0.1 * (g + 0.9 * v if nesterov else v)
    np.testing.assert_allclose(params[0], p, rtol=1e-15)


@pytest.mark.clause("C04")
def test_a_period_of_one_around_plain_sgd_is_sgd_at_alpha_times_the_rate():
    ours, control = [np.asarray([1.0, -2.0])], [np.asarray([1.0, -2.0])]
    optimizer, scaled = Lookahead(SGD(ours, 0.1), 1, 0.3), SGD(control, 0.03)
    for _ in range(10):
        optimizer.step([ours[0] ** 3])
        scaled.step([control[0] ** 3])
    np.testing.assert_allclose(ours[0], control[0], rtol=1e-14)


@pytest.mark.clause("C09")
def test_alpha_one_is_the_inner_optimizer_bit_for_bit():
    ours, bare = start(), start()
    optimizer = Lookahead(SGD(ours, LEARNING_RATE, MOMENTUM), K, 1.0)
    inner = SGD(bare, LEARNING_RATE, MOMENTUM)
    for _ in range(STEPS):
        optimizer.step(gradients(ours))
        inner.step(gradients(bare))
    assert ours["layer"]["x"].tobytes() == bare["layer"]["x"].tobytes()


@pytest.mark.clause("C05")
def test_a_forced_sync_restarts_the_counter():
    params = [np.zeros(1)]
    optimizer = Lookahead(SGD(params, 1.0), 3, 0.5)
    trace = []
    for step in range(6):
        optimizer.step([np.ones(1)])
        if step == 1:
            optimizer.sync()
        trace.append(params[0].item())
    assert trace == [-1.0, -1.0, -2.0, -3.0, -2.5, -3.5]


@pytest.mark.clause("C11")
def test_a_leaf_without_a_gradient_at_step_k_is_still_synced():
    params = [np.zeros(1), np.zeros(1)]
    optimizer = Lookahead(SGD(params, 1.0), 5, 0.5)
    for step in range(1, 6):
        optimizer.step([np.ones(1), None if step == 5 else np.ones(1)])
    assert [p.item() for p in params] == [-2.5, -2.0]


@pytest.mark.clause("C12")
def test_a_nan_gradient_that_does_not_sync_leaves_the_slow_weights_alone():
    params = [np.ones(2)]
    optimizer = Lookahead(SGD(params, 0.1), 5, 0.5)
    optimizer.step([np.asarray([np.nan, np.inf])])
    assert optimizer.slow_weights()[0].tolist() == [1.0, 1.0]


@pytest.mark.clause("C13")
def test_with_alpha_zero_the_slow_weights_never_move():
    params = start()
    optimizer = Lookahead(SGD(params, LEARNING_RATE, MOMENTUM), K, 0.0)
    for _ in range(3):
        train(optimizer, params, K)
        assert params["layer"]["x"].tolist() == list(START)


@pytest.mark.clause("C14")
def test_an_integer_leaf_keeps_its_live_value():
    params = {"w": np.zeros(1), "n": np.zeros(1, dtype=np.int64)}
    optimizer = Lookahead(SGD(params, 1.0), 2, 0.5)
    for step in (1, 2):
        params["n"][...] = step
        optimizer.step({"w": np.ones(1), "n": None})
    assert (params["w"].item(), params["n"].item()) == (-1.0, 2)


@pytest.mark.clause("C15")
def test_bfloat16_weights_move_with_float32_slow_weights():
    moves = {}
    for slow_dtype in (None, np.float32):
        params = [np.ones(1, dtype=ml_dtypes.bfloat16)]
        optimizer = Lookahead(SGD(params, 1.0), 1, 0.25, slow_dtype=slow_dtype)
        for _ in range(8):
            optimizer.step([np.full(1, -0.0078125, dtype=ml_dtypes.bfloat16)])
        assert params[0].dtype == ml_dtypes.bfloat16
        moves[slow_dtype] = float(params[0][0])
    assert moves[None] == 1.0
    assert moves[np.float32] > 1.0


@pytest.mark.clause("C20")
def test_arrays_are_updated_in_place_and_gradients_are_not():
    params, grad = start(), gradients(start())
    buffers = (params["layer"]["x"], params["other"][0])
    optimizer = make(params, "interpolate")
    for _ in range(K):
        optimizer.step(grad)
    assert params["layer"]["x"] is buffers[0]
    assert params["other"][0] is buffers[1]
    np.testing.assert_array_equal(grad["layer"]["x"], gradients(start())["layer"]["x"])


@pytest.mark.clause("C22")
def test_reading_the_slow_weights_changes_nothing():
    read, unread = start(), start()
    optimizer, other = make(read), make(unread)
    for _ in range(STEPS):
        optimizer.step(gradients(read))
        optimizer.slow_weights()["layer"]["x"][...] = 77.0  # a copy: this must not matter
        other.step(gradients(unread))
    assert read["layer"]["x"].tobytes() == unread["layer"]["x"].tobytes()


@pytest.mark.clause("C26")
@pytest.mark.parametrize("slow_dtype", [None, np.longdouble])
def test_weights_loaded_between_cycles_are_where_the_next_one_starts(slow_dtype):
    params = [np.zeros(1)]
    optimizer = Lookahead(SGD(params, 1.0), 2, 0.5, slow_dtype=slow_dtype)
    params[0][...] = 10.0
    for _ in range(2):
        optimizer.step([np.ones(1)])
    assert params[0].item() == 9.0
    params[0][...] = 100.0
    assert optimizer.slow_weights()[0].item() == 100.0
    for _ in range(2):
        optimizer.step([np.ones(1)])
    assert params[0].item() == 99.0


@pytest.mark.clause("C26")
def test_weights_changed_in_mid_cycle_leave_the_anchor():
    params = [np.zeros(1)]
    optimizer = Lookahead(SGD(params, 1.0), 2, 0.5)
    optimizer.step([np.ones(1)])
    params[0][...] = 11.0
    optimizer.step([np.ones(1)])
    assert params[0].item() == 5.0


@pytest.mark.clause("C05", "C26")
def test_a_forced_sync_at_the_start_of_a_cycle_does_not_pull_loaded_weights_back():
    params = [np.zeros(1)]
    optimizer = Lookahead(SGD(params, 1.0), 2, 0.5)
    params[0][...] = 10.0
    optimizer.sync()
    assert params[0].item() == 10.0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("steps", [0, 1, K])
def test_arrays_that_were_exchanged_are_held_by_nothing(steps, policy):
    optimizer = make(start(), policy)
    train(optimizer, optimizer.params, steps)
    old = [weakref.ref(leaf) for leaf in optree.tree_leaves(optimizer.params)]
    optimizer.params = start()
    optimizer.step(gradients(optimizer.params))
    assert [reference() for reference in old] == [None, None]


def test_an_array_listed_twice_is_synced_once():
    shared = np.zeros(1)
    optimizer = Lookahead(SGD([shared, shared], 1.0), 2, 0.5)
    for _ in range(2):
        optimizer.step([np.ones(1), np.ones(1)])
    assert shared.item() == -2.0
    assert [w.item() for w in optimizer.slow_weights()] == [-2.0, -2.0]
    optimizer.load_state_dict(optimizer.state_dict())


class SignDescent:
    """An optimizer of a user's own, by the documented protocol."""

    def __init__(self, params):
        self.params, self.state = params, {}

    def step(self, grads):
        for leaf, grad in zip(self.params, grads, strict=True):
            leaf -= np.sign(grad)

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        assert state_dict == {}


def test_an_optimizer_of_a_users_own_can_be_wrapped():
    params = [np.zeros(2)]
    optimizer = MetaOptimizer(SignDescent(params), lookahead(2, 0.5))
    for _ in range(2):
        optimizer.step([np.asarray([3.0, -4.0])])
    assert params[0].tolist() == [-1.0, 1.0]
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.clause("C24")
def test_an_optimizer_that_is_wrapped_already_is_refused():
    with pytest.raises(ValueError, match=r"inner must not be wrapped already .*nested\(first, "):
        Lookahead(Lookahead(SGD([np.zeros(2)], lr=0.1)))


class Watched(np.ndarray):
    """Its kind counts how often one of them is read into another array, or written to."""

    touched = 0

    def __array_finalize__(self, other):
        Watched.touched += 1

    def __setitem__(self, key, value):
        Watched.touched += 1
        super().__setitem__(key, value)


class StandStill(SignDescent):
    """An optimizer that moves nothing, with a moment."""

    def __init__(self, params):
        self.params, self.state = params, {"moment": np.zeros(2).view(Watched)}

    def step(self, grads):
        pass


@pytest.mark.clause("C19")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_between_syncs_touches_no_array(policy):
    params, touched = [np.zeros(2).view(Watched)], []
    optimizer = Lookahead(StandStill(params), 5, 0.3, policy)
    for _ in range(10):
        Watched.touched = 0
        optimizer.step([np.ones(2)])
        touched.append(Watched.touched > 0)
    assert touched == [True, False, False, False, True] * 2


# --- what is refused ---


class Kind(Enum):
    A = 1


class Key:
    """A key that prints as where it lies in memory."""


def nested_lists(leaf, depth):
    for _ in range(depth):
        leaf = [leaf]
    return leaf


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda p: Lookahead(SGD(p, 0.1), sync_period=2.5), "sync_period must be .* got 2.5"),
        (lambda p: Lookahead(SGD(p, 0.1), alpha=7), "alpha must be .* got 7"),
        (lambda p: Lookahead(SGD(p, 0.1), inner_state="x"), "inner_state must be .* got 'x'"),
        (lambda p: MetaOptimizer(SGD(p, 0.1), 5), "rule must be a SyncRule, got 5"),
        (lambda p: Lookahead(p), "inner must have .* without params, state, step"),
        (
            lambda p: Lookahead([SGD(p, 0.1)] * 2),
            "inner must be one optimizer, got a list of 2: put",
        ),
        (lambda p: Lookahead(SimpleNamespace(params=p, state={})), "without step"),
        (lambda p: Lookahead(SimpleNamespace(params=p, step=print)), "without state"),
        (lambda p: SGD(p, -0.1), "lr must be a finite number >= 0 .* got -0.1"),
        (lambda p: SGD(p, float("nan")), "lr must be .* got nan"),
        (lambda p: SGD(p, float("inf")), "lr must be .* got inf"),
        (lambda p: SGD(p, 0.1, momentum=True), "momentum must be .* got True"),
        (lambda p: SGD(p, 0.1, weight_decay=-1), "weight_decay must be .* got -1"),
        (lambda p: SGD(p, 0.1, nesterov=True), "momentum must be > 0 with nesterov=True"),
        (lambda p: SGD({}, 0.1), "params must hold at least one array"),
        (
            lambda p: SGD({"a": [1.0]}, 0.1),
            r"params\['a'\]\[0\] must be an array, got 1.0",
        ),
        (lambda p: SGD({"a/b": p[0], "a": {"b": p[0]}}, 0.1), "a name of its own"),
        (lambda p: SGD({Key(): p[0]}, 0.1), "keys that are texts or numbers.* got the key <.*Key"),
        (lambda p: SGD({("a", Key()): p[0]}, 0.1), "keys that are texts or numbers"),
        (lambda p: SGD(nested_lists(p[0], 1500), 0.1), "params must be nested less than 1000 deep"),
        (lambda p: SGD(p, 10**400), "lr must be a finite number >= 0 .* got 1000"),
        (
            lambda p: SGD(p, 0.1, momentum=10**5000),
            "momentum must be .* got a number of 16610 bits",
        ),
    ],
)
def test_settings_out_of_range_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it([np.zeros(1)])


BAD_GRADIENTS = {
    "missing for all": ({"layer": {"x": None}, "other": [None]}, "got None for all"),
    "no tree": (None, "grads must have the structure of params"),
    "other name": ({"layer": {"y": np.ones(3)}, "other": [None]}, "grads must have the structure"),
    "other shape": (
        {"layer": {"x": np.ones(2)}, "other": [None]},
        r"grads\['layer'\]\['x'\] must be an array of the shape .* \(3,\), or None, got \(2,\)",
    ),
    "a tree": (
        {"layer": {"x": {"y": 1}}, "other": [None]},
        r"grads\['layer'\]\['x'\] must be an array .* got {'y': 1}",
    ),
    "no array": (
        {"layer": {"x": np.ones(3)}, "other": [3.0]},
        r"grads\['other'\]\[0\] must be an array .* got 3.0",
    ),
}


@pytest.mark.clause("C25")
@pytest.mark.parametrize("case", BAD_GRADIENTS)
@pytest.mark.parametrize("steps", [0, K - 1], ids=["cycle start", "sync due"])
def test_gradients_that_do_not_match_change_nothing(case, steps):
    params = start()
    optimizer = make(params, "interpolate")
    train(optimizer, params, steps)
    bad, message = BAD_GRADIENTS[case]
    before = snapshot(params, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.step(bad)
    assert_unchanged(before, params, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.inner.step(bad)
    assert_unchanged(before, params, optimizer)


@pytest.mark.clause("C25")
def test_an_array_exchanged_for_one_of_another_shape_is_refused_before_weights_move():
    params = {"w": np.zeros(2)}
    optimizer = Lookahead(SGD(params, 1.0), 3, 0.5)
    optimizer.step({"w": np.ones(2)})
    params["w"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"params\[0\] must have the shape of the slow weights"):
        optimizer.step({"w": np.ones(3)})
    assert params["w"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.clause("C25")
def test_a_gradient_for_an_integer_leaf_is_refused():
    params = {"n": np.zeros(1, dtype=np.int64)}
    with pytest.raises(ValueError, match=r"grads\['n'\] must be None: params\['n'\] is int64"):
        SGD(params, 0.1).step({"n": np.ones(1)})


def test_a_rule_of_ones_own_and_the_preset_are_the_same():
    ours, preset = start(), start()
    rule = SyncRule(K, lookahead(alpha=ALPHA).outer, "reset")
    train(MetaOptimizer(SGD(ours, 0.1, 0.9), rule), ours, STEPS)
    train(make(preset, "reset"), preset, STEPS)
    assert ours["layer"]["x"].tobytes() == preset["layer"]["x"].tobytes()


@pytest.mark.parametrize("key", ["w", 1, 2.5, b"w", None, ("a", 1, ("b",)), Kind.A], ids=repr)
def test_keys_that_print_alike_in_every_run_name_leaves(key):
    optimizer = SGD({key: np.ones(1)}, 0.1, 0.9)
    assert list(optimizer.state) == [f"velocity/{key}"]


def test_without_optree_the_error_says_what_to_install():
    program = "import sys; sys.modules['optree'] = None; import lookahead_core.adapters.numpy"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "needs the package optree, which reads trees of arrays: pip install" in result.stderr


# --- how much is looked at ---


class Scans:
    """Counts calls of Python functions, and of those of lists that go through all their items."""

    NAMES = ("index", "count", "remove", "insert")

    def __init__(self):
        self.calls = self.scans = 0

    def __call__(self, frame, event, called):
        self.calls += event == "call"
        if event == "c_call" and called.__name__ in self.NAMES:
            self.scans += isinstance(called.__self__, list | tuple)

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *raised):
        sys.setprofile(None)


def construct(params):
    return Lookahead(SGD(params, 0.1, 0.9, groups={"1": {"lr": 0.5}}), 2)


def run_once(params, path):
    optimizer = construct(params)
    for _ in range(3):
        optimizer.step([np.ones(()) for _ in params])
    optimizer.sync()
    save(path, optimizer)
    load(path, optimizer)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_each_leaf_costs_the_same_however_many_there_are(suffix, tmp_path):
    seen = {}
    run_once(
        [np.ones(()), np.ones(())], tmp_path / f"first{suffix}"
    )  # what is imported at first use
    for number in (10, 40, 340):
        params = [np.ones(()) for _ in range(number)]
        with Scans() as seen[number]:
            run_once(params, tmp_path / f"run{suffix}")
    assert seen[10].scans == seen[40].scans == seen[340].scans
    first, then = seen[40].calls - seen[10].calls, seen[340].calls - seen[40].calls
    assert 0.95 * 10 * first < then < 1.05 * 10 * first


@pytest.mark.clause("C24")
@pytest.mark.parametrize("name", ["inner", "rule", "alpha", "k", "sync_period", "slow_dtype"])
def test_what_would_be_without_effect_cannot_be_set(name):
    optimizer = Lookahead(SGD([np.ones(1)], lr=1.0))
    before = dict(vars(optimizer))
    with pytest.raises(AttributeError, match=f"{name} of Lookahead cannot be set: make a new"):
        setattr(optimizer, name, 3)
    assert vars(optimizer) == before
