"""docs/jax.md: it starts with a few lines, and its code runs in order."""

from pathlib import Path

from markdown_it import MarkdownIt

GUIDE = (Path(__file__).parents[2] / "docs/jax.md").read_text()
BLOCKS = [t.content for t in MarkdownIt().parse(GUIDE) if t.type == "fence" and t.info == "python"]


def test_it_starts_with_a_few_lines():
    assert len(BLOCKS[0].strip().splitlines()) <= 7


def test_its_code_runs_in_order():
    names = {"__name__": "guide"}
    for block in BLOCKS:
        exec(compile(block, "docs/jax.md", "exec"), names)
    assert names["find_state"](names["state"]).syncs > 0
