"""What is compared: inner optimizers, schedules, and the methods around them, controls first."""

from dataclasses import dataclass

__all__ = ["CONTROLS", "INNERS", "LRS", "SCHEDULES", "SEEDS", "Method", "methods_for"]

SEEDS = tuple(range(6))
SCHEDULES = ("constant", "cosine")
# Octaves, from rates that are too low to ones at which every method has failed.
LRS = {
    "sgd": tuple(2.0**power for power in range(-10, 4)),
    "adamw": tuple(2.0**power for power in range(-13, 1)),
}
INNERS = tuple(LRS)


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes
    ----------
    name : str
        For the reader.
    lr_factor : float
        Rate of the inner optimizer over the nominal one: 1, or alpha for the control.
    decay : float
        Of the exponential moving average that is read out, once a step; 0 reads the weights.
    sync_period : int
        Inner steps between syncs; 0 where there is no Lookahead.
    alpha : float
    inner_state : str
        The three policies, or "reset moments": Adam's moments start again and its count does not,
        a mistake that implementations make. "" where there is no Lookahead.
    """

    name: str
    lr_factor: float = 1.0
    decay: float = 0.0
    sync_period: int = 0
    alpha: float = 1.0
    inner_state: str = ""


CONTROLS = (
    Method("inner"),
    Method("inner at 0.5 lr", lr_factor=0.5),
    Method("inner at 0.8 lr", lr_factor=0.8),
    Method("inner, EMA 0.9", decay=0.9),
    Method("inner, EMA 0.98", decay=0.98),
)


def _lookahead(sync_period: int, alpha: float, inner_state: str) -> Method:
    name = f"LA k={sync_period} α={alpha} {inner_state}"
    return Method(name, sync_period=sync_period, alpha=alpha, inner_state=inner_state)


def methods_for(inner: str) -> tuple[Method, ...]:
    """The rows of a table of the inner optimizer `inner`."""
    policies = ["maintain", "reset", "interpolate"]
    grid = [_lookahead(k, a, p) for k in (5, 10) for a in (0.5, 0.8) for p in policies]
    if inner == "adamw":
        grid += [_lookahead(5, a, "reset moments") for a in (0.5, 0.8)]
    return (*CONTROLS, *grid)
