"""Slow/fast-weight meta-optimizers on the Python array API: what a sync means, said once.

Imports no framework. `lookahead_core.adapters` holds one thin adapter for each of them.
"""

from lookahead_core.adaptive import AdaptiveAlpha
from lookahead_core.interpolation import interpolate
from lookahead_core.kernel import REFERENCE_KERNEL, Kernel
from lookahead_core.momentum import move_with_momentum
from lookahead_core.nested import Nested
from lookahead_core.outer import Interpolate, Momentum, OuterRule, SyncContext
from lookahead_core.presets import (
    bmuf,
    diloco,
    ema,
    lookahead,
    nested,
    polyak,
    reptile,
    slowmo,
    snoo,
    swa,
    switch_ema,
)
from lookahead_core.rule import SyncRule
from lookahead_core.state import SyncState

__all__ = [
    "REFERENCE_KERNEL",
    "AdaptiveAlpha",
    "Interpolate",
    "Kernel",
    "Momentum",
    "Nested",
    "OuterRule",
    "SyncContext",
    "SyncRule",
    "SyncState",
    "bmuf",
    "diloco",
    "ema",
    "interpolate",
    "lookahead",
    "move_with_momentum",
    "nested",
    "polyak",
    "reptile",
    "slowmo",
    "snoo",
    "swa",
    "switch_ema",
]
