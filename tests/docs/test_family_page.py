"""docs/family.md: its code runs in order, and its table has every preset."""

from pathlib import Path

from markdown_it import MarkdownIt

from lookahead_core import presets

PAGE = (Path(__file__).parents[2] / "docs/family.md").read_text()


def test_its_code_runs_in_order():
    names = {"__name__": "page"}
    for token in MarkdownIt().parse(PAGE):
        if token.type == "fence" and token.info == "python":
            exec(compile(token.content, "docs/family.md", "exec"), names)
    assert names["ends"]["Anderson"] < 0.1 * names["ends"]["plain"]


def test_its_table_has_every_preset():
    assert {name for name in presets.__all__ if f"| `{name}` |" in PAGE} == set(presets.__all__)
