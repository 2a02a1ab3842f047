"""The versions that `nox -s minimums` tests are those that pyproject.toml promises."""

import re
import tomllib
from pathlib import Path

from packaging.version import Version

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


def versions(requirements, operator):
    """Version after `operator` by project, for the requirements that have one."""
    pattern = re.compile(rf"([\w-]+){operator}([\w.]+)")
    found = [pattern.match(r) for r in requirements if isinstance(r, str)]
    return {match[1]: Version(match[2]) for match in found if match}


def test_the_pins_are_the_lower_bounds():
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    bounds = versions([*project["dependencies"], *extras["numpy"], *extras["jax"]], ">=")
    pins = versions(PYPROJECT["dependency-groups"]["minimums"], "==")
    assert pins.pop("jaxlib") == pins["jax"]
    assert pins == bounds
    assert set(bounds) == {"array-api-compat", "numpy", "optree", "jax", "optax"}
