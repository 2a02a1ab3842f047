"""Several torch optimizers, each of parameters of its own, as one inner optimizer.

Muon for the matrices and AdamW for the rest is the usual pair. Each keeps its groups, its state and
its settings; here they are shown together, in the order of the list, so that the optimizer around
them has one counter, one sync and one checkpoint.
"""

import inspect
import reprlib
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, cast

import torch
from torch.optim import Optimizer

from ._groups import Group, leaves_of

__all__ = ["JointOptimizer", "each", "joined", "one_of_several", "owner", "zero_grad"]

StateDict = dict[str, Any]


def joined(inner: Any) -> Optimizer:
    """The optimizers of a list as one, or ValueError; anything else as it is."""
    if not isinstance(inner, list | tuple) or not any(isinstance(o, Optimizer) for o in inner):
        return cast(Optimizer, inner)  # what is none is refused where it is used
    for number, one in enumerate(inner):
        if not isinstance(one, Optimizer):
            raise ValueError(
                f"inner[{number}] must be a torch.optim.Optimizer, got {reprlib.repr(one)}"
            )
        _check_alone(number, inner)
        closure = inspect.signature(one.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ValueError(
                f"inner[{number}] must have a step() without a closure (the loss is computed once "
                f"for all of several), got {type(one).__name__}"
            )
    return JointOptimizer(list(inner))


def each(inner: Optimizer) -> list[Optimizer]:
    """The optimizers that `inner` is: itself, or those that it joins."""
    return inner.optimizers if isinstance(inner, JointOptimizer) else [inner]


def one_of_several(inner: Optimizer, chosen: Optimizer | None) -> Optimizer:
    """The one of these optimizers that was chosen, or ValueError; of one alone, that one."""
    several = each(inner)
    if chosen is None and len(several) == 1:
        return inner
    for one in several:
        if one is chosen:
            return one
    names = ", ".join(type(one).__name__ for one in several)
    raise ValueError(f"inner must be one of the inner optimizers ({names}), got {chosen!r}")


def zero_grad(inner: Optimizer, set_to_none: bool) -> None:
    """As each of these optimizers does it; some of a third party's take no argument."""
    for one in each(inner):
        one.zero_grad() if set_to_none else one.zero_grad(set_to_none=False)


def owner(inner: Optimizer, group: Group) -> Optimizer:
    """The one of these optimizers that has the parameters of `group`."""
    first, *others = each(inner)
    leaf = next(iter(group["params"]), None)
    has = (one for one in others if any(leaf is own for own in leaves_of(one.param_groups)))
    return next(has, first)


class JointOptimizer(Optimizer):
    """Several optimizers as one, for `MetaOptimizer([muon, adamw], rule)`, which makes it.

    Attributes
    ----------
    optimizers : list of torch.optim.Optimizer
        As given. Their groups, state and settings are shown here and kept there.
    """

    optimizers: list[Optimizer]

    def __init__(self, optimizers: list[Optimizer]) -> None:
        # Not super().__init__(): it makes parameter groups of its own.
        self.__setstate__({"optimizers": optimizers})

    # Properties, because theirs may be replaced; torch declares plain attributes.
    @property
    def param_groups(self) -> list[Group]:  # type: ignore[override]
        return [group for one in self.optimizers for group in one.param_groups]

    @property
    def state(self) -> "JointState":  # type: ignore[override]
        return JointState(self.optimizers)

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """What all agree on: schedulers ask here whether there is a momentum."""
        first, *others = (one.defaults for one in self.optimizers)
        return {
            key: value
            for key, value in first.items()
            if all(key in other and other[key] is value for other in others)
        }

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step each of them, with the gradients of one call of `closure`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.optimizers:
            one.step()
        return loss

    # Their steps have hooks and labels of their own; without this torch patches the class.
    step.hooked = True  # type: ignore[attr-defined]

    @property
    def eval(self) -> Callable[[], None] | None:
        return self._all_that_have("eval")

    @property
    def train(self) -> Callable[[], None] | None:
        return self._all_that_have("train")

    def _all_that_have(self, name: str) -> Callable[[], None] | None:
        """Call the method of that name of each that has one; None if nobody has."""
        methods = [getattr(one, name) for one in self.optimizers if hasattr(one, name)]

        def call() -> None:
            for method in methods:
                method()

        return call if methods else None

    def zero_grad(self, set_to_none: bool = True) -> None:
        zero_grad(self, set_to_none)

    def state_dict(self) -> StateDict:
        """One state dict, in which parameters are numbered through."""
        state: dict[Any, Any] = {}
        groups: list[Group] = []
        for number, one in enumerate(self.optimizers):
            saved, first = one.state_dict(), sum(len(group["params"]) for group in groups)
            for key, entries in saved["state"].items():
                state[key + first if isinstance(key, int) else f"{number}.{key}"] = entries
            for group in saved["param_groups"]:
                groups.append({**group, "params": [i + first for i in group["params"]]})
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Give each of them its groups, and what belongs to these."""
        groups = iter(state_dict["param_groups"])
        for number, one in enumerate(self.optimizers):
            own, prefix = [next(groups) for _ in one.param_groups], f"{number}."
            numbers = {i for group in own for i in group["params"]}
            state: dict[Any, Any] = {}
            for key, entries in state_dict["state"].items():
                if key in numbers:
                    state[key] = entries
                elif isinstance(key, str) and key.startswith(prefix):
                    state[key.removeprefix(prefix)] = entries
            one.load_state_dict({"state": state, "param_groups": own})

    def __getstate__(self) -> dict[str, Any]:
        return {"optimizers": self.optimizers}

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.optimizers))}]"


class JointState(MutableMapping[Any, Any]):
    """The state of several optimizers as one mapping; what is written goes to the owner."""

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self._optimizers = optimizers

    def __getitem__(self, key: Any) -> Any:
        return self._of(key)[key]  # with a default, as that of a torch optimizer

    def __setitem__(self, key: Any, value: Any) -> None:
        self._of(key)[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._of(key)[key]

    def __contains__(self, key: Any) -> bool:
        return any(key in one.state for one in self._optimizers)

    def get(self, key: Any, default: Any = None) -> Any:
        """The entries of a parameter; makes none."""
        has = (one.state[key] for one in self._optimizers if key in one.state)
        return next(has, default)

    def __iter__(self) -> Iterator[Any]:
        return (key for one in self._optimizers for key in one.state)

    def __len__(self) -> int:
        return sum(len(one.state) for one in self._optimizers)

    def _of(self, key: Any) -> MutableMapping[Any, Any]:
        """The state that has the key, or is to have it."""
        for one in self._optimizers:
            if key in one.state:
                return one.state
        for one in self._optimizers:
            if any(key is leaf for leaf in leaves_of(one.param_groups)):
                return one.state
        raise KeyError(key)


def _check_alone(number: int, optimizers: Any) -> None:
    """ValueError if the one with this number has a parameter of one before it."""
    own = set(leaves_of(optimizers[number].param_groups))
    for before, other in enumerate(optimizers[:number]):
        if not own.isdisjoint(leaves_of(other.param_groups)):
            raise ValueError(
                f"inner[{number}] must have parameters of its own, got one that inner[{before}] "
                "has too: each parameter is moved by one optimizer"
            )
