"""docs/keras.md: its code runs in order."""

from pathlib import Path

from markdown_it import MarkdownIt

GUIDE = (Path(__file__).parents[2] / "docs/keras.md").read_text()
BLOCKS = [t.content for t in MarkdownIt().parse(GUIDE) if t.type == "fence" and t.info == "python"]


def test_its_code_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves files
    names = {"__name__": "guide"}
    for block in BLOCKS:
        exec(compile(block, "docs/keras.md", "exec"), names)
    assert int(names["syncs"]) > 0


def test_it_is_short():
    assert len(GUIDE.split()) <= 1500
