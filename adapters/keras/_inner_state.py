"""Which variables of the inner optimizer are moments, what they begin with, and its two clocks.

Keras has one counter, `iterations`, behind the bias correction and the schedule of the learning
rate. A reset restarts it for the one, and `Ongoing` keeps it going for the other.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from ._backend import read

__all__ = ["check_inner", "go_on", "initial_values", "moments", "optimizers_in", "rates"]


def optimizers_in(inner: Any) -> list[Any]:
    """An optimizer by itself, or those of a MultiOptimizer."""
    return [*getattr(inner, "optimizers", [inner])]


def check_inner(inner: Any) -> None:
    """ValueError for what would go wrong inside, with the order that goes right."""
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise ValueError(f"inner must be a keras.optimizers.Optimizer, got {inner!r}")
    if isinstance(inner, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "inner must not be a LossScaleOptimizer, whose skipped steps would be counted: write "
            "LossScaleOptimizer(Lookahead(inner)), as mixed_float16 does by itself"
        )
    if any(own.use_ema for own in optimizers_in(inner)):
        raise ValueError(
            "inner must not have use_ema=True, which overwrites the weights when `fit` ends: write "
            "MetaOptimizer(inner, ema(...))"
        )
    if any(own is not inner and own.gradient_accumulation_steps for own in optimizers_in(inner)):
        raise ValueError(
            "an optimizer of a MultiOptimizer must not have gradient_accumulation_steps: the steps "
            "of several could not be counted as one"
        )


def moments(inner: Any) -> list[Any]:
    """The variables that are neither counters nor rates nor gradients on their way."""
    found = []
    for own in optimizers_in(inner):
        gradients = getattr(own, "_accumulated_gradients", [])
        others = {id(v) for v in (own._iterations, own._learning_rate, *gradients)}
        found += [v for v in own.variables if id(v) not in others]
    return found


def initial_values(inner: Any) -> list[float]:
    """What each moment begins with, by an optimizer made anew: a number for the whole array."""
    values = []
    for own in optimizers_in(inner):
        new = type(own).from_config(own.get_config())
        new.build(own._trainable_variables)
        for moment in moments(new):
            array = keras.ops.convert_to_numpy(read(moment))
            values.append(float(array.flat[0]) if array.size else 0.0)
            if not (array == values[-1]).all():
                raise ValueError(
                    f"inner_state='reset' is not for {type(own).__name__}, whose {moment.name} "
                    "does not begin with one number: use another policy"
                )
    return values


def rates(inner: Any, variables: Sequence[Any]) -> list[Any]:
    """The learning rate of the next step for each variable."""
    return [
        keras.ops.convert_to_tensor(own.learning_rate)
        for variable in variables
        for own in optimizers_in(inner)
        if own._var_key(variable) in own._trainable_variables_indices
    ]


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


def go_on(inner: Any, taken_off: Sequence[Any]) -> None:
    """Let each schedule of the inner optimizer go on; none without resets."""
    for own, gone in zip(optimizers_in(inner), taken_off, strict=False):
        rate = own._learning_rate
        schedule = rate.schedule if isinstance(rate, Ongoing) else rate
        if isinstance(schedule, LearningRateSchedule) and vars(rate).get("taken_off") is not gone:
            own.learning_rate = Ongoing(schedule, gone)
