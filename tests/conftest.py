"""Which backends this run is about, and checks that it really is about them.

`pytest --backend torch` runs the tests of the core on that framework and the tests of its
adapter. A backend that was asked for and is not installed is an error, never a skip; tests of
backends that were not asked for are not collected, and the report's header says so.
"""

import importlib
import importlib.util
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

BACKENDS = {
    "numpy": ("numpy", "array_api_strict", "ml_dtypes"),
    "torch": ("torch",),
    "jax": ("jax", "optax"),
    "cupy": ("cupy",),
}
# Folders of tests that belong to one backend.
FOLDERS = {"numpy": "numpy", "torch": "torch", "jax": "optax", "cupy": "cupy"}

if importlib.util.find_spec("lookahead_core.adapters") is None:
    raise pytest.UsageError(
        "lookahead_core.adapters is not importable: install the checkout, pip install -e ."
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        choices=sorted(BACKENDS),
        help="backend to test; may be given more than once (default: numpy)",
    )
    parser.addoption(
        "--dist", help="folder with the built wheel; without it tests/packaging is not collected"
    )


def asked_for(config: pytest.Config) -> list[str]:
    return config.getoption("--backend") or ["numpy"]


def pytest_configure(config: pytest.Config) -> None:
    for backend in asked_for(config):
        for module in BACKENDS[backend]:
            if importlib.util.find_spec(module) is None:
                raise pytest.UsageError(f"--backend {backend} needs {module}: it is not installed")


def pytest_report_header(config: pytest.Config) -> str:
    asked = asked_for(config)
    rest = sorted(set(BACKENDS) - set(asked))
    rest += [] if config.getoption("--dist") else ["the built wheel"]
    return f"tested: {', '.join(asked)}; NOT tested in this run: {', '.join(rest)}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    folder = collection_path.name
    if folder == "packaging" and not config.getoption("--dist"):
        return True
    if collection_path.is_dir() and collection_path.parent.name == "adapters":
        wanted = {FOLDERS[backend] for backend in asked_for(config)}
        return True if folder in FOLDERS.values() and folder not in wanted else None
    return None


def namespaces(config: pytest.Config) -> list[str]:
    """Array namespaces to run the core's tests on."""
    of = {
        "numpy": ["numpy", "array_api_strict"],
        "torch": ["torch"],
        "jax": ["jax.numpy"],
        "cupy": ["cupy"],
    }
    return [name for backend in asked_for(config) for name in of[backend]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "xp" in metafunc.fixturenames:
        names = namespaces(metafunc.config)
        metafunc.parametrize("xp", names, indirect=True)
    if "bfloat16" in metafunc.fixturenames:
        names = [name for name in namespaces(metafunc.config) if name in BFLOAT16]
        metafunc.parametrize("bfloat16", names, indirect=True)
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", asked_for(metafunc.config))


# Where the dtype lives: it is not in the standard, and array-api-strict has none.
BFLOAT16 = {"numpy": "ml_dtypes", "torch": "torch", "jax.numpy": "jax.numpy"}


@pytest.fixture
def xp(request: pytest.FixtureRequest):
    """An array namespace of a backend under test, with its functions under the standard's names."""
    with strict(request.param):
        yield load_namespace(request.param)


@pytest.fixture
def bfloat16(request: pytest.FixtureRequest):
    """A namespace that has bfloat16, and that dtype."""
    dtype = importlib.import_module(BFLOAT16[request.param]).bfloat16
    with strict(request.param):
        yield load_namespace(request.param), dtype


@contextmanager
def strict(name: str):
    """JAX with float64, and with a promotion of shapes that the core does not mean an error."""
    if name != "jax.numpy":
        yield
        return
    import jax

    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield


def load_namespace(name: str):
    wrapped = name in ("numpy", "torch", "cupy")
    return importlib.import_module(f"array_api_compat.{name}" if wrapped else name)
