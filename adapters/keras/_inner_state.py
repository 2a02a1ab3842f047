"""Which variables of the inner optimizer are moments, what they begin with, and its two clocks.

Keras has one counter, `iterations`, behind the bias correction and the schedule of the learning
rate. A reset restarts it for the one, and `Ongoing` keeps it going for the other.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from ._backend import read

__all__ = [
    "check_inner",
    "counters",
    "go_on",
    "initial_values",
    "moments",
    "optimizers_in",
    "rates",
]


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
    for optimizer in optimizers_in(inner):
        if optimizer.use_ema:
            raise ValueError(
                "inner must not have use_ema=True, which would overwrite the weights when `fit` "
                "ends: write MetaOptimizer(inner, ema(...)), or nested(lookahead(), ema(...))"
            )
        if optimizer is not inner and optimizer.gradient_accumulation_steps:
            raise ValueError(
                "an optimizer of a MultiOptimizer must not have gradient_accumulation_steps: the "
                "steps of several could not be counted as one"
            )


def moments(inner: Any) -> list[Any]:
    """The variables that are neither counters nor rates nor gradients on their way."""
    found = []
    for optimizer in optimizers_in(inner):
        gradients = getattr(optimizer, "_accumulated_gradients", [])
        others = {id(v) for v in (optimizer._iterations, optimizer._learning_rate, *gradients)}
        found += [v for v in optimizer.variables if id(v) not in others]
    return found


def counters(inner: Any) -> list[Any]:
    """What a bias correction counts with."""
    return [optimizer._iterations for optimizer in optimizers_in(inner)]


def initial_values(inner: Any) -> list[float]:
    """What each moment begins with, by an optimizer made anew: a number for the whole array."""
    values = []
    for optimizer in optimizers_in(inner):
        if not optimizer.built:
            continue
        new = type(optimizer).from_config(optimizer.get_config())
        new.build(optimizer._trainable_variables)
        for moment in moments(new):
            array = keras.ops.convert_to_numpy(read(moment))
            first = float(array.flat[0]) if array.size else 0.0
            if not (array == first).all():
                raise ValueError(
                    f"inner_state='reset' is not for {type(optimizer).__name__}, whose "
                    f"{moment.name} does not begin with one number: use another policy"
                )
            values.append(first)
    return values


def rates(inner: Any, variables: Sequence[Any]) -> list[Any]:
    """The learning rate of the next step for each variable."""
    found = []
    for variable in variables:
        for optimizer in optimizers_in(inner):
            if optimizer._var_key(variable) in optimizer._trainable_variables_indices:
                found.append(keras.ops.convert_to_tensor(optimizer.learning_rate))
    return found


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
    for optimizer, gone in zip(optimizers_in(inner), taken_off, strict=False):
        schedule = optimizer._learning_rate
        if isinstance(schedule, Ongoing):
            if schedule.taken_off is gone:
                continue
            schedule = schedule.schedule
        if isinstance(schedule, LearningRateSchedule):
            optimizer.learning_rate = Ongoing(schedule, gone)
