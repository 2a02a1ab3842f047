"""The table names every backend and every clause, and claims nothing that was not run."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from matrix_table import COLUMNS, cell, clauses, column_of, digest, merged, page, table

ROOT = Path(__file__).parents[2]
MODULE = """
import pytest

@pytest.mark.column("jax-scan")
class TestInAScan:
    @pytest.mark.parametrize("name", ["C01", "C27"])
    def test_clause(self, name):
        if name == "C27":
            pytest.skip("not applicable")

@pytest.mark.clause("C07", "C08")
@pytest.mark.parametrize("clause", ["C07", "C08"])
def test_one_of_several(clause):
    assert clause == "C07"

@pytest.mark.clause("C20")
@pytest.mark.parametrize("xp", ["numpy", "numpy-read-only"])
def test_a_namespace(xp): ...

@pytest.mark.clause("C19")
@pytest.mark.parametrize("compiled", [True, False])
def test_compiled_and_not(compiled): ...

@pytest.mark.column("torch-meta")
@pytest.mark.clause("C23")
def test_a_column(): ...

@pytest.fixture
def broken():
    raise ZeroDivisionError

@pytest.mark.clause("C24")
def test_an_error_is_a_failure(broken): ...

@pytest.mark.clause("C25")
@pytest.mark.xfail(strict=True)
def test_an_expected_failure():
    raise AssertionError

@pytest.mark.clause("C26")
@pytest.mark.xfail(strict=True)
def test_an_unexpected_pass(): ...
"""
CONFTEST = """
import matrix_table
from matrix_table import *
from matrix_table import pytest_addoption as add, pytest_configure
from pathlib import Path

matrix_table.ROOT = Path(__file__).parent

def pytest_addoption(parser):
    add(parser)
    parser.addoption("--backend", action="append")
"""


def rows(text):
    """Cells of each clause by column."""
    lines = [[c.strip() for c in line.split(" | ")] for line in text.splitlines()]
    names = [name.strip("| ") for name in lines[0]]
    return {
        line[0].strip("| ")[:3]: dict(
            zip(names[1:], (c.strip("| ") for c in line[1:]), strict=True)
        )
        for line in lines[2:]
    }


def test_every_clause_and_every_backend_is_named():
    spec = set(re.findall(r"^\*\*(C\d\d) ", (ROOT / "docs/spec.md").read_text(), re.MULTILINE))
    found = rows(table({}))
    assert set(found) == set(clauses()) == spec
    assert clauses()["C09"] == "alpha = 1 is the inner optimizer"
    assert {tuple(row) for row in found.values()} == {tuple(COLUMNS)}
    assert {told for row in found.values() for told in row.values()} == {"NOT verified here"}


def test_every_namespace_of_the_tests_has_a_column(request):
    conftest = request.config.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    names = [*conftest.NAMESPACES.values(), *conftest.DEVICES.values()]
    assert {name for group in names for name in group} <= set(COLUMNS)


def test_every_column_that_a_test_names_is_in_the_table():
    text = "".join(path.read_text() for path in (ROOT / "tests" / "adapters").rglob("*.py"))
    named = set(re.findall(r'mark\.column\("(.+?)"\)', text))
    assert {"mlx-compiled", "mlx-arrays"} <= named <= set(COLUMNS)


@pytest.mark.parametrize("name", ["keras-tensorflow", "keras-jax", "keras-torch"])
def test_what_came_of_a_backend_of_keras_is_a_column_of_its_own(name):
    module = ROOT / "tests" / "adapters" / "keras" / "test_optimizer.py"
    config = SimpleNamespace(getoption=lambda _: [name])
    item = SimpleNamespace(path=module, config=config, get_closest_marker=lambda _: None)
    assert column_of(item) == name in COLUMNS


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"pass": 12, "n.a.": 1}, "pass 12"),
        ({"pass": 12, "fail": 2}, "FAIL 2"),
        ({"n.a.": 1}, "n.a."),
        ({"pass": 1, "expected failure": 2}, "pass 1, expected failure 2"),
        ({}, "—"),
    ],
)
def test_a_cell_tells_the_worst(counts, text):
    assert cell(counts) == text


def test_the_files_of_several_runs_are_one_table(tmp_path):
    for backend, count in (("numpy", 3), ("torch", 5)):
        results = {backend: {"C01": {"pass": count}}}
        text = json.dumps({"digest": digest(), "results": results})
        (tmp_path / f"{backend}.json").write_text(text)
    (first, *_) = rows(table(merged(tmp_path))).values()
    told = (first["numpy"], first["torch"], first["cupy"])
    assert told == ("pass 3", "pass 5", "NOT verified here")


def test_results_of_other_code_are_no_results(tmp_path):
    text = json.dumps({"digest": "other", "results": {"numpy": {"C01": {"pass": 1}}}})
    (tmp_path / "numpy.json").write_text(text)
    assert merged(tmp_path) == {}


def test_the_digest_changes_with_a_line_of_code(tmp_path):
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "a.py").write_text("x = 1\n")
    before = digest(tmp_path)
    assert digest(tmp_path) == before
    (tmp_path / "adapters" / "a.py").write_text("x = 2\n")
    assert digest(tmp_path) != before


@pytest.mark.parametrize("processes", [(), ("--numprocesses", "2")], ids=["one process", "two"])
def test_the_plugin_counts_by_column_and_clause(processes, pytester, monkeypatch):
    # The same layout as here: what belongs to a backend is in tests/core.
    pytester.makeconftest(CONFTEST)
    for folder in ("core", "meta"):
        (pytester.path / "tests" / folder).mkdir(parents=True)
        (pytester.path / "tests" / folder / f"test_{folder}.py").write_text(MODULE)
    (pytester.path / "pytest.ini").write_text("[pytest]\nmarkers =\n  clause\n  column\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    options = ["--backend", "jax", "--matrix-json", "found.json", *processes]
    pytester.runpytest_subprocess(*options)
    assert json.loads(Path("found.json").read_text())["results"] == {
        "jax-scan": {"C01": {"pass": 1}, "C27": {"n.a.": 1}},
        "jax-jit": {"C19": {"pass": 1}},
        "jax": {
            "C07": {"pass": 1},
            "C19": {"pass": 1},
            "C08": {"fail": 1},
            "C24": {"fail": 1},
            "C25": {"expected failure": 1},
            "C26": {"fail": 1},
        },
        "numpy": {"C20": {"pass": 1}},
        "numpy-read-only": {"C20": {"pass": 1}},
        "torch-meta": {"C23": {"pass": 1}},
    }


@pytest.mark.parametrize("leg", ["torch-cuda", "jax-gpu"])
def test_on_a_gpu_all_counts_for_the_gpu(leg, pytester, monkeypatch):
    pytester.makeconftest(CONFTEST)
    (pytester.path / "tests" / "core").mkdir(parents=True)
    (pytester.path / "tests" / "core" / "test_core.py").write_text(MODULE)
    (pytester.path / "pytest.ini").write_text("[pytest]\nmarkers =\n  clause\n  column\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    pytester.runpytest_subprocess("--backend", leg, "--matrix-json", "found.json")
    assert set(json.loads(Path("found.json").read_text())["results"]) == {leg}


def test_the_page_says_the_same_every_time():
    assert page({}) == page({})
    assert all(f"`{name}`" in page({}) for name in COLUMNS)
