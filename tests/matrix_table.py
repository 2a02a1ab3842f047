"""The matrix: what came of each clause on each backend, as a table.

As a pytest plugin (conftest.py loads it) `--matrix-json FILE` writes the results of one run. As a
program, `python tests/matrix_table.py FOLDER PAGE` merges the files of a folder into one table,
prints it and writes the page.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "numpy": "NumPy, its adapter included",
    "numpy-read-only": "NumPy, every array that the core and the array loop are given read-only",
    "array-api-strict": "array-api-strict, also on a device that is not its default, and through "
    "the array loop",
    "array-api-strict-minimal": "array-api-strict without what the standard makes optional",
    "torch": "torch on the CPU, its adapter included",
    "torch-arrays": "torch tensors through the array loop, without torch.optim",
    "torch-meta": "torch on the meta device: arrays without values",
    "jax": "JAX eagerly, the optax adapter included",
    "jax-jit": "JAX under jit, the optax adapter included",
    "jax-scan": "JAX in a scan, the optax adapter included",
    "jax-vmap": "JAX under vmap, the optax adapter included",
    "jax-arrays": "JAX arrays through the array loop, which replaces them",
    "mlx": "MLX on the CPU, its adapter included",
    "mlx-compiled": "MLX's adapter under `mx.compile`",
    "mlx-arrays": "MLX arrays through the array loop, without mlx.optimizers",
    "keras-tensorflow": "Keras on TensorFlow: its adapter, as it is and in a traced step",
    "keras-jax": "Keras on JAX: likewise",
    "keras-torch": "Keras on torch: its adapter",
    "dask": "Dask, the pure core alone: it has no adapter",
    "cupy": "CuPy, its adapter included; needs a GPU",
    "torch-cuda": "torch on a GPU, its adapter and the array loop included",
    "jax-gpu": "JAX on a GPU, the optax adapter and the array loop included",
}
# Folders whose tests say something about a backend; the others test the suite, docs and packaging.
FOLDERS = ("core", "adapters", "properties")
TEXT = """# The matrix: clauses and backends

Written by `nox`, from the results of its test sessions on one machine. A cell counts tests of the
[clause](spec.md) on that backend. *n.a.*: the clause cannot be asked of that adapter; a dash: no
test asks it there; **NOT verified here**: that backend did not run on the machine that wrote this.

{table}

{columns}
"""


def digest(root: Path = ROOT) -> str:
    """Of all code and tests: results of other code are no results."""
    digest = hashlib.sha256()
    for folder in ("lookahead_core", "adapters", "conformance", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


# --- the plugin ---


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix-json", type=Path, help="file for the results by backend and clause")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--matrix-json")
    # pytest-xdist runs tests in processes of its own, and hands their reports to this one.
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    if item.config.getoption("--matrix-json"):
        report.column, report.clauses = column_of(item), clauses_of(item)
    return report


class Recorder:
    """Counts outcomes by column and clause while pytest runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = digest()
        self.results: dict[str, dict[str, Counter[str]]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        # Of a test that ended its whole process xdist has nothing to say but that it failed.
        column, outcome = getattr(report, "column", None), outcome_of(report)
        for clause in report.clauses if column and outcome else ():
            counts = self.results.setdefault(column, {}).setdefault(clause, Counter())
            counts[outcome] += 1

    def pytest_sessionfinish(self) -> None:
        results = {"digest": self.digest, "results": self.results}
        self.path.write_text(json.dumps(results, indent=1, sort_keys=True))


def outcome_of(report: pytest.TestReport) -> str | None:
    """What came of a test, None where this phase of it does not say."""
    if report.failed:
        return "fail"
    if report.skipped:
        return "expected failure" if hasattr(report, "wasxfail") else "n.a."
    return "pass" if report.when == "call" else None


def column_of(item: pytest.Item) -> str | None:
    """The column that the test `item` belongs to, None if it says nothing about a backend."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if item.path.relative_to(ROOT / "tests").parts[0] not in FOLDERS:
        return None
    backends = item.config.getoption("--backend") or []
    # Whatever the test is about, there it is about a GPU.
    if len(backends) == 1 and backends[0] in ("torch-cuda", "jax-gpu"):
        return backends[0]
    if marker := item.get_closest_marker("column"):
        return marker.args[0]
    for fixture in ("xp", "bfloat16", "placed"):
        if params.get(fixture) in COLUMNS:
            return params[fixture]
    backend = params.get("backend") or (backends[0] if len(backends) == 1 else None)
    return f"{backend}-jit" if params.get("compiled") else backend


def clauses_of(item: pytest.Item) -> tuple[str, ...]:
    """The clauses that the test `item` checks: the one that it is about, or those of its marks."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if item.originalname == "test_clause":
        return (params["name"],)
    marked = [name for mark in item.iter_markers("clause") for name in mark.args]
    return (params["clause"],) if params.get("clause") in marked else tuple(marked)


# --- the table ---


def clauses() -> dict[str, str]:
    """Number and title of every clause of docs/spec.md."""
    found = re.findall(
        r"^\*\*(C\d\d) (.+?)\*\*", (ROOT / "docs/spec.md").read_text(), re.MULTILINE | re.DOTALL
    )
    return {
        number: " ".join(title.split()).rstrip(".,:").replace("|", r"\|") for number, title in found
    }


def merged(folder: Path) -> dict[str, Any]:
    """Results by column and clause from the files of `folder` that are about the code as it is."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    ours = digest()
    return {
        column: found
        for file in files
        if file["digest"] == ours
        for column, found in file["results"].items()
    }


def cell(counts: Mapping[str, int]) -> str:
    if counts.get("fail"):
        return f"FAIL {counts['fail']}"
    told = [f"{name} {counts[name]}" for name in ("pass", "expected failure") if counts.get(name)]
    return ", ".join(told) or ("n.a." if counts.get("n.a.") else "—")


def table(results: Mapping[str, Any]) -> str:
    """Markdown table: backends across, clauses down, aligned to be read as plain text too."""
    rows = [["clause", *COLUMNS]]
    for clause, title in clauses().items():
        cells = [
            cell(results[column].get(clause, {})) if column in results else "NOT verified here"
            for column in COLUMNS
        ]
        rows.append([f"{clause} {title}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths, strict=True))} |"
        for row in rows
    )


def page(results: Mapping[str, Any]) -> str:
    columns = "\n".join(f"- `{name}`: {meaning}." for name, meaning in COLUMNS.items())
    return TEXT.format(table=table(results), columns=columns)


def main(folder: str, path: str) -> None:
    results = merged(Path(folder))
    Path(path).write_text(page(results), encoding="utf-8")
    print(table(results))
    for column in COLUMNS:
        if column not in results:
            print(f"{column}: NOT verified here")


if __name__ == "__main__":
    main(*sys.argv[1:])
