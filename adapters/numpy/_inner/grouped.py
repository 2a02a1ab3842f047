"""What the inner optimizers of the array loop share: groups, schedules, clipping, state.

The formulas are sgd.py and adam.py: pure functions of one leaf. What they return is
written into the arrays where these can be written to, and takes their place where they cannot.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from lookahead_core.checkpoint import counter
from lookahead_core.leaves import is_averaged
from lookahead_core.namespace import device, namespace
from lookahead_core.typing import Array
from lookahead_core.validation import boolean, non_negative, positive

from .._checkpoint import check_entries
from .._tree import Layout, StateDict, Tree, checked_gradients, copies, written
from .clipping import norm_clipped, value_clipped

__all__ = ["GroupedOptimizer", "Settings", "decayed", "new_count"]

Settings = dict[str, Any]


class GroupedOptimizer:
    """Base of `SGD` and `Adam`. A subclass has a list of settings, their check, and a formula.

    Attributes
    ----------
    SETTINGS : tuple of str
        Names of the attributes that a parameter group may have values of its own for.
    """

    SETTINGS: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        params: Tree,
        groups: Mapping[str, Mapping[str, Any]] | None,
        grad_clip_norm: float | None,
        grad_clip_value: float | None,
    ) -> None:
        """Call it last: it checks the settings that the subclass has set, and makes the state."""
        if grad_clip_norm is not None:
            positive("grad_clip_norm", grad_clip_norm, "largest global norm of the gradients")
        if grad_clip_value is not None:
            positive("grad_clip_value", grad_clip_value, "largest absolute gradient")
        self.params = params
        self.groups = {pattern: dict(own) for pattern, own in (groups or {}).items()}
        self.grad_clip_norm = grad_clip_norm
        self.grad_clip_value = grad_clip_value
        self.steps = 0
        self._layout = Layout(params)
        self._patterns = _patterns(self.groups, self._layout.names, self.SETTINGS)
        settings = self._settings()
        self.state: dict[str, Array] = {}
        for name, leaf in zip(self._layout.names, self._layout.distinct(params), strict=True):
            if is_averaged(leaf.dtype):
                new = self._initial(leaf, settings[self._patterns[name]])
                self.state.update({f"{kind}/{name}": array for kind, array in new.items()})

    def step(self, grads: Tree) -> None:
        """Update `params`: in place where arrays can be written to, else as a new tree.

        Parameters
        ----------
        grads : tree like `params`
            Gradients of the same shapes, not changed. None leaves that leaf and its state as they
            are. Of an array that is listed twice the gradients are added.

        Raises
        ------
        ValueError
            If `grads` does not match `params` or is None for all leaves, or a schedule gives no
            rate; nothing is changed.
        """
        gradients = self._layout.summed(checked_gradients(grads, self.params))
        settings, leaves = self._settings(), self._layout.distinct(self.params)
        if self.grad_clip_norm is not None:
            gradients = norm_clipped(gradients, self.grad_clip_norm)
        if self.grad_clip_value is not None:
            gradients = value_clipped(gradients, self.grad_clip_value)
        for index, (name, gradient) in enumerate(zip(self._layout.names, gradients, strict=True)):
            if gradient is not None:
                own = settings[self._patterns[name]]
                leaves[index] = self._move(name, leaves[index], gradient, own)
        self.params = self._layout.rebuilt(self.params, leaves)
        self.steps += 1

    def learning_rates(self) -> dict[str, float]:
        """Rate of the next step for each leaf, by name: some outer rules go by it."""
        settings = self._settings()
        return {name: float(settings[own]["lr"]) for name, own in self._patterns.items()}

    def state_dict(self) -> StateDict:
        """Flat mapping: `steps`, learning rates that are numbers, a copy of each array of `state`.

        A schedule is code, and not in it; the step that it goes on from is.
        """
        return {"steps": self.steps, **self._rates(), **copies(self.state)}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Go on where `state_dict` was taken; ValueError if it does not match, nothing changed."""
        rates = self._rates()
        check_entries(state_dict, self.state, {"steps", *rates})
        steps = counter("state_dict['steps']", state_dict["steps"])
        for name in rates:
            rates[name] = non_negative(f"state_dict[{name!r}]", state_dict[name], "learning rate")
        self.steps = steps
        for name, rate in rates.items():
            pattern = name.removeprefix("lr").removeprefix("/")
            if pattern:
                self.groups[pattern]["lr"] = rate
            else:
                self.lr = rate
        self.state = {name: written(old, state_dict[name]) for name, old in self.state.items()}

    def _rates(self) -> dict[str, float]:
        """The learning rates that are numbers, those of groups by their pattern."""
        own = {f"lr/{p}": group["lr"] for p, group in self.groups.items() if "lr" in group}
        rates = {"lr": self.lr, **own}
        return {name: float(rate) for name, rate in rates.items() if not callable(rate)}

    def _settings(self) -> dict[str | None, Settings]:
        """Settings of the next step by group, None being the rest; schedules are evaluated."""
        common = {name: getattr(self, name) for name in self.SETTINGS}
        return {
            pattern: self._checked({**common, **self.groups.get(pattern or "", {})})
            for pattern in dict.fromkeys(self._patterns.values())
        }

    def _checked(self, settings: Settings) -> Settings:
        lr = settings["lr"]
        if callable(lr):
            settings["lr"] = non_negative(f"lr({self.steps})", lr(self.steps), "learning rate")
        else:
            non_negative("lr", lr, "learning rate, or a callable of the step")
        non_negative("weight_decay", settings["weight_decay"], "factor of the weights")
        boolean("decoupled_weight_decay", settings["decoupled_weight_decay"], "as in AdamW")
        self._check(settings)
        return settings

    def _move(self, name: str, leaf: Array, gradient: Array, settings: Settings) -> Array:
        """Apply the formula to one leaf and its part of the state."""
        kinds = [kind for kind in self._kinds if f"{kind}/{name}" in self.state]
        old = {kind: self.state[f"{kind}/{name}"] for kind in kinds}
        if settings["weight_decay"] and not settings["decoupled_weight_decay"]:
            gradient = gradient + settings["weight_decay"] * leaf
        moved, new = self._moved(decayed(leaf, settings), gradient, old, settings)
        for kind in kinds:
            self.state[f"{kind}/{name}"] = written(old[kind], new[kind])
        return written(leaf, moved)

    _kinds: ClassVar[tuple[str, ...]]  # the arrays of `state` that a leaf may have: `kind/path`
    lr: Any

    def _check(self, settings: Settings) -> None:
        """ValueError for settings that are out of range."""
        raise NotImplementedError

    def _initial(self, leaf: Array, settings: Settings) -> dict[str, Array]:
        """State of one leaf at the start, by kind; ValueError for a leaf that cannot be moved."""
        raise NotImplementedError

    def _moved(
        self, leaf: Array, gradient: Array, state: dict[str, Array], settings: Settings
    ) -> tuple[Array, dict[str, Array]]:
        """The formula: the leaf and its state after one step. Changes no argument."""
        raise NotImplementedError


def decayed(leaf: Array, settings: Settings) -> Array:
    """Decoupled weight decay: p * (1 - lr * weight_decay), Loshchilov, Hutter 2019, algorithm 2."""
    if settings["weight_decay"] and settings["decoupled_weight_decay"]:
        return leaf * (1.0 - settings["lr"] * settings["weight_decay"])
    return leaf


def new_count(leaf: Array) -> Array:
    """Steps that moved `leaf`: an array beside it, so that reading it waits for no device."""
    xp = namespace(leaf)
    return xp.zeros((), dtype=xp.int32, device=device(leaf))


def _patterns(
    groups: Mapping[str, Mapping[str, Any]], names: list[str], known: tuple[str, ...]
) -> dict[str, str | None]:
    """The group of each leaf, None for the rest; ValueError for a group that says nothing."""
    for pattern, own in groups.items():
        if unknown := set(own) - set(known):
            raise ValueError(
                f"groups[{pattern!r}] must have settings among {list(known)}, got {sorted(unknown)}"
            )
    found = {
        name: next((pattern for pattern in groups if fnmatchcase(name, pattern)), None)
        for name in names
    }
    for pattern in groups:
        if pattern not in found.values():
            raise ValueError(
                f"groups[{pattern!r}] must be the path of a leaf that no earlier group has; the "
                f"leaves are {names}"
            )
    return found
