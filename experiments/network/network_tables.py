"""The tables of docs/distributed-measurements.md, between its markers: measured, and the plan.

Those that are measured are made of docs/distributed.json, those of the plan of plan_at_scale.py.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.network import findings, what_breaks
from experiments.network import plan_at_scale as plan
from experiments.network.measured import Run, formulas, runs
from experiments.network.sizes import size
from experiments.network.sync_methods import METHODS

__all__ = ["END", "blocks", "rewrite"]

END = "<!-- end -->"
WORKERS = plan.WORKERS
HOPS = sorted({link.hop for link in plan.LINKS.values()})


def rewrite(page: Path, data: Path) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end -->` by the block of that name."""
    text = page.read_text()
    for name, block in blocks(json.loads(data.read_text())).items():
        found = text.count(f"<!-- {name} -->\n")
        if found != 1:
            raise ValueError(f"{page} must have <!-- {name} --> once, got {found}")
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        text = before + marker + block + END + rest.partition(END)[2]
    page.write_text(text)


def blocks(content: dict[str, Any]) -> dict[str, str]:
    """Every table by the name of its marker."""
    found = runs(content["runs"])
    return {
        "network: findings": findings.text(found),
        "network: bytes": sent(found),
        "network: times": times(found),
        "network: losses": losses(found),
        "network: machine": machine(content["about"]),
        "plan: traffic": traffic(),
        **{f"plan: {workers} workers": plan_times(workers) for workers in WORKERS},
        "plan: floors": floors(),
        "plan: memory": memory(),
        "plan: what breaks": what_breaks.text(),
    }


def sent(found: Sequence[Run]) -> str:
    """Bytes beside the formula: the slowest links, since the others' are the same."""
    slowest = min(run.megabits for run in found)
    head = ["workers", "method", "a step", "formula", "ratio", "in a sync", "formula", "ratio"]
    rows = []
    for run in _syncing(found):
        if run.megabits == slowest:
            said = formulas(run)
            pairs = (run.sent, said.sent), (run.sent_in_sync, said.sent_in_sync)
            cells = [c for m, f in pairs for c in (size(m), size(f), _ratio(m, f))]
            rows.append([str(run.workers), run.method, *cells])
    return _markdown(head, rows)


def times(found: Sequence[Run]) -> str:
    """Seconds and utilisation beside the formulas."""
    head = ["workers", "Mbit/s", "method", "ms a step", "s a sync", "formula", "ratio"]
    rows = []
    for run in _syncing(found):
        said = formulas(run)
        rows.append(
            [
                *(str(run.workers), f"{run.megabits:g}", run.method),
                f"{1000 * run.total_seconds / run.steps:.0f}",
                *(f"{run.sync_seconds:.3f}", f"{said.sync_seconds:.3f}"),
                _ratio(run.sync_seconds, said.sync_seconds),
                *(f"{run.utilisation:.2f}", f"{said.utilisation:.2f}"),
            ]
        )
    return _markdown([*head, "utilisation", "formula"], rows)


def losses(found: Sequence[Run]) -> str:
    """Held-out loss after the same steps, and the seconds until then, by speed of the links."""
    speeds = sorted({run.megabits for run in found})
    head = ["workers", "method", "steps", "held-out loss", "accuracy", "sent by a worker"]
    rows = []
    for workers in sorted({run.workers for run in found}):
        for method in dict.fromkeys(run.method for run in found):
            same = {r.megabits: r for r in found if (r.workers, r.method) == (workers, method)}
            run = same[speeds[0]]
            *_, loss, accuracy = run.held_out[-1]
            scores = [f"{loss:.3f}", f"{100 * accuracy:.1f} %", size(run.sent * run.steps)]
            seconds = [f"{same[speed].total_seconds:.0f}" for speed in speeds]
            rows.append([str(workers), method, str(run.steps), *scores, *seconds])
    return _markdown([*head, *(f"s at {speed:g} Mbit/s" for speed in speeds)], rows)


def machine(about: dict[str, Any]) -> str:
    """What it was measured on, in a sentence."""
    return (
        f"Measured on {about['date']}: {about['processors']} processors, Linux {about['kernel']}, "
        f"Python {about['python']}, torch {about['torch']}.\n"
    )


def traffic() -> str:
    """What each worker sends by the plan, and the link that is enough."""
    head = [
        "model",
        "way",
        *(f"{what}, W = {w:,}" for what in ("a step", "at once") for w in WORKERS),
    ]
    head += [f"link for {100 * plan.ENOUGH:g} %, W = {w:,}" for w in WORKERS]
    hop, rows = plan.LINKS[plan.NEAR].hop, []
    for model, parameters in plan.MODELS.items():
        for name, way in plan.WAYS.items():
            sizes = [
                size(f(parameters, w, way)) for f in (plan.sent, plan.at_once) for w in WORKERS
            ]
            links = [_link(plan.bandwidth_for(parameters, w, way, hop)) for w in WORKERS]
            rows.append([model, name, *sizes, *links])
    return _markdown(head, rows)


def plan_times(workers: int) -> str:
    """Seconds a sync and utilisation, for one number of workers, by link."""
    rows = []
    for model, parameters in plan.MODELS.items():
        for name, way in plan.WAYS.items():
            cells = [_held_up(parameters, workers, way, link) for link in plan.LINKS.values()]
            rows.append([model, name, *cells])
    return _markdown(["model", "way", *plan.LINKS], rows)


def _held_up(parameters: float, workers: int, way: plan.Way, link: plan.Link) -> str:
    seconds = plan.sync_time(parameters, workers, way, link)
    used = 100 * plan.utilisation(parameters, workers, way, link)
    part = f"{used:.1f}" if used >= 10 else f"{used:.2g}"
    why = plan.held_up_by(parameters, workers, way, link)
    took = f"{seconds:.3g}" if seconds < 1000 else f"{seconds:,.0f}"
    return f"{took} s, {part} %" + (f", {why}" if why else "")


def floors() -> str:
    """What no bandwidth helps against, by number of workers."""
    head = ["workers"]
    for shape in ("ring", "tree"):
        head += [f"hops, {shape}", *(f"{shape}, {1000 * hop:g} ms each" for hop in HOPS)]
    head += [f"lost to the slowest, k = {k}" for k in (1, 100)]
    rows = []
    for workers in WORKERS:
        ring, tree = 2 * (workers - 1), 2 * math.ceil(math.log2(workers))
        late = [plan.slowest_of(workers) * plan.JITTER / math.sqrt(k) for k in (1, 100)]
        hops = [[f"{n:,}", *(f"{n * hop:.3g} s" for hop in HOPS)] for n in (ring, tree)]
        rows.append([f"{workers:,}", *hops[0], *hops[1], *(f"{100 * part:.1f} %" for part in late)])
    return _markdown(head, rows)


def memory() -> str:
    """Bytes of a replica, and of each device that shares it."""
    head = ["model", "weights, AdamW", "slow, momentum", "during a sync", "all"]
    head += [f"on each of {shards}" for shards in plan.SHARDS]
    head += [f"the same, slow and momentum on the host, {plan.SHARDS[0]}"]
    rows = []
    for model, parameters in plan.MODELS.items():
        found = plan.memory(parameters)
        each = [size(found.together / shards) for shards in plan.SHARDS]
        host = size((found.inner + found.passing) / plan.SHARDS[0])
        parts = [size(b) for b in (found.inner, found.outer, found.passing, found.together)]
        rows.append([model, *parts, *each, host])
    return _markdown(head, rows)


def _link(bandwidth: float) -> str:
    if math.isinf(bandwidth):
        return "none: latency"
    gigabits = bandwidth / 1e9
    return f"{gigabits:.3g} Gbit/s" if gigabits < 1000 else f"{gigabits:,.0f} Gbit/s"


def _syncing(found: Iterable[Run]) -> list[Run]:
    return [run for run in found if METHODS[run.method].sync_period is not None]


def _ratio(measured: float, formula: float) -> str:
    return f"{measured / formula:.3f}" if formula else "–"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
