"""Python's `-m` in a process of its own, for what tests run as a user does."""

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["WITH_TESTS", "run"]

# What is tested here is importable there; without the safe path a program that is started from the
# checkout's folder would import that folder's lookahead_core.
WITH_TESTS = {"PYTHONPATH": str(Path(__file__).parent), "PYTHONSAFEPATH": "1"}


def run(module: str, *arguments: str, warnings: str = "error") -> subprocess.CompletedProcess[str]:
    """The module with its arguments; torch has one thread."""
    return subprocess.run(
        [sys.executable, "-W", warnings, "-m", module, *arguments],
        env={**os.environ, **WITH_TESTS, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
