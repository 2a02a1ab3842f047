"""README and docs/: links lead somewhere and code runs."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [p for folder in (".", "docs", "docs/tutorials") for p in (ROOT / folder).glob("*.md")]
GUIDES = ("torch", "jax", "array", "keras", "mlx", "distributed", "embedding")
ADAPTERS = {"numpy": "numpy", "torch": "torch", "jax": "optax", "mlx": "mlx", "cupy": "cupy"}


def links(text: str) -> set[str]:
    tokens = [child for token in MarkdownIt().parse(text) for child in token.children or []]
    return {
        str(t.attrs.get("href") or t.attrs["src"]) for t in tokens if {"href", "src"} & {*t.attrs}
    }


def anchors(text: str) -> set[str]:
    """GitHub's names of the headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_blocks(text: str) -> list[str]:
    return [t.content for t in MarkdownIt().parse(text) if t.type == "fence" and t.info == "python"]


def words(text: str) -> int:
    """How many, without the blocks of code."""
    return len(re.sub(r"```.*?```", "", text, flags=re.DOTALL).split())


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_begins_with_code_and_is_read_in_minutes(guide):
    text = (ROOT / "docs" / f"{guide}.md").read_text()
    assert text.index("```python") < 200
    assert words(text) <= 2000


@pytest.mark.parametrize("guide", ["torch", "jax", "array", "keras", "distributed"])
def test_what_comes_second_is_where_the_reader_comes_from(guide):
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / f"{guide}.md").read_text(), re.MULTILINE)
    assert headings[0].startswith("Coming from")


def test_the_readme_is_short_and_installs_first():
    text = (ROOT / "README.md").read_text()
    assert words(text) <= 900
    assert text.index("pip install") < 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files_and_headings(page):
    for link in links(page.read_text()):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        assert not heading or heading in anchors(target.read_text()), link


def test_a_dead_link_would_be_seen():
    assert links("[a](docs/none.md) ![b](c.png)") == {"docs/none.md", "c.png"}
    assert anchors("## What it costs, now\n") == {"what-it-costs-now"}


def test_the_code_of_the_readme_for_this_backend_runs(backend):
    module = f"lookahead_core.adapters.{ADAPTERS[backend]}"
    blocks = [b for b in code_blocks((ROOT / "README.md").read_text()) if module in b]
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {"__name__": "readme"})
