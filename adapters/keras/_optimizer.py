"""Any `SyncRule` as a `keras.optimizers.Optimizer` around any other.

Made like Keras' own wrapper, LossScaleOptimizer. What a sync means is lookahead_core, and what
differs between the backends is _backend.py; here is what Keras expects of an optimizer.
"""

from functools import partial
from typing import Any, Literal

import keras

from lookahead_core import SyncRule, lookahead
from lookahead_core.analysis.measured import metrics, plain_numbers
from lookahead_core.rule import check_rule
from lookahead_core.settings import Scheduled
from lookahead_core.state import each_of
from lookahead_core.typing import Period
from lookahead_core.validation import not_evaluating, not_wrapped
from lookahead_core.words import refuse_to_set, translated, without_effect

from .._slow_weights import SlowWeights
from ._backend import COUNTER, known, on_each_device, outside_of_graphs, read, when, write
from ._checkpoint import load, save
from ._config import from_plain, plain
from ._inner_state import check_inner, go_on, initial_values, moments
from ._parts import Part

__all__ = ["Lookahead", "MetaOptimizer"]

READ_ONLY = without_effect("inner", "rule", "slow_dtype")


@keras.saving.register_keras_serializable("lookahead_core")
class MetaOptimizer(keras.optimizers.Optimizer):
    """Any `SyncRule` around any Keras optimizer.

    Use it in the place of the inner optimizer, in `compile` or in a loop of your own.

    Parameters
    ----------
    inner : keras.optimizers.Optimizer
        Moves the fast weights, which are the model's trainable variables. Clipping, weight decay
        and accumulation of gradients are its arguments.
    rule : SyncRule
        When to sync and how.
    slow_dtype : str, optional
        Keep slow weights, and what the outer rule keeps, in this dtype where it is wider than the
        variable's; "float32" is right for bfloat16 and float16 variables (clause C15).
    **base
        Of the base class' arguments `name` alone: the others belong to the inner optimizer.

    Attributes
    ----------
    inner, rule
        As given.

    Raises
    ------
    ValueError
        If an argument is not of its kind, the inner optimizer is wrapped already, scales losses or
        averages by itself, or the rule needs gradients; the message names the right order.

    Notes
    -----
    Steps are counted by the `iterations` of the inner optimizer: gradients that are accumulated do
    not count, nor steps that LossScaleOptimizer skips (clause C03).

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.
    """

    @translated
    def __init__(
        self, inner: Any, rule: SyncRule, *, slow_dtype: str | None = None, **base: Any
    ) -> None:
        not_wrapped(inner, isinstance(inner, MetaOptimizer))
        check_inner(inner)
        check_rule(rule, "gradient", "curvature")
        for argument in base.keys() - {"name"}:
            kinds = f"{type(self).__name__}({type(inner).__name__}({argument}=...))"
            raise ValueError(f"{argument} belongs to the inner optimizer: write {kinds}")
        super().__init__(learning_rate=0.0, **base)
        for key, value in {"inner": inner, "rule": rule, "slow_dtype": slow_dtype}.items():
            super().__setattr__(key, value)
        self._part: Any = None
        self._fast: list[Any] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_to_set(self, name, READ_ONLY)
        super().__setattr__(name, value)

    # --- what Keras asks of an optimizer ---

    @property
    def variables(self) -> list[Any]:
        """Our own, and those of the inner optimizer."""
        return [*self._variables, *self.inner.variables]

    @property
    def iterations(self) -> Any:
        """Inner steps since the start, also those before a reset."""
        gone = self._part.taken_off if self.built else []
        steps = self.inner.gradient_accumulation_steps or 1
        return self.inner.iterations + gone[0] // steps if gone else self.inner.iterations

    @property
    def learning_rate(self) -> Any:
        """That of the inner optimizer."""
        return self.inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner.learning_rate = learning_rate

    @property
    def loss_scale_factor(self) -> Any:
        """That of the inner optimizer; LossScaleOptimizer around sets it to None."""
        return self.inner.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor: Any) -> None:
        if "inner" in vars(self):  # the base class sets its own None first
            self.inner.loss_scale_factor = factor

    def scale_loss(self, loss: Any) -> Any:
        """As the inner optimizer does."""
        return self.inner.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        """As the inner optimizer does; the fast weights stay, so that two fits are one."""
        self.inner.finalize_variable_values(var_list)

    def build(self, variables: Any) -> None:
        """Make the variables: slow weights are copies of these (clause C01)."""
        if self.built:
            return
        with outside_of_graphs():
            if not self.inner.built:
                self.inner.build(variables)
            super().build(variables)
            # Keras puts gradients in the place of the scales of float8, which are no weights.
            self._make_part([v for v in variables if not getattr(v, "overwrite_with_gradient", 0)])

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """One inner step; on every sync_period-th a sync follows it.

        Parameters
        ----------
        grads : list of tensors
            A gradient for each variable, or None.
        trainable_variables : list of variables, optional
            What the gradients are of; without it those that the optimizer was built with.
        """
        not_evaluating("apply", self._fast is not None)
        if len(grads) and trainable_variables is not None:
            self.build([*trainable_variables])
        if not (len(grads) and self.built):
            self.inner.apply(grads)  # Keras' own error, or nothing to do
            return
        go_on(self.inner, self._part.taken_off)
        part, before, lr = self._part, keras.ops.copy(self.inner.iterations), self._inner_lr()
        on_each_device(self._begin, part)
        self.inner.apply(grads, trainable_variables)
        on_each_device(self._count_and_sync, part, self.inner.iterations - before, lr)

    def sync(self) -> None:
        """Sync now, whatever the counter says, and start it again (clause C05); not in a graph."""
        not_evaluating("sync", self._fast is not None)
        if not self.built:
            raise RuntimeError("sync() needs slow weights: call build(model.trainable_variables)")
        on_each_device(self._sync, self._part, self._inner_lr())

    # --- slow weights ---

    def slow_weights(self) -> SlowWeights:
        """Context in which the model holds the slow weights, to evaluate or to save it (C22).

        The fast weights come back bit for bit, also after an exception. A model that is saved
        inside has the slow weights, and its optimizer the fast ones too (clause C41).
        """
        return SlowWeights(self, lambda: self._fast is not None)

    def eval(self) -> None:
        """Put the slow weights into the model, until `train()`; as `slow_weights()` does."""
        if self._fast is not None or not self.built:
            return
        now = self._part.values()
        slow, fast = self.rule.slow(now.fast, now.state), [*map(keras.ops.copy, now.fast)]
        # Copies: JAX gives away the buffers of the model when it evaluates.
        pairs = zip(slow, fast, strict=True)
        write(self._part.fast, [keras.ops.copy(keras.ops.cast(s, f.dtype)) for s, f in pairs])
        object.__setattr__(self, "_fast", fast)  # Keras would wrap the list

    def train(self) -> None:
        """Put the fast weights back after `eval()`, or loading what was saved inside of it."""
        if self._fast is not None:
            write(self._part.fast, self._fast)
            self._fast = None

    def metrics(self) -> dict[str, float]:
        """How far fast and slow weights are apart, in numbers to plot; nothing is kept for them.

        Just after a sync that puts the fast weights back both norms are 0. Not in a graph.

        Returns
        -------
        dict of str to float
            As of `lookahead_core.analysis.metrics`; empty before there are weights.
        """
        if not self.built:
            return {}
        now = self._part.values()
        return plain_numbers(metrics(self.rule, self._fast or now.fast, now.state))

    # --- files ---

    def save_own_variables(self, store: Any) -> None:
        """What is ours; the inner optimizer is saved beside it."""
        if self.built:
            save(store, self.rule, self._part, self._fast or [])

    def load_own_variables(self, store: Any) -> None:
        """What was saved: without variables yet with Keras' warning, else whole or not at all."""
        if not self.built:
            super().load_own_variables(store)
        else:
            object.__setattr__(self, "_fast", load(store, self.rule, self._part) or None)

    def get_config(self) -> dict[str, Any]:
        """The inner optimizer and the rule."""
        made = keras.saving.serialize_keras_object
        config = {"inner": made(self.inner), "rule": plain(self.rule, made)}
        return config | {"name": self.name, "slow_dtype": self.slow_dtype}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The optimizer of a configuration."""
        made = partial(keras.saving.deserialize_keras_object, custom_objects=custom_objects)
        return cls(**{name: from_plain(value, made) for name, value in config.items()})

    # --- steps on one device ---

    def _begin(self, part: Part) -> None:
        def taken() -> list[Any]:
            now = part.values()
            state = self.rule.begin(now.fast, now.inner, now.state._replace(count=0, syncs=0))
            return [*state.slow, *state.inner_slow]

        own = part.state
        when(self.rule.takes(part.counted(own)), [*own.slow, *own.inner_slow], taken)

    def _count_and_sync(self, part: Part, applied: Any, lr: Any) -> None:
        state, moved = part.counted(part.state), known(applied) > 0
        due, count = self.rule.due(state), self.rule.count_step(state).count
        # The sync sets the counter itself: if it fails it is due again (clause C88).
        when(moved & due, part.flat(), lambda: self._synced(part.values(), lr).flat())
        when(moved & (due ^ True), [part.state.count], lambda: [count])

    def _sync(self, part: Part, lr: Any) -> None:
        now = part.values()
        begun = now._replace(state=self.rule.begin(now.fast, now.inner, now.state))
        write(part.flat(), self._synced(begun, lr).flat())

    def _inner_lr(self) -> Any:
        """The learning rate of the next step, for a rule whose weights go by it."""
        return keras.ops.copy(self.inner.learning_rate) if self.rule.needs_inner_lr else None

    def _synced(self, now: Part, lr: Any) -> Part:
        first = [*map(keras.ops.full_like, now.inner, self._initial)] or None  # without resets
        synced = self.rule.sync(now.fast, now.inner, now.state, initial=first, inner_lr=lr)
        return now.synced(*synced)

    # --- our variables ---

    def _make_part(self, fast: list[Any]) -> None:
        """The variables of the core's state, with its values."""
        reset = self.rule.inner_state == "reset"
        restarted = [self.inner._iterations] if reset else []
        self._initial = [*initial_values(self.inner), 0] if reset else []
        inner = [] if self.rule.inner_state == "maintain" else [*moments(self.inner), *restarted]
        wide = keras.ops.zeros((), self.slow_dtype).dtype if self.slow_dtype else None
        state = self.rule.init([*map(read, fast)], [*map(read, inner)], slow_dtype=wide)
        gone = [self._variable(0, own.dtype) for own in restarted]
        # Past Keras, which would wrap the lists.
        object.__setattr__(self, "_part", Part(fast, inner, gone, each_of(state, self._variable)))
        go_on(self.inner, gone)

    def _variable(self, value: Any, dtype: str = COUNTER) -> Any:
        """For an array, or a counter."""
        if isinstance(value, int):
            first = keras.initializers.Constant(value)
            return self.add_variable((), first, dtype, aggregation="only_first_replica")
        return self.add_variable(value.shape, lambda *_, **__: value, value.dtype)


@keras.saving.register_keras_serializable("lookahead_core")
class Lookahead(MetaOptimizer):
    """Lookahead around any Keras optimizer: k steps forward, one step back.

    Parameters
    ----------
    inner : keras.optimizers.Optimizer
        Moves the fast weights, which are the model's trainable variables.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    alpha : float or callable, (syncs) -> float or 0-d tensor
        How far the slow weights move at a sync, in [0, 1]. A callable is a schedule of the number
        of syncs so far, which is a tensor in a graph.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner optimizer's own state.
    slow_dtype : str, optional
        As of `MetaOptimizer`.
    **base
        Of the base class' arguments `name` alone: the others belong to the inner optimizer.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(Lookahead(keras.optimizers.Adam(1e-3), sync_period=5, alpha=0.5), "mse")
    >>> history = model.fit(np.ones((8, 2)), np.ones((8, 1)), verbose=0)
    """

    @translated
    def __init__(
        self,
        inner: keras.optimizers.Optimizer,
        sync_period: Period = 5,
        alpha: Scheduled = 0.5,
        inner_state: Literal["maintain", "reset", "interpolate"] = "maintain",
        *,
        slow_dtype: str | None = None,
        **base: Any,
    ) -> None:
        base |= {"slow_dtype": slow_dtype}
        super().__init__(inner, lookahead(sync_period, alpha, inner_state), **base)

    def get_config(self) -> dict[str, Any]:
        """The inner optimizer and the settings."""
        config = super().get_config()
        rule = config.pop("rule")["settings"]
        config |= rule["outer"]["settings"]  # alpha
        return config | {name: rule[name] for name in ("sync_period", "inner_state")}
