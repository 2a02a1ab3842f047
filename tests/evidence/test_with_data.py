"""The scripts for data that is not here run on synthetic data of the same shape."""

import json
import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import programs
from experiments.evidence.with_data import shipped

FOLDER = Path(__file__).parents[2] / "experiments" / "evidence" / "with_data"
SCRIPTS = {
    "cifar": ["--classes", "100"],
    "penn_treebank": [],
    "transformer": ["--lr", "1"],
}


@pytest.fixture
def run(capsys):
    """The last line that a script prints; in this process, because torch takes long to import."""

    def run(script, *arguments):
        import_module(f"experiments.evidence.with_data.{script}").main(list(arguments))
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def on_synthetic_data(script, *options):
    return script, "--synthetic", "--tiny", "--batch", "16", *SCRIPTS[script], *options


def test_every_script_is_tested():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SCRIPTS, "shipped"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_few_steps_run_as_a_command_and_are_counted(script):
    script, *options = on_synthetic_data(script, "--steps", "6")
    result = programs.run(f"experiments.evidence.with_data.{script}", *options)
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout.splitlines()[-1])
    assert record["step"] == 6
    assert all(isinstance(number, int | float) for number in record.values())


def test_the_steps_that_are_counted_are_those_that_moved_the_weights():
    options = shipped.options_of("").parse_args(["--method", "inner", "--steps", "3"])
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    training = shipped.Training(model, torch.optim.SGD(model.parameters(), lr=1.0), options)
    while not training.finished and training.taken < 10:
        model.weight.grad = torch.ones_like(model.weight)
        training.step()
    assert model.weight.item() == -3.0


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_method_asked_for_is_the_method_that_runs(script, run):
    """After a sync at the k-th step, shipped scores differ unless alpha is 1."""
    scores = {}
    for name, arguments in {
        "inner": ["--method", "inner"],
        "alpha 1": ["--method", "lookahead", "--alpha", "1"],
        "alpha 0": ["--method", "lookahead", "--alpha", "0"],
        "ema": ["--method", "ema", "--decay", "0.5"],
    }.items():
        record = run(*on_synthetic_data(script, "--steps", "5", *arguments))
        scores[name] = {key: value for key, value in record.items() if "loss" in key or "_p" in key}
    assert scores["inner"] == scores["alpha 1"]
    if script != "cifar":  # a few hundred images are classified by chance
        assert scores["alpha 0"] != scores["inner"] != scores["ema"]


def write_cifar(folder):
    """The format of the authors' Python files: rows of 3072 bytes, and labels."""
    rng = np.random.default_rng(0)
    for path, labels, rows in [
        *((f"cifar-10-batches-py/data_batch_{i}", b"labels", 8) for i in range(1, 6)),
        ("cifar-10-batches-py/test_batch", b"labels", 8),
        ("cifar-100-python/train", b"fine_labels", 40),
        ("cifar-100-python/test", b"fine_labels", 8),
    ]:
        (folder / path).parent.mkdir(exist_ok=True)
        images = rng.integers(256, size=(rows, 3072), dtype=np.uint8)
        content = {b"data": images, labels: rng.integers(10, size=rows).tolist()}
        (folder / path).write_bytes(pickle.dumps(content))


def write_text(folder):
    """A sentence a line; the last word of the test text is in no other."""
    for part, last in {"train": "cat", "valid": "cat", "test": "dog"}.items():
        (folder / f"ptb.{part}.txt").write_text(f" the <unk> sat on the {last} \n" * 40)
    for part in ("train", "valid"):
        (folder / f"{part}.en").write_text("the cat sat\n\n" * 20)
        (folder / f"{part}.de").write_text("die Kat@@ ze saß\n\n" * 20)


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("cifar", ["--classes", "10"]),
        ("cifar", ["--classes", "100"]),
        ("penn_treebank", []),
        ("transformer", []),
    ],
)
def test_files_in_the_format_of_the_data_are_read(script, options, tmp_path, run):
    write_cifar(tmp_path)
    write_text(tmp_path)
    small = ("--tiny", "--batch", "8", "--steps", "2", "--epochs", "2")
    assert run(script, "--data", str(tmp_path), *small, *options)["step"] == 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_data_the_error_says_what_is_missing(script, run):
    # Exit with a sentence: Python prints it, and no traceback.
    message = "--data must be the folder of the data, or --synthetic given"
    with pytest.raises(SystemExit, match=message):
        run(script, "--steps", "1")
