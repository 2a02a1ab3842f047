"""docs/distributed.md begins with what a user adds, and it runs."""

from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

from sharded_runs import folder

PAGE = (Path(__file__).parents[3] / "docs/distributed.md").read_text()


def python(text):
    return [t.content for t in MarkdownIt().parse(text) if t.type == "fence" and t.info == "python"]


BLOCKS = python(PAGE)


def section(heading):
    """Blocks of one section."""
    return python(PAGE.split(f"\n## {heading}")[1].split("\n## ")[0])


def run(block, names):
    exec(compile(block, "docs/distributed.md", "exec"), names)


def train(names, steps):
    for _ in range(steps):
        names["optimizer"].zero_grad()
        names["model"](torch.ones(2, 4)).square().mean().backward()
        names["optimizer"].step()


def lines(block):
    return [line for line in block.splitlines() if line]


def test_it_begins_with_nine_lines_at_most():
    assert len(lines(BLOCKS[0])) <= 9
    assert PAGE.index("```python") < 100


@pytest.mark.world(4)
def test_its_first_blocks_train(rank):
    names = {"__name__": "page"}
    for block, size in zip(BLOCKS[:2], (4, 4), strict=True):
        run(block, names)
        for _ in range(100):
            names["optimizer"].zero_grad()
            names["model"](torch.full((2, size), 1.0 + rank)).square().mean().backward()
            names["optimizer"].step()
        assert names["optimizer"].state_dict()["param_groups"][0]["lookahead_syncs"] == 1


def test_its_block_of_streaming_trains_after_the_first(rank):
    names = {"__name__": "page"}
    streaming = next(block for block in BLOCKS if "StreamingOptimizer" in block)
    for block in (BLOCKS[0], streaming):
        exec(compile(block, "docs/distributed.md", "exec"), names)
    for _ in range(105):
        names["optimizer"].zero_grad()
        names["model"](torch.full((2, 4), 1.0 + rank)).square().mean().backward()
        names["optimizer"].step()
    saved = names["optimizer"].state_dict()["param_groups"][0]
    assert saved["lookahead_streaming_syncs"] == [1, 1]


def test_a_sharded_model_is_evaluated_saved_and_loaded(tmp_path):
    made, evaluated = section("Sharded parameters")
    saved, loaded, _ = section("Checkpoints")
    names = {"__name__": "page", "folder": folder(tmp_path)}
    for block in (made, evaluated, saved):
        run(block, names)
        train(names, 3)
        names["optimizer"].zero_grad()
    assert names["optimizer"].state_dict()["param_groups"][0]["lookahead_count"] == 9 % 5
    run(loaded, names)
    assert names["optimizer"].state_dict()["param_groups"][0]["lookahead_count"] == 6 % 5


@pytest.mark.world(4)
def test_every_block_runs_in_the_order_of_the_page(tmp_path, monkeypatch):
    """The model that each leaves is trained; the last saves each worker in a folder of its own."""
    place = folder(tmp_path)
    place.mkdir(exist_ok=True)
    monkeypatch.chdir(place)
    names = {"__name__": "page", "folder": place / "all"}
    for block in python(PAGE.split("\n## JAX")[0]):
        run(block, names)
        train(names, 3)
        names["optimizer"].zero_grad()
    torch.distributed.barrier()
    assert {path.name for path in (place / "checkpoint").iterdir()} == {"worker-0", "worker-1"}
