"""docs/distributed.md, its part on JAX: the code runs in order, with as many workers as devices."""

import re
from pathlib import Path

import jax
from markdown_it import MarkdownIt

PAGE = (Path(__file__).parents[2] / "docs/distributed.md").read_text()
(PART,) = re.findall(r"^## JAX\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = [t.content for t in MarkdownIt().parse(PART) if t.type == "fence" and t.info == "python"]


def test_its_code_runs_in_order():
    names = {"__name__": "guide"}
    for block in BLOCKS:
        exec(compile(block, "docs/distributed.md", "exec"), names)
    assert int(names["state"].syncs) == 3
    assert names["params"]["w"].shape == (jax.device_count(), 4, 2)
