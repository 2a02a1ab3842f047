"""Lookahead for NumPy: a small optimizer loop on trees of arrays, updated in place.

Works for writeable arrays of any array-API namespace, so cupy.py is this loop as well, and this
module imports no framework at all. Trees are lists, dicts, nested dicts and whatever else optree
knows; they are flattened anew at every call, so an array may be exchanged for another of the
same shape between steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import optree

from lookahead_core import Kernel, SyncRule, interpolate, lookahead
from lookahead_core.checkpoint import check_settings, counters, settings
from lookahead_core.kernel import anchored
from lookahead_core.leaves import check_match, copied
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array, DType, Leaves
from lookahead_core.validation import non_negative

from ._numpy_checks import (
    check_state,
    checked_gradients,
    checked_names,
    names_once,
)

__all__ = ["SGD", "InnerOptimizer", "Lookahead", "MetaOptimizer"]

Tree = Any
StateDict = dict[str, Any]


class InnerOptimizer(Protocol):
    """What `MetaOptimizer` needs from an optimizer of yours.

    Attributes
    ----------
    params : tree of arrays
        The fast weights; `step` changes them in place.
    state : mapping of str to array
        Live moments and counts, zero at the start, changed in place. May be empty.
    """

    params: Tree
    state: Mapping[str, Array]

    def step(self, grads: Tree) -> None:
        """One update from a tree like `params`; None in the place of a leaf leaves it alone."""

    def state_dict(self) -> StateDict:
        """Flat mapping of names to arrays and numbers, all copies."""

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on where `state_dict` was taken."""


class SGD:
    """Gradient descent with momentum, Nesterov momentum and L2 weight decay, as torch.optim.SGD.

        g = grad + weight_decay * p;  v = momentum * v + g;  p = p - lr * v
        with nesterov:                                        p = p - lr * (g + momentum * v)

    Parameters
    ----------
    params : tree of arrays
        Weights to move, in place; writeable.
    lr : float
        Learning rate, >= 0; may be set between steps.
    momentum : float
        Factor of the momentum buffer, >= 0.
    nesterov : bool
        Look one step ahead along the momentum; needs `momentum > 0`.
    weight_decay : float
        Factor of the weights that is added to the gradient, >= 0.

    Raises
    ------
    ValueError
        If an argument is out of range, or a leaf of `params` is not a writeable array.

    References
    ----------
    Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning";
    the form with `lr` outside the buffer is torch's.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0, 2.0])}
    >>> SGD(params, lr=0.5).step({"w": np.asarray([1.0, 1.0])})
    >>> params["w"]
    array([0.5, 1.5])
    """

    def __init__(
        self,
        params: Tree,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        non_negative("lr", lr, "learning rate")
        non_negative("momentum", momentum, "factor of the momentum buffer")
        non_negative("weight_decay", weight_decay, "factor of the weights in the gradient")
        if nesterov and momentum == 0:
            raise ValueError(f"momentum must be > 0 with nesterov=True, got {momentum!r}")
        names = checked_names(params)
        self.params = params
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        leaves = optree.tree_leaves(params)
        self.state: dict[str, Array] = {}
        if momentum > 0:
            self.state = {
                f"velocity/{name}": namespace(leaf).zeros_like(leaf)
                for name, leaf in zip(names, leaves, strict=True)
            }

    def step(self, grads: Tree) -> None:
        """Update `params` in place.

        Parameters
        ----------
        grads : tree like `params`
            Gradients of the same shapes, not changed. None leaves that leaf and its momentum
            as they are.

        Raises
        ------
        ValueError
            If `grads` does not match `params`, or is None for all leaves; nothing is changed.
        """
        gradients = checked_gradients(grads, self.params)
        leaves = optree.tree_leaves(self.params)
        velocities = list(self.state.values()) or [None] * len(leaves)
        for leaf, gradient, velocity in zip(leaves, gradients, velocities, strict=True):
            if gradient is not None:
                self._move(leaf, gradient, velocity)

    def _move(self, leaf: Array, gradient: Array, velocity: Array | None) -> None:
        if self.weight_decay:
            gradient = gradient + self.weight_decay * leaf
        if velocity is not None:
            velocity[...] = self.momentum * velocity + gradient
            gradient = gradient + self.momentum * velocity if self.nesterov else velocity
        leaf[...] = leaf - self.lr * gradient

    def state_dict(self) -> StateDict:
        """Flat mapping: `lr`, and a copy of each momentum buffer as `velocity/<path>`."""
        return {"lr": self.lr, **{name: copied(leaf) for name, leaf in self.state.items()}}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on where `state_dict` was taken; ValueError if it does not match, nothing changed."""
        check_state(state_dict, self.state, {"lr"})
        self.lr = non_negative("state_dict['lr']", state_dict["lr"], "learning rate")
        _write(self.state.values(), [state_dict[name] for name in self.state])


class MetaOptimizer:
    """Any `SyncRule` around any optimizer that follows `InnerOptimizer`.

    Parameters
    ----------
    inner : InnerOptimizer
        Moves the fast weights, `inner.params`, in place.
    rule : SyncRule
        When to sync and how.
    slow_dtype : dtype, optional
        Keep floating slow weights in this dtype where it is wider than the leaf's own.

    Attributes
    ----------
    inner, rule
        As given.

    Raises
    ------
    ValueError
        If an argument is not of its kind; the message names it.

    Notes
    -----
    Slow weights are captured at construction and again at the first step of each cycle, so that
    weights loaded or edited between cycles are honoured (clauses C01, C26).

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.
    """

    def __init__(
        self, inner: InnerOptimizer, rule: SyncRule, *, slow_dtype: DType | None = None
    ) -> None:
        missing = [name for name in ("params", "state", "step") if not hasattr(inner, name)]
        if missing:
            raise ValueError(
                f"inner must have params, state and step (InnerOptimizer), got {inner!r} "
                f"without {', '.join(missing)}"
            )
        if not isinstance(rule, SyncRule):
            raise ValueError(f"rule must be a SyncRule, got {rule!r}")
        self._names = checked_names(inner.params)
        self.inner = inner
        self.rule = rule
        self._state = rule.init(self._fast(), self._inner(), slow_dtype=slow_dtype)

    def step(self, grads: Tree) -> None:
        """One inner step from `grads`; on every sync_period-th a sync follows it.

        Raises
        ------
        ValueError
            If `grads` does not match the parameters, or is None for all; nothing is changed.
        """
        checked_gradients(grads, self.inner.params)
        check_match("params", self._fast(), "the slow weights", self._state.slow)
        self._anchor()
        self.inner.step(grads)
        self._apply(self.rule.step)

    def sync(self) -> None:
        """Sync now, whatever the counter says, and start it again (clause C05)."""
        self._anchor()
        self._apply(self.rule.sync)

    def slow_weights(self) -> Tree:
        """Slow weights to evaluate or ship: a new tree like the parameters (clause C22)."""
        fast = self._fast()
        slow = self.rule.slow(fast, self._state)
        of = {id(f): s for f, s in zip(fast, slow, strict=True)}
        return optree.tree_map(lambda leaf: copied(of[id(leaf)]), self.inner.params)

    def state_dict(self) -> StateDict:
        """Flat mapping of names to copies of arrays and to numbers; save the weights beside it.

        `slow/<path>` and `inner_slow/<name>` are ours, `inner/<name>` the inner optimizer's.
        """
        inner = {f"inner/{name}": value for name, value in self.inner.state_dict().items()}
        arrays = {name: copied(leaf) for name, leaf in self._arrays().items()}
        numbers = {"count": self._state.count, "syncs": self._state.syncs}
        return {**settings(self.rule), **numbers, **arrays, **inner}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on where `state_dict` was taken. Load the weights as well.

        Raises
        ------
        ValueError
            If it was made by another rule, or an entry is missing, unknown, or of another shape
            or dtype; nothing is changed.
        """
        theirs = {
            name.removeprefix("inner/"): value
            for name, value in state_dict.items()
            if name.startswith("inner/")
        }
        ours = {name: value for name, value in state_dict.items() if not name.startswith("inner/")}
        check_state(ours, self._arrays(), {*settings(self.rule), "count", "syncs"})
        check_settings(ours, self.rule)
        count, syncs = counters(ours, self.rule)
        self.inner.load_state_dict(theirs)  # refuses before it changes anything, as this does
        _write(self._arrays().values(), [ours[name] for name in self._arrays()])
        self._state = self._state._replace(count=count, syncs=syncs)

    def _fast(self) -> list[Array]:
        """The fast weights, each array once: a tied one is synced once."""
        return list({id(leaf): leaf for leaf in optree.tree_leaves(self.inner.params)}.values())

    def _inner(self) -> list[Array]:
        return list(self.inner.state.values())

    def _anchor(self) -> None:
        if self._state.count == 0:
            self._state = self.rule.anchor(self._fast(), self._state, kernel=IN_PLACE)

    def _apply(self, transition: Any) -> None:
        """Run `rule.step` or `rule.sync` on weights and inner state, in place."""
        inner = self._inner()
        _, new_inner, self._state = transition(self._fast(), inner, self._state, kernel=IN_PLACE)
        _write(inner, new_inner)

    def _arrays(self) -> dict[str, Array]:
        """The live arrays of the state, by name."""
        slow = zip(names_once(self.inner.params, self._names), self._state.slow, strict=True)
        blended = self.inner.state if self._state.inner_slow else ()
        copies = zip(blended, self._state.inner_slow, strict=True)
        return {
            **{f"slow/{name}": leaf for name, leaf in slow},
            **{f"inner_slow/{name}": leaf for name, leaf in copies},
        }


class Lookahead(MetaOptimizer):
    """Lookahead around any optimizer of this loop: k steps forward, one step back.

    Parameters
    ----------
    inner : InnerOptimizer
        Moves the fast weights, `inner.params`, in place; `SGD(...)`, or one of yours.
    sync_period : int
        Inner steps between syncs, k >= 1.
    alpha : float
        How far the slow weights move at a sync, in [0, 1].
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner optimizer's own state.
    slow_dtype : dtype, optional
        Keep floating slow weights in this dtype where it is wider than the leaf's own.

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
    >>> params = {"w": np.asarray([1.0, 2.0])}
    >>> optimizer = Lookahead(SGD(params, lr=0.1), sync_period=5, alpha=0.5)
    >>> for _ in range(5):
    ...     optimizer.step({"w": np.ones(2)})
    >>> params["w"]
    array([0.75, 1.75])
    """

    def __init__(
        self,
        inner: InnerOptimizer,
        sync_period: int = 5,
        alpha: float = 0.5,
        inner_state: str = "maintain",
        *,
        slow_dtype: DType | None = None,
    ) -> None:
        super().__init__(inner, lookahead(sync_period, alpha, inner_state), slow_dtype=slow_dtype)


# --- the kernel: the reference formula, written back into the buffers ---


def interpolate_(slow: Leaves, fast: Leaves, alpha: float) -> tuple[Leaves, Leaves]:
    """Overwrite both lists with the interpolated weights and return them."""
    for s, f in zip(slow, fast, strict=True):
        s[...] = interpolate(s, f, alpha)
        f[...] = s
    return slow, fast


def anchor_(slow: Leaves, fast: Leaves) -> Leaves:
    """Overwrite `slow` with `fast`, but for the extra bits of a wider leaf, and return it."""
    for s, f in zip(slow, fast, strict=True):
        s[...] = anchored(s, f)
    return slow


IN_PLACE = Kernel(interpolate=interpolate_, anchor=anchor_)


def _write(targets: Any, values: Sequence[Array]) -> None:
    for target, value in zip(targets, values, strict=True):
        if value is not target:
            target[...] = value
