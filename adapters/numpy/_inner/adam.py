"""Adam and AdamW, for one leaf. Groups, clipping and state: grouped.py."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from lookahead_core.leaves import kind_of
from lookahead_core.namespace import namespace
from lookahead_core.typing import Array
from lookahead_core.validation import below_one, non_negative

from .._tree import Tree
from .grouped import GroupedOptimizer, Settings, new_count
from .schedules import Schedule

__all__ = ["Adam", "AdamW"]


class Adam(GroupedOptimizer):
    """Adam, as torch.optim.Adam.

        m = b1 * m + (1 - b1) * g;  v = b2 * v + (1 - b2) * g * g
        p = p - lr * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)

    t counts the gradients of each leaf, from the last reset of the inner state.

    Parameters
    ----------
    params : tree of arrays
        Weights to move: in place where they can be written to, else `params` is rebound. Real.
    lr : float or callable, (step) -> float
        Learning rate, >= 0, or a schedule of the steps before this one; may be set between steps.
    betas : pair of float
        Decay of the first and of the second moment, each in [0, 1).
    eps : float
        Added to the root of the second moment, >= 0.
    weight_decay : float
        Factor of the weights that is added to the gradient, >= 0.
    decoupled_weight_decay : bool
        Multiply the weights by 1 - lr * weight_decay instead: AdamW.
    grad_clip_norm, grad_clip_value : float, optional
        Clip the gradients by their global norm, then by value; before weight decay.
    groups : mapping of str to mapping, optional
        Settings of leaves by their path, `{"*/bias": {"weight_decay": 0.0}}`: fnmatch patterns of
        paths with slashes, the first that fits.

    Attributes
    ----------
    params : tree of arrays
        The weights as they are now.
    state : dict of str to array
        Moments and counts by path.
    groups : dict of str to dict
        A copy of `groups`; may be changed between steps.
    steps : int
        Updates so far: what a schedule is called with.

    Raises
    ------
    ValueError
        If an argument is out of range, or a leaf of `params` is not an array, or complex; it is
        named.

    References
    ----------
    Kingma, Ba 2015, algorithm 1, arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0, 2.0])}
    >>> Adam(params, lr=0.5).step({"w": np.asarray([3.0, -0.1])})
    >>> params["w"].round(6)
    array([0.5, 2.5])
    """

    SETTINGS = ("lr", "betas", "eps", "weight_decay", "decoupled_weight_decay")
    _kinds: ClassVar[tuple[str, ...]] = ("first", "second", "count")

    def __init__(
        self,
        params: Tree,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        grad_clip_norm: float | None = None,
        grad_clip_value: float | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.decoupled_weight_decay = decoupled_weight_decay
        super().__init__(params, groups, grad_clip_norm, grad_clip_value)

    def curvature(self) -> dict[str, Array]:
        """Root of the corrected second moment of each leaf, by name: what an adaptive alpha takes.

        NaN before the first step, when there is none.
        """
        settings = self._settings()
        roots = {}
        for key, second in self.state.items():
            kind, _, name = key.partition("/")
            if kind == "second":
                _, b2 = settings[self._patterns[name]]["betas"]
                roots[name] = _root(second, b2, _steps(self.state[f"count/{name}"], second))
        return roots

    def _check(self, settings: Settings) -> None:
        betas = settings["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"betas must be a pair of numbers in [0, 1), got {betas!r}")
        for index, beta in enumerate(betas):
            below_one(f"betas[{index}]", beta, "decay of a moment")
        non_negative("eps", settings["eps"], "added to the root of the second moment")

    def _initial(self, leaf: Array, settings: Settings) -> dict[str, Array]:
        if kind_of(leaf.dtype) == "complex":
            raise ValueError(f"params must be real for Adam, got a leaf of {leaf.dtype}")
        xp = namespace(leaf)
        moments = {kind: xp.zeros_like(leaf) for kind in ("first", "second")}
        return {**moments, "count": new_count(leaf)}

    def _moved(
        self, leaf: Array, gradient: Array, state: dict[str, Array], settings: Settings
    ) -> tuple[Array, dict[str, Array]]:
        b1, b2 = settings["betas"]
        first = b1 * state["first"] + (1.0 - b1) * gradient
        second = b2 * state["second"] + (1.0 - b2) * (gradient * gradient)
        count = state["count"] + 1
        steps = _steps(count, leaf)
        root = _root(second, b2, steps)
        moved = leaf - settings["lr"] * (first / _correction(b1, steps)) / (root + settings["eps"])
        return moved, {"first": first, "second": second, "count": count}


class AdamW(Adam):
    """Adam with decoupled weight decay, as torch.optim.AdamW: p * (1 - lr * weight_decay) first.

    Parameters
    ----------
    params : tree of arrays
        As for `Adam`.
    lr : float or callable, (step) -> float
        As for `Adam`.
    betas : pair of float
        As for `Adam`.
    eps : float
        As for `Adam`.
    weight_decay : float
        Decay of the weights in units of `lr`, >= 0.
    grad_clip_norm, grad_clip_value : float, optional
        As for `Adam`.
    groups : mapping of str to mapping, optional
        As for `Adam`.

    Raises
    ------
    ValueError
        As for `Adam`.

    References
    ----------
    Loshchilov, Hutter 2019, algorithm 2, arXiv:1711.05101.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"w": np.asarray([1.0, 2.0])}
    >>> AdamW(params, lr=0.5, weight_decay=0.1).step({"w": np.asarray([3.0, -0.1])})
    >>> params["w"].round(6)
    array([0.45, 2.4 ])
    """

    def __init__(
        self,
        params: Tree,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        grad_clip_norm: float | None = None,
        grad_clip_value: float | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            decoupled_weight_decay=True,
            grad_clip_norm=grad_clip_norm,
            grad_clip_value=grad_clip_value,
            groups=groups,
        )


def _steps(count: Array, leaf: Array) -> Array:
    """The count as a float; in 16 bits it would be rounded."""
    xp = namespace(leaf)
    return xp.astype(count, xp.result_type(leaf.dtype, xp.float32))


def _root(second: Array, beta: float, steps: Array) -> Array:
    """Root of the second moment, corrected for its start at zero."""
    return namespace(second).sqrt(second / _correction(beta, steps))


def _correction(beta: float, steps: Array) -> Array:
    """1 - beta**steps, by expm1: in float32 the power would cost four of the seven digits."""
    return -namespace(steps).expm1(steps * (math.log(beta) if beta else -math.inf))
