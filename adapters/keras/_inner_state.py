"""Which variables of the inner optimizer are moments, what they begin with, and its two clocks.

Keras has one counter, `iterations`, behind the bias correction and the schedule of the learning
rate. A reset restarts it for the one, and `Ongoing` keeps it going for the other.
"""

from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from ._backend import read

__all__ = ["check_inner", "go_on", "initial_values", "moments"]


def check_inner(inner: Any) -> None:
    """ValueError for what would go wrong inside, with the order that goes right."""
    if not isinstance(inner, keras.optimizers.Optimizer):
        wrong = "be a keras.optimizers.Optimizer"
    elif isinstance(inner, keras.optimizers.LossScaleOptimizer):
        wrong = "not be a LossScaleOptimizer: write LossScaleOptimizer(Lookahead(inner))"
    elif hasattr(inner, "optimizers"):
        wrong = "not be a MultiOptimizer: give it optimizers that are Lookahead(inner) each"
    elif inner.use_ema:
        wrong = "not have use_ema=True: write MetaOptimizer(inner, ema(...))"
    else:
        return
    raise ValueError(f"inner must {wrong}, got {inner!r}")


def moments(inner: Any) -> list[Any]:
    """The variables that are neither counters nor rates nor gradients on their way."""
    gradients = getattr(inner, "_accumulated_gradients", [])
    others = {id(v) for v in (inner._iterations, inner._learning_rate, *gradients)}
    return [v for v in inner.variables if id(v) not in others]


def initial_values(inner: Any) -> list[float]:
    """What each moment begins with, by an optimizer made anew: a number for the whole array."""
    new = type(inner).from_config(inner.get_config())
    new.build(inner._trainable_variables)
    arrays = [keras.ops.convert_to_numpy(read(moment)) for moment in moments(new)]
    values = [float(array.flat[0]) if array.size else 0.0 for array in arrays]
    if any((array != value).any() for array, value in zip(arrays, values, strict=True)):
        raise ValueError(f"inner_state='reset' is not for {inner!r}, which begins with arrays")
    return values


@keras.saving.register_keras_serializable("lookahead_core")
class Ongoing(LearningRateSchedule):
    """A schedule of the steps since the start, whatever resets have taken off the counter.

    It is saved as the schedule alone.
    """

    def __init__(self, schedule: Any, taken_off: Any) -> None:
        self.schedule, self.taken_off = schedule, taken_off

    def __call__(self, step: Any) -> Any:
        return self.schedule(step + self.taken_off)

    def get_config(self) -> dict[str, Any]:
        return {"schedule": keras.saving.serialize_keras_object(self.schedule)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return keras.saving.deserialize_keras_object(config["schedule"])


def go_on(inner: Any, taken_off: list[Any]) -> None:
    """Let the schedule of the inner optimizer go on, if resets take steps off its counter."""
    rate = inner._learning_rate
    schedule = rate.schedule if isinstance(rate, Ongoing) else rate
    for gone in taken_off:
        if isinstance(schedule, LearningRateSchedule) and vars(rate).get("taken_off") is not gone:
            inner.learning_rate = Ongoing(schedule, gone)
