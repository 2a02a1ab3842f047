"""The table of what a sync costs: made of times that are made up; none is measured here."""

from experiments.network.sync_cost import markdown


def test_a_sync_is_a_cycle_less_its_steps_over_message_and_arithmetic_of_the_same_round():
    rounds = {
        "inner steps": [[0.5, 1.0], [1.0, 1.0], [1.0, 1.0]],
        "all-reduce": [[2.0, 2.0], [4.0, 2.0], [1.0, 2.0]],
        "arithmetic": [[1.0, 2.0], [2.0, 2.0], [1.0, 2.0]],
        "DiLoCo": [[3.5, 5.0], [10.0, 7.0], [4.0, 9.0]],
    }
    assert markdown({2: rounds}).splitlines()[2:] == [
        "| 2 | all-reduce alone | 2000 | | 2000 | |",
        "| 2 | arithmetic alone | 1000 | | 2000 | |",
        "| 2 | DiLoCo | 3000 | 1.50 (1.25 to 1.50) | 6000 | 1.50 (1.25 to 1.75) |",
    ]
