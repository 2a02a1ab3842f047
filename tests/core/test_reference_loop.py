"""The oracle against digits that were computed without it, in 60-digit arithmetic."""

import pytest

from reference_loop import Trajectory, distance, momentum_trajectory

# Step 5 (the first sync), common to all policies, and steps 6, 11 and 12 of each.
FIRST_SYNC = [0.851841982421875, -1.30758462890625, 0.4531806787109375]
DIGITS = {
    "maintain": {
        6: [0.8266755732421875, -1.3879506219482422, 0.50152902587890625],
        11: [0.8801100274020179, -1.5217756498793538, 0.1396202488417795],
        12: [0.90817507766824801, -1.5497048968921742, 0.083830186748656437],
    },
    "reset": {
        6: [0.8468528173828125, -1.3307477821044922, 0.35459802294921875],
        11: [0.84569403079587044, -1.4084003236884295, 0.23215396457308893],
        12: [0.84794647192105824, -1.4231709248291138, 0.21271160011155158],
    },
    "interpolate": {
        6: [0.8367641953125, -1.3593492020263672, 0.4280635244140625],
        11: [0.85237695857266085, -1.4780920570779841, 0.25060528632015803],
        12: [0.8608183584146761, -1.5109369383540143, 0.24567326460654204],
    },
}


@pytest.mark.clause("C02", "C16", "C17", "C18")
@pytest.mark.parametrize("policy", DIGITS)
def test_the_oracle_reproduces_the_known_digits(policy):
    trajectory = momentum_trajectory(policy, steps=12)
    known = {5: FIRST_SYNC, **DIGITS[policy]}
    assert distance([trajectory.fast[step - 1] for step in known], list(known.values())) < 1e-14


def test_two_different_trajectories_are_apart():
    maintain, reset = momentum_trajectory("maintain"), momentum_trajectory("reset")
    assert isinstance(maintain, Trajectory)
    assert distance(maintain.fast, reset.fast) > 1e-2
