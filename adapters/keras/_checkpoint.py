"""What is saved of our own, and under which names.

The inner optimizer saves itself: Keras walks to it.
"""

import json
from typing import Any

import keras
import numpy as np

from lookahead_core import SyncRule
from lookahead_core.checkpoint import counters, settings
from lookahead_core.state import named

from ._backend import write
from ._parts import Part

__all__ = ["load", "save"]


def save(store: Any, rule: SyncRule, part: Part, fast: list[Any]) -> None:
    """Our variables, the settings of the rule, and the fast weights if the model has others now."""
    store["settings"] = np.frombuffer(json.dumps(settings(rule)).encode(), np.uint8)
    values = _ours(part) | {f"fast_{i}": leaf for i, leaf in enumerate(fast)}
    for name, value in values.items():
        store[name] = keras.ops.convert_to_numpy(value)


def load(store: Any, rule: SyncRule, part: Part) -> list[Any]:
    """Assign what was saved; the fast weights if the model was saved with others (clause C41).

    Raises
    ------
    ValueError
        If it is not of such an optimizer, or another rule or other weights made it; nothing has
        been changed.
    """
    saved = {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118 (it is no dict)
    if "settings" not in saved:
        raise ValueError("the file has no state of Lookahead, but one of the bare inner optimizer")
    numbers = {name: int(saved[name]) for name in ("count", "syncs", "phase") if name in saved}
    counters({**json.loads(saved["settings"].tobytes()), **numbers}, rule)
    ours = _ours(part)
    fast = {f"fast_{i}": leaf for i, leaf in enumerate(part.fast) if f"fast_{i}" in saved}
    for name, variable in (ours | fast).items():
        own, shape = tuple(variable.shape), saved[name].shape if name in saved else None
        if own != shape:
            raise ValueError(f"the file must have {name} of shape {own}, got {shape}")
        if saved[name].dtype.kind not in "biufV":  # the last is bfloat16's
            raise ValueError(f"the file must have real numbers as {name}, got {saved[name].dtype}")
    write([*ours.values()], [saved[name] for name in ours])
    return [saved[name] for name in fast]


def _ours(part: Part) -> dict[str, Any]:
    return named(part.state) | {f"taken_off_{i}": v for i, v in enumerate(part.taken_off)}
