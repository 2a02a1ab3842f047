"""Checkpoints of sharded runs on the processes that made them; on others: ../test_reshard.py."""

import io

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh

from drivers.resharding import RUNS, STEPS, made, parts, train, undisturbed, weights
from lookahead_core.adapters.torch import MetaOptimizer
from sharded_runs import Leaves, folder, give_gradients


@pytest.fixture(scope="module")
def mesh():
    return init_device_mesh("cpu", (dist.get_world_size(),))


@pytest.fixture(scope="module")
def for_saving():
    """A group for messages in the background, that no others come between."""
    return dist.new_group(backend="gloo")


def assert_ends_undisturbed(name, model):
    for ours, theirs in zip(weights(model), undisturbed(name), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.clause("C06", "C47")
@pytest.mark.parametrize("name", RUNS)
def test_saving_between_any_two_steps_perturbs_nothing(name, mesh):
    model, optimizer = made(name, mesh)
    for step in range(STEPS):
        for _ in range(2):
            get_optimizer_state_dict(model, optimizer)
        train(model, optimizer, [step])
    assert_ends_undisturbed(name, model)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_goes_on_while_it_is_saved_is_saved_as_it_was(name, mesh, for_saving, tmp_path):
    model, optimizer = made(name, mesh)
    train(model, optimizer, range(4))
    place = folder(tmp_path)
    under_way = dcp.async_save(
        parts(model, optimizer), checkpoint_id=place, process_group=for_saving
    )
    train(model, optimizer, range(4, STEPS))
    under_way.result(timeout=60)
    assert_ends_undisturbed(name, model)
    again, resumed = made(name, mesh)
    state = parts(again, resumed)
    dcp.load(state, checkpoint_id=place)
    again.load_state_dict(state["model"])
    set_optimizer_state_dict(again, resumed, state["optimizer"])
    train(again, resumed, range(4, STEPS))
    assert_ends_undisturbed(name, again)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("name", RUNS)
def test_a_full_state_dict_of_the_first_process_is_loaded_into_shards(name, mesh, rank):
    model, optimizer = made(name, mesh)
    train(model, optimizer, range(4))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    assert bool(saved) == (rank == 0)
    again, resumed = made(name, mesh)
    again.load_state_dict(model.state_dict())
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_optimizer_state_dict(again, resumed, saved, options=options)
    train(again, resumed, range(4, STEPS))
    assert_ends_undisturbed(name, again)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("name", RUNS)
def test_each_process_may_save_its_own_shards_by_torch_save(name, mesh):
    model, optimizer = made(name, mesh)
    train(model, optimizer, range(4))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, resumed = made(name, mesh)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(again, resumed, range(4, STEPS))
    assert_ends_undisturbed(name, again)


@pytest.mark.clause("C06", "C81")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # that is, without the others
def test_a_worker_that_is_one_process_saves_without_the_others(rank, tmp_path):
    rule, group = RUNS["diloco"][0], dist.group.WORLD

    def worker():
        model = Leaves()
        inner = torch.optim.Adam(model.parameters(), lr=0.1)
        return model, MetaOptimizer(inner, rule, process_group=group)

    def run(model, optimizer, steps):
        for step in steps:
            give_gradients(list(model.parameters()), step, rank)
            optimizer.step()
        model.zero_grad()

    model, optimizer = worker()
    run(model, optimizer, range(4))
    dcp.save(parts(model, optimizer), checkpoint_id=tmp_path, no_dist=True)
    run(model, optimizer, range(4, STEPS))
    again, resumed = worker()
    state = parts(again, resumed)
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    again.load_state_dict(state["model"])
    set_optimizer_state_dict(again, resumed, state["optimizer"])
    run(again, resumed, range(4, STEPS))
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
