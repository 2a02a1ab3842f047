"""The figures: the numbers behind them, the same bytes in two runs, and each on its page."""

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.figures import (
    adaptive_alpha,
    condition_number,
    draw,
    learning_rates,
    matched_risk,
    real_run,
    variance_grid,
    weight_plane,
)
from lookahead_core.analysis import (
    Moments,
    expected_loss,
    lookahead_variance,
    lookahead_variance_factor,
    moments_after_step,
    moments_after_sync,
    sgd_variance,
)

FOLDER = Path(__file__).parents[2] / "docs"
PAGE = (FOLDER / "figures.md").read_text()
# Computed before, by bisection: spectrum, SGD's rate and excess, Lookahead's at alpha 0.5 and equal
# steady-state risk.
MATCHED = {
    "1/i, 100 of them": (0.1239175329, 0.01218616439, 0.2654160993, 0.009762647889),
    "1/i, 10 000 of them": (0.2234704134, 1.143492636, 0.4701160739, 1.115225219),
    "log-uniform, 1e-3 to 1": (0.1339607835, 0.1926787676, 0.3031380076, 0.1633254798),
    "Chebyshev nodes, 1e-3 to 1": (0.1556628374, 0.0281831288, 0.3754710211, 0.02122806105),
}


@pytest.mark.parametrize("spectrum", MATCHED)
def test_the_matched_risks_and_excesses_are_the_printed_ones(spectrum):
    curvature = matched_risk.spectra()[spectrum]
    sgd_lr, sgd_excess, slow_lr, slow_excess = MATCHED[spectrum]
    sgd = matched_risk.outcome(curvature, np.asarray([sgd_lr]), 1.0)
    slow = matched_risk.outcome(curvature, np.asarray([slow_lr]), 0.5)
    assert slow.risk[0] == pytest.approx(sgd.risk[0], rel=1e-8)
    assert [sgd.excess[0], slow.excess[0]] == pytest.approx([sgd_excess, slow_excess], rel=1e-8)


def test_the_excess_is_what_the_moments_come_to_step_by_step():
    curvature = 1 / np.arange(1.0, 101)
    moments = Moments.at(np.ones(100))
    for step in range(1, matched_risk.UPDATES + 1):
        moments = moments_after_step(moments, 0.3, curvature, 1 / curvature)
        if step % matched_risk.SYNC_PERIOD == 0:
            moments = moments_after_sync(moments, 0.5)
    settled = lookahead_variance(0.3, curvature, matched_risk.SYNC_PERIOD, 0.5, 1 / curvature)
    noise = 1 / curvature
    excess = expected_loss(moments.slow_mean, moments.slow_variance, curvature, noise)
    excess -= expected_loss(0.0, settled, curvature, noise)
    found = matched_risk.outcome(curvature, np.asarray([0.3]), 0.5).excess[0]
    assert found == pytest.approx(excess, rel=1e-9)


@pytest.mark.parametrize(
    ("momentum", "condition", "two", "dense"),
    [
        (0.9, 10, 7.342e-2, 3.253e-2),
        (0.9, 1e4, 1.886e-3, 1.807e-3),
        (0.99, 100, 4.847e-2, 5.602e-3),
    ],
)
def test_the_best_rates_of_lookahead_are_the_printed_ones(momentum, condition, two, dense):
    for spectrum, printed in ((condition_number.two_ends, two), (condition_number.dense, dense)):
        best = condition_number.best_rate(condition_number.RULE, momentum, spectrum(condition))
        # A search on a grid finds the best rate from below.
        assert printed * 0.98 <= 1 - best <= printed * 1.001


def test_the_measured_variances_are_within_their_error():
    factor = variance_grid.measured(5) / sgd_variance(variance_grid.STEPS, 1.0)
    exact = lookahead_variance_factor(variance_grid.STEPS, 1.0, 5, variance_grid.ALPHA)
    z_scores = (factor / exact - 1) / np.sqrt(2 / variance_grid.CHAINS)
    assert np.abs(z_scores).max() < 3.5


def test_the_plane_goes_through_both_ends_and_the_middle_of_the_cycle():
    run = weight_plane.recorded()
    origin, directions = weight_plane.plane(run)
    middle = run.fast[weight_plane.SYNC_PERIOD // 2]
    for vector in (weight_plane.flat(middle), weight_plane.unsynced(run, 0)):
        beside = vector - origin - directions.T @ (directions @ (vector - origin))
        assert np.linalg.norm(beside) < 1e-12
    before, after = (weight_plane.flat(weights) for weights in run.slow[:2])
    halfway = before + weight_plane.ALPHA * (weight_plane.unsynced(run, 0) - before)
    np.testing.assert_allclose(halfway, after, rtol=1e-12, atol=1e-12)
    again = weight_plane.reshaped(origin, run.fast[0])
    assert all(np.array_equal(again[name], leaf) for name, leaf in run.fast[0].items())


def test_a_chosen_alpha_is_the_one_that_the_sync_uses():
    found = []
    weights = {"w": np.ones(3)}
    run = adaptive_alpha.Run(
        adaptive_alpha.SGD(weights, lr=0.1), lambda ends: found.append(ends) or 0.25
    )
    run.cycle([lambda: {"w": weights["w"].copy()}] * adaptive_alpha.SYNC_PERIOD)
    (ends,) = found
    np.testing.assert_allclose(weights["w"], ends.slow + 0.25 * (ends.fast - ends.slow))
    np.testing.assert_allclose(ends.fast, 0.9**adaptive_alpha.SYNC_PERIOD)


def test_all_methods_of_a_seed_see_the_same_start_and_batches():
    runs = [[b.tolist() for b in real_run.batches(3, 50)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert sorted(row for batch in runs[0][:40] for row in batch) == list(range(1280))
    starts = [real_run.started(3, id)[0] for _ in range(2)]
    assert all(np.array_equal(starts[0][name], starts[1][name]) for name in starts[0])


def test_the_width_counts_the_rates_near_the_best():
    mean = np.asarray([90.0, 95.5, 96.0, 97.0, 98.0, 96.5, 50.0])
    assert learning_rates.octaves(mean) == 2.0  # four points, half an octave each


@pytest.mark.parametrize("name", ["bilinear_game", "instability_bands"])
def test_two_runs_draw_the_same_bytes(tmp_path, name):
    first, second = (draw.draw(name, tmp_path) for _ in range(2))
    assert first == second


def test_the_check_names_a_figure_that_would_come_out_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(draw, "FOLDER", tmp_path)
    assert draw.check(["bilinear_game"]) == "not as committed: bilinear_game"
    draw.draw("bilinear_game", tmp_path)
    assert draw.check(["bilinear_game"]) is None


def test_an_unknown_name_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        draw.main(["mona_lisa"])
    assert "got mona_lisa" in capsys.readouterr().err


def test_every_program_has_its_picture_on_the_page_with_a_text_in_its_place():
    shown = re.findall(r"!\[(.+?)\]\(figures/(\w+)\.png\)", PAGE)
    assert [name for _, name in shown] == list(draw.PROGRAMS)
    assert all(len(text) > 20 for text, _ in shown)
    assert {path.stem for path in (FOLDER / "figures").glob("*")} == set(draw.PROGRAMS)


@pytest.mark.parametrize("name", draw.PROGRAMS)
def test_pictures_are_for_phones_and_small(name):
    path = FOLDER / "figures" / f"{name}.png"
    with Image.open(path) as image:
        assert image.width == 720
    assert path.stat().st_size < 100_000
    assert callable(import_module(f"experiments.figures.{name}").draw)
