"""A rule in the config of a saved model, which is JSON."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

__all__ = ["from_plain", "plain"]


def plain(value: Any, other: Callable[[Any], Any]) -> Any:
    """A rule, or a setting of one, as dicts of numbers and strings, for files in JSON.

    `other` makes such a thing of a schedule, which is code.
    """
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: plain(getattr(value, field.name), other) for field in fields(value)}
        return {"rule": f"{type(value).__module__}:{type(value).__qualname__}", "settings": own}
    return other(value) if callable(value) else value


def from_plain(value: Any, other: Callable[[Any], Any]) -> Any:
    """What `plain` was given. Only classes of lookahead_core are made by their names.

    Raises
    ------
    ValueError
        If the rule has a part that is of another package.
    """
    if not isinstance(value, dict):
        return value
    if "rule" not in value:
        return other(value)
    module, name = value["rule"].split(":")
    if not module.startswith("lookahead_core."):
        raise ValueError(f"{name} is not lookahead_core's: load with compile=False, and compile")
    own = {key: from_plain(setting, other) for key, setting in value["settings"].items()}
    return getattr(import_module(module), name)(**own)
