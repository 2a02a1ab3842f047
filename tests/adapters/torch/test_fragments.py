"""Which parameters are synced together, and at which step (clause C82)."""

import pytest
import torch

from lookahead_core.adapters.torch._streaming.fragments import fragments_of
from lookahead_core.schedule import phases


@pytest.mark.clause("C82")
@pytest.mark.parametrize(
    ("fragments", "period", "expected"),
    [(1, 5, [5]), (3, 10, [3, 6, 10]), (4, 4, [1, 2, 3, 4]), (2, 5, [2, 5])],
)
def test_steps_are_spread_over_the_cycle_up_to_its_end(fragments, period, expected):
    assert [period - phase for phase in phases(fragments, period)] == expected


@pytest.mark.clause("C82")
def test_each_fragment_has_a_step_of_its_own():
    for period in range(1, 40):
        for fragments in range(1, period + 1):
            steps = [period - phase for phase in phases(fragments, period)]
            assert len({*steps}) == fragments
            assert min(steps) >= 1


@pytest.mark.clause("C82")
def test_fragments_are_as_equal_as_whole_parameters_allow():
    sizes = [7, 1, 5, 3, 2, 8]
    leaves = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
    found = fragments_of(3, leaves, 10)
    totals = [
        sum(s for s, leaf in zip(sizes, leaves, strict=True) if found[leaf] == p) for p in range(3)
    ]
    assert sorted(totals) == [8, 9, 9]
    assert [*found] == leaves


@pytest.mark.clause("C82")
def test_no_fragment_is_empty_and_what_is_frozen_has_no_size():
    leaves = [torch.nn.Parameter(torch.zeros(size)) for size in (0, 0, 9, 4)]
    leaves[2].requires_grad_(False)
    assert {*fragments_of(4, leaves, 4).values()} == {0, 1, 2, 3}
    found = fragments_of(2, leaves, 4)
    assert found[leaves[3]] != found[leaves[0]]
