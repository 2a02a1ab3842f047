"""docs/jax.md: it starts with a few lines, and its code runs in order.

Here without the blocks about models of flax and equinox, which need those: nox -s clients runs all.
"""

from pathlib import Path

from markdown_it import MarkdownIt

GUIDE = (Path(__file__).parents[2] / "docs/jax.md").read_text()
BLOCKS = [t.content for t in MarkdownIt().parse(GUIDE) if t.type == "fence" and t.info == "python"]


def test_it_starts_with_a_few_lines():
    assert len(BLOCKS[0].strip().splitlines()) <= 7


def test_its_code_runs_in_order():
    names = {"__name__": "guide"}
    for block in BLOCKS:
        if not any(word in block for word in ("flax", "nnx", "eqx")):
            exec(compile(block, "docs/jax.md", "exec"), names)
    assert names["state"].step == 1
