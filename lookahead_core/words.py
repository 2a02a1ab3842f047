"""Words that other implementations have for our settings, and the error that says ours.

One table for every adapter. Their words do not become arguments: a signature has one name for each
thing, and this is about the message alone.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any, TypeVar, cast

__all__ = ["refuse_to_set", "translated", "without_effect"]

Function = TypeVar("Function", bound=Callable[..., Any])

# timm, pytorch-optimizer, torch-optimizer, optax, TensorFlow Addons and the authors' code; and our
# own, for where they belong to the rule.
OURS = {
    **dict.fromkeys(("base_optimizer", "fast_optimizer", "optimizer"), "inner"),
    **dict.fromkeys(("k", "la_steps", "sync_period"), "sync_period"),
    **dict.fromkeys(("la_alpha", "slow_step_size", "alpha"), "alpha"),
    **dict.fromkeys(("pullback_momentum", "reset_state", "inner_state"), "inner_state"),
}
# What pullback_momentum and reset_state are set to.
POLICIES = {"none": "maintain", "pullback": "interpolate", False: "maintain", True: "reset"}


def without_effect(*own: str, **instead: str) -> dict[str, str]:
    """For each name of an optimizer that would do nothing if it were set, what to do.

    Parameters
    ----------
    *own : str
        Names of the optimizer's arguments; the words of all implementations come to them.
    **instead : str
        By our word for a setting: what to do to change it. A new optimizer, where it says nothing.
    """
    anew = "make a new optimizer, around the same inner one or another"
    return dict.fromkeys(own, anew) | {word: instead.get(OURS[word], anew) for word in OURS}


def refuse_to_set(optimizer: object, name: str, refused: Mapping[str, str]) -> None:
    """AttributeError if `name` is one of those; schedulers and trainers set names of their own."""
    if name in refused:
        kind = type(optimizer).__name__
        raise AttributeError(f"{name} of {kind} cannot be set: {refused[name]}")


def translated(function: Function) -> Function:
    """`function`, with an error that says our word for one of another implementation.

    Parameters
    ----------
    function : callable
        A function, or the `__init__` of a class. Its signature stays what it is.

    Returns
    -------
    callable
        It raises TypeError for such a word, as Python does for any that it does not know.
    """
    accepted = signature(function).parameters.keys()

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        theirs = {word: kwargs[word] for word in kwargs if word in OURS and word not in accepted}
        known = [word for word in theirs if {OURS[word], "rule"} & accepted]
        if known:
            made = function.__name__ != "__init__"
            name = function.__name__ if made else type(args[0]).__name__
            raise TypeError(
                f"{name}() has no argument {', '.join(known)}: write "
                f"{_in_our_words({word: theirs[word] for word in known}, accepted)}"
            )
        return function(*args, **kwargs)

    return cast(Function, checked)


def _in_our_words(theirs: Mapping[str, Any], accepted: Any) -> str:
    """The arguments to write in the place of these."""
    own: list[str] = []
    of_the_rule: list[str] = []
    for word, value in theirs.items():
        name = OURS[word]
        if name == "inner_state" and isinstance(value, bool | str):
            value = POLICIES.get(value, value)
        written = f"{name}=..." if name == "inner" else f"{name}={value!r}"
        (own if name in accepted else of_the_rule).append(written)
    if of_the_rule:
        own.append(f"rule=lookahead({', '.join(of_the_rule)})")
    return ", ".join(own)
