"""Programs side by side, for a bounded time: none is left behind, whatever happens."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["run_together"]


def run_together(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], folder: Path, seconds: float
) -> list[tuple[int, str]]:
    """Exit status and output of each; all are killed when one fails, or the time is over.

    Output goes to files in `folder`: a pipe that nobody reads would stop a program.
    """
    logs = [folder / f"output-{number}.txt" for number in range(len(commands))]
    started = [_started(*pair, environment) for pair in zip(commands, logs, strict=True)]
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            codes = [process.poll() for process in started]
            if None not in codes or any(codes):
                break
            time.sleep(0.05)
    finally:
        for process in started:
            process.kill()
    return [(p.wait(), log.read_text()) for p, log in zip(started, logs, strict=True)]


def _started(
    command: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
