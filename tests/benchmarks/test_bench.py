"""The benchmarks run, every cell of their tables is there, and their page has what was measured.

No test asserts a time.
"""

import json
import math
from pathlib import Path

import pytest

import programs
from experiments.benchmarks.paired import Spread, interleaved, ratio, spread
from experiments.benchmarks.report import BEGIN, END, Tables, inserted

DOCS = Path(__file__).parents[2] / "docs"
PAGE, DATA = DOCS / "performance-tables.md", DOCS / "performance.json"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What the quick form writes: each section of it that this backend is about."""
    file = tmp_path_factory.mktemp("bench") / "quick.json"
    options = ["--quick", "--out", str(file), "--section", "counts", "--section", "syncs"]
    # Not errors: torch's compiler uses what torch itself has deprecated.
    result = programs.run("experiments.benchmarks.bench", *options, warnings="default")
    assert result.returncode == 0, result.stderr
    return json.loads(file.read_text())


def test_the_quick_form_has_the_cells_of_the_committed_run(quick):
    committed = json.loads(DATA.read_text())["tables"]
    for title, rows in quick["tables"].items():
        if "grows" in title:  # its rows are other sizes
            continue
        assert {r: set(c) for r, c in rows.items()} == {
            r: set(c) for r, c in committed[title].items()
        }


def test_every_measured_cell_is_a_number_or_says_why_not(quick):
    for rows in quick["tables"].values():
        for cells in rows.values():
            for cell in cells.values():
                if isinstance(cell, list):
                    assert len(cell) == 4
                    assert all(map(math.isfinite, cell))
                else:
                    assert cell != ""


def test_the_page_shows_the_committed_numbers():
    committed = Tables.read(DATA.read_text())
    assert inserted(PAGE.read_text(), committed.markdown()) == PAGE.read_text()


def test_each_way_runs_once_a_round_in_turns():
    order = []

    def way(name):
        return lambda: lambda: order.append(name) or [float(len(order))]

    times = interleaved({"a": way("a"), "b": way("b")}, rounds=4, renewals=2)
    assert [len(times[name]) for name in "ab"] == [4, 4]
    assert order.count("a") == order.count("b") == 6  # two of them are not counted
    assert order[:4] != order[6:10]


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    rounds = {"ours": [[1.0], [4.0], [30.0]], "bare": [[1.0], [2.0], [10.0]]}
    assert ratio(rounds, "ours", "bare") == Spread(2.0, 1.5, 2.5, 3)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_a_table_goes_to_json_and_back_and_between_the_markers_of_a_page():
    report = Tables({"date": "today"})
    report.put("Title", "row", "first", Spread(1.0, 0.5, 2.0, 3))
    report.put("Title", "row", "second", "not installed")
    assert json.loads(report.json())["tables"]["Title"]["row"]["first"] == [1.0, 0.5, 2.0, 3]
    assert Tables.read(report.json()).markdown() == report.markdown()
    page = inserted(f"before {BEGIN} old {END} after", report.markdown())
    assert page.startswith(f"before {BEGIN}")
    assert page.endswith(f"{END} after")
    assert "old" not in page
    assert "| row | 1.000<br>(0.500 to 2.000) | not installed |" in page


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="once each"):
        inserted("nothing here", "measured")
