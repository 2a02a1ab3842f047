"""Importing the core imports no framework, and an adapter imports its own alone.

Each case runs in an interpreter of its own, and means something only where the frameworks that
must not be imported are installed: that is checked as well.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

FRAMEWORKS = ("numpy", "torch", "jax", "jaxlib", "optax", "cupy", "optree", "tensorflow", "mlx")
# Adapter, and what importing its framework alone brings along.
ADAPTERS = {
    "keras": "keras",
    "mlx": "mlx.optimizers",
    "numpy": "numpy, optree",
    "optax": "optax",
    "torch": "torch",
}
os.environ.setdefault("KERAS_BACKEND", "jax")  # the one that is installed beside it


def imported_by(statement: str) -> set[str]:
    """Frameworks that are loaded after `statement` in a fresh interpreter."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    return set(FRAMEWORKS) & {name.split(".")[0] for name in json.loads(result.stdout)}


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax", "optax", "optree", "mlx"])
def test_the_frameworks_are_there_to_be_imported(framework):
    assert importlib.util.find_spec(framework) is not None


@pytest.mark.parametrize(
    "statement",
    [
        "import lookahead_core",
        "import lookahead_core.adapters",
        "import lookahead_core.analysis",
        "import lookahead_core.conformance",
        "from lookahead_core import *",
    ],
)
def test_importing_the_core_imports_no_framework(statement):
    assert imported_by(statement) == set()


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_importing_an_adapter_imports_its_own_framework_alone(adapter):
    own = imported_by(f"import {ADAPTERS[adapter]}")
    assert imported_by(f"import lookahead_core.adapters.{adapter}") <= own
    assert imported_by(f"from lookahead_core.adapters import {adapter}") <= own


def test_an_import_that_breaks_the_rule_would_be_seen():
    assert "numpy" in imported_by("import lookahead_core, numpy")
