"""The numbers for a reader: one table, and a few sentences that are computed from it."""

import math

import numpy as np
from rich import box
from rich.table import Table

from experiments.demo.methods import SYNC_PERIOD, Method
from experiments.demo.summary import Cell, Lead, Summary

__all__ = ["sentences", "table"]

MARGIN = 0.02


def table(summary: Summary, title: str) -> Table:
    """One row for each learning rate and method."""
    result = Table(
        title=title,
        caption=_caption(next(iter(summary.cells.values()))),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    result.add_column("lr", justify="right")
    result.add_column("method")
    result.add_column("test\naccuracy, %", justify="right")
    result.add_column("train\nloss", justify="right")
    result.add_column("seconds\na run", justify="right")
    result.add_column("slow:fast\nby loss", justify="right")
    result.add_column("slow:fast\nby accuracy", justify="right")
    for lr in summary.lrs:
        for method in summary.methods:
            cell = summary.cells[method, lr]
            name = f"{lr:g}" if method is Method.INNER else ""
            result.add_row(name, method.label, *_row(cell, method))
        result.add_section()
    return result


def sentences(summary: Summary) -> list[str]:
    """What the table says, in words: nothing here but the numbers depends on the outcome."""
    return [
        _best(summary),
        _ranges(summary),
        *_too_high(summary),
        _slow_against_fast(summary),
    ]


def _caption(cell: Cell) -> str:
    mean = f"Mean ± standard deviation of {cell.runs} seeds" if cell.runs > 1 else "One seed"
    return (
        f"{mean}. diverged: runs that end at a loss that is not finite or worse than blind "
        "guessing (ln 10); their accuracy counts as measured. slow:fast: % of "
        f"{cell.checkpoints} checkpoints at which the slow : the fast weights are better, each "
        f"just before a sync of Lookahead's, when its fast ones are {SYNC_PERIOD - 1} steps "
        "ahead; the rest tie."
    )


def _row(cell: Cell, method: Method) -> list[str]:
    spread = "" if math.isnan(cell.spread) else f" ± {100 * cell.spread:4.1f}"
    loss = f"{cell.loss:.4f}"
    if cell.diverged:
        loss = f"diverged {cell.diverged}/{cell.runs}"
    leads = ["", ""]
    if method not in (Method.INNER, Method.CONTROL):
        leads = [_lead(cell.by_loss), _lead(cell.by_accuracy)]
    return [f"{100 * cell.accuracy:.1f}{spread}", loss, f"{cell.seconds:.2f}", *leads]


def _lead(lead: Lead) -> str:
    return f"{100 * lead.slow:.0f}:{100 * lead.fast:<3.0f}"


def _best(summary: Summary) -> str:
    parts = []
    for method in summary.methods:
        lr = summary.best_lr(method)
        parts.append(f"{method.label} {_percent(summary.cells[method, lr].accuracy)} at lr {lr:g}")
    return f"Best mean test accuracy, each at the lr that suits it: {', '.join(parts)}."


def _ranges(summary: Summary) -> str:
    parts = []
    for method in summary.methods:
        near = summary.range_near_best(method, MARGIN)
        at_least = "at least " if near.open else ""
        parts.append(
            f"{method.label} over {at_least}{near.octaves:.1f} octaves of learning rate "
            f"({near.low:.2g} to {near.high:.2g})"
        )
    return f"Within {100 * MARGIN:g} points of its own best: {', '.join(parts)}."


def _too_high(summary: Summary) -> list[str]:
    limit = summary.range_near_best(Method.INNER, MARGIN).high
    beyond = [lr for lr in summary.lrs if lr > limit]
    if not beyond:
        return []
    means = {
        method: float(np.mean([summary.cells[method, lr].accuracy for lr in beyond]))
        for method in summary.methods
    }
    parts = [f"{method.label} {_percent(mean)}" for method, mean in means.items()]
    which = ", ".join(f"{lr:g}" for lr in beyond)
    return [
        f"Where lr is too high for {Method.INNER.label} ({which}), mean accuracy: "
        f"{', '.join(parts)}."
    ]


def _slow_against_fast(summary: Summary) -> str:
    limit = summary.highest_stable_lr(Method.LOOKAHEAD)
    cells = [summary.cells[Method.LOOKAHEAD, lr] for lr in summary.lrs if lr <= limit]
    loss = np.mean([cell.by_loss for cell in cells], axis=0)
    accuracy = np.mean([cell.by_accuracy for cell in cells], axis=0)
    return (
        f"Just before a sync, at lr up to {limit:g}, Lookahead's slow weights have the lower "
        f"training loss at {loss[0]:.0%} of {sum(cell.checkpoints for cell in cells)} checkpoints; "
        f"the slow weights classify the test scans better at {accuracy[0]:.0%}, the fast ones at "
        f"{accuracy[1]:.0%}."
    )


def _percent(share: float) -> str:
    return f"{share:.1%}"
