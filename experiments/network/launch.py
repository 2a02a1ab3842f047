"""Start the workers on their machines, wait for them, and stop them whatever happens."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.network.links import INTERFACE, Network

__all__ = ["WorkerError", "wait_for", "workers_records"]

PORT = 29500
# All methods on one kind of links.
LONGEST_RUN = 900.0
TOLD = 2000


class WorkerError(RuntimeError):
    """A worker failed, or did not end in time."""


def workers_records(
    network: Network, methods: Sequence[str], steps: int, data: Path
) -> list[dict[str, Any]]:
    """What every worker wrote down of each method, by rank."""
    with TemporaryDirectory() as folder:
        outs = [Path(folder) / f"{rank}.json" for rank in range(len(network.machines))]
        commands = []
        for rank, out in enumerate(outs):
            own = [sys.executable, "-m", "experiments.network.worker", "--steps", str(steps)]
            own += [word for name in methods for word in ("--method", name)]
            own += ["--data", str(data), "--out", str(out)]
            commands.append(network.inside(rank, own))
        wait_for(commands, [_environment(network, rank) for rank in range(len(outs))])
        return [json.loads(out.read_text()) for out in outs]


def wait_for(
    commands: Sequence[Sequence[str]],
    environments: Sequence[Mapping[str, str]],
    longest: float = LONGEST_RUN,
) -> None:
    """Run all commands at once; the first that fails, or too long a wait, stops all of them."""
    with ExitStack() as stack:
        log = Path(stack.enter_context(TemporaryDirectory()))
        logs = [log / str(rank) for rank in range(len(commands))]
        running: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop, running)
        for command, environment, file in zip(commands, environments, logs, strict=True):
            output = stack.enter_context(file.open("wb"))
            running.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))
        end = time.monotonic() + longest
        while any(process.poll() is None for process in running):
            _refuse_failures(running, logs)
            if time.monotonic() > end:
                raise WorkerError(f"workers must end within {longest:g} seconds, and did not")
            time.sleep(0.05)
        _refuse_failures(running, logs)


def _environment(network: Network, rank: int) -> dict[str, str]:
    return os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(len(network.machines)),
        "MASTER_ADDR": network.address(0),
        "MASTER_PORT": str(PORT),
        "GLOO_SOCKET_IFNAME": INTERFACE,
        "OMP_NUM_THREADS": "1",
    }


def _refuse_failures(running: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]) -> None:
    for rank, (process, log) in enumerate(zip(running, logs, strict=True)):
        if process.poll():
            told = log.read_text(errors="replace")[-TOLD:]
            raise WorkerError(f"worker {rank} ended with {process.returncode}: {told}")


def _stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        process.kill()
    for process in running:
        process.wait(timeout=20)
