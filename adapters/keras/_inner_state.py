"""Which variables of the inner optimizer are moments, what they begin with, and its two clocks.

Keras has one counter, `iterations`, behind the bias correction and the schedule of the learning
rate. A reset restarts it for the one, and `Ongoing` keeps it going for the other.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from lookahead_core import SyncRule

from ._backend import read

__all__ = ["check_inner", "go_on", "initial_values", "moments", "optimizers_in", "rates"]


def optimizers_in(inner: Any) -> list[Any]:
    """An optimizer by itself, or those of a MultiOptimizer."""
    return [*getattr(inner, "optimizers", [inner])]


def check_inner(inner: Any) -> None:
    """ValueError for what would go wrong inside, with the order that goes right."""
    own = optimizers_in(inner)
    if not isinstance(inner, keras.optimizers.Optimizer):
        wrong = "be a keras.optimizers.Optimizer"
    elif isinstance(inner, keras.optimizers.LossScaleOptimizer):
        wrong = "not be a LossScaleOptimizer: write LossScaleOptimizer(Lookahead(inner))"
    elif any(one.use_ema for one in own):
        wrong = "not have use_ema=True: write MetaOptimizer(inner, ema(...))"
    elif any(one is not inner and one.gradient_accumulation_steps for one in own):
        wrong = "not accumulate gradients in one of several optimizers, which count as one"
    else:
        return
    raise ValueError(f"inner must {wrong}, got {inner!r}")


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
        for array in map(keras.ops.convert_to_numpy, map(read, moments(new))):
            values.append(float(array.flat[0]) if array.size else 0.0)
            if not (array == values[-1]).all():
                kind = type(own).__name__
                raise ValueError(f"{kind} cannot be reset: not all of its state begins as a number")
    return values


def rates(rule: SyncRule, inner: Any, variables: Sequence[Any]) -> list[Any]:
    """The learning rate of the next step for each variable, for a rule that goes by it."""
    return [
        keras.ops.convert_to_tensor(own.learning_rate)
        for variable in variables
        for own in optimizers_in(inner)
        if rule.needs_inner_lr and own._var_key(variable) in own._trainable_variables_indices
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
