"""docs/mlx.md: its code runs in order."""

from pathlib import Path

from markdown_it import MarkdownIt

GUIDE = (Path(__file__).parents[2] / "docs/mlx.md").read_text()
BLOCKS = [t.content for t in MarkdownIt().parse(GUIDE) if t.type == "fence" and t.info == "python"]


def test_its_code_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves files
    names = {"__name__": "guide"}
    for block in BLOCKS:
        exec(compile(block, "docs/mlx.md", "exec"), names)
    assert names["optimizer"].state["lookahead"]["syncs"].item() == 2
