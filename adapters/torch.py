"""Lookahead for torch: a `torch.optim.Optimizer` around any `torch.optim.Optimizer`.

The inner optimizer stays the owner of parameter groups, hyperparameters and its own state; this
one owns the slow weights. What a sync means is lookahead_core; here are parameter groups, hooks,
closures, checkpoints and the in-place kernel.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import SyncRule, SyncState, lookahead

from ._torch_checkpoint import pack, unpack
from ._torch_inner_state import InnerName, inner_leaves
from ._torch_kernel import IN_PLACE

__all__ = ["Lookahead", "MetaOptimizer"]

Closure = Callable[[], Any]


class MetaOptimizer(Optimizer):
    """Any `SyncRule` around any torch optimizer.

    Use it in the place of the inner optimizer: step it, hand it to learning-rate schedulers and
    gradient scalers, save and load it. Never step `inner` yourself: that step would not count.

    Parameters
    ----------
    inner : torch.optim.Optimizer
        Moves the fast weights, which are the model's parameters.
    rule : SyncRule
        When to sync and how.
    slow_dtype : torch.dtype, optional
        Keep slow weights in this dtype where it is wider than the parameter's; float32 is right
        for bfloat16 and float16 parameters (clause C15).

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
    weights loaded or edited between cycles are honoured (clauses C01, C26). Parameters with
    `requires_grad=False` then are left alone (clause C27).

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.
    """

    inner: Optimizer
    rule: SyncRule
    slow_dtype: torch.dtype | None
    _fast: list[Tensor]  # what the slow weights of this cycle belong to
    _inner_names: list[InnerName]  # what the slow copy of the inner state belongs to
    _sync_state: SyncState
    _evaluating: bool

    @torch.no_grad()
    def __init__(
        self, inner: Optimizer, rule: SyncRule, *, slow_dtype: torch.dtype | None = None
    ) -> None:
        if not isinstance(inner, Optimizer):
            raise ValueError(f"inner must be a torch.optim.Optimizer, got {inner!r}")
        if not isinstance(rule, SyncRule):
            raise ValueError(f"rule must be a SyncRule, got {rule!r}")
        if slow_dtype is not None and not getattr(slow_dtype, "is_floating_point", False):
            raise ValueError(f"slow_dtype must be a floating torch.dtype, got {slow_dtype!r}")
        fast = _trainable(inner)
        # Not super().__init__(): it makes parameter groups of its own. __setstate__ makes the six
        # hook registries without which schedulers and state_dict fail (kozistr#122).
        self.__setstate__(
            {
                "inner": inner,
                "rule": rule,
                "slow_dtype": slow_dtype,
                "_fast": fast,
                "_sync_state": rule.init(fast, slow_dtype=slow_dtype),
                "_inner_names": [],
                "_evaluating": False,
            }
        )

    # Properties, because load_state_dict replaces the inner's list and dicts (kozistr#237): a
    # copy made here would go stale and schedulers would move a dead learning rate. torch declares
    # plain attributes, hence the ignores.
    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.inner.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.inner.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.inner.defaults

    def step(self, closure: Closure | None = None) -> Any:
        """One inner step; on every sync_period-th a sync follows it.

        Parameters
        ----------
        closure : callable, optional
            Re-evaluates the model and returns the loss; handed to the inner optimizer.

        Returns
        -------
        loss
            What the inner optimizer's step returns.

        Raises
        ------
        RuntimeError
            Inside `slow_weights()`, or if no parameter has a gradient; nothing is changed.
        """
        self._refuse_while_evaluating("step")
        if closure is None:
            self._require_gradient()
        if self._sync_state.count == 0:
            self._anchor()
        due = self.rule.due(self._sync_state)
        if due:
            self._participating()  # refuses a state that it does not know before weights move
        loss = self.inner.step() if closure is None else self.inner.step(self._checked(closure))
        if due:
            self._sync()
        else:
            _, _, self._sync_state = self.rule.step(self._fast, (), self._sync_state)
        return loss

    def sync(self) -> None:
        """Sync now, whatever the counter says, and start it again (clause C05)."""
        self._refuse_while_evaluating("sync")
        if self._sync_state.count == 0:
            self._anchor()
        self._sync()

    @contextmanager
    def slow_weights(self) -> Iterator[None]:
        """Context in which the parameters hold the slow weights, to evaluate or to save a model.

        The fast weights come back bit for bit, also after an exception (clause C22). Holds a
        second copy of them meanwhile. Nested use is allowed; `step`, `sync`, `state_dict` and
        `load_state_dict` inside raise RuntimeError.
        """
        if self._evaluating:
            yield
            return
        with torch.no_grad():
            slow = self.rule.slow(self._fast, self._sync_state)
            kept = [leaf.clone() for leaf in self._fast]
        _write(self._fast, slow)
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False
            _write(self._fast, kept)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the inner optimizer's."""
        self.inner.zero_grad(set_to_none)

    @torch.no_grad()
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer; its slow weights are captured at once.

        The one counter goes on, so that all groups sync together.
        """
        self._refuse_while_evaluating("add_param_group")
        self.inner.add_param_group(param_group)
        added = [leaf for leaf in self.param_groups[-1]["params"] if leaf.requires_grad]
        slow = self.rule.init(added, slow_dtype=self.slow_dtype).slow
        self._fast = [*self._fast, *added]
        self._sync_state = self._sync_state._replace(slow=[*self._sync_state.slow, *slow])

    def state_dict(self) -> dict[str, Any]:
        """The inner's `state_dict` with `lookahead_*` entries in its states and groups."""
        self._refuse_while_evaluating("state_dict")
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state_dict = pack(self.inner, self.rule, self._fast, self._inner_names, self._sync_state)
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            changed = post_hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Load the model's weights as well.

        A checkpoint of the bare inner optimizer loads with a warning: the slow weights are then
        the current parameters, at the start of a cycle.

        Raises
        ------
        ValueError
            If the checkpoint was made by another rule, lacks slow weights, or holds an array of
            another shape than its parameter; nothing is changed.
        """
        self._refuse_while_evaluating("load_state_dict")
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre_hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        loaded = unpack(state_dict, self.inner, self.rule, _trainable(self.inner), self.slow_dtype)
        self.inner.load_state_dict(loaded.inner)
        self._fast, self._inner_names, self._sync_state = loaded.fast, loaded.names, loaded.state
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rule!r}, {self.inner!r})"

    def __getstate__(self) -> dict[str, Any]:
        # As in torch, hooks stay behind: they belong to the instance they were registered on.
        return {key: value for key, value in vars(self).items() if not key.endswith("_hooks")}

    @torch.no_grad()
    def _anchor(self) -> None:
        """Start a cycle: capture the slow weights of the parameters that are trainable now."""
        fast = _trainable(self.inner)
        buffers = dict(zip(self._fast, self._sync_state.slow, strict=True))
        if any(not _fits(buffers.get(leaf), leaf, self.slow_dtype) for leaf in fast):
            # Parameters were added, unfrozen, moved or converted: new buffers for all of them.
            slow = self.rule.init(fast, slow_dtype=self.slow_dtype).slow
        else:
            slow = [buffers[leaf] for leaf in fast]
        state = self._sync_state._replace(slow=slow)
        self._fast, self._sync_state = fast, self.rule.anchor(fast, state, kernel=IN_PLACE)

    @torch.no_grad()
    def _sync(self) -> None:
        """Sync the parameters and the inner state, in place."""
        inner = self._participating()
        known = dict(zip(self._inner_names, self._sync_state.inner_slow, strict=True))
        if self.rule.inner_state == "interpolate":
            # torch makes inner state at the first step, and all of these keys start at zero.
            slow = [
                known[name] if name in known else torch.zeros_like(leaf)
                for name, leaf in inner.items()
            ]
            self._sync_state = self._sync_state._replace(inner_slow=slow)
        live = list(inner.values())
        _, after, state = self.rule.sync(self._fast, live, self._sync_state, kernel=IN_PLACE)
        _write(live, after)
        self._inner_names = list(inner) if state.inner_slow else []
        self._sync_state = state

    def _participating(self) -> dict[InnerName, Tensor]:
        """Live tensors of the inner state that the policy acts on."""
        return inner_leaves(self.inner, self._fast, self.rule.inner_state)

    def _checked(self, closure: Closure) -> Closure:
        def checked() -> Any:
            loss = closure()
            self._require_gradient()
            return loss

        return checked

    def _require_gradient(self) -> None:
        groups = self.inner.param_groups
        if not any(leaf.grad is not None for group in groups for leaf in group["params"]):
            raise RuntimeError(
                "step() needs a gradient: no parameter has one (.grad is None for all); "
                "call loss.backward() before it"
            )

    def _refuse_while_evaluating(self, action: str) -> None:
        if self._evaluating:
            raise RuntimeError(
                f"{action}() inside slow_weights(): the parameters hold the slow weights; "
                "leave the context first"
            )


class Lookahead(MetaOptimizer):
    """Lookahead around any torch optimizer: k steps forward, one step back.

    Parameters
    ----------
    inner : torch.optim.Optimizer
        Moves the fast weights, which are the model's parameters.
    sync_period : int
        Inner steps between syncs, k >= 1.
    alpha : float
        How far the slow weights move at a sync, in [0, 1].
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner optimizer's own state.
    slow_dtype : torch.dtype, optional
        Keep slow weights in this dtype where it is wider than the parameter's.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1), sync_period=5)
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     loss = model(torch.ones(1, 2)).square().sum()
    ...     loss.backward()
    ...     optimizer.step()
    >>> with optimizer.slow_weights():
    ...     weights = {name: value.clone() for name, value in model.state_dict().items()}
    """

    def __init__(
        self,
        inner: Optimizer,
        sync_period: int = 5,
        alpha: float = 0.5,
        inner_state: str = "maintain",
        *,
        slow_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(inner, lookahead(sync_period, alpha, inner_state), slow_dtype=slow_dtype)


def _trainable(inner: Optimizer) -> list[Tensor]:
    """Parameters that the inner optimizer may move, each once, in the order of the groups."""
    leaves = (leaf for group in inner.param_groups for leaf in group["params"])
    return list(dict.fromkeys(leaf for leaf in leaves if leaf.requires_grad))


def _fits(slow: Tensor | None, leaf: Tensor, slow_dtype: torch.dtype | None) -> bool:
    """Whether `slow` can hold the slow weights of `leaf`."""
    dtype = leaf.dtype if slow_dtype is None else torch.promote_types(leaf.dtype, slow_dtype)
    return (
        slow is not None
        and slow.dtype == dtype
        and slow.device == leaf.device
        and slow.shape == leaf.shape
    )


@torch.no_grad()
def _write(targets: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        if value is not target:
            target.copy_(value)
