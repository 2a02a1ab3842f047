"""Lookahead on trees of arrays: any `SyncRule` around any optimizer of the array loop.

All leaves sync together, and every array of the inner optimizer's `state` is part of the inner
state. How values get into the arrays of a tree is _tree.py, how the arithmetic runs is _kernels,
and what a checkpoint holds is _checkpoint.py.
"""

from collections.abc import Callable, Mapping
from operator import is_
from typing import Any, ClassVar, Literal, cast

import numpy as np

from lookahead_core import AdaptiveAlpha, Kernel, SyncRule, lookahead
from lookahead_core.analysis.measured import metrics, plain_numbers
from lookahead_core.checkpoint import settings
from lookahead_core.leaves import averaged, check_match, chosen, copied, zeros
from lookahead_core.namespace import is_array, is_writeable, namespace
from lookahead_core.settings import Scheduled
from lookahead_core.state import SyncState
from lookahead_core.typing import Array, DType, Leaves, Period
from lookahead_core.validation import not_wrapped
from lookahead_core.words import refuse_to_set, translated, without_effect

from .._interrupts import Uninterrupted, whole
from ._checkpoint import check_named, check_ours, loaded, named_arrays
from ._inner.protocol import InnerOptimizer
from ._kernels.in_place import IN_PLACE
from ._tree import Layout, StateDict, Tree, checked_gradients, copies, written

__all__ = ["Lookahead", "MetaOptimizer"]

Buffers = Callable[[str, Array], Array]

READ_ONLY = without_effect("inner", "rule", "slow_dtype", "slow_buffer")


class MetaOptimizer:
    """Any `SyncRule` around any optimizer that follows `InnerOptimizer`.

    Parameters
    ----------
    inner : InnerOptimizer
        Moves the fast weights, `inner.params`.
    rule : SyncRule
        When to sync and how.
    slow_dtype : dtype, optional
        Keep floating slow weights in this dtype where it is wider than the leaf's own.
    slow_buffer : callable, (name, leaf) -> array, optional
        Where to keep the slow weights of each leaf, such as a `numpy.memmap`: a writeable array of
        its shape, which is overwritten, in its dtype or a wider one. In the place of `slow_dtype`.

    Attributes
    ----------
    inner, rule
        As given.
    params : tree of arrays
        The fast weights as they are now: those of `inner`.

    Raises
    ------
    ValueError
        If an argument is not of its kind; the message names it.

    Notes
    -----
    Slow weights are taken at construction and again at the first step of each cycle, and so is the
    slow copy of the inner state that `inner_state="interpolate"` needs: weights and moments that
    were loaded or edited between two cycles are honoured (clauses C01, C18, C26).

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.
    """

    inner: InnerOptimizer
    rule: SyncRule
    _kernel: ClassVar[Kernel] = IN_PLACE

    @translated
    def __init__(
        self,
        inner: InnerOptimizer,
        rule: SyncRule,
        *,
        slow_dtype: DType | None = None,
        slow_buffer: Buffers | None = None,
    ) -> None:
        not_wrapped(inner, isinstance(inner, MetaOptimizer))
        if isinstance(inner, list | tuple) and any(hasattr(one, "step") for one in inner):
            raise ValueError(
                f"inner must be one optimizer, got a {type(inner).__name__} of {len(inner)}: put "
                "each into a Lookahead of its own, or all parameters into one tree"
            )
        missing = [name for name in ("params", "state", "step") if not hasattr(inner, name)]
        if missing:
            raise ValueError(
                f"inner must have params, state and step (InnerOptimizer), got {inner!r} "
                f"without {', '.join(missing)}"
            )
        if not isinstance(rule, SyncRule):
            raise ValueError(f"rule must be a SyncRule, got {rule!r}")
        if slow_buffer is not None and slow_dtype is not None:
            raise ValueError(
                f"slow_dtype must be None where slow_buffer decides, got {slow_dtype!r}"
            )
        self._layout = Layout(inner.params)
        vars(self).update(inner=inner, rule=rule)
        self._state = self._initial(slow_dtype, slow_buffer)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_to_set(self, name, READ_ONLY)
        super().__setattr__(name, value)

    @property
    def params(self) -> Tree:
        """The fast weights as they are now: those of `inner`."""
        return self.inner.params

    @params.setter
    def params(self, params: Tree) -> None:
        self.inner.params = params

    def step(self, grads: Tree) -> None:
        """One inner step from `grads`; on every sync_period-th a sync follows it.

        Raises
        ------
        ValueError
            If `grads` does not match the parameters, or is None for all; nothing is changed.
        """
        gradients = checked_gradients(grads, self.params)
        fast = self._fast()
        check_match("params", fast, "the slow weights", self._state.slow)
        self.rule.due(self._state)  # refuses what a schedule of the period may give, before a move
        rates = self._inner_lr()
        self._check_has("curvature", self.rule.needs_curvature, "Adam")
        self._begin(fast)
        self.inner.step(grads)
        evidence = {**self._evidence(gradients), **rates}
        with whole(self.rule.due(self._state) is True):
            self._apply(self.rule.step, evidence)

    def sync(self) -> None:
        """Sync now, whatever the counter says, and start it again (clause C05).

        Raises
        ------
        ValueError
            If the rule estimates alpha from a gradient, which there is none of here.
        """
        rates = self._inner_lr()
        self._begin(self._fast())
        with Uninterrupted():
            self._apply(self.rule.sync, rates)

    def slow_weights(self) -> Tree:
        """Slow weights to evaluate or ship: a new tree like the parameters (clause C22).

        It is no context, as torch's is: `params` stay what they are, so use what it returns.
        """
        slow = self.rule.slow(self._fast(), self._state)
        return self._layout.copied(self.params, [copied(leaf) for leaf in slow])

    def metrics(self) -> dict[str, float]:
        """How far fast and slow weights are apart, in numbers to plot; nothing is kept for them.

        Just after a sync that puts the fast weights back both norms are 0: ask before `step()`.

        Returns
        -------
        dict of str to float
            As of `lookahead_core.analysis.metrics`.
        """
        return plain_numbers(metrics(self.rule, self._fast(), self._state))

    def state_dict(self) -> StateDict:
        """Flat mapping of names to copies of arrays and to numbers; save the weights beside it.

        `slow/<path>`, `outer/<slot>/<path>` and `inner_slow/<name>` are ours, `inner/<name>` the
        inner optimizer's.
        """
        inner = {f"inner/{name}": value for name, value in self.inner.state_dict().items()}
        numbers = {"count": self._state.count, "syncs": self._state.syncs}
        return {**settings(self.rule), **numbers, **copies(self._arrays()), **inner}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on where `state_dict` was taken. Load the weights as well.

        Raises
        ------
        ValueError
            If it was made by another rule, or an entry is missing, unknown, or of another shape
            or dtype; nothing is changed.
        """
        check_named(state_dict)
        inner = {
            name.removeprefix("inner/"): value
            for name, value in state_dict.items()
            if name.startswith("inner/")
        }
        ours = {name: value for name, value in state_dict.items() if not name.startswith("inner/")}
        arrays = self._arrays()
        check_ours(ours, self.rule, arrays)
        with Uninterrupted():
            self.inner.load_state_dict(inner)  # it refuses before it changes anything, as we do
            self._state = loaded(ours, self.rule, self._state, arrays)

    def _initial(self, slow_dtype: DType | None, slow_buffer: Buffers | None) -> SyncState:
        fast, inner = self._fast(), list(self.inner.state.values())
        if slow_buffer is None:
            return self.rule.init(fast, inner, slow_dtype=slow_dtype)
        # `init` would copy all weights to memory, which may be too small for them.
        slow = [
            _checked_buffer(name, leaf, slow_buffer(name, leaf))
            for name, leaf in zip(self._layout.names, fast, strict=True)
        ]
        state = self.rule.init((), inner)
        outer = self.rule.outer.init(chosen(slow, averaged(slow)))
        state = state._replace(slow=slow, outer=outer)
        return self.rule.anchor(fast, state, kernel=self._kernel)

    def _arrays(self) -> dict[str, Array]:
        return named_arrays(self.rule, self._state, self._layout.names, self.inner.state)

    def _fast(self) -> list[Array]:
        return self._layout.distinct(self.params)

    def _begin(self, fast: list[Array]) -> None:
        """Take what a cycle starts from, if the next inner step is the first of one."""
        inner = list(self.inner.state.values())
        self._state = self.rule.begin(fast, inner, self._state, kernel=self._kernel)

    def _inner_lr(self) -> dict[str, list[float]]:
        """Rate of the next inner step for each leaf, for a rule whose weights go by it."""
        self._check_has("learning_rates", self.rule.needs_inner_lr, "SGD, Adam")
        if not self.rule.needs_inner_lr:
            return {}
        known = cast(Any, self.inner).learning_rates()
        return {"inner_lr": [known[name] for name in self._layout.names]}

    def _check_has(self, method: str, needed: bool, those: str) -> None:
        if needed and not hasattr(self.inner, method):
            raise ValueError(
                f"the rule needs an inner optimizer with a method `{method}` ({those}), got "
                f"{type(self.inner).__name__}"
            )

    def _evidence(self, gradients: list[Array | None]) -> dict[str, list[Array]]:
        """What an adaptive alpha is estimated from; zeros where there is no gradient."""
        if not self.rule.needs_gradient:
            return {}
        fast = self._fast()
        summed = zip(self._layout.summed(gradients), fast, strict=True)
        evidence = {"gradient": [zeros([f])[0] if g is None else g for g, f in summed]}
        if self.rule.needs_curvature:
            known = cast(Any, self.inner).curvature()  # `step` has seen that it is there
            named = zip(self._layout.names, fast, strict=True)
            evidence["curvature"] = [known.get(name, leaf) for name, leaf in named]
        return evidence

    def _apply(
        self,
        transition: Callable[..., tuple[Leaves, Leaves, SyncState]],
        evidence: Mapping[str, list[Any]],
    ) -> None:
        """Run `rule.step` or `rule.sync` on weights and inner state, and put back what it gives."""
        names, inner = list(self.inner.state), list(self.inner.state.values())
        old_fast, old = self._fast(), self._state
        fast, new, state = transition(old_fast, inner, old, kernel=self._kernel, **evidence)
        # A rule of the user's own gives new arrays; the slow weights stay in the buffers they have.
        slots = zip(old.outer, state.outer, strict=True)
        self._state = state._replace(
            slow=_put(old.slow, state.slow), outer=[_put(*slot) for slot in slots]
        )
        if not all(map(is_, fast, old_fast)):
            self.params = self._layout.copied(self.params, list(fast))
        new = _put(inner, new)
        if not all(map(is_, new, inner)):
            self.inner.state = dict(zip(names, new, strict=True))


class Lookahead(MetaOptimizer):
    """Lookahead around any optimizer of this loop: k steps forward, one step back.

    Parameters
    ----------
    inner : InnerOptimizer
        Moves the fast weights, `inner.params`; `SGD(...)`, `Adam(...)`, or one of yours.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    alpha : float, 0-d array, callable (syncs) -> float or 0-d array, or AdaptiveAlpha
        How far the slow weights move at a sync, in [0, 1]. An array is not checked; a callable is a
        schedule of the number of syncs so far; `AdaptiveAlpha()` estimates it.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner optimizer's own state.
    slow_dtype : dtype, optional
        Keep floating slow weights in this dtype where it is wider than the leaf's own.
    slow_buffer : callable, (name, leaf) -> array, optional
        Where to keep the slow weights of each leaf, such as a `numpy.memmap`: a writeable array of
        its shape, which is overwritten, in its dtype or a wider one. In the place of `slow_dtype`.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> import numpy as np
    >>> from lookahead_core.adapters.numpy import SGD
    >>> params = {"w": np.asarray([1.0, 2.0])}
    >>> optimizer = Lookahead(SGD(params, lr=0.1), sync_period=5, alpha=0.5)
    >>> for _ in range(5):
    ...     optimizer.step({"w": np.ones(2)})
    >>> params["w"]
    array([0.75, 1.75])
    """

    @translated
    def __init__(
        self,
        inner: InnerOptimizer,
        sync_period: Period = 5,
        alpha: Scheduled | AdaptiveAlpha = 0.5,
        inner_state: Literal["maintain", "reset", "interpolate"] = "maintain",
        *,
        slow_dtype: DType | None = None,
        slow_buffer: Buffers | None = None,
    ) -> None:
        rule = lookahead(sync_period, alpha, inner_state)
        super().__init__(inner, rule, slow_dtype=slow_dtype, slow_buffer=slow_buffer)


def _put(old: Leaves, new: Leaves) -> Leaves:
    """`new` in the buffers of `old`."""
    if len(new) == len(old) and all(map(is_, new, old)):
        return new
    return [written(target, value) for target, value in zip(old, new, strict=True)]


def _checked_buffer(name: str, leaf: Array, buffer: Any) -> Array:
    expected = f"slow_buffer({name!r}, ...) must be a writeable array of shape {tuple(leaf.shape)}"
    if not is_array(buffer) or not is_writeable(buffer) or buffer.shape != leaf.shape:
        got = tuple(buffer.shape) if is_array(buffer) else repr(buffer)
        raise ValueError(f"{expected}, got {got}")
    if buffer.dtype != leaf.dtype and (
        namespace(leaf).result_type(buffer.dtype, leaf.dtype) != buffer.dtype
    ):
        raise ValueError(f"{expected} in {leaf.dtype} or wider, got {buffer.dtype}")
    if buffer is leaf or (isinstance(leaf, np.ndarray) and np.shares_memory(buffer, leaf)):
        raise ValueError(f"{expected}, and must share no memory with params, got a view")
    return buffer
