"""What was measured, as tables: kept as JSON, printed as Markdown, put between a page's markers."""

import json
from pathlib import Path
from typing import TypeAlias

from experiments.benchmarks.paired import Spread

__all__ = ["BEGIN", "END", "NOT_INSTALLED", "Tables", "inserted", "write"]

NOT_INSTALLED = "not installed"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
# A number that is a count and not a time, or words that say why there is none, are values too.
Value: TypeAlias = Spread | float | str


class Tables:
    """Tables by title, rows and columns by name.

    Attributes
    ----------
    environment : dict
        What all of it was measured on.
    tables : dict
        {title: {row: {column: value}}}; each value is a `Spread`, a number or words.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.tables: dict[str, dict[str, dict[str, Value]]] = {}

    def put(self, title: str, row: str, column: str, value: Value) -> None:
        """Write one cell."""
        self.tables.setdefault(title, {}).setdefault(row, {})[column] = value

    def json(self) -> str:
        """A row a line; a spread is [median, first quartile, third quartile, rounds]."""
        lines = ["{", f'"environment": {json.dumps(self.environment)},', '"tables": {']
        titles = []
        for title, rows in self.tables.items():
            entries = [
                f"{json.dumps(row)}: {json.dumps({c: plain(v) for c, v in cells.items()})}"
                for row, cells in rows.items()
            ]
            titles.append(f"{json.dumps(title)}: {{\n" + ",\n".join(entries) + "}")
        return "\n".join([*lines, ",\n".join(titles), "}}"]) + "\n"

    @classmethod
    def read(cls, text: str) -> "Tables":
        """What `json` has written."""
        found = json.loads(text)
        report = cls(found["environment"])
        for title, rows in found["tables"].items():
            for row, cells in rows.items():
                for column, value in cells.items():
                    cell = Spread(*value) if isinstance(value, list) else value
                    report.put(title, row, column, cell)
        return report

    def markdown(self) -> str:
        """All tables, each under its title, with its rows by their names."""
        known = ", ".join(f"{name} {value}" for name, value in self.environment.items())
        parts = [f"{known}."]
        for title, rows in self.tables.items():
            columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
            lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
            for row, cells in rows.items():
                # No such cell is no value that was lost: bf16 has a column more.
                shown = [text(cells[c]) if c in cells else "–" for c in columns]
                lines.append(f"| {row} | {' | '.join(shown)} |")
            parts += [f"### {title}", "\n".join(lines)]
        return "\n\n".join(parts) + "\n"


def plain(value: Value) -> object:
    """As JSON has it, to four digits."""
    if isinstance(value, Spread):
        return [*(float(f"{number:.4g}") for number in value[:3]), value.rounds]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def text(value: Value) -> str:
    """The median, and below it the quartiles: narrow enough for a phone."""
    if isinstance(value, Spread):
        return f"{number(value.median)}<br>({number(value.low)} to {number(value.high)})"
    return number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def inserted(page: str, measured: str) -> str:
    """The page with what was measured between its markers, or ValueError without them."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page must have {BEGIN} and {END} once each")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{measured}\n{END}{rest.split(END)[1]}"


def write(tables: Tables, json_file: Path, page: Path | None) -> None:
    """The JSON, and what it says in the page."""
    json_file.write_text(tables.json(), encoding="utf-8")
    tables = Tables.read(tables.json())  # as it is there, to as many digits
    if page is not None:
        text_of_page = page.read_text(encoding="utf-8")
        page.write_text(inserted(text_of_page, tables.markdown()), encoding="utf-8")
