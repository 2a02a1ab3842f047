"""docs/keras.md: its code runs in order."""

from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/keras.md").read_text()


def python(text):
    return [t.content for t in MarkdownIt().parse(text) if t.type == "fence" and t.info == "python"]


def test_its_code_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves files
    names = {"__name__": "guide"}
    for block in python(GUIDE):
        exec(compile(block, "docs/keras.md", "exec"), names)
    assert int(names["syncs"]) > 0


def test_it_is_short():
    assert len(GUIDE.split()) <= 1500


def test_the_code_of_the_readme_runs(capsys):
    (block,) = [b for b in python((ROOT / "README.md").read_text()) if "adapters.keras" in b]
    names = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), names)
    assert names["model"].optimizer.iterations == 2  # batches of 32
