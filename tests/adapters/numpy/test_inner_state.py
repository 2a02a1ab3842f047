"""Moments that are edited between two cycles: the next cycle starts from them, as from weights."""

import array_api_strict
import numpy as np
import pytest

from lookahead_core.adapters.numpy import SGD, Lookahead


def read_only(values):
    array = np.asarray(values)
    array.flags.writeable = False
    return array


def make(leaf):
    return Lookahead(SGD({"w": leaf}, 1.0, momentum=0.5), 2, 0.5, "interpolate")


def cycle(optimizer, ones):
    for _ in range(2):
        optimizer.step({"w": ones})


def scaled(inner):
    inner.state = {name: leaf * 8.0 for name, leaf in inner.state.items()}


def zeroed(inner):
    inner.state = {name: leaf * 0.0 for name, leaf in inner.state.items()}


def scaled_in_place(inner):
    for leaf in inner.state.values():
        leaf *= 8.0


def zeroed_in_place(inner):
    for leaf in inner.state.values():
        leaf[...] = 0.0


def replaced(inner):
    inner.state = {"velocity/w": np.asarray([12.0])}


def untouched(inner):
    pass


EVERYWHERE = (untouched, scaled, zeroed)
WHERE_ARRAYS_CAN_BE_WRITTEN_TO = (*EVERYWHERE, scaled_in_place, zeroed_in_place, replaced)
CASES = [(np.asarray, edit) for edit in WHERE_ARRAYS_CAN_BE_WRITTEN_TO] + [
    (array, edit) for array in (read_only, array_api_strict.asarray) for edit in EVERYWHERE
]


@pytest.mark.clause("C18")
@pytest.mark.parametrize(("array", "edit"), CASES)
def test_a_cycle_blends_moments_with_those_that_it_started_from(array, edit):
    optimizer, ones = make(array([0.0])), array([1.0])
    cycle(optimizer, ones)
    edit(optimizer.inner)
    before = float(optimizer.inner.state["velocity/w"][0])
    cycle(optimizer, ones)
    after = 0.5 * (0.5 * before + 1.0) + 1.0
    assert float(optimizer.inner.state["velocity/w"][0]) == (before + after) / 2


@pytest.mark.clause("C05", "C18")
@pytest.mark.parametrize("edit", WHERE_ARRAYS_CAN_BE_WRITTEN_TO)
def test_a_forced_sync_between_cycles_leaves_edited_moments_alone(edit):
    optimizer = make(np.zeros(1))
    cycle(optimizer, np.ones(1))
    edit(optimizer.inner)
    before = optimizer.inner.state["velocity/w"].copy()
    optimizer.sync()
    assert optimizer.inner.state["velocity/w"].tolist() == before.tolist()


@pytest.mark.clause("C18")
def test_moments_edited_before_the_first_step_are_those_of_the_first_cycle():
    optimizer = make(np.zeros(1))
    optimizer.inner.state["velocity/w"][...] = 8.0
    cycle(optimizer, np.ones(1))
    assert optimizer.inner.state["velocity/w"].tolist() == [(8.0 + 3.5) / 2]


@pytest.mark.clause("C18")
def test_moments_edited_in_mid_cycle_are_blended_with_those_of_its_start():
    optimizer = make(np.zeros(1))
    optimizer.step({"w": np.ones(1)})
    optimizer.inner.state["velocity/w"][...] = 8.0
    optimizer.step({"w": np.ones(1)})
    assert optimizer.inner.state["velocity/w"].tolist() == [5.0 / 2]


def two_leaves():
    inner = SGD({"w": np.zeros(1), "v": np.zeros(1)}, 1.0, momentum=0.5)
    return Lookahead(inner, 2, 0.5, "interpolate")


@pytest.mark.clause("C06", "C18")
def test_moments_that_were_removed_between_cycles_are_gone_also_after_a_checkpoint():
    optimizer, other = two_leaves(), two_leaves()
    ones = {"w": np.ones(1), "v": np.ones(1)}
    for _ in range(2):
        optimizer.step(ones)
    for each in (optimizer, other):
        del each.inner.state["velocity/v"]
    other.load_state_dict(optimizer.state_dict())
    other.params["w"][...], other.params["v"][...] = optimizer.params.values()
    for each in (optimizer, other):
        for _ in range(2):
            each.step(ones)
        assert each.params["v"].tolist() == [-1.25 - 1.0]
        assert each.inner.state.keys() == {"velocity/w"}
        assert each.inner.state["velocity/w"].tolist() == [0.625 * 0.75 + 0.75]
