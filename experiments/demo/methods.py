"""The methods that the demo compares, and their settings. No training here."""

from collections.abc import Callable
from enum import StrEnum

from lookahead_core import Ramp, SyncRule, presets

__all__ = ["ALPHA", "MOMENTUM", "RULES", "SYNC_PERIOD", "Method", "compared"]

MOMENTUM = 0.9
SYNC_PERIOD = 5
ALPHA = 0.5
EPOCH = 40  # steps


class Method(StrEnum):
    """A way to train at a nominal learning rate.

    Attributes
    ----------
    INNER
        The bare inner optimizer: SGD with momentum.
    CONTROL
        The same at alpha * lr. At a small learning rate this is where Lookahead's slow weights go,
        so without it a plot against the learning rate mostly shows a shift of the axis.
    LOOKAHEAD
        Lookahead around the inner optimizer.
    ...
        Every other preset of lookahead_core, around the inner optimizer.
    """

    INNER = "inner"
    CONTROL = "control"
    LOOKAHEAD = "lookahead"
    ANYTIME_EMA = "anytime_ema"
    BMUF = "bmuf"
    DILOCO = "diloco"
    EMA = "ema"
    EMA_NESTEROV = "ema_nesterov"
    GPA = "gpa"
    LOCAL_SGD = "local_sgd"
    NESTED = "nested"
    POLYAK = "polyak"
    POWER_EMA = "power_ema"
    REPTILE = "reptile"
    SCHEDULE_FREE = "schedule_free"
    SLOWMO = "slowmo"
    SNOO = "snoo"
    SWA = "swa"
    SWITCH_EMA = "switch_ema"
    WSM = "wsm"

    @property
    def label(self) -> str:
        """Name in the table and in the picture."""
        known = {"inner": "SGD", "control": f"SGD({ALPHA:g}*lr)", "lookahead": "Lookahead"}
        return known.get(self, str(self))

    @property
    def momentum(self) -> float:
        """Of the inner optimizer: averaging where gradients are taken stands in its place."""
        return 0.0 if self in (Method.SCHEDULE_FREE, Method.GPA) else MOMENTUM

    def inner_lr(self, lr: float) -> float:
        """Learning rate of the inner optimizer where `lr` is the one on the axis.

        Without momentum it is as much higher as moves it equally far along a constant gradient.
        """
        if self is Method.CONTROL:
            return ALPHA * lr
        return lr * (1 - self.momentum) / (1 - MOMENTUM)

    def rule(self, steps: int) -> SyncRule | None:
        """How it syncs in a run of so many steps; None for the bare inner optimizer."""
        return RULES[self](steps) if self in RULES else None


# The presets' own defaults are for runs of thousands of steps, and this one has hundreds.
RULES: dict[Method, Callable[[int], SyncRule]] = {
    Method.LOOKAHEAD: lambda _: presets.lookahead(SYNC_PERIOD, ALPHA),
    Method.ANYTIME_EMA: lambda _: presets.anytime_ema(),
    Method.BMUF: lambda _: presets.bmuf(SYNC_PERIOD),
    Method.DILOCO: lambda _: presets.diloco(SYNC_PERIOD),
    Method.EMA: lambda _: presets.ema(0.95),
    Method.EMA_NESTEROV: lambda _: presets.ema_nesterov(),
    Method.GPA: lambda _: presets.gpa(mu_x=0.95),
    Method.LOCAL_SGD: lambda _: presets.local_sgd(SYNC_PERIOD),
    Method.NESTED: lambda _: presets.nested(
        presets.lookahead(SYNC_PERIOD, ALPHA), presets.lookahead(5 * SYNC_PERIOD, ALPHA)
    ),
    Method.POLYAK: lambda steps: presets.polyak(start=steps // 2),
    Method.POWER_EMA: lambda _: presets.power_ema(),
    Method.REPTILE: lambda steps: presets.reptile(
        SYNC_PERIOD, Ramp(ALPHA, 0.0, length=steps // SYNC_PERIOD)
    ),
    Method.SCHEDULE_FREE: lambda _: presets.schedule_free(),
    Method.SLOWMO: lambda _: presets.slowmo(SYNC_PERIOD),
    Method.SNOO: lambda _: presets.snoo(SYNC_PERIOD),
    Method.SWA: lambda steps: presets.swa(SYNC_PERIOD, start=3 * steps // 4),
    Method.SWITCH_EMA: lambda _: presets.switch_ema(EPOCH, 0.95),
    Method.WSM: lambda steps: presets.wsm(SYNC_PERIOD, start=3 * steps // 4),
}


def compared(chosen: Method) -> tuple[Method, ...]:
    """The methods of a picture: the inner optimizer, its control, Lookahead, and one more."""
    return tuple(dict.fromkeys((Method.INNER, Method.CONTROL, Method.LOOKAHEAD, chosen)))
