"""docs/jax.md and its tutorial: the code runs in order.

Here without the blocks about models of flax and equinox, which need those: nox -s clients runs all.
"""

from pathlib import Path

from markdown_it import MarkdownIt

from experiments.tutorials import run
from tutorials import assert_drawn, assert_printed

GUIDE = (Path(__file__).parents[2] / "docs/jax.md").read_text()
BLOCKS = [t.content for t in MarkdownIt().parse(GUIDE) if t.type == "fence" and t.info == "python"]


def test_it_starts_with_a_few_lines():
    assert len(BLOCKS[0].strip().splitlines()) <= 7


def test_its_code_runs_in_order():
    names = {"__name__": "guide"}
    for block in BLOCKS:
        if not any(word in block for word in ("flax", "nnx", "eqx")):
            exec(compile(block, "docs/jax.md", "exec"), names)
    assert names["state"].step == 3  # of the last block's eight steps, after a sync at the fifth


def test_the_tutorial_prints_and_draws_what_its_page_shows(tmp_path, capsys):
    run("scan", tmp_path)
    assert_printed("scan", capsys.readouterr().out)
    assert_drawn("scan", tmp_path)
