"""A backend that was asked for and is not there is an error; the report says what did not run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lookahead_core import Kernel, lookahead

TESTS = Path(__file__).parents[1]
# CuPy as it is on a machine with or without a GPU: its wheels import on both.
CUPY = """
class cuda:
    class runtime:
        class CUDARuntimeError(Exception): ...
        def getDeviceCount():
            {outcome}
"""


def collect(*options, path=None, **environment):
    """Collect one module with the real conftest.py, in an interpreter of its own."""
    environment = {**os.environ, "LOOKAHEAD_BACKENDS": "", **environment}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider"]
    module = TESTS / "core" / "test_kernel.py"
    config = [f"--rootdir={TESTS.parent}", f"-c={TESTS.parent / 'pyproject.toml'}"]
    return subprocess.run(
        [*command, *config, str(module), *options],
        cwd=path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def refused(result, message):
    return result.returncode == pytest.ExitCode.USAGE_ERROR and message in result.stderr


@pytest.fixture
def without_torch(tmp_path):
    """A folder in front of the path in which PyTorch cannot be found."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
    )
    return tmp_path


def test_the_environment_names_backends_like_the_option(tmp_path):
    by_option = collect("--backend", "numpy", path=tmp_path)
    by_environment = collect(path=tmp_path, LOOKAHEAD_BACKENDS=" numpy,")
    for result in (by_option, by_environment):
        assert result.returncode == 0, result.stderr
        assert (
            "tested: numpy; NOT verified here: cupy, dask, jax, jax-gpu, keras-jax, "
            "keras-tensorflow, keras-torch, mlx, torch, torch-cuda" in result.stdout
        )


def test_the_option_comes_before_the_environment(tmp_path):
    result = collect("--backend", "numpy", path=tmp_path, LOOKAHEAD_BACKENDS="fortran")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("by", ["option", "environment"])
def test_an_unknown_backend_is_an_error(by, tmp_path):
    options = ["--backend", "fortran"] if by == "option" else []
    result = collect(*options, path=tmp_path, LOOKAHEAD_BACKENDS="numpy,fortran")
    assert refused(
        result,
        "backend must be one of numpy, torch, jax, dask, mlx, keras-tensorflow, keras-jax, "
        "keras-torch, cupy, torch-cuda, jax-gpu, got fortran",
    )


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_backend_that_is_not_installed_is_an_error(by, without_torch):
    options = ["--backend", "numpy", "--backend", "torch"] if by == "option" else []
    result = collect(*options, path=without_torch, LOOKAHEAD_BACKENDS="numpy,torch")
    assert refused(result, "backend torch needs torch: it is not installed")


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ("raise cuda.runtime.CUDARuntimeError('no driver')", True),
        ("return 0", True),
        ("return 1", False),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error_although_cupy_imports(outcome, error, tmp_path):
    (tmp_path / "cupy.py").write_text(CUPY.format(outcome=outcome))
    result = collect(path=tmp_path, LOOKAHEAD_BACKENDS="numpy,cupy")
    message = "backend cupy needs a GPU, and there is none: NOT verified here"
    assert refused(result, message) is error
    # Where there is one the probe lets it pass; this cupy has no arrays to go on with.
    assert ("tested: numpy, cupy" in result.stdout) is not error


# Their stand-ins have nothing but the question that is asked of them.
GPUS = {
    "torch-cuda": ("torch", "class cuda:\n    is_available = lambda: {answer}"),
    "jax-gpu": ("jax", "enable_x64 = None\ndefault_backend = lambda: 'gpu' if {answer} else 'cpu'"),
}


@pytest.mark.parametrize("leg", GPUS)
def test_a_framework_that_sees_no_gpu_is_an_error_on_its_gpu_backend(leg, tmp_path):
    module, text = GPUS[leg]
    for name in ("optax", "safetensors"):
        (tmp_path / f"{name}.py").touch()
    for answer in (False, True):
        (tmp_path / f"{module}.py").write_text(text.format(answer=answer))
        result = collect("--backend", leg, path=tmp_path)
        message = f"backend {leg} needs a GPU, and there is none: NOT verified here"
        assert refused(result, message) is not answer
        assert (f"tested: {leg};" in result.stdout) is answer


def test_a_backend_on_the_cpu_and_on_the_gpu_are_two_runs(tmp_path):
    (tmp_path / "torch.py").write_text("class cuda:\n    is_available = lambda: True")
    result = collect("--backend", "torch-cuda", "--backend", "torch", path=tmp_path)
    assert refused(result, "backend torch-cuda and torch: one at a time")


def test_a_copy_that_is_not_installed_is_refused(tmp_path):
    (tmp_path / "lookahead_core").mkdir()
    for name in ("__init__", "adapters"):
        (tmp_path / "lookahead_core" / f"{name}.py").touch()
    result = collect("--installed", path=tmp_path)
    assert refused(result, f"but {tmp_path.resolve() / 'lookahead_core'}")


def in_place(slow, fast, alpha):
    """Writes to whatever it was given."""
    for leaf in (*slow, *fast):
        leaf[...] = 0.0
    return slow, fast


def test_read_only_arrays_are_read_only_when_they_reach_the_core(namespace_named):
    rule, kernel = lookahead(1), Kernel(interpolate=in_place)
    with namespace_named("numpy-read-only") as xp:
        start = xp.asarray([1.0])
        assert not start.flags.writeable
        moved, state = (start - 1.0,), rule.init((start,))
        assert moved[0].flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            rule.step(moved, (), state, kernel=kernel)
        with pytest.raises(ValueError, match="read-only"):
            rule.sync((start - 1.0,), (), state, kernel=kernel)
    rule.step((start - 1.0,), (), rule.init((start,)), kernel=kernel)


def test_the_minimal_strict_namespace_has_no_optional_behaviour(namespace_named):
    with namespace_named("array-api-strict") as xp:
        array, mask = xp.asarray([1.0, 2.0]), xp.asarray([True, False])
        assert float(array[mask][0]) == 1.0
    with namespace_named("array-api-strict-minimal"):
        with pytest.raises(RuntimeError, match="boolean_indexing flag has been disabled"):
            array[mask]
        with pytest.raises(RuntimeError, match="data_dependent_shapes flag has been disabled"):
            xp.nonzero(array)
        with pytest.raises(AttributeError, match="'linalg' extension has been disabled"):
            xp.linalg.matmul(array, array)
