"""docs/distributed-faults.md: blocks that are pieces of programs are in programs of the tests."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/distributed-faults.md").read_text()
PIECES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
PROGRAMS = [*ROOT.glob("examples/workers/*.py"), *ROOT.glob("tests/distributed/programs/*.py")]


def lines(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: lines(piece)[0])
def test_a_piece_of_a_program_is_in_it_word_for_word(piece):
    texts = ["\n".join(lines(path.read_text())) for path in PROGRAMS]
    assert any("\n".join(lines(piece)) in text for text in texts)


def test_there_are_pieces():
    assert len(PIECES) == 6
