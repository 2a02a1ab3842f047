"""docs/distributed.md begins with what a user adds, and it runs."""

from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

PAGE = (Path(__file__).parents[3] / "docs/distributed.md").read_text()
BLOCKS = [t.content for t in MarkdownIt().parse(PAGE) if t.type == "fence" and t.info == "python"]


def lines(block):
    return [line for line in block.splitlines() if line]


def test_it_begins_with_eight_lines_at_most():
    assert len(lines(BLOCKS[0])) <= 8
    assert PAGE.index("```python") < 100


@pytest.mark.world(4)
def test_its_first_blocks_train(rank):
    names = {"__name__": "page"}
    for block, size in zip(BLOCKS[:2], (4, 4), strict=True):
        exec(compile(block, "docs/distributed.md", "exec"), names)
        for _ in range(100):
            names["optimizer"].zero_grad()
            names["model"](torch.full((2, size), 1.0 + rank)).square().mean().backward()
            names["optimizer"].step()
        assert names["optimizer"].state_dict()["param_groups"][0]["lookahead_syncs"] == 1
