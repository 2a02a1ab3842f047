"""docs/torch.md and its tutorials: their code runs in order. docs/torch-features.md names tests."""

import ast
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from experiments.tutorials import run
from tutorials import assert_drawn, assert_printed

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/torch.md").read_text()
FEATURES = (ROOT / "docs/torch-features.md").read_text()
BLOCKS = [t.content for t in MarkdownIt().parse(GUIDE) if t.type == "fence" and t.info == "python"]


def test_it_starts_with_five_lines():
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 5


def test_its_code_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "guide"}
    for block in BLOCKS:
        exec(compile(block, "docs/torch.md", "exec"), names)
    assert (tmp_path / "run.pt").exists()


@pytest.mark.parametrize("tutorial", ["digits", "game"])
def test_a_tutorial_prints_and_draws_what_its_page_shows(tutorial, tmp_path, capsys):
    run(tutorial, tmp_path)
    assert_printed(tutorial, capsys.readouterr().out)
    assert_drawn(tutorial, tmp_path)


def rows():
    table = FEATURES.split("## What works")[1].split("\n## ")[0]
    return [line for line in table.splitlines() if line.startswith("| ")][1:]


def all_tests():
    """Names of all tests of the torch adapter."""
    others = ("tests/distributed/test_reshard.py", "tests/properties/test_surgery.py")
    paths = [*ROOT.glob("tests/*/torch/test_*.py"), *map(ROOT.joinpath, others)]
    return {
        node.name
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }


def test_each_row_of_the_feature_table_is_a_test():
    named = [re.findall(r"`(test_\w+)` \|$", row) for row in rows()]
    assert len(named) > 40
    assert [row for row, found in zip(rows(), named, strict=True) if len(found) != 1] == []
    assert {name for (name,) in named} - all_tests() == set()
