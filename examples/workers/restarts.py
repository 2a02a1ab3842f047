"""DiLoCo on workers that may be killed at any moment and started again, to the same weights.

export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1    # docs/distributed-faults.md says why
torchrun --standalone --nproc-per-node=2 --max-restarts=3 examples/workers/restarts.py FOLDER

Between syncs each worker is somewhere else, so each saves a state of its own, and all go on from
the newest step that every one of them has saved.
"""

import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from lookahead_core import diloco
from lookahead_core.adapters.torch import MetaOptimizer

STEPS, SYNC_PERIOD, SAVE_EVERY = 22, 5, 2
TIMEOUT = timedelta(seconds=60)


def save(path: Path, state: dict) -> None:
    """Write `path` so that it is the old file or the new one, whenever this process is killed."""
    with open(path.with_suffix(".tmp"), "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # a power cut may otherwise leave a new name with nothing in it
    os.replace(file.name, path)


def saved(own: Path) -> set[int]:
    """Steps that this worker has saved."""
    return {int(path.stem) for path in own.glob("*.pt")}


def forget(own: Path, steps: set[int]) -> None:
    for step in steps:
        (own / f"{step}.pt").unlink()


def resume(own: Path, model: torch.nn.Module, optimizer: MetaOptimizer) -> int:
    """Load the newest step that every worker has saved, and return it; 0 if there is none."""
    everywhere = [saved(own)] * dist.get_world_size()
    dist.all_gather_object(everywhere, saved(own))
    step = max(set.intersection(*everywhere), default=0)
    # Newer ones of this worker alone are of a run that no longer is.
    forget(own, {newer for newer in saved(own) if newer > step})
    if step:
        state = torch.load(own / f"{step}.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    return step


def batch(step: int, rank: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same data for the same step and worker, however often it is asked for."""
    generator = torch.Generator().manual_seed(step * size + rank)
    inputs = torch.randn(32, 8, generator=generator)
    return inputs, inputs.sum(1, keepdim=True).tanh()


def train(folder: Path) -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    own = folder / f"worker-{rank}"
    own.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = MetaOptimizer(
        torch.optim.AdamW(model.parameters(), lr=1e-2),
        diloco(SYNC_PERIOD),
        process_group=dist.group.WORLD,
        timeout=TIMEOUT,
        check_replicas=True,
    )
    start = resume(own, model, optimizer)
    print(f"worker {rank} goes on after step {start}", flush=True)
    for step in range(start + 1, STEPS + 1):
        inputs, targets = batch(step, rank, size)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        if step % SAVE_EVERY == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save(own / f"{step}.pt", state)
            # All of them have come to the last sync: none is further behind than this.
            gone = step - SYNC_PERIOD - SAVE_EVERY
            forget(own, {old for old in saved(own) if old <= gone})
    with optimizer.slow_weights():
        if rank == 0:
            save(folder / "model.pt", model.state_dict())


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))
    status = 0
    try:
        train(folder)
    except Exception:
        traceback.print_exc()
        status = 1
    # Not sys.exit: gloo waits there for a worker that hangs, and the launcher for this one; and a
    # thread of gloo may abort there, with all work done (pytorch#190489).
    os._exit(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
