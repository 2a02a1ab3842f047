"""The core is read in one sitting: little code, and no long functions. Docstrings do not count."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

MODULES = sorted((Path(__file__).parents[2] / "lookahead_core").glob("*.py"))
SILENT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}


def lines_of_code(text: str) -> set[int]:
    """Numbers of the lines that are neither blank nor comment nor docstring."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    spans = [range(t.start[0], t.end[0] + 1) for t in tokens if t.type not in SILENT]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    strings = [
        node.body[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node) is not None
    ]
    docstrings = {line for s in strings for line in range(s.lineno, s.end_lineno + 1)}
    return {line for span in spans for line in span} - docstrings


def functions(text: str) -> dict[str, int]:
    """Lines of code of each function."""
    lines = lines_of_code(text)
    found = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    return {f.name: len(lines & {*range(f.lineno, f.end_lineno + 1)}) for f in found}


def test_the_core_has_fewer_than_1200_lines_of_code():
    assert sum(len(lines_of_code(module.read_text())) for module in MODULES) < 1200


def test_the_core_does_without_its_shelf_of_outer_rules():
    using = {module.stem for module in MODULES if "outer_rules" in module.read_text()}
    assert using - {"__init__", "presets"} == {"linear"}  # in its docstring


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.stem)
def test_no_function_of_the_core_has_more_than_40_lines(module):
    assert {n: size for n, size in functions(module.read_text()).items() if size > 40} == {}


def test_lines_are_counted():
    text = '"""Doc."""\n\n# why\ndef f():\n    """Doc\n    more."""\n    return (\n        1)\n'
    assert lines_of_code(text) == {4, 7, 8}
    assert functions(text) == {"f": 3}
