"""What is compared: inner optimizers, schedules, and the methods around them, controls first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = [
    "CONTROLS",
    "INNERS",
    "LRS",
    "MUON_ON",
    "PRESETS",
    "SCHEDULES",
    "SEEDS",
    "SETTINGS",
    "TUNED",
    "Method",
    "methods_for",
    "rates_for",
]

SEEDS = tuple(range(6))
SCHEDULES = ("constant", "cosine")
# Octaves, from rates that are too low to ones at which every method has failed.
LRS = {
    "sgd": tuple(2.0**power for power in range(-10, 4)),
    "adamw": tuple(2.0**power for power in range(-13, 1)),
    "muon": tuple(2.0**power for power in range(-9, 2)),
}
INNERS = tuple(LRS)
# Muon takes four times as long as AdamW, so it is not on MNIST-5000, where nothing gains.
MUON_ON = ("digits", "mnist1d", "text")
# Powers of two, of the rate that the validation data chose for the inner optimizer alone when that
# was constant. Presets are tried around it, since most of LRS are far from any method's best.
TUNED = {
    ("digits", "sgd"): -3,
    ("digits", "adamw"): -6,
    ("digits", "muon"): -7,
    ("mnist", "sgd"): -6,
    ("mnist", "adamw"): -8,
    ("mnist1d", "sgd"): -5,
    ("mnist1d", "adamw"): -7,
    ("mnist1d", "muon"): -5,
    ("text", "sgd"): -4,
    ("text", "adamw"): -6,
    ("text", "muon"): -6,
}


@dataclass(frozen=True, order=True)
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
    preset : str
        One of lookahead_core.presets, in the place of Lookahead.
    arguments : tuple of (str, float)
        Of the preset.
    inner_momentum : bool
        False for Schedule-Free, which has a momentum of its own: SGD and Muon without, AdamW with
        betas (0, 0.999).
    """

    name: str
    lr_factor: float = 1.0
    decay: float = 0.0
    sync_period: int = 0
    alpha: float = 1.0
    inner_state: str = ""
    preset: str = ""
    arguments: tuple[tuple[str, float], ...] = ()
    inner_momentum: bool = True

    @property
    def program(self) -> "Method":
        """What is compiled; the rest are numbers that a compiled program is given."""
        return replace(self, name="", lr_factor=1.0, decay=0.0, alpha=1.0)


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


def _preset(name: str, preset: str, **arguments: float) -> Method:
    return Method(name, preset=preset, arguments=tuple(arguments.items()))


# Each at the numbers of its paper or its code, and at some that suit runs of 500 to 1000 steps.
# SNOO's 28 inner steps are 20, so that every run ends at a sync.
PRESETS = (
    _preset("anytime EMA 0.05", "anytime_ema", half_life=0.05),
    _preset("SNOO k=20", "snoo", sync_period=20),
    _preset("GPA 0.9967", "gpa", mu_x=0.9967, mu_y=0.7),
    _preset("GPA 0.98", "gpa", mu_x=0.98, mu_y=0.7),
    _preset("EMA-Nesterov 0.99", "ema_nesterov", step_size=0.3, decay=0.99),
    _preset("EMA-Nesterov 0.9", "ema_nesterov", step_size=0.3, decay=0.9),
    # The power is zero because the largest rate so far, by which the weights go, is the first one
    # of a constant and of a cosine: all steps weigh the same with any power.
    _preset("Schedule-Free 0.9", "schedule_free", beta=0.9, weight_lr_power=0),
    _preset("Schedule-Free 0.98", "schedule_free", beta=0.98, weight_lr_power=0),
)
# A run of the inner optimizer alone once more. On one processor it is the same; the rows of the
# committed tables come from two, and this says, on one set of data, how much rounding alone makes.
AGAIN, AGAIN_ON = Method("inner again"), ("mnist1d",)
# These are trained where differences between methods can be told, and each method has a setting
# more: it saves a third of the time.
SECOND_SETTINGS = ("anytime EMA 0.05", "EMA-Nesterov 0.9", "Schedule-Free 0.98")
SECOND_SETTINGS_ON = (("mnist1d", "constant"), ("text", "constant"))
# Each method has one setting around Muon.
WITH_MUON = ("SNOO k=20", "GPA 0.98", "EMA-Nesterov 0.99", "Schedule-Free 0.9")
# Rows by what they are, for tables that take the best setting of each by the validation data.
SETTINGS = {
    "EMA": ("inner, EMA 0.9", "inner, EMA 0.98", "anytime EMA 0.05"),
    "Lookahead": ("LA ",),
    "SNOO": ("SNOO ",),
    "GPA": ("GPA ",),
    "EMA-Nesterov": ("EMA-Nesterov ",),
    "Schedule-Free": ("Schedule-Free ",),
}


def methods_for(task: str, inner: str, schedule: str) -> tuple[Method, ...]:
    """The rows of the table of one set of data, one inner optimizer and one schedule."""
    presets = [_around(inner, method) for method in PRESETS]
    if (task, schedule) not in SECOND_SETTINGS_ON:
        presets = [method for method in presets if method.name not in SECOND_SETTINGS]
    if inner == "muon":
        presets = [method for method in presets if method.name in WITH_MUON]
        return (*CONTROLS, _lookahead(5, 0.5, "maintain"), *presets)
    policies = ["maintain", "reset", "interpolate"]
    grid = [_lookahead(k, a, p) for k in (5, 10) for a in (0.5, 0.8) for p in policies]
    if inner == "adamw":
        grid += [_lookahead(5, a, "reset moments") for a in (0.5, 0.8)]
    again = [AGAIN] if task in AGAIN_ON else []
    return (*CONTROLS, *grid, *presets, *again)


def _around(inner: str, method: Method) -> Method:
    """Schedule-Free takes the momentum out of the inner optimizer.

    Plain SGD is at ten times the nominal rate, which is what a momentum of 0.9 makes of it.
    """
    if method.preset != "schedule_free":
        return method
    return replace(method, inner_momentum=False, lr_factor=10.0 if inner == "sgd" else 1.0)


def rates_for(task: str, inner: str, method: Method, rates: Sequence[float]) -> tuple[float, ...]:
    """Those of `rates` at which the method is trained: of a preset six, around the tuned one.

    Long averages like higher rates, so theirs begin an octave later. On digits the best is flat:
    there are eight, from three octaves lower. Around Muon there are five, of every method; without
    a momentum, as Schedule-Free has it, it likes rates that are much higher. On text the
    controls at a part of the rate begin an octave later.
    """
    later = int(method.preset == "schedule_free" or method.name == "GPA 0.9967")
    if inner == "muon":
        part_of_the_rate = task == "text" and method.lr_factor < 1
        below, above, later = 2, 2, 4 * later + part_of_the_rate
    elif method.preset:
        below, above = (5, 2) if task == "digits" else (2, 3)
    else:
        return tuple(rates)
    tuned = 2.0 ** (TUNED[task, inner] + later)
    return tuple(rate for rate in rates if tuned / 2**below <= rate <= tuned * 2**above)
