"""Any `SyncRule` as an `mlx.optimizers.Optimizer` around any other.

The counters are arrays, and the core selects: the same step runs as it is and under `mx.compile`.
What a sync means is lookahead_core. Here is what MLX and its users expect of an optimizer: a state
that is a tree of arrays, and updates that are trees like the gradients.
"""

from collections.abc import Callable
from typing import Any, Literal
from warnings import warn

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten, tree_unflatten

from lookahead_core import AdaptiveAlpha, SyncRule, SyncState, lookahead
from lookahead_core.analysis.measured import metrics, plain_numbers
from lookahead_core.rule import check_rule
from lookahead_core.settings import Scheduled
from lookahead_core.typing import Period
from lookahead_core.validation import not_wrapped
from lookahead_core.words import refuse_to_set, translated, without_effect

from .._interrupts import Uninterrupted
from ._inner_state import check_policy, counters, learning_rates, moments, optimizers_in, put

__all__ = ["Lookahead", "MetaOptimizer"]

Tree = Any
COUNTERS = ("count", "syncs", "phase")
READ_ONLY = without_effect("inner", "rule", "slow_dtype")


class MetaOptimizer(Optimizer):
    """Any `SyncRule` around any MLX optimizer.

    Use it in the place of the inner optimizer, also inside `MultiOptimizer`, around it, and under
    `mx.compile` with `optimizer.state` captured.

    Parameters
    ----------
    inner : mlx.optimizers.Optimizer
        Moves the fast weights, which are the model's parameters.
    rule : SyncRule
        When to sync and how.
    slow_dtype : mlx.core.Dtype, optional
        Keep slow weights, and what the outer rule keeps, in this dtype where it is wider than the
        parameter's; float32 is right for bfloat16 and float16 parameters (clause C15).

    Attributes
    ----------
    inner, rule
        As given.

    Raises
    ------
    ValueError
        If an argument is not of its kind, the inner optimizer is wrapped already, the rule needs a
        curvature, or `inner_state="reset"` would restart a schedule; the message names it.

    Notes
    -----
    Slow weights are taken when the state is made, by `init` or by the first update, and again at
    the first step of each cycle, so that weights loaded or edited between cycles are honoured
    (clauses C01, C26). A parameter without a gradient takes part in a sync with the weights that it
    has (clause C11); one that was frozen at `init` has no slow weights.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.
    """

    inner: Optimizer
    rule: SyncRule
    _slow_dtype: mx.Dtype | None

    @translated
    def __init__(
        self, inner: Optimizer, rule: SyncRule, *, slow_dtype: mx.Dtype | None = None
    ) -> None:
        not_wrapped(inner, any(isinstance(own, MetaOptimizer) for own in optimizers_in(inner)))
        if not isinstance(inner, Optimizer):
            raise ValueError(f"inner must be an mlx.optimizers.Optimizer, got {inner!r}")
        check_rule(rule, "curvature")
        check_policy(inner, rule)
        super().__init__()  # type: ignore[no-untyped-call]  # MLX gives it no types
        vars(self).update(inner=inner, rule=rule, _slow_dtype=slow_dtype)
        # One dict for good: mx.compile writes into the containers that it has captured.
        self._own: dict[str, Any] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_to_set(self, name, READ_ONLY)
        super().__setattr__(name, value)

    @property
    def state(self) -> dict[str, Any]:
        """A tree of arrays: the inner optimizer's, and what is ours under "lookahead"."""
        return {"inner": self.inner.state, "lookahead": self._own}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if "lookahead" not in state:
            warn(
                "the state has no entry 'lookahead', so it is one of the inner optimizer alone: "
                "slow weights are taken from the parameters at the next update",
                stacklevel=2,
            )
            state = {"inner": state, "lookahead": {}}
        own = dict(state["lookahead"])
        if own and not {*COUNTERS, "slow"} <= own.keys():
            raise ValueError(
                f"state['lookahead'] must have {', '.join(COUNTERS)} and slow, got "
                f"{', '.join(own) or 'nothing'}"
            )
        self.inner.state = state["inner"]
        self._own = own

    @property
    def step(self) -> mx.array:
        """Inner steps, as the inner optimizer counts them."""
        step: mx.array = self.inner.step
        return step

    @property
    def learning_rate(self) -> mx.array:
        """That of the inner optimizer."""
        rate: mx.array = self.inner.learning_rate
        return rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: float | mx.array) -> None:
        self.inner.learning_rate = learning_rate

    def init(self, parameters: Tree) -> None:
        """Make the state for these parameters, or for those that have none yet.

        Call it with `model.trainable_parameters()` before `mx.compile`; else the first update does
        it for what has a gradient.
        """
        self.inner.init(parameters)
        leaves = dict(tree_flatten(parameters))
        new = self.rule.init(
            [*leaves.values()],
            [*moments(self.inner, leaves).values()],
            slow_dtype=self._slow_dtype,
        )
        arrays = self._named(new, leaves, moments(self.inner, leaves))
        known = dict(tree_flatten(self._own))
        for name in COUNTERS:
            arrays[name] = mx.array(getattr(new, name), dtype=mx.int32)
        same = {
            name: value
            for name, value in known.items()
            if name in COUNTERS or (name in arrays and arrays[name].shape == value.shape)
        }
        self._keep(arrays | same)

    def apply_gradients(self, gradients: Tree, parameters: Tree) -> Tree:
        """One inner step; on every sync_period-th a sync follows it.

        Parameters
        ----------
        gradients : tree of arrays
            Like the parameters, or a part of them.
        parameters : tree of arrays, or Module
            The fast weights; they may be more than the gradients.

        Returns
        -------
        tree of arrays
            The new parameters: those with gradients, and those that a sync may have moved. Without
            any gradient nothing moves, and the step is not counted (clause C03).
        """
        given = _arrays(parameters)
        rates = dict(tree_flatten(gradients))
        if not rates:
            return self.inner.apply_gradients(gradients, parameters)
        if not rates.keys() <= self._slow().keys():
            self.init(tree_unflatten([(path, given[path]) for path in rates]))
        return self._whole(self._stepped, rates, gradients, given, parameters)

    def _stepped(
        self,
        rates: dict[str, mx.array],
        gradients: Tree,
        given: dict[str, mx.array],
        parameters: Tree,
    ) -> Tree:
        paths, state, fast, inner = self._core_state(given)
        state = self.rule.begin(fast, [*inner.values()], state)
        moved = dict(tree_flatten(self.inner.apply_gradients(gradients, parameters)))
        fast = [moved.get(path, given[path]) for path in paths]
        evidence: dict[str, Any] = {}
        if self.rule.needs_gradient:
            evidence["gradient"] = [
                rates.get(path, mx.zeros_like(leaf)) for path, leaf in zip(paths, fast, strict=True)
            ]
        inner = self._acted_on(paths)
        evidence |= self._inner_lr(paths)
        if self.rule.inner_state == "reset":
            evidence["initial"] = [mx.zeros_like(value) for value in inner.values()]
        synced, values, state = self.rule.step(fast, [*inner.values()], state, **evidence)
        self._finish(paths, state, inner, values)
        return tree_unflatten([*{**moved, **dict(zip(paths, synced, strict=True))}.items()])

    def update(self, model: Module, gradients: Tree) -> None:
        """As of the base class: `apply_gradients`, and what it returns into the model."""
        with Uninterrupted():
            super().update(model, gradients)

    def sync(self, parameters: Tree) -> Tree:
        """Sync now, whatever the counter says, and start it again (clause C05).

        Parameters
        ----------
        parameters : tree of arrays, or Module
            The fast weights.

        Returns
        -------
        tree of arrays
            The new parameters: `model.update(optimizer.sync(model))`.
        """
        paths, state, fast, inner = self._core_state(_arrays(parameters))
        values = [*inner.values()]
        state = self.rule.begin(fast, values, state)
        zeros = [mx.zeros_like(value) for value in values]
        initial = zeros if self.rule.inner_state == "reset" else None
        rates = self._inner_lr(paths)
        synced, changed, state = self.rule.sync(fast, values, state, initial=initial, **rates)
        new = tree_unflatten([*zip(paths, synced, strict=True)])
        self._whole(self._finish, paths, state, inner, changed)
        return new

    def slow_weights(self, parameters: Tree) -> Tree:
        """The weights to evaluate or ship, like the parameters (clause C22).

        Parameters
        ----------
        parameters : tree of arrays, or Module
            The fast weights; nothing is changed.

        Examples
        --------
        >>> import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
        >>> model = nn.Linear(2, 1)
        >>> optimizer = Lookahead(optim.SGD(learning_rate=0.1))
        >>> optimizer.init(model.trainable_parameters())
        >>> fast = model.parameters()
        >>> _ = model.update(optimizer.slow_weights(model))  # evaluate, or save, and go back:
        >>> _ = model.update(fast)
        """
        paths, state, fast, _ = self._core_state(_arrays(parameters))
        return tree_unflatten([*zip(paths, self.rule.slow(fast, state), strict=True)])

    def metrics(self, parameters: Tree) -> dict[str, float]:
        """How far fast and slow weights are apart, in numbers to plot; nothing is kept for them.

        Just after a sync that puts the fast weights back both norms are 0: ask before the update.

        Parameters
        ----------
        parameters : tree of arrays, or Module
            The fast weights; nothing is changed.

        Returns
        -------
        dict of str to float
            As of `lookahead_core.analysis.metrics`.
        """
        _, state, fast, _ = self._core_state(_arrays(parameters))
        return plain_numbers(metrics(self.rule, fast, state))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rule!r}, {type(self.inner).__name__})"

    # --- our part of the state, and the core's ---

    def _slow(self) -> dict[str, mx.array]:
        """Slow weights by the paths of their parameters."""
        return dict(tree_flatten(self._own.get("slow", {})))

    def _whole(self, change: Callable[..., Any], *arguments: Any) -> Any:
        """What `change` returns; if it raises, the state is what it was before it (clause C88)."""
        before = dict(tree_flatten(self.state))
        try:
            return change(*arguments)
        except BaseException:
            put(self, before)
            raise

    def _core_state(
        self, given: dict[str, mx.array]
    ) -> tuple[list[str], SyncState, list[mx.array], dict[str, mx.array]]:
        """Paths of the leaves, the core's state, the fast weights, the inner state acted on."""
        slow, own = self._slow(), dict(tree_flatten(self._own))
        if not slow:
            raise ValueError(
                "the optimizer has no slow weights yet: call init(model.trainable_parameters())"
            )
        if missing := slow.keys() - given.keys():
            raise ValueError(
                f"parameters must have the leaf {min(missing)!r}, of which there are slow weights, "
                f"got {', '.join(given) or 'none'}"
            )
        paths = [path for path in given if path in slow]  # a file may have them in another order
        inner = self._acted_on(paths)
        slots = len(self.rule.outer.init(()))
        outer = [[own[f"outer.{slot}.{path}"] for path in paths] for slot in range(slots)]
        copies = [own[f"inner_slow.{name}"] for name in inner if f"inner_slow.{name}" in own]
        count, syncs, phase = (self._own[name] for name in COUNTERS)
        state = SyncState([slow[path] for path in paths], count, syncs, outer, copies, phase)
        return paths, state, [given[path] for path in paths], inner

    def _acted_on(self, paths: Any) -> dict[str, mx.array]:
        """Arrays of the inner state that the policy acts on, by their paths in it."""
        if self.rule.inner_state == "maintain":
            return {}
        found = moments(self.inner, paths)
        return found | counters(self.inner) if self.rule.inner_state == "reset" else found

    def _inner_lr(self, paths: Any) -> dict[str, Any]:
        """The learning rate of each leaf, for a rule whose weights go by it."""
        needed = self.rule.needs_inner_lr
        return {"inner_lr": learning_rates(self.inner, paths)} if needed else {}

    def _named(self, state: SyncState, paths: Any, inner: Any) -> dict[str, mx.array]:
        """The arrays of the core's state by their paths in ours."""
        named = {f"slow.{path}": leaf for path, leaf in zip(paths, state.slow, strict=True)}
        for number, slot in enumerate(state.outer):
            named |= {f"outer.{number}.{p}": leaf for p, leaf in zip(paths, slot, strict=True)}
        pairs = zip(inner, state.inner_slow, strict=False)  # other policies keep none
        return named | {f"inner_slow.{name}": leaf for name, leaf in pairs}

    def _finish(
        self, paths: list[str], state: SyncState, inner: dict[str, mx.array], values: Any
    ) -> None:
        """Keep the state, and put the inner one back."""
        put(self.inner, dict(zip(inner, values, strict=True)))
        arrays = self._named(state, paths, inner)
        self._keep(arrays | {name: getattr(state, name) for name in COUNTERS})

    def _keep(self, arrays: dict[str, mx.array]) -> None:
        self._own.update(tree_unflatten([*arrays.items()]))


class Lookahead(MetaOptimizer):
    """Lookahead around any MLX optimizer: k steps forward, one step back.

    Parameters
    ----------
    inner : mlx.optimizers.Optimizer
        Moves the fast weights, which are the model's parameters.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    alpha : float, 0-d array, callable (syncs) -> float or 0-d array, or AdaptiveAlpha
        How far the slow weights move at a sync, in [0, 1]. A callable is a schedule of the number
        of syncs so far, which is an array.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner optimizer's own state.
    slow_dtype : as of `MetaOptimizer`
        Where it is wider than the parameter's.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
    >>> model = nn.Linear(2, 1)
    >>> optimizer = Lookahead(optim.SGD(learning_rate=0.1), sync_period=5)
    >>> loss_and_grad = nn.value_and_grad(model, lambda x: model(x).square().sum())
    >>> for _ in range(10):
    ...     loss, grads = loss_and_grad(mx.ones((1, 2)))
    ...     optimizer.update(model, grads)
    """

    @translated
    def __init__(
        self,
        inner: Optimizer,
        sync_period: Period = 5,
        alpha: Scheduled | AdaptiveAlpha = 0.5,
        inner_state: Literal["maintain", "reset", "interpolate"] = "maintain",
        *,
        slow_dtype: mx.Dtype | None = None,
    ) -> None:
        super().__init__(inner, lookahead(sync_period, alpha, inner_state), slow_dtype=slow_dtype)


def _arrays(parameters: Tree) -> dict[str, mx.array]:
    """Arrays by their paths; a Module has more in it than parameters."""
    own = isinstance(parameters, Module)
    tree = parameters.parameters() if own else parameters
    return dict(tree_flatten(tree))
