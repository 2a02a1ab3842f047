"""What a state_dict of the array loop brings back, and what is refused."""

import gc

import numpy as np
import pytest

from array_runs import assert_unchanged, make, snapshot, start, train
from reference_loop import POLICIES, STEPS, K


@pytest.mark.clause("C06")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("phase", range(K))
def test_a_run_resumed_at_any_phase_goes_on_bitwise(phase, policy):
    whole = start()
    train(make(whole, policy), whole, STEPS)
    first = start()
    before = make(first, policy)
    train(before, first, K + phase)
    saved = before.state_dict()
    second = {"layer": {"x": first["layer"]["x"].copy()}, "other": [first["other"][0].copy()]}
    train(before, first, 1)  # what was saved must not follow the live state
    after = make(second, policy)
    after.load_state_dict(saved)
    train(after, second, STEPS - K - phase)
    assert second["layer"]["x"].tobytes() == whole["layer"]["x"].tobytes()
    assert second["other"][0].tobytes() == whole["other"][0].tobytes()


@pytest.mark.clause("C06")
def test_the_learning_rate_is_part_of_the_state():
    optimizer, other = make(start()), make(start())
    optimizer.inner.lr = 0.025
    other.load_state_dict(optimizer.state_dict())
    assert other.inner.lr == 0.025


@pytest.mark.clause("C06")
def test_the_number_of_syncs_is_part_of_the_state():
    params = start()
    optimizer, other = make(params), make(start())
    train(optimizer, params, 2 * K)
    other.load_state_dict(optimizer.state_dict())
    assert other.state_dict()["syncs"] == 2


BAD_STATES = {
    "slow of another shape": ({"slow/layer/x": np.ones(2)}, r"\['slow/layer/x'\] must have shape"),
    "slow of another dtype": ({"slow/layer/x": np.ones(3, "f4")}, r"float64, got \(3,\) float32"),
    "no array": ({"slow/layer/x": 3.0}, r"\['slow/layer/x'\] must have shape .* got 3.0"),
    "inner of another shape": ({"inner/velocity/layer/x": np.ones(2)}, r"\['velocity/layer/x'\]"),
    "no counter": ({"count": "x"}, "count must be an int >= 0, got 'x'"),
    "counter beyond the period": ({"count": 99}, "count must be below sync_period=5, got 99"),
    "negative counter": ({"syncs": -1}, "syncs must be an int >= 0, got -1"),
    "no learning rate": ({"inner/lr": -1.0}, r"state_dict\['lr'\] must be .* got -1.0"),
    "unknown entry": ({"slow/z": np.ones(2)}, r"unknown \['slow/z'\]"),
    "missing entry": ({"inner_slow/velocity/layer/x": None}, "missing .*inner_slow/velocity/layer"),
    "other period": ({"sync_period": 7}, "sync_period=7, this optimizer has sync_period=5"),
    "other alpha": ({"alpha": 0.8}, "alpha=0.8, this optimizer has alpha=0.5"),
    "other policy": ({"inner_state": "reset"}, "inner_state='reset', this optimizer has"),
}


@pytest.mark.clause("C06", "C25")
@pytest.mark.parametrize("case", BAD_STATES)
def test_a_state_that_does_not_match_changes_nothing(case):
    change, message = BAD_STATES[case]
    params, other = start(), start()
    optimizer, source = make(params, "interpolate"), make(other, "interpolate")
    train(optimizer, params, 3)
    train(source, other, 8)
    saved = {**source.state_dict(), **change}
    saved = {name: value for name, value in saved.items() if value is not None}
    before = snapshot(params, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert_unchanged(before, params, optimizer)


@pytest.mark.clause("C22")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("phase", range(K))
def test_saving_makes_and_changes_no_array_that_stays(phase, policy):
    params = start()
    optimizer = make(params, policy)
    train(optimizer, params, K + phase)
    before = [id(leaf) for leaf in everything_held(optimizer)]
    values = [leaf.copy() for leaf in everything_held(optimizer)]
    optimizer.state_dict()
    assert [id(leaf) for leaf in everything_held(optimizer)] == before
    assert all(map(np.array_equal, everything_held(optimizer), values))


def everything_held(optimizer):
    """The arrays that are reachable from an optimizer, whatever attribute holds them."""
    seen, found, ahead = set(), [], [optimizer]
    while ahead:
        value = ahead.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, np.ndarray):
            found.append(value)
        elif type(value).__module__ != "builtins" or isinstance(value, dict | list | tuple):
            ahead += gc.get_referents(value)
    return found
