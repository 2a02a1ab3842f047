"""What is saved of our own, under which names, and the rule in a model's configuration.

The inner optimizer saves itself: Keras walks to it.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import keras
import numpy as np

from lookahead_core import SyncRule
from lookahead_core.checkpoint import counters, settings

from ._parts import Part

__all__ = ["load", "packed", "save", "unpacked"]

FAST = "fast"


def save(store: Any, rule: SyncRule, part: Part, fast: list[Any]) -> None:
    """Our variables, the settings of the rule, and the fast weights if the model has others now."""
    store["settings"] = np.frombuffer(json.dumps(settings(rule)).encode(), np.uint8)
    for name, variable in _named(part).items():
        store[name] = variable.numpy()
    for index, value in enumerate(fast):
        store[f"{FAST}_{index}"] = keras.ops.convert_to_numpy(value)


def load(store: Any, rule: SyncRule, part: Part) -> list[Any]:
    """Assign what was saved; the fast weights if the model was saved with others (clause C41).

    Raises
    ------
    ValueError
        If it is not of such an optimizer, or another rule or other weights made it; nothing has
        been changed.
    """
    named, saved = _named(part), {name: np.asarray(store[name]) for name in store.keys()}  # noqa: SIM118
    if "settings" not in saved:
        raise ValueError("the file has no state of Lookahead, but one of the bare inner optimizer")
    made_by = json.loads(saved["settings"].tobytes())
    numbers = {name: int(saved[name]) for name in ("count", "syncs", "phase") if name in saved}
    counters({**made_by, **numbers}, rule)
    for name, variable in named.items():
        shape = saved[name].shape if name in saved else None
        if shape != tuple(variable.shape):
            raise ValueError(
                f"the file must have {name} of shape {tuple(variable.shape)}, got {shape}"
            )
    for name, variable in named.items():
        variable.assign(saved[name])
    return [saved[f"{FAST}_{i}"] for i in range(len(part.fast)) if f"{FAST}_{i}" in saved]


def _named(part: Part) -> dict[str, Any]:
    """Our variables by the names that they are saved under."""
    named = dict(zip(("count", "syncs", "phase"), part.counters, strict=True))
    for group in ("slow", "outer", "inner_slow", "taken_off"):
        named |= {f"{group}_{i}": v for i, v in enumerate(getattr(part, group))}
    return named


def packed(value: Any) -> Any:
    """A rule, or a setting of one, for a configuration in JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: packed(getattr(value, field.name)) for field in fields(value)}
        return {"rule": f"{type(value).__module__}:{type(value).__qualname__}", "settings": own}
    return keras.saving.serialize_keras_object(value) if callable(value) else value


def unpacked(value: Any) -> Any:
    """The rule or setting again. Only classes of lookahead_core are made by their names.

    Raises
    ------
    ValueError
        If the rule has a part that is not.
    """
    if not isinstance(value, Mapping):
        return value
    if "rule" not in value:
        return keras.saving.deserialize_keras_object(value)
    module, _, name = value["rule"].partition(":")
    if module.partition(".")[0] != "lookahead_core":
        raise ValueError(
            f"the rule of a saved model must be of parts of lookahead_core, got {value['rule']}: "
            "load with compile=False, and compile with the rule in your code"
        )
    own = {key: unpacked(setting) for key, setting in value["settings"].items()}
    return getattr(import_module(module), name)(**own)
