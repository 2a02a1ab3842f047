"""What the planner says: rows of text and warnings from one setting. No command line here."""

from dataclasses import dataclass
from functools import cached_property

from lookahead_core.outer import Interpolate, Momentum
from lookahead_core.rule import SyncRule
from lookahead_core.validation import positive, positive_int

from .cost import extra_memory, peak_traffic, traffic_per_step
from .cycle import inner_map
from .matrices import steady_state_covariance
from .outer import effective_learning_rate, variance_factor
from .rules import fixed_period
from .stability import Band, inner_stability_limit, limit_of, unstable_bands

__all__ = ["Settings", "plan", "warnings"]

# learning_rate * curvature of a flat, a middle and a steep direction.
SHOWN_STEPS = (0.001, 0.1, 1.0)
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


@dataclass(frozen=True)
class Settings:
    """A rule, the SGD inside it, and the model and workers that it runs with."""

    rule: SyncRule
    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False
    curvature: float | None = None
    parameters: float = 1e6
    workers: int = 1
    bits: float = 16.0

    def __post_init__(self) -> None:
        positive("lr", self.learning_rate, "of the inner optimizer")
        positive("parameters", self.parameters, "number of weights")
        positive("bits", self.bits, "sent for each weight")
        positive_int("workers", self.workers, "replicas that average")
        if self.curvature is not None:
            positive("curvature", self.curvature, "largest eigenvalue of the Hessian")

    @cached_property
    def limit(self) -> float:
        """Stability limit of lr * curvature."""
        return limit_of(self.bands, self.rule, self.momentum, self.nesterov)

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """Unstable bands of lr * curvature."""
        return unstable_bands(self.rule, self.momentum, self.nesterov)


def plan(settings: Settings) -> list[tuple[str, str]]:
    """Name and text of each row."""
    s = settings
    alone = inner_stability_limit(s.momentum, s.nesterov)
    return [
        ("effective learning rate", _effective(s)),
        ("variance factor", "slow weights over inner optimizer; control: the same effective rate"),
        *((f"  at lr * curvature {step:g}", _variance(s, step)) for step in SHOWN_STEPS),
        ("stability limit", f"curvature < {_over_lr(s.limit, s)} (lr * curvature < {s.limit:.4g})"),
        ("  inner optimizer alone", f"curvature < {_over_lr(alone, s)} ({alone:.4g})"),
        ("extra memory", _memory(s)),
        ("traffic", _traffic(s)),
    ]


def warnings(settings: Settings) -> list[str]:
    """What to think twice about: an unstable band, a curvature beyond the limit."""
    s = settings
    reached = s.curvature if s.curvature is not None else float("inf")
    found = [_band(b, s) for b in s.bands if b.low < s.learning_rate * reached]
    steepest = s.learning_rate * (s.curvature or 0.0)
    if not found and steepest >= s.limit:
        found.append(f"unstable: lr * curvature = {steepest:.4g} is not below {s.limit:.4g}")
    return found


def _effective(s: Settings) -> str:
    slow = effective_learning_rate(s.rule, s.learning_rate, s.momentum)
    inner = s.learning_rate / (1 - s.momentum)
    return f"{slow:.4g} (plain SGD's, for slow gradients); inner optimizer alone {inner:.4g}"


def _variance(s: Settings, step: float) -> str:
    """Of the slow weights, and of the control that moves equally fast, where they are stable."""
    if step >= s.limit:
        return "unstable"
    slow = variance_factor(s.rule, step, 1.0, s.momentum, s.nesterov)
    return f"{slow:.3g} (control: {_control(s, step)})"


def _control(s: Settings, step: float) -> str:
    """Variance of the bare inner optimizer at the same effective rate, over that at `lr`."""
    alone = s.learning_rate / (1 - s.momentum)
    gain = effective_learning_rate(s.rule, s.learning_rate, s.momentum) / alone
    if step * gain >= inner_stability_limit(s.momentum, s.nesterov):
        return "unstable"
    variances = [
        steady_state_covariance(*inner_map(size, s.momentum, s.nesterov))[0][0]
        for size in (step * gain, step)
    ]
    return f"{variances[0] / variances[1]:.3g}"


def _memory(s: Settings) -> str:
    copied = 1 if s.rule.inner_state == "interpolate" and s.momentum else 0
    outer = 0 if isinstance(s.rule.outer, Interpolate) else 1
    total = extra_memory(s.parameters, outer_buffers=outer, interpolated_buffers=copied)
    parts = ["slow weights"]
    kept = "outer momentum" if isinstance(s.rule.outer, Momentum) else "a difference of weights"
    parts += [kept] if outer else []
    parts += ["a slow copy of the inner momentum"] if copied else []
    return f"{_bytes(total)} for {', '.join(parts)} in float32"


def _traffic(s: Settings) -> str:
    if s.workers == 1:
        return "none: one process"
    average = traffic_per_step(s.parameters, s.workers, fixed_period(s.rule), s.bits)
    peak = peak_traffic(s.parameters, s.workers, s.bits)
    return f"{_bytes(average)} a step and worker on average, {_bytes(peak)} at each sync"


def _band(band: Band, s: Settings) -> str:
    low, high = _over_lr(band.low, s), _over_lr(band.high, s)
    averages = isinstance(s.rule.outer, Interpolate)
    return (
        f"unstable band: a direction of curvature {low} to {high} grows by up to {band.rate:.3f} a "
        f"step (lr * curvature {band.low:.4g} to {band.high:.4g}), where the inner optimizer alone "
        "converges" + ('; inner_state="interpolate" has no such band' if averages else "")
    )


def _over_lr(step: float, s: Settings) -> str:
    return f"{step / s.learning_rate:.4g}"


def _bytes(count: float) -> str:
    scale, unit = next((u for u in UNITS if count >= u[0]), UNITS[-1])
    return f"{count / scale:.4g} {unit}"
