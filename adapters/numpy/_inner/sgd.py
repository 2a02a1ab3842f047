"""Gradient descent with momentum, for one leaf. Groups, clipping and state: grouped.py."""

from collections.abc import Mapping
from typing import Any, ClassVar

from lookahead_core.namespace import namespace
from lookahead_core.typing import Array
from lookahead_core.validation import boolean, fraction, non_negative

from .._tree import Tree
from .grouped import GroupedOptimizer, Settings, new_count
from .schedules import Schedule

__all__ = ["SGD"]


class SGD(GroupedOptimizer):
    """Gradient descent with momentum, Nesterov momentum and weight decay, as torch.optim.SGD.

        g = grad + weight_decay * p;  v = momentum * v + (1 - dampening) * g;  p = p - lr * v
        the first step of a leaf: v = g;  with nesterov: p = p - lr * (g + momentum * v)

    Parameters
    ----------
    params : tree of arrays
        Weights to move: in place where they can be written to, else `params` is rebound.
    lr : float or callable, (step) -> float
        Learning rate, >= 0, or a schedule of the steps before this one; may be set between steps.
    momentum : float
        Factor of the momentum buffer, >= 0.
    nesterov : bool
        Look one step ahead along the momentum; needs `momentum > 0` and no dampening.
    weight_decay : float
        Factor of the weights that is added to the gradient, >= 0.
    dampening : float
        Part of each gradient but the first that the momentum leaves out, in [0, 1].
    decoupled_weight_decay : bool
        Multiply the weights by 1 - lr * weight_decay instead, as AdamW does.
    grad_clip_norm, grad_clip_value : float, optional
        Clip the gradients by their global norm, then by value; before weight decay.
    groups : mapping of str to mapping, optional
        Settings of leaves by their path, `{"head/*": {"lr": 0.01}}`: fnmatch patterns of paths with
        slashes, the first that fits.

    Attributes
    ----------
    params : tree of arrays
        The weights as they are now.
    state : dict of str to array
        Momentum by path.
    groups : dict of str to dict
        A copy of `groups`; may be changed between steps.
    steps : int
        Updates so far: what a schedule is called with.

    Raises
    ------
    ValueError
        If an argument is out of range, or a leaf of `params` is not an array; it is named.

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

    SETTINGS = ("lr", "momentum", "nesterov", "weight_decay", "dampening", "decoupled_weight_decay")
    _kinds: ClassVar[tuple[str, ...]] = ("velocity", "count")

    def __init__(
        self,
        params: Tree,
        lr: float | Schedule,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        dampening: float = 0.0,
        decoupled_weight_decay: bool = False,
        grad_clip_norm: float | None = None,
        grad_clip_value: float | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.lr = lr
        self.momentum = momentum
        self.nesterov = nesterov
        self.weight_decay = weight_decay
        self.dampening = dampening
        self.decoupled_weight_decay = decoupled_weight_decay
        super().__init__(params, groups, grad_clip_norm, grad_clip_value)

    def _check(self, settings: Settings) -> None:
        momentum = non_negative("momentum", settings["momentum"], "factor of the momentum buffer")
        dampening = fraction("dampening", settings["dampening"], "part of a gradient left out")
        if boolean("nesterov", settings["nesterov"], "look ahead along the momentum"):
            if momentum == 0:
                raise ValueError(f"momentum must be > 0 with nesterov=True, got {momentum!r}")
            if dampening != 0:
                raise ValueError(f"dampening must be 0 with nesterov=True, got {dampening!r}")

    def _initial(self, leaf: Array, settings: Settings) -> dict[str, Array]:
        state = {}
        if settings["momentum"]:
            state["velocity"] = namespace(leaf).zeros_like(leaf)
            if settings["dampening"]:
                state["count"] = new_count(leaf)
        return state

    def _moved(
        self, leaf: Array, gradient: Array, state: dict[str, Array], settings: Settings
    ) -> tuple[Array, dict[str, Array]]:
        direction, new = gradient, {}
        if "velocity" in state:
            fresh = gradient
            if "count" in state:
                new["count"] = state["count"] + 1
                fresh = gradient * _undamped(state["count"], gradient, settings["dampening"])
            new["velocity"] = settings["momentum"] * state["velocity"] + fresh
            direction = new["velocity"]
            if settings["nesterov"]:
                direction = gradient + settings["momentum"] * direction
        return leaf - settings["lr"] * direction, new


def _undamped(count: Array, gradient: Array, dampening: float) -> Array:
    """1 - dampening, but 1 for the first gradient: a new buffer is the gradient itself."""
    later = namespace(count).astype(count != 0, gradient.dtype)
    return 1.0 - dampening * later
