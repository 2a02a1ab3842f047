"""Which arrays of the inner optimizer's state are moments, and how they are read and put back.

MLX keeps the state of each parameter in a dict in its place: `state["layers"][0]["weight"]["v"]`;
MultiOptimizer has one such tree for each of its optimizers. All moments of MLX start at zero. One
counter, `step`, is behind the bias correction and the schedules alike.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx
from mlx.optimizers import Adafactor, MultiOptimizer, Optimizer
from mlx.utils import tree_flatten

from lookahead_core import SyncRule

__all__ = ["check_policy", "counters", "learning_rates", "moments", "optimizers_in", "put"]


def moments(inner: Optimizer, paths: Iterable[str]) -> dict[str, mx.array]:
    """The moments of the parameters at `paths`, by their path in the state."""
    known = set(paths)
    return {
        f"{where}{path}": value
        for where, state in _trees(inner)
        for path, value in dict(tree_flatten(state)).items()
        if path.rpartition(".")[0] in known and isinstance(value, mx.array)
    }


def counters(inner: Optimizer) -> dict[str, mx.array]:
    """What counts the steps behind a bias correction, by its path in the state."""
    return {f"{where}step": state["step"] for where, state in _trees(inner) if "step" in state}


def learning_rates(inner: Optimizer, paths: Iterable[str]) -> list[mx.array]:
    """The rate of the last step for each of the parameters at `paths`; ValueError for one without.

    Some outer rules go by it, and some optimizers have none, such as Adafactor in its usual form.
    """
    found: dict[str, Any] = {}
    for _, state in _trees(inner):
        for entry in dict(tree_flatten(state)):
            found[entry.rpartition(".")[0]] = state.get("learning_rate")
    missing = [path for path in paths if found.get(path) is None]
    if missing:
        raise ValueError(
            "inner must have a learning rate, because the weights of the rule go by it "
            f"(weight_lr_power=0 needs none), got {type(inner).__name__} without one"
        )
    return [found[path] for path in paths]


def put(inner: Optimizer, values: dict[str, mx.array]) -> None:
    """Put arrays back to where they are in the state; the containers stay the same objects."""
    for path, value in values.items():
        place: Any = inner.state
        *way, last = path.split(".")
        for key in way:
            place = place[int(key) if isinstance(place, list | tuple) else key]
        place[last] = value


def check_policy(inner: Optimizer, rule: SyncRule) -> None:
    """ValueError where a reset would have to restart a counter that a schedule reads, too."""
    if rule.inner_state != "reset":
        return
    for optimizer in optimizers_in(inner):
        counts = isinstance(optimizer, Adafactor) or getattr(optimizer, "bias_correction", False)
        if counts and optimizer._schedulers:
            raise ValueError(
                f"inner_state='reset' would restart the schedule of {type(optimizer).__name__}, "
                "whose bias correction counts with the same `step`: set `learning_rate` at each "
                "step yourself, or use another policy"
            )


def optimizers_in(inner: Optimizer) -> Iterator[Optimizer]:
    """An optimizer by itself, or those of a MultiOptimizer."""
    if isinstance(inner, MultiOptimizer):
        for optimizer in inner.optimizers:
            yield from optimizers_in(optimizer)
    else:
        yield inner


def _trees(inner: Optimizer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each tree of state like the parameters, with the path to it."""
    if isinstance(inner, MultiOptimizer):
        for number, optimizer in enumerate(inner.optimizers):
            for where, state in _trees(optimizer):
                yield f"states.{number}.{where}", state
    else:
        yield "", inner.state
