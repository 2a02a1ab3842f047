"""One run that is saved at every phase and goes on, or its checkpoints resumed by other processes.

torchrun --nproc-per-node=N resharding.py save|load FOLDER
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh

from lookahead_core import Momentum, SyncRule, diloco, lookahead, nested
from lookahead_core.adapters.torch import MetaOptimizer
from process_end import end_process
from sharded_runs import Leaves, fully_sharded, give_gradients, whole

STEPS = 8


def sgd(leaves):
    return torch.optim.SGD(leaves, lr=0.1, momentum=0.9)


def adam(leaves):
    return torch.optim.Adam(leaves, lr=0.1)


# Name: rule, inner optimizer, dtype of the slow weights.
RUNS = {
    "lookahead": (lookahead(3, 0.3), lambda leaves: torch.optim.SGD(leaves, lr=0.1), None),
    "interpolate": (lookahead(3, 0.3, "interpolate"), adam, torch.float64),
    "reset": (lookahead(3, 0.3, "reset"), adam, None),
    "diloco": (diloco(3), sgd, None),
    "nested": (nested(lookahead(3, 0.3), SyncRule(6, Momentum())), adam, None),
}
SAVED_AT = (0, 3, 4, 5)


def made(name, mesh=None):
    rule, inner, slow_dtype = RUNS[name]
    model = Leaves() if mesh is None else fully_sharded(Leaves(), mesh)
    return model, MetaOptimizer(inner(model.parameters()), rule, slow_dtype=slow_dtype)


def train(model, optimizer, steps):
    for step in steps:
        give_gradients(list(model.parameters()), step)
        optimizer.step()
    model.zero_grad()


def parts(model, optimizer):
    return {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}


def weights(model):
    return [whole(leaf) for leaf in model.parameters()]


def undisturbed(name):
    """Where the run ends that nobody saves, loads or shards."""
    model, optimizer = made(name)
    train(model, optimizer, range(STEPS))
    return weights(model)


def saved(name, folder, mesh):
    """Where it ends after it was saved at each of its phases."""
    model, optimizer = made(name, mesh)
    for step in range(STEPS):
        if step in SAVED_AT:
            dcp.save(parts(model, optimizer), checkpoint_id=folder / f"{name}-{step}")
        train(model, optimizer, [step])
    return weights(model)


def resumed(name, folder, saved_at, mesh=None):
    """Where it ends from one of these checkpoints on."""
    model, optimizer = made(name, mesh)
    state = parts(model, optimizer)
    dcp.load(state, checkpoint_id=folder / f"{name}-{saved_at}", no_dist=mesh is None)
    model.load_state_dict(state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    train(model, optimizer, range(saved_at, STEPS))
    return weights(model)


def main(action, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    size = dist.get_world_size()
    mesh = init_device_mesh("cpu", (size,))
    if action == "save":
        ends = {name: saved(name, folder, mesh) for name in RUNS}
    else:
        ends = {(name, at): resumed(name, folder, at, mesh) for name in RUNS for at in SAVED_AT}
    if dist.get_rank() == 0:
        torch.save(ends, folder / f"ends-{size}.pt")
    dist.barrier()
    dist.destroy_process_group()
    end_process()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
