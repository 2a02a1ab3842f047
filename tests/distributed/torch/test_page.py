"""docs/distributed.md begins with what a user adds, and it runs; so does its tutorial."""

from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

from experiments.tutorials import run as run_tutorial
from sharded_runs import folder, gathered
from tutorials import assert_drawn, assert_printed

PAGE = (Path(__file__).parents[3] / "docs/distributed.md").read_text()


def python(text):
    return [t.content for t in MarkdownIt().parse(text) if t.type == "fence" and t.info == "python"]


BLOCKS = python(PAGE)


def section(heading):
    """Blocks of one section."""
    return python(PAGE.split(f"\n## {heading}")[1].split("\n## ")[0])


def run(block, names):
    exec(compile(block, "docs/distributed.md", "exec"), names)


def train(names, steps, inputs=None):
    for _ in range(steps):
        names["optimizer"].zero_grad()
        names["model"](torch.ones(2, 4) if inputs is None else inputs).square().mean().backward()
        names["optimizer"].step()


def lines(block):
    return [line for line in block.splitlines() if line]


def test_it_is_a_guide():
    assert len(lines(BLOCKS[0])) <= 15


@pytest.fixture(autouse=True)
def made_once(monkeypatch):
    """torchrun has started these processes, and the page's first block makes their group."""
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda: None)


def test_its_first_block_syncs_as_it_is_written(rank):
    torch.manual_seed(rank)  # the workers of a user begin with other weights, and have other data
    names = {"__name__": "page"}
    run(BLOCKS[0], names)
    assert names["optimizer"].state_dict()["param_groups"][0]["lookahead_syncs"] == 2
    weights = names["model"].weight.detach()
    assert torch.equal(*gathered(weights)[:2])
    train(names, 1, torch.full((2, 4), 1.0 + rank))
    assert not torch.equal(*gathered(weights)[:2])


@pytest.mark.world(4)
def test_its_second_block_trains(rank):
    names = {"__name__": "page"}
    for block in BLOCKS[:2]:
        run(block, names)
    train(names, 100, torch.full((2, 4), 1.0 + rank))
    assert names["optimizer"].state_dict()["param_groups"][0]["lookahead_syncs"] == 1


def test_its_block_of_streaming_trains_after_the_first(rank):
    names = {"__name__": "page"}
    streaming = next(block for block in BLOCKS if "StreamingOptimizer" in block)
    for block in (BLOCKS[0], streaming):
        exec(compile(block, "docs/distributed.md", "exec"), names)
    train(names, 105, torch.full((2, 4), 1.0 + rank))
    saved = names["optimizer"].state_dict()["param_groups"][0]
    assert saved["lookahead_streaming_syncs"] == [1, 1]


def test_its_moments_are_averaged_as_in_plain_loops(rank, size):
    """DES-LOC: Adam on each worker; weights, and each moment, are averaged at periods of theirs."""
    names = {"__name__": "page"}
    torch.manual_seed(3)
    for block in (BLOCKS[0].split("for step")[0], *section("Moments averaged")):
        run(block, names)
    names["periods"].update(exp_avg=3, exp_avg_sq=4)
    names["optimizer"].param_groups[0]["lookahead_sync_period"] = 2
    start = torch.cat([leaf.detach().flatten() for leaf in names["model"].parameters()]).double()
    train(names, 12, torch.full((2, 4), 1.0 + rank))
    workers = [[start.clone(), torch.zeros(5), torch.zeros(5)] for _ in range(size)]
    for step in range(1, 13):
        for number, worker in enumerate(workers):
            weights, first, second = worker
            inputs = torch.tensor([1.0 + number] * 4 + [1.0])
            gradient = 2 * (weights @ inputs.double()) * inputs
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            size_of_step = (second / (1 - 0.999**step)).sqrt() + 1e-8
            weights = weights * (1 - 1e-2 * 1e-2) - 1e-2 * first / (1 - 0.9**step) / size_of_step
            worker[:] = weights, first, second
        for place, period in enumerate((2, 3, 4)):
            if step % period == 0:
                mean = sum(worker[place] for worker in workers) / size
                for worker in workers:
                    worker[place] = mean
    found = torch.cat([leaf.detach().flatten() for leaf in names["model"].parameters()])
    torch.testing.assert_close(found.double(), workers[rank][0], rtol=1e-4, atol=1e-6)


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


@pytest.mark.world(2)
def test_the_tutorial_prints_and_draws_what_its_page_shows(rank, tmp_path, capsys):
    run_tutorial("workers", tmp_path)
    if rank == 0:
        assert_printed("workers", capsys.readouterr().out)
        assert_drawn("workers", tmp_path)
    torch.distributed.barrier()
