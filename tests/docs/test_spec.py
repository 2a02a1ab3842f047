"""docs/spec.md, the tests and the conformance suite name the same clauses."""

import ast
import re
from pathlib import Path

from lookahead_core.conformance import CLAUSES as CHECKED
from lookahead_core.conformance import KERNEL_CHECKS

ROOT = Path(__file__).parents[2]
CLAUSES = set(re.findall(r"^\*\*(C\d\d) ", (ROOT / "docs/spec.md").read_text(), re.MULTILINE))


def cited(source: str) -> set[str]:
    """Clauses that the tests in `source` are marked with."""
    return {
        argument.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.clause"
        for argument in mark.args
        if isinstance(argument, ast.Constant)
    }


def cited_by_all_tests() -> set[str]:
    """Clauses that a test is marked with, and those of the suite, which adapters' tests run."""
    marked = (cited(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py"))
    return {*CHECKED, *KERNEL_CHECKS}.union(*marked)


def test_every_clause_is_cited_by_a_test():
    assert len(CLAUSES) >= 27
    assert CLAUSES - cited_by_all_tests() == set()


def test_no_test_cites_a_clause_that_is_not_there():
    assert cited_by_all_tests() - CLAUSES == set()


def test_a_citation_counts_on_a_test_alone():
    mark = '@pytest.mark.clause("C98", "C99")\n'
    assert cited(mark + "def test_it(): ...") == {"C98", "C99"}
    assert cited(mark + "def helper(): ...") == set()
    assert cited('# pytest.mark.clause("C98")\ndef test_it(): ...') == set()
