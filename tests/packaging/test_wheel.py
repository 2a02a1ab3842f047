"""What is in the built wheel, and what is not."""

from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
# Of the checkout, and their names where they are installed.
FOLDERS = {
    "lookahead_core": "lookahead_core",
    "adapters": "lookahead_core/adapters",
    "conformance": "lookahead_core/conformance",
}


@pytest.fixture(scope="module")
def wheel(request):
    with ZipFile(request.config.getoption("--wheel")) as archive:
        yield archive


def test_the_wheel_holds_every_module_under_its_installed_name(wheel):
    expected = {
        f"{installed}/{path.relative_to(ROOT / folder)}"
        for folder, installed in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    modules = {name for name in wheel.namelist() if name.endswith(".py")}
    assert modules == expected
    assert len(expected) > 20


def test_the_wheel_is_typed_and_licensed(wheel):
    names = wheel.namelist()
    assert "lookahead_core/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_nothing_but_the_package_reaches_site_packages(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lookahead_core"}


def test_the_one_dependency_is_array_api_compat(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    required = [
        line.removeprefix("Requires-Dist: ")
        for line in wheel.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    assert len(required) == 1
    assert required[0].startswith("array-api-compat")
