"""Slow/fast-weight meta-optimizers on the Python array API: what a sync means, said once.

Imports no framework. `lookahead_core.adapters` holds one thin adapter for each of them.
"""

from lookahead_core.interpolation import interpolate
from lookahead_core.kernel import REFERENCE_KERNEL, Kernel
from lookahead_core.outer import Interpolate
from lookahead_core.presets import lookahead
from lookahead_core.rule import SyncRule
from lookahead_core.state import SyncState

__all__ = [
    "REFERENCE_KERNEL",
    "Interpolate",
    "Kernel",
    "SyncRule",
    "SyncState",
    "interpolate",
    "lookahead",
]
