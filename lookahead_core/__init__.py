"""Slow/fast-weight meta-optimizers on the Python array API: what a sync means, said once.

Imports no framework. `lookahead_core.adapters` holds one thin adapter for each of them.
"""

from lookahead_core import presets
from lookahead_core.adaptive import AdaptiveAlpha
from lookahead_core.interpolation import interpolate
from lookahead_core.kernel import REFERENCE_KERNEL, Kernel
from lookahead_core.linear import move_linearly
from lookahead_core.momentum import move_with_momentum
from lookahead_core.outer import Interpolate, Momentum, OuterRule, SyncContext
from lookahead_core.outer_rules.gradient_point import EmaNesterov, PrimalAveraging, RateWeights
from lookahead_core.outer_rules.nested import Nested
from lookahead_core.outer_rules.ramp import HalfLife, PostLocal, PowerWeights, QuadraticPeriod, Ramp
from lookahead_core.outer_rules.stored_averages import blended, post_hoc_weights
from lookahead_core.outer_rules.window import LatestWeightAverage
from lookahead_core.presets import *  # noqa: F403 (a new preset touches one file)
from lookahead_core.rule import SyncRule
from lookahead_core.state import SyncState

__all__ = [
    "REFERENCE_KERNEL",
    "AdaptiveAlpha",
    "EmaNesterov",
    "HalfLife",
    "Interpolate",
    "Kernel",
    "LatestWeightAverage",
    "Momentum",
    "Nested",
    "OuterRule",
    "PostLocal",
    "PowerWeights",
    "PrimalAveraging",
    "QuadraticPeriod",
    "Ramp",
    "RateWeights",
    "SyncContext",
    "SyncRule",
    "SyncState",
    "blended",
    "interpolate",
    "move_linearly",
    "move_with_momentum",
    "post_hoc_weights",
]
__all__ += presets.__all__

__version__ = "0.2.0.dev0"
