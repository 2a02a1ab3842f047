"""docs/sources.md: every row is marked, and every test and script that it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sources.md"
MARKS = {"works", "measured", "wrong as printed", "needs data", "not taken up"}


def rows(text: str) -> list[list[str]]:
    """Rows of the tables of documents, whose third column is the mark."""
    cells = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    stripped = [[cell.strip() for cell in row] for row in cells]
    return [row for row in stripped if len(row) == 4 and row[0] != "where"]


def defined() -> set[str]:
    """Names of all test functions of this repository, the suite's own included."""
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "conformance").rglob("*.py")]
    found = [re.findall(r"^ *def (test_\w+)", path.read_text(), re.MULTILINE) for path in files]
    return {name for names in found for name in names}


def missing_tests(text: str) -> set[str]:
    return set(re.findall(r"\btest_\w+", text)) - defined()


def test_every_row_has_a_mark_and_every_mark_is_used():
    marks = [row[2] for row in rows(PAGE.read_text())]
    assert set(marks) == MARKS
    assert len(marks) > 100


def test_every_test_that_is_named_exists():
    assert missing_tests(PAGE.read_text()) == set()


def test_a_test_that_is_gone_would_be_seen():
    assert missing_tests("`test_nothing_of_this_name` or this one") == {"test_nothing_of_this_name"}


@pytest.mark.parametrize("page", ["sources.md", "evidence.md"])
def test_every_script_that_is_named_exists(page):
    text = (ROOT / "docs" / page).read_text()
    named = re.findall(r"\bexperiments/evidence/[\w/]+\.py", text)
    named += [f"{m.replace('.', '/')}.py" for m in re.findall(r"-m (experiments\.[\w.]+)", text)]
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
