"""What Lookahead does on quadratics and games, and what it costs, as formulas that run.

On numbers and on arrays of any namespace, in float64 where those are. Derivations and the errata
of the paper are docs/theory.md; `python -m lookahead_core.analysis` is a planner. No plotting.
"""

from .alpha import adaptive_alpha, optimal_alpha, secant_alpha
from .contraction import best_heavy_ball, contraction_rate, inner_contraction_rate
from .cost import (
    compute_utilisation,
    extra_memory,
    peak_traffic,
    sync_seconds,
    traffic_per_step,
)
from .game import bilinear_game_rate
from .measured import metrics
from .noisy_quadratic import (
    Moments,
    expected_loss,
    lookahead_variance,
    lookahead_variance_factor,
    moments_after_step,
    moments_after_sync,
    sgd_variance,
)
from .outer import (
    effective_learning_rate,
    reset_gain,
    variance_factor,
)
from .rules import outer_gain
from .stability import (
    Band,
    inner_stability_limit,
    sgd_stability_limit,
    stability_limit,
    unstable_bands,
)

__all__ = [
    "Band",
    "Moments",
    "adaptive_alpha",
    "best_heavy_ball",
    "bilinear_game_rate",
    "compute_utilisation",
    "contraction_rate",
    "effective_learning_rate",
    "expected_loss",
    "extra_memory",
    "inner_contraction_rate",
    "inner_stability_limit",
    "lookahead_variance",
    "lookahead_variance_factor",
    "metrics",
    "moments_after_step",
    "moments_after_sync",
    "optimal_alpha",
    "outer_gain",
    "peak_traffic",
    "reset_gain",
    "secant_alpha",
    "sgd_stability_limit",
    "sgd_variance",
    "stability_limit",
    "sync_seconds",
    "traffic_per_step",
    "unstable_bands",
    "variance_factor",
]
