"""The examples of each backend run as they stand, without a warning, and train."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = {
    "numpy": ("train_numpy", "embed_numpy", "embed_gan", "embed_mlx", "partial_fit"),
    "torch": ("train_torch", "embed_torch"),
    "jax": ("train_optax", "embed_scan"),
    "mlx": ("train_mlx",),
    **dict.fromkeys(("keras-tensorflow", "keras-jax", "keras-torch"), ("train_keras",)),
    "cupy": ("train_cupy",),
}
CALLBACKS = sorted(EXAMPLES.glob("callbacks/*.py"))  # run by tests/clients/torch
EMBEDDED = sorted(EXAMPLES.glob("embed_*.py"))


def test_the_examples_train(backend):
    for example in NAMES[backend]:
        command = [sys.executable, "-W", "error", str(EXAMPLES / f"{example}.py")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        before, after = map(float, re.findall(r"loss.*: ([\d.]+)", result.stdout))
        assert after < before / 10, example


def test_every_example_belongs_to_a_backend():
    listed = {name for names in NAMES.values() for name in names}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == listed


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: path.stem)
def test_embedding_the_core_takes_under_25_lines(path):
    assert sum(bool(line.strip()) for line in path.read_text().splitlines()) < 25


@pytest.mark.parametrize("path", CALLBACKS, ids=lambda path: path.stem)
def test_a_callback_for_a_trainer_takes_60_lines_at_most(path):
    assert len(path.read_text().splitlines()) <= 60
