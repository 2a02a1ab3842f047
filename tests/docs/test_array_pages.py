"""docs/array.md and docs/embedding.md: every block runs, in the order of the page."""

from pathlib import Path

import pytest
from markdown_it import MarkdownIt

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["array.md", "embedding.md"])
def test_its_code_runs_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokens = MarkdownIt().parse((DOCS / page).read_text())
    names = {"__name__": "page"}
    blocks = [token.content for token in tokens if token.type == "fence"]
    for block in blocks:
        exec(compile(block, f"docs/{page}", "exec"), names)
    assert blocks
    if page == "array.md":
        assert {path.name for path in tmp_path.iterdir()} == {"run.npz", "weights", "out%2Fbias"}
    else:
        assert 0 < float(names["rule"].slow(names["fast"], names["state"])[0][0]) < 1
