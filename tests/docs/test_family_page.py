"""docs/family.md and docs/rules.md: their code runs in order, and all presets are in the table."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from lookahead_core import presets

DOCS = Path(__file__).parents[2] / "docs"
FAMILY = (DOCS / "family.md").read_text()


def run(page: str) -> dict[str, object]:
    """The names that the code of a page leaves."""
    names: dict[str, object] = {"__name__": "page"}
    for token in MarkdownIt().parse((DOCS / page).read_text()):
        if token.type == "fence" and token.info == "python":
            exec(compile(token.content, f"docs/{page}", "exec"), names)
    return names


@pytest.mark.parametrize("page", ["family.md", "rules.md"])
def test_the_code_runs_in_order(page):
    assert "optimizer" in run(page)


def test_a_rule_of_your_own_beats_the_plain_one_as_the_page_says():
    ends = run("rules.md")["ends"]
    assert ends["Anderson"] < 0.1 * ends["plain"]


def test_its_table_has_every_preset():
    assert {name for name in presets.__all__ if f"| `{name}` |" in FAMILY} == set(presets.__all__)


def test_it_is_one_that_a_person_reads():
    assert len(FAMILY.split()) <= 2000


def test_each_number_of_a_method_is_marked_as_ours_or_theirs():
    known = FAMILY.split("## What is known, ours and theirs")[1].split("## ")[0]
    lines = [line.strip("|").split("|") for line in known.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in lines[0]] == ["method", "ours", "theirs"]
    for method, ours, theirs in lines[2:]:
        assert "](evidence" in ours or "not measured" in ours, method
        assert "](http" in theirs, method
