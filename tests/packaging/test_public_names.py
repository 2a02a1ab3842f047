"""The public names are promises: sorted, complete, and the same word for word in all adapters."""

import importlib
import inspect
import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")  # the one that is installed beside it

MODULES = [
    "lookahead_core",
    "lookahead_core.analysis",
    "lookahead_core.conformance",
    "lookahead_core.adapters",
    "lookahead_core.adapters.cupy",  # imports without CuPy
    "lookahead_core.adapters.keras",
    "lookahead_core.adapters.mlx",
    "lookahead_core.adapters.numpy",
    "lookahead_core.adapters.torch",
    "lookahead_core.adapters.optax",
]
SIGNATURE = ["inner", "sync_period", "alpha", "inner_state"]
DEFAULTS = {"sync_period": 5, "alpha": 0.5, "inner_state": "maintain"}


@pytest.mark.parametrize("name", MODULES)
def test_all_names_are_sorted_and_there(name):
    module = importlib.import_module(name)
    public = module.__all__
    if name == "lookahead_core":  # the presets come last, as their module has them
        presets = module.presets.__all__
        assert public[-len(presets) :] == presets == sorted(presets)
        public = public[: -len(presets)]
    # Ruff's order: constants, classes, functions.
    groups = [
        [n for n in public if n.isupper()],
        [n for n in public if not n.isupper() and n[0].isupper()],
        [n for n in public if n[0].islower()],
    ]
    assert public == [n for group in groups for n in sorted(group)]
    for attribute in module.__all__:
        assert getattr(module, attribute) is not None


def test_an_unknown_adapter_is_an_attribute_error():
    adapters = importlib.import_module("lookahead_core.adapters")
    with pytest.raises(AttributeError, match="no attribute 'fortran'"):
        _ = adapters.fortran


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((name, "Lookahead") for name in ("numpy", "torch", "mlx", "keras")),
        ("optax", "lookahead"),
    ],
)
def test_lookahead_has_one_signature(module, name):
    lookahead = getattr(importlib.import_module(f"lookahead_core.adapters.{module}"), name)
    parameters = inspect.signature(lookahead).parameters
    positional = [n for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == SIGNATURE
    assert {n: parameters[n].default for n in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((name, "MetaOptimizer") for name in ("numpy", "torch", "mlx", "keras")),
        ("optax", "meta_optimizer"),
    ],
)
def test_the_general_form_has_one_signature(module, name):
    general = getattr(importlib.import_module(f"lookahead_core.adapters.{module}"), name)
    assert list(inspect.signature(general).parameters)[:2] == ["inner", "rule"]
