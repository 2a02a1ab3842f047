"""What torch dispatches and allocates, and how long construction and checkpoints take.

Counts and bytes do not depend on the machine's load; seconds are paired as everywhere.
"""

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.optim import SGD
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.benchmarks.contenders import Still, Wrap, contenders, ours
from experiments.benchmarks.paired import Make, interleaved, ratio, spread, timed
from experiments.benchmarks.report import NOT_INSTALLED, Tables
from experiments.benchmarks.torch_step import arrays, parameters
from experiments.benchmarks.workloads import Shapes, elements, workloads

__all__ = ["measure"]

COUNTS = "Operations dispatched beside the inner step's, ResNet-18 shapes (62 tensors)"
MEMORY = "Memory beside the inner optimizer's, in copies of the model, ResNet-18 shapes"
HANDLING = "Construct, save and load, over the bare inner optimizer, ResNet-18 shapes"
PHASES = ("first step", "between", "last step")
WEIGHED = ("construction", "first cycle, peak", "later steps, peak")


class Dispatched(TorchDispatchMode):
    """Counts the operations that reach the dispatcher, each of them a launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        # Neither launches anything: the profiler's marks, and views.
        self.count += not name.startswith("_record_function") and name not in ("detach", "alias")
        return func(*args, **(kwargs or {}))


def dispatched(action: Callable[[], object]) -> int:
    with Dispatched() as seen:
        action()
    return seen.count


def peak(action: Callable[[], object]) -> int:
    """Most bytes that torch's allocator had handed out at one time, beside those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        action()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return most


def measure(rounds: dict[str, int], quick: bool, report: Tables) -> None:
    """All tables of this file."""
    shapes = workloads(quick)["ResNet-18"]
    found = contenders()
    more = {"ours, plain": partial(ours, kernel="plain")}
    for name, wrap in (found | more).items():
        if wrap is None:
            for table, columns in ((COUNTS, PHASES), (MEMORY, WEIGHED)):
                for column in columns:
                    report.put(table, name, column, NOT_INSTALLED)
            continue
        count_and_weigh(name, wrap, shapes, report)
    handling(rounds["ResNet-18"], shapes, found, report)


def count_and_weigh(name: str, wrap: Wrap, shapes: Shapes, report: Tables) -> None:
    """Dispatches and peak memory of each step of a cycle of three, around `Still`."""
    values = arrays(shapes, 0)
    model = 4 * elements(shapes)
    leaves = parameters(values, values)
    made: list[Any] = []
    construction, first_cycle, later_steps = WEIGHED
    report.put(
        MEMORY, name, construction, peak(lambda: made.append(wrap(Still(leaves), 3))) / model
    )
    step = made[0].step
    # Peers make their slow weights at the first sync, and one syncs in the first step.
    first = peak(lambda: [step() for _ in range(3)])
    report.put(MEMORY, name, first_cycle, first / model)
    for phase in PHASES:
        report.put(COUNTS, name, phase, str(dispatched(step)))
    later = max(peak(step) for _ in range(3))
    report.put(MEMORY, name, later_steps, later / model)


def handling(rounds: int, shapes: Shapes, found: dict[str, Wrap | None], report: Tables) -> None:
    """Seconds of construction, of a checkpoint into memory, and of reading it back."""
    values = arrays(shapes, 0)
    ways = {"bare": handled(lambda inner, period: inner, values)}
    missing = {}
    for name, wrap in found.items():
        if wrap is None:
            missing[name] = NOT_INSTALLED
            continue
        try:
            handled(wrap, values)()()
        except AttributeError as error:  # torch-optimizer 0.3.0 has no hooks, which torch asks for
            missing[name] = f"AttributeError: {error}"
            continue
        ways[name] = handled(wrap, values)
    times = interleaved(ways, rounds)
    for index, row in enumerate(("construct", "save", "load")):
        parts = {name: [seconds[index : index + 1] for seconds in s] for name, s in times.items()}
        report.put(HANDLING, row, "bare, ms", spread([1e3 * sum(s) for s in parts["bare"]]))
        for name in found:
            value = missing[name] if name in missing else ratio(parts, name, "bare")
            report.put(HANDLING, row, name, value)


def handled(wrap: Wrap, values: Sequence[torch.Tensor]) -> Make:
    """Around SGD with momentum after a cycle of steps, as a training run saves and resumes it."""

    def make() -> Callable[[], Sequence[float]]:
        def run() -> list[float]:
            leaves = parameters(values, values)
            inner = SGD(leaves, lr=1e-4, momentum=0.9)
            made: list[Any] = []
            construct = timed(lambda: made.append(wrap(inner, 3)))
            optimizer = made[0]
            for _ in range(4):
                optimizer.step()
            file = io.BytesIO()
            save = timed(lambda: torch.save(optimizer.state_dict(), file))
            file.seek(0)
            load = timed(lambda: optimizer.load_state_dict(torch.load(file, weights_only=False)))
            return [construct, save, load]

        return run

    return make
