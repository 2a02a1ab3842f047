"""docs/write-an-adapter.md, as a third party would use it: a package of its own, elsewhere."""

import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from lookahead_core.conformance import CLAUSES

PAGE = Path(__file__).parents[2] / "docs" / "write-an-adapter.md"
ADAPTER, DRIVER, REPORT, TESTS, META, KERNEL, META_DRIVER, META_TESTS = (
    token.content for token in MarkdownIt().parse(PAGE.read_text()) if token.type == "fence"
)
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "somebodys-lookahead"
version = "1"
[tool.setuptools]
py-modules = ["somebodys_lookahead"]
"""


@pytest.fixture
def package(tmp_path):
    """The page's code as an installed package, and an empty folder to work in."""
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    for folder in (source, empty):
        folder.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "somebodys_lookahead.py").write_text(ADAPTER + DRIVER + META + KERNEL + META_DRIVER)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(site)]
    subprocess.run([*command, str(source)], check=True)
    return site, empty


def run(package, *command):
    site, empty = package
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(empty)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_example_conforms_from_an_empty_folder_with_pytest_and_without(package):
    header = "from somebodys_lookahead import *\n"
    plain = run(package, "-c", header + REPORT)
    assert plain.returncode == 0, plain.stderr
    statuses = {line.split()[0]: line.split()[1] for line in plain.stdout.splitlines()}
    assert set(statuses) == set(CLAUSES)
    assert set(statuses.values()) == {"pass", "not"}
    assert [*statuses.values()].count("pass") >= 10

    (package[1] / "test_mine.py").write_text(header + TESTS)
    tested = run(package, "-m", "pytest", "-q")
    assert tested.returncode == 0, tested.stdout
    assert f"{[*statuses.values()].count('pass')} passed" in tested.stdout


def test_the_adapter_and_its_driver_are_under_sixty_lines():
    lines = [line for line in (ADAPTER + DRIVER).splitlines() if line.strip()]
    assert len(lines) < 60


def test_the_second_half_conforms_to_the_family_as_well(package):
    (package[1] / "test_rules.py").write_text("from somebodys_lookahead import *\n" + META_TESTS)
    tested = run(package, "-m", "pytest", "-q", "-rs")
    assert tested.returncode == 0, tested.stdout
    skipped = {
        line.split(": ")[1].split()[0]
        for line in tested.stdout.splitlines()
        if "driver has no" in line
    }
    assert {"C16", "C17", "C18", "C22", "C71", "C72", "C73", "C74", "C75", "C78"}.isdisjoint(
        skipped
    )
    # The page's driver has no files, periods that change, averages at gradient points, metrics.
    not_declared = {"C62", "C85", "C86", "C87", "C90", "C91"}
    assert skipped == {"C03", "C11", "C14", "C15", "C27", "C31", "C32", "C34"} | not_declared
