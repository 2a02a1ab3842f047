"""What a release says of itself in several places is the same, and its source archive is whole."""

import os
import re
import subprocess
import sys
import tarfile
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

import lookahead_core

ROOT = Path(__file__).parents[2]
READ_BY_TESTS = ("adapters", "conformance", "docs", "examples", "experiments", "tests")
ENDINGS = {".py", ".md", ".json", ".png", ".txt"}


@pytest.fixture(scope="module")
def wheel(request):
    return Path(request.config.getoption("--wheel"))


@pytest.fixture(scope="module")
def metadata(wheel):
    with ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    (source,) = wheel.parent.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    (checkout,) = folder.iterdir()
    return checkout


def test_the_version_is_one(metadata):
    version = lookahead_core.__version__
    assert metadata["Version"] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == version.partition(".dev")[0]


def test_the_readme_of_an_index_has_absolute_links_alone(metadata):
    links = re.findall(r"\]\(([^)]+)\)", metadata.get_payload())
    assert len(links) > 20
    assert [link for link in links if not link.startswith("https://")] == []
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", metadata.get_payload())
    assert [p for p in pictures if p.endswith("/raw/main/docs/demo.png")] == pictures != []


def test_the_source_archive_holds_all_that_the_tests_read(unpacked):
    def files(root):
        found = (path for folder in READ_BY_TESTS for path in (root / folder).rglob("*"))
        return {str(path.relative_to(root)) for path in found if path.suffix in ENDINGS}

    assert len(files(ROOT)) > 300
    assert files(ROOT) - files(unpacked) == set()
    for name in ("noxfile.py", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"):
        assert (unpacked / name).is_file()


def test_the_source_archive_runs_its_own_tests(unpacked):
    config = [f"--rootdir={unpacked}", f"-c={unpacked / 'pyproject.toml'}", "--backend=numpy"]
    command = [sys.executable, "-P", "-m", "pytest", *config, "-q", "-p", "no:cacheprovider"]
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PYTEST_")}

    def run(*arguments):
        return subprocess.run(
            [*command, *arguments], cwd=unpacked.parent, env=environment, capture_output=True
        )

    collected = run("--collect-only", str(unpacked / "tests"))
    assert collected.returncode == 0, collected.stdout.decode()[-2000:]
    passed = run(str(unpacked / "tests" / "core" / "test_window.py"))
    assert passed.returncode == 0, passed.stdout.decode()[-2000:]
