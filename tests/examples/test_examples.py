"""The example of each backend runs as it stands, without a warning, and trains."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = {"numpy": "numpy", "torch": "torch", "jax": "optax", "cupy": "cupy"}


def test_the_example_trains(backend):
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"train_{NAMES[backend]}.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    before, after = map(float, re.findall(r"loss .*: ([\d.]+)", result.stdout))
    assert after < before / 10


def test_there_is_an_example_for_each_adapter():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {f"train_{n}" for n in NAMES.values()}
