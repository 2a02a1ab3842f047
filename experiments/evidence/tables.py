"""The tables of docs/evidence.md and docs/evidence-tables.md, written between their markers from
docs/evidence.json.

Every number on the pages that is ours is in one of them. What the numbers mean is results.py.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.evidence.compared import CONTROLS, PRESETS, SCHEDULES, SETTINGS
from experiments.evidence.results import (
    Estimate,
    Floats,
    Row,
    Table,
    difference,
    load,
    touches_the_end,
    width,
)
from experiments.evidence.tasks import TASKS

__all__ = ["INNERS", "TABLES", "best_control", "cell_text", "chosen", "rewrite"]

INNERS = {"sgd": "SGD, momentum", "adamw": "AdamW", "muon": "Muon"}
TITLES = {task.name: task.title for task in TASKS}
DEFAULT = "LA k=5 α=0.5 maintain"
END = "<!-- end -->"
EMAS = ("inner, EMA 0.9", "inner, EMA 0.98")
POLICIES = ("maintain", "reset", "interpolate")
# Presets are tried at six rates, which may not reach the ends of the range at which they work.
AT_FEW_RATES = {method.name for method in PRESETS}
NO_WIDTH = "–"


def rewrite(folder: Path, results: Path) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end -->` by the table of that name."""
    tables = load(results)
    written = {
        folder / page: _with_tables((folder / page).read_text(), page, tables) for page in TABLES
    }
    for path, text in written.items():
        path.write_text(text)


def _with_tables(text: str, page: str, tables: Sequence[Table]) -> str:
    for name, make in TABLES[page].items():
        found = text.count(f"<!-- {name} -->\n")
        if found != 1:
            raise ValueError(f"{page} must have <!-- {name} --> once, got {found}")
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        text = before + marker + make(tables) + END + rest.partition(END)[2]
    return text


def gains(tables: Sequence[Table]) -> str:
    """What each method gains over the inner optimizer alone, by its best setting."""
    rows = []
    for table in tables:
        inner = table.rows["inner"]
        differences = [_signed(table, difference(row, inner)) for row in chosen(table).values()]
        rows.append([*_place(table), _score(table, Estimate.of(inner.at_best)), *differences])
    return _markdown(["data", "inner", "rate", "inner alone", *SETTINGS], rows)


def against_controls(tables: Sequence[Table]) -> str:
    """What each method but the EMA gains over the best of the controls, which has the EMAs."""
    methods = [method for method in SETTINGS if method != "EMA"]
    rows = []
    for table in tables:
        control, best_of = best_control(table), chosen(table)
        differences = [_signed(table, difference(best_of[m], control)) for m in methods]
        rows.append([*_place(table), control.method, *differences])
    return _markdown(["data", "inner", "rate", "best control", *methods], rows)


def counts(tables: Sequence[Table]) -> str:
    """How often a method is better, and worse, than the inner optimizer and the best control."""
    rows = []
    for schedule in SCHEDULES:
        places = [table for table in tables if table.schedule == schedule]
        for method in SETTINGS:
            alone = [difference(chosen(t)[method], t.rows["inner"]) for t in places]
            control = [difference(chosen(t)[method], best_control(t)) for t in places]
            rest = ["", ""] if method == "EMA" else _better_and_worse(control)
            rows.append([method, schedule, str(len(places)), *_better_and_worse(alone), *rest])
    head = ["method", "rate", "comparisons", "better than inner alone", "worse"]
    return _markdown([*head, "better than the best control", "worse"], rows)


def instead_of_a_schedule(tables: Sequence[Table]) -> str:
    """What each method gains at a constant rate over the inner optimizer alone with a cosine."""
    cosines = {(t.task, t.inner): t.rows["inner"] for t in tables if t.schedule == "cosine"}
    rows = []
    for table in tables:
        if table.schedule == "constant":
            alone = cosines[table.task, table.inner]
            differences = [_signed(table, difference(r, alone)) for r in chosen(table).values()]
            score = _score(table, Estimate.of(alone.at_best))
            rows.append([*_place(table)[:2], score, *differences])
    return _markdown(["data", "inner", "inner alone, cosine", *SETTINGS], rows)


def best_control(table: Table) -> Row:
    """The control that the validation set prefers."""
    return _chosen([table.rows[method.name] for method in CONTROLS])


def chosen(table: Table) -> dict[str, Row]:
    """Of each method the setting that the validation set prefers."""
    return {
        method: _chosen(
            row
            for name, row in table.rows.items()
            if name.startswith(names) and not name.endswith("reset moments")
        )
        for method, names in SETTINGS.items()
    }


def _better_and_worse(differences: Sequence[Estimate]) -> list[str]:
    better = sum(gain.mean > gain.half for gain in differences)
    worse = sum(gain.mean < -gain.half for gain in differences)
    return [str(better), str(worse)]


def best(tables: Sequence[Table]) -> str:
    """The best that each method does, at the learning rate that suits it."""
    rows = []
    for table in _with_all_lookaheads(tables):
        inner = table.rows["inner"]
        ema = _chosen([table.rows[name] for name in EMAS])
        lookahead = _chosen(_lookaheads(table))
        control = best_control(table)
        rows.append(
            [
                *_place(table),
                _score(table, Estimate.of(inner.at_best)),
                _signed(table, difference(ema, inner)),
                _signed(table, difference(table.rows[DEFAULT], inner)),
                f"{_signed(table, difference(lookahead, inner))} ({_settings(lookahead)})",
                _signed(table, difference(lookahead, control)),
            ]
        )
    head = ["data", "inner", "rate", "inner alone", "EMA", "LA 5, 0.5, maintain", "best LA of 12"]
    head.append("best LA − best control")
    return _markdown(head, rows)


def tally(tables: Sequence[Table]) -> str:
    """In how many rows a method differs from the inner optimizer by more than its interval."""
    groups = {
        "inner at 0.5 or 0.8 lr": "lr",
        "EMA 0.9 or 0.98": "EMA",
        **{f"LA {policy}": f" {policy}" for policy in (*POLICIES, "reset moments")},
    }
    rows = []
    for schedule in SCHEDULES:
        for title, part in groups.items():
            differences = [
                difference(row, table.rows["inner"])
                for table in _with_all_lookaheads(tables)
                if table.schedule == schedule
                for name, row in table.rows.items()
                if (name.endswith(part) or f", {part} " in name)
            ]
            better, worse = _better_and_worse(differences)
            rest = len(differences) - int(better) - int(worse)
            rows.append([title, schedule, better, worse, str(rest)])
    return _markdown(["method", "rate", "better", "worse", "cannot be told"], rows)


def widths(tables: Sequence[Table]) -> str:
    """Octaves of learning rate at which a method comes near the inner optimizer's best."""
    names = ["inner", "inner at 0.5 lr", EMAS[1], *(f"LA k=5 α=0.5 {p}" for p in POLICIES)]
    rows = [
        [*_place(table), *(_width(table, table.rows[name]) for name in names)]
        for table in _with_all_lookaheads(tables)
    ]
    head = ["data", "inner", "rate", "inner alone", "at 0.5 lr", "EMA 0.98", *POLICIES]
    return _markdown(head, rows)


def policies(tables: Sequence[Table]) -> str:
    """The three policies, each a mean over k in {5, 10} and alpha in {0.5, 0.8}."""
    rows = []
    for table in _with_all_lookaheads(tables):
        means = {policy: _mean_at_best(table, policy) for policy in POLICIES}
        inner = table.rows["inner"].at_best
        estimates = [means[policy] - inner for policy in POLICIES]
        estimates += [means["reset"] - means["maintain"], means["interpolate"] - means["maintain"]]
        rows.append([*_place(table), *(_signed(table, Estimate.of(e)) for e in estimates)])
    minus = ["reset − maintain", "interpolate − maintain"]
    return _markdown(["data", "inner", "rate", *POLICIES, *minus], rows)


def policy_widths(tables: Sequence[Table]) -> str:
    """The same for the width: octaves more than the inner optimizer alone."""
    rows = []
    for table in _with_all_lookaheads(tables):
        inner = width(table.rows["inner"], table.bar).mean
        means = [
            np.mean([width(row, table.bar).mean for row in _lookaheads(table, policy)]) - inner
            for policy in POLICIES
        ]
        rows.append([*_place(table), *(f"{round(mean, 1) + 0.0:+.1f}" for mean in means)])
    return _markdown(["data", "inner", "rate", *POLICIES], rows)


def count_kept(tables: Sequence[Table]) -> str:
    """Adam's state reset as a whole, and without its count."""
    names = ["inner", DEFAULT, "LA k=5 α=0.5 reset", "LA k=5 α=0.5 reset moments"]
    rows = [
        [*_place(table), *(_score(table, Estimate.of(table.rows[n].at_best)) for n in names)]
        for table in tables
        if table.inner == "adamw"
    ]
    head = ["data", "inner", "rate", "inner alone", "maintain", "reset", "reset, count kept"]
    return _markdown(head, rows)


def everything(tables: Sequence[Table]) -> str:
    """All rows of all tables."""
    head = ["method", "best test score", "better than inner by", "at lr", "octaves"]
    parts = []
    for table in tables:
        title = f"{TITLES[table.task]}; {INNERS[table.inner]}; {table.schedule} rate"
        rows = [[name, *cell_text(table, row)] for name, row in table.rows.items()]
        unit = "bits a character" if table.is_text else "% accuracy"
        bar = f"Octaves: at or above {abs(table.bar):.4g} {unit}."
        if table.is_text:
            bar = bar.replace("above", "below")
        parts.append(
            f"<details><summary>{title}</summary>\n\n{bar}\n\n{_markdown(head, rows)}\n</details>\n"
        )
    return "\n".join(parts)


def cell_text(table: Table, row: Row) -> list[str]:
    """What one row of a table says: score, difference, rate, width."""
    gain = difference(row, table.rows["inner"])
    return [
        _score(table, Estimate.of(row.at_best)),
        "" if row.method == "inner" else _signed(table, gain),
        f"2^{np.log2(row.lrs[row.best]):.0f}",
        NO_WIDTH if row.method in AT_FEW_RATES else _width(table, row),
    ]


def _with_all_lookaheads(tables: Sequence[Table]) -> list[Table]:
    """Those in which Lookahead is with every k, alpha and policy: not around Muon."""
    return [table for table in tables if table.inner != "muon"]


def _lookaheads(table: Table, policy: str | None = None) -> list[Row]:
    """The rows of Lookahead with one policy, or with any of the three."""
    wanted = [policy] if policy else POLICIES
    return [row for name, row in table.rows.items() for p in wanted if name.endswith(f" {p}")]


def _chosen(rows: Iterable[Row]) -> Row:
    """The row that the validation set prefers."""
    return max(rows, key=lambda row: row.val[row.best].mean())


def _mean_at_best(table: Table, policy: str) -> Floats:
    mean: Floats = np.mean([row.at_best for row in _lookaheads(table, policy)], axis=0)
    return mean


def _settings(row: Row) -> str:
    k, alpha, policy = row.method.removeprefix("LA k=").replace("α=", "").split(" ", 2)
    return f"{k}, {alpha}, {policy}"


def _place(table: Table) -> list[str]:
    return [table.task, INNERS[table.inner], table.schedule]


def _score(table: Table, estimate: Estimate) -> str:
    if table.is_text:
        return f"{-estimate.mean:.3f} ± {estimate.spread:.3f}"
    return f"{estimate.mean:.1f} ± {estimate.spread:.1f}"


def _signed(table: Table, estimate: Estimate) -> str:
    digits = 3 if table.is_text else 1
    mean = round(estimate.mean, digits) + 0.0  # no negative zero
    text = f"{mean:+.{digits}f} ± {estimate.half:.{digits}f}"
    return f"**{text}**" if abs(estimate.mean) > estimate.half else text


def _width(table: Table, row: Row) -> str:
    estimate = width(row, table.bar)
    sign = "≥ " if touches_the_end(row, table.bar) else ""
    return f"{sign}{estimate.mean:.1f} ± {estimate.spread:.1f}"


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES: dict[str, dict[str, Callable[[Sequence[Table]], str]]] = {
    "evidence.md": {"gains": gains, "counts": counts},
    "evidence-tables.md": {
        "instead": instead_of_a_schedule,
        "against controls": against_controls,
        "best": best,
        "tally": tally,
        "widths": widths,
        "policies": policies,
        "policy widths": policy_widths,
        "count kept": count_kept,
        "everything": everything,
    },
}
