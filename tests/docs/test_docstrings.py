"""Public docstrings are numpydoc, and their examples print what they say."""

import doctest
import importlib
import inspect
from pydoc import locate

import pytest
from numpydoc.validate import validate

ADAPTERS = {"numpy": "numpy", "torch": "torch", "jax": "optax", "mlx": "mlx"}
CORE = ["lookahead_core", "lookahead_core.analysis", "lookahead_core.conformance"]

# Style that we do not share: a docstring starts on the line of its quotes, and "See Also" and an
# extended summary are written where they say something. PR09: fragments end without a full stop.
# PR06 reads "integer" in "0-d integer array" as a type's name.
NOT_OURS = {"GL01", "GL02", "SA01", "ES01", "PR06", "PR09", "RT03", "RT05", "SS05", "SS06"}
# Methods say what is theirs; arguments that several share are explained once.
NOT_FOR_METHODS = {"PR01", "RT01", "EX01", "YD01"}
# Data and types: they have no arguments, and their examples are those of what uses them.
PLAIN = {"CAPABILITIES", "CLAUSES", "INNER_EDITS", "KERNEL_CHECKS", "REFERENCE_KERNEL"}


def public(backend: str) -> list[str]:
    """Full names of the public functions and classes."""
    modules = [f"lookahead_core.adapters.{ADAPTERS[backend]}"]
    modules += CORE if backend == "numpy" else []
    return [
        f"{module}.{name}"
        for module in modules
        for name in importlib.import_module(module).__all__
        if name not in PLAIN
    ]


def methods(name: str) -> list[str]:
    value = locate(name)
    members = vars(value) if inspect.isclass(value) else {}
    return [f"{name}.{n}" for n, m in members.items() if n[0] != "_" and inspect.isfunction(m)]


def errors(name: str) -> dict[str, str]:
    found = {code: text for code, text in validate(name)["errors"] if code not in NOT_OURS}
    value = locate(name)
    fields = getattr(value, "_fields", ())
    if fields and all(f"    {field} : " in value.__doc__ for field in fields):
        found.pop("PR01", None)  # a NamedTuple's fields are attributes, not arguments
    if getattr(value, "_is_protocol", False):
        found.pop("PR01", None)  # nobody calls it; typing gives it *args and **kwargs
    return found


def test_public_docstrings_are_numpydoc(backend):
    found = {name: errors(name) for name in public(backend)}
    exempt = {"EX01"}  # runnable examples: see the next test
    assert {n: e for n, e in found.items() if set(e) - exempt} == {}


def test_public_functions_and_classes_have_a_runnable_example(backend):
    without = {name.rpartition(".")[2] for name in public(backend) if "EX01" in errors(name)}
    # The general forms and the records that the examples of the others use.
    assert without <= {
        *("MetaOptimizer", "meta_optimizer", "InnerOptimizer"),
        *("SyncContext", "SyncState", "LookaheadState", "SplitTransformation"),
        # What needs a driver: docs/write-an-adapter.md has a whole one, which is run.
        *("AdapterDriver", "AdapterConformance", "KernelConformance", "check_adapter"),
        *("Inner", "Leaf", "Outcome", "Outer", "Second", "Setup"),
        *("Ahead", "Averaging"),
    }


def test_public_methods_are_documented(backend):
    names = [method for name in public(backend) for method in methods(name)]
    found = {name: {c for c in errors(name) if c not in NOT_FOR_METHODS} for name in names}
    assert {name: codes for name, codes in found.items() if codes} == {}


def test_a_bad_docstring_would_be_seen():
    assert "GL08" in dict(validate("reference_loop.Trajectory.__init__")["errors"])


@pytest.mark.filterwarnings("error")
def test_the_examples_print_what_they_say(backend):
    # The modules that the names are written in: an adapter's own may be a list of names.
    names = {locate(name).__module__ for name in public(backend) if "EX01" not in errors(name)}
    names = {name for name in names if name.startswith("lookahead_core.adapters")}
    if backend == "numpy":
        parts = ("interpolation", "kernel", "outer", "presets", "rule")
        names |= {f"lookahead_core.{part}" for part in parts}
        names |= {"lookahead_core.conformance.kernel", "lookahead_core.conformance.oracle"}
        parts = ("alpha", "contraction", "cost", "game", "noisy_quadratic", "outer", "stability")
        names |= {f"lookahead_core.analysis.{part}" for part in parts}
    for name in names:
        results = doctest.testmod(importlib.import_module(name))
        assert results.attempted > 0, name
        assert results.failed == 0, name
