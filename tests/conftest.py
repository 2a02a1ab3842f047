"""Which backends this run is about, and checks that it really is about them.

`pytest --backend torch`, or LOOKAHEAD_BACKENDS=torch in the environment, runs the tests of the
core on that framework and the tests of its adapter. A backend that was asked for and is not there
is an error, never a skip; tests of backends that were not asked for are not collected, and the
report's header says so. The results by backend and clause are matrix_table.py.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

pytest_plugins = ["pytester", "matrix_table"]

# What each backend needs installed.
BACKENDS = {
    "numpy": ("numpy", "array_api_strict", "ml_dtypes", "optree", "safetensors"),
    "torch": ("torch", "numpy", "optree", "safetensors"),
    "jax": ("jax", "optax", "optree", "safetensors"),
    "dask": ("dask.array", "ml_dtypes"),
    "mlx": ("mlx.core",),
    **{f"keras-{name}": ("keras", name) for name in ("tensorflow", "jax", "torch")},
    "cupy": ("cupy", "optree", "safetensors"),
}
# The same tests as of another backend, with its arrays on a GPU.
ON_GPU = {"torch-cuda": "torch", "jax-gpu": "jax"}
BACKENDS |= {name: BACKENDS[family] for name, family in ON_GPU.items()}
# The backends of Keras; its own backend is chosen once a process.
KERAS = tuple(name for name in BACKENDS if name.startswith("keras-"))
# Array namespaces that the core's tests run on, by the names they have in the table of the matrix.
NAMESPACES = {
    "numpy": ("numpy", "numpy-read-only", "array-api-strict", "array-api-strict-minimal"),
    "torch": ("torch",),
    "jax": ("jax",),
    "dask": ("dask",),
    "mlx": ("mlx",),
    "cupy": ("cupy",),
    **dict.fromkeys(KERAS, ()),
}
MODULES = {
    **{name: f"array_api_compat.{name}" for name in ("numpy", "torch", "cupy")},
    "numpy-read-only": "array_api_compat.numpy",
    "dask": "array_api_compat.dask.array",
    "array-api-strict": "array_api_strict",
    "array-api-strict-minimal": "array_api_strict",
    "jax": "jax.numpy",
    "mlx": "lookahead_core.adapters.mlx._namespace",
}
# Where the dtype lives: it is not in the standard, and array-api-strict has none.
BFLOAT16 = {
    "numpy": "ml_dtypes",
    "numpy-read-only": "ml_dtypes",
    "torch": "torch",
    "jax": "jax.numpy",
    "dask": "ml_dtypes",
    "mlx": "mlx.core",
}
# Devices that are not the default one, also by the names of the table; no array on torch's meta
# device has values.
DEVICES = {"numpy": ("array-api-strict",), "torch": ("torch-meta",)}
# Tests of this file, of the table, of formulas, figures, the slow network and the conformance suite
# itself, with its mutants in plain Python, say nothing about a backend: with NumPy.
ONCE = {"matrix", "analysis", "figures", "network", "meta"}
# What belongs to some backends: folders of tests of adapters, and modules anywhere else.
FOLDERS = {"numpy": "numpy", "torch": "torch", "jax": "optax", "mlx": "mlx", "cupy": "cupy"}
FOLDERS |= dict.fromkeys(KERAS, "keras")
MODULES_OF = {
    "test_jax_transformations.py": {"jax"},
    "test_devices.py": set(DEVICES),
    # The contract of a kernel speaks of devices, and Dask's arrays have no `device`.
    "test_kernel.py": set(BACKENDS) - {"dask"},
    "test_inner_against_torch.py": {"torch"},
    "test_real_data.py": {"jax"},
    "test_with_data.py": {"torch"},
    "test_surgery.py": {"torch"},
    "test_damaged_states.py": {"torch"},
    "test_damaged_files.py": {"numpy"},
    # optax returns new states: there is nothing that could be left half written.
    "test_interrupts.py": {"numpy", "torch", "mlx"},
    "test_many_leaves.py": {"numpy"},
    "test_array_pages.py": {"numpy"},
    "test_excerpts.py": {"numpy"},
    "test_edited_moments.py": {"numpy", "torch", "jax"},
    **{f"test_{backend}_arrays.py": {backend} for backend in ("torch", "jax", "mlx")},
    "test_bench.py": {"torch"},
    "test_on_gpu.py": {"torch"},
    "test_optax_compile.py": {"jax"},
    "test_on_meshes.py": {"jax"},
    "test_jax_workers_page.py": {"jax"},
    **{f"test_{backend}_guide.py": {backend} for backend in ("torch", "jax", "mlx")},
    "test_keras_guide.py": set(KERAS),
}

if importlib.util.find_spec("lookahead_core.adapters") is None:
    raise pytest.UsageError(
        "lookahead_core.adapters is not importable: install the checkout, pip install -e ."
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        help=f"one of {', '.join(BACKENDS)}; may be given more than once "
        "(default: those in LOOKAHEAD_BACKENDS, separated by commas, else numpy)",
    )
    parser.addoption("--wheel", help="the built wheel; without it tests/packaging is not collected")
    parser.addoption("--site", help="the built site; without it tests/site is not collected")
    parser.addoption("--browser", help="a Chromium to open the site in; without it, it is not")
    parser.addoption(
        "--clients",
        action="store_true",
        help="collect tests/clients, which needs the libraries of a group `clients-…` installed",
    )
    parser.addoption(
        "--distributed",
        action="store_true",
        help="collect tests/distributed, which start processes or are started by torchrun",
    )
    parser.addoption(
        "--gpu-code",
        action="store_true",
        help="collect tests/gpu_code, which needs CuPy, torch and their compilers, and no GPU",
    )
    parser.addoption(
        "--slow", action="store_true", help="collect tests/slow too: minutes, and gigabytes of disk"
    )
    parser.addoption(
        "--installed",
        action="store_true",
        help="refuse to test a lookahead_core that is not in site-packages, such as the checkout",
    )


def asked_for(config: pytest.Config) -> list[str]:
    named = os.environ.get("LOOKAHEAD_BACKENDS", "").split(",")
    return config.getoption("--backend") or [n.strip() for n in named if n.strip()] or ["numpy"]


def families(config: pytest.Config) -> list[str]:
    """The backends that were asked for, by the names that tests know them by."""
    return [ON_GPU.get(backend, backend) for backend in asked_for(config)]


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not there
        return False


def pytest_configure(config: pytest.Config) -> None:
    asked = asked_for(config)
    for backend in asked:
        if backend not in BACKENDS:
            raise pytest.UsageError(f"backend must be one of {', '.join(BACKENDS)}, got {backend}")
        for module in BACKENDS[backend]:
            if not is_installed(module):
                raise pytest.UsageError(f"backend {backend} needs {module}: it is not installed")
    choose_keras_backend(config, asked)
    if {"jax", "keras-jax"} & {*asked}:
        compile_faster()
    for backend in asked:
        if backend in HAS_GPU and not HAS_GPU[backend]():
            raise pytest.UsageError(
                f"backend {backend} needs a GPU, and there is none: NOT verified here"
            )
        if ON_GPU.get(backend) in asked:
            raise pytest.UsageError(f"backend {backend} and {ON_GPU[backend]}: one at a time")
    if "jax" in families(config):
        jax = importlib.import_module("jax")
        # The oldest JAX that we support has it there alone; the tests use it, the adapter does not.
        if not hasattr(jax, "enable_x64"):
            jax.enable_x64 = importlib.import_module("jax.experimental").enable_x64
    if config.getoption("--installed") and not tested().is_relative_to(site_packages()):
        raise pytest.UsageError(f"--installed: not in {site_packages()}, but {tested()}")


def choose_keras_backend(config: pytest.Config, asked: list[str]) -> None:
    """Keras reads which one it is when it is imported."""
    chosen = [backend for backend in asked if backend in KERAS]
    if len(chosen) > 1:
        raise pytest.UsageError(f"backends {', '.join(chosen)}: one to a process")
    for backend in chosen:
        os.environ["KERAS_BACKEND"] = backend.partition("-")[2]
        # Of Keras 3.15 itself, where it makes NumPy arrays of torch's tensors.
        config.addinivalue_line(
            "filterwarnings", "ignore:__array__ implementation doesn't:DeprecationWarning"
        )


def compile_faster() -> None:
    """XLA's older way of compiling for the CPU, where it is left, and without LLVM's optimizations.

    That takes half of the time and less. What users run is compiled in the newer way: by
    `nox -s newest`, whose JAX has no other.
    """
    version = importlib.metadata.version("jaxlib")
    faster = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    flags = os.environ.get("XLA_FLAGS", "")
    if tuple(map(int, version.split(".")[:2])) < (0, 11) and faster not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {faster}".strip()


def cupy_has_gpu() -> bool:
    """Ask the hardware: CuPy imports well where there is none."""
    return importlib.import_module("lookahead_core.adapters.cupy").is_available()


def torch_has_gpu() -> bool:
    return importlib.import_module("torch").cuda.is_available()


def jax_has_gpu() -> bool:
    return importlib.import_module("jax").default_backend() == "gpu"


HAS_GPU = {"cupy": cupy_has_gpu, "torch-cuda": torch_has_gpu, "jax-gpu": jax_has_gpu}


@pytest.fixture(autouse=True)
def tensors_on_the_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """torch makes its tensors there only if it is told to; JAX does by itself."""
    with ExitStack() as stack:
        if "torch-cuda" in asked_for(request.config):
            stack.enter_context(importlib.import_module("torch").device("cuda"))
        yield


def tested() -> Path:
    """Where the package under test is imported from."""
    return Path(importlib.import_module("lookahead_core").__file__).parent.resolve()


def site_packages() -> Path:
    return Path(sysconfig.get_path("purelib")).resolve()


def pytest_report_header(config: pytest.Config) -> list[str]:
    asked = asked_for(config)
    rest = sorted(set(BACKENDS) - set(asked))
    rest += [] if config.getoption("--wheel") else ["the built wheel"]
    rest += [] if config.getoption("--site") else ["the built site"]
    rest += [] if config.getoption("--browser") else ["the site in a browser"]
    rest += [] if config.getoption("--clients") else ["client libraries"]
    rest += [] if config.getoption("--distributed") else ["several processes"]
    rest += [] if config.getoption("--gpu-code") else ["the code for GPUs"]
    rest += [] if config.getoption("--slow") else ["the slow tests"]
    return [
        f"lookahead_core: {tested()}",
        f"tested: {', '.join(asked)}; NOT verified here: {', '.join(rest)}",
    ]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    name, asked = collection_path.name, families(config)
    if name == "packaging" and not config.getoption("--wheel"):
        return True
    if name == "site" and collection_path.is_dir() and not config.getoption("--site"):
        return True
    if name == "test_in_browser.py" and not config.getoption("--browser"):
        return True
    if name == "clients" and collection_path.is_dir() and not config.getoption("--clients"):
        return True
    if name == "distributed" and not config.getoption("--distributed"):
        return True
    if name == "gpu_code" and not config.getoption("--gpu-code"):
        return True
    if name == "slow" and not config.getoption("--slow"):
        return True
    if name in MODULES_OF and not MODULES_OF[name] & set(asked):
        return True
    if name in ONCE and collection_path.is_dir() and "numpy" not in asked:
        return True
    if collection_path.is_dir() and collection_path.parent.name == "adapters":
        wanted = {FOLDERS.get(backend) for backend in asked}
        return True if name in FOLDERS.values() and name not in wanted else None
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    asked = families(metafunc.config)
    names = [name for backend in asked for name in NAMESPACES[backend]]
    if "xp" in metafunc.fixturenames:
        metafunc.parametrize("xp", names, indirect=True)
    if "bfloat16" in metafunc.fixturenames:
        having = [name for name in names if name in BFLOAT16]
        metafunc.parametrize("bfloat16", having, indirect=True)
    if "placed" in metafunc.fixturenames:
        devices = [name for backend in asked for name in DEVICES.get(backend, ())]
        metafunc.parametrize("placed", devices, indirect=True)
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", asked)


@pytest.fixture
def xp(request: pytest.FixtureRequest):
    """An array namespace of a backend under test, with its functions under the standard's names."""
    with namespace(request.param) as xp:
        yield xp


@pytest.fixture
def bfloat16(request: pytest.FixtureRequest):
    """A namespace that has bfloat16, and that dtype."""
    dtype = importlib.import_module(BFLOAT16[request.param]).bfloat16
    with namespace(request.param) as xp:
        yield xp, dtype


@pytest.fixture
def placed(request: pytest.FixtureRequest):
    """A namespace, and a device of it that is not its default."""
    if request.param == "torch-meta":
        xp = importlib.import_module(MODULES["torch"])
        return xp, xp.device("meta")
    xp = importlib.import_module(MODULES[request.param])
    return xp, xp.Device("device1")


@pytest.fixture
def namespace_named():
    """Context manager for one namespace, for tests of that namespace itself."""
    return namespace


@contextmanager
def namespace(name: str) -> Iterator[Any]:
    """The array namespace `name`, as strict as it can be made."""
    module = importlib.import_module(MODULES[name])
    with ExitStack() as stack:
        if name == "jax":
            import jax

            # A promotion of shapes that the core does not mean is an error.
            stack.enter_context(jax.enable_x64(True))
            stack.enter_context(jax.numpy_rank_promotion("raise"))
        if name == "mlx":
            module = module.NAMESPACE
        if name == "array-api-strict-minimal":
            # Nothing that the standard makes optional.
            flags = {"boolean_indexing": False, "data_dependent_shapes": False}
            stack.enter_context(module.ArrayAPIStrictFlags(**flags, enabled_extensions=()))
        if name == "numpy-read-only":
            stack.enter_context(read_only_arguments())
            module = ReadOnlyNamespace(module)
        yield module


class ReadOnlyNamespace:
    """A NumPy namespace whose functions make arrays that cannot be written to."""

    __name__ = "numpy-read-only"

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._module, name)
        if isinstance(attribute, type) or not callable(attribute):
            return attribute
        return lambda *args, **kwargs: read_only(attribute(*args, **kwargs))


def read_only(value: Any) -> Any:
    """`value`, with every array in it marked read-only."""
    from numpy import ndarray

    if isinstance(value, tuple | list):
        for item in value:
            read_only(item)
    elif isinstance(value, ndarray):
        value.setflags(write=False)
    return value


@contextmanager
def read_only_arguments() -> Iterator[None]:
    """Mark all arrays read-only that the core is given: `x - 1` in a test makes a writeable one."""
    from lookahead_core import Interpolate, SyncRule

    def marking(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def marked(*args: Any, **kwargs: Any) -> Any:
            read_only([*args, *kwargs.values()])
            return method(*args, **kwargs)

        return marked

    methods = [(SyncRule, name) for name in ("init", "begin", "step", "sync", "slow", "anchor")]
    with ExitStack() as stack:
        for owner, name in [*methods, (Interpolate, "update")]:
            stack.enter_context(patch.object(owner, name, marking(getattr(owner, name))))
        yield
