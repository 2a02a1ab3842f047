"""The demo is one experiment on every backend, and its command writes a table and a picture."""

import sys

import numpy as np
import pytest

import programs
from experiments.demo.data import BATCH_SIZE, TRAIN_SIZE, load_data
from experiments.demo.digits import main
from experiments.demo.experiment import run_one
from experiments.demo.methods import RULES, Method, compared
from experiments.demo.mlp import flat, gradients, initial_weights
from lookahead_core import presets


@pytest.fixture(autouse=True)
def jax_as_it_was():
    """The demo turns on double precision for its process, which other tests share."""
    yield
    if jax := sys.modules.get("jax"):
        jax.config.update("jax_enable_x64", False)


@pytest.fixture
def trainer(backend):
    """The demo's name of the backend: Keras is one, whatever it runs on."""
    return backend.partition("-")[0]


LR, SEED = 0.08, 3


def one_epoch_by_hand(method):
    """The method's definition, written out; the gradient is checked by torch's and jax's own."""
    rng, scans = np.random.default_rng(SEED), load_data()
    theta = dict(initial_weights(rng))
    phi, velocity = dict(theta), dict.fromkeys(theta, 0.0)
    lr = LR / 2 if method is Method.CONTROL else LR
    batches = rng.permutation(TRAIN_SIZE).reshape(-1, BATCH_SIZE)
    if method is Method.SCHEDULE_FREE:
        return schedule_free_by_hand(theta, batches, scans)
    for step, rows in enumerate(batches, start=1):
        gradient = gradients(theta, scans.train_x[rows], scans.train_y[rows], np)
        velocity = {name: 0.9 * velocity[name] + gradient[name] for name in theta}
        theta = {name: theta[name] - lr * velocity[name] for name in theta}
        if method is Method.LOOKAHEAD and step % 5 == 0:
            phi = {name: phi[name] + 0.5 * (theta[name] - phi[name]) for name in theta}
            theta = dict(phi)
    return flat(theta)


def schedule_free_by_hand(start, batches, scans):
    """The lines of Defazio et al. 2024, around SGD at ten times the rate, without momentum."""
    y = z = x = dict(start)
    for step, rows in enumerate(batches, start=1):
        gradient = gradients(y, scans.train_x[rows], scans.train_y[rows], np)
        z = {name: z[name] - 10 * LR * gradient[name] for name in z}
        x = {name: x[name] + (z[name] - x[name]) / step for name in x}
        y = {name: 0.9 * x[name] + 0.1 * z[name] for name in y}
    return flat(x)


def test_every_preset_can_be_compared():
    assert {str(method) for method in RULES} == set(presets.__all__)
    assert [method for method in Method if method not in RULES] == [Method.INNER, Method.CONTROL]


@pytest.mark.clause("C02")
@pytest.mark.parametrize("method", compared(Method.SCHEDULE_FREE))
def test_every_backend_trains_the_same_network_in_the_same_way(method, trainer):
    result = run_one(trainer, method, LR, SEED, epochs=1)
    # Keras trains in float32, its usual precision.
    # MLX 0.32 has the exponential of a float64 to the digits of a float32: exp(1) is 2.71828175.
    atol = {"mlx": 1e-7, "keras": 1e-5}.get(trainer, 1e-10)
    np.testing.assert_allclose(result.weights, one_epoch_by_hand(method), rtol=0, atol=atol)
    assert result.shipped.accuracy > 0.8
    assert not result.diverged


def test_a_rate_that_is_far_too_high_is_reported_as_diverged(trainer):
    result = run_one(trainer, Method.INNER, lr=1e6, seed=0, epochs=1)
    assert result.diverged


def test_the_command_prints_a_table_and_draws_a_picture(trainer, tmp_path):
    options = ["--quick", "--backend", trainer, "--out", str(tmp_path), "--method", "gpa"]
    result = programs.run("experiments.demo.digits", *options)
    assert result.returncode == 0, result.stderr
    for word in ("Lookahead", "gpa", "SGD(0.5*lr)", "accuracy", "loss", "seconds", "slow:fast"):
        assert word in result.stdout
    (picture,) = tmp_path.glob("*-gpa.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000


def test_a_backend_that_cannot_run_here_is_an_error_in_one_line(monkeypatch, tmp_path):
    for module in ("experiments.demo.cupy_model", "lookahead_core.adapters.cupy"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(SystemExit, match=r"^digits\.py: the cupy backend needs cupy, which .*$"):
        main(["--backend", "cupy", "--quick", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
