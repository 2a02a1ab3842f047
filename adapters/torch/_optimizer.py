"""Any `SyncRule` as a `torch.optim.Optimizer` around any `torch.optim.Optimizer`.

The inner optimizer stays the owner of parameter groups, hyperparameters and its own state; this
one owns the slow weights. What a sync means is lookahead_core. Here is what torch and its users
expect of an optimizer: hooks, closures, gradients, groups and evaluation.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from lookahead_core import AdaptiveAlpha, SyncRule, lookahead
from lookahead_core.analysis.measured import metrics, plain_numbers
from lookahead_core.schedule import begins, between
from lookahead_core.settings import Scheduled
from lookahead_core.typing import Period
from lookahead_core.validation import non_negative, not_evaluating, not_wrapped
from lookahead_core.words import refuse_to_set, translated, without_effect
from lookahead_core.workers import Average

from .._slow_weights import SlowWeights
from . import _applied as applied
from . import _captured as captured
from . import _template as template
from ._buffers import Buffers
from ._checkpoint import Loaded, offer, pack, refuse_ours_in, unpack
from ._checks import check_group, held_by, parts_of, warn_of_no_group
from ._groups import Group, leaves_of
from ._hooks import StepsPast, hooked
from ._joint import each, joined, one_of_several, zero_grad
from ._layout import unchanged_if_refused
from ._leaves import assign, wait_for_pinned
from ._parts import Part, Parts

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from ._workers.quorum import Quorum

__all__ = ["Lookahead", "MetaOptimizer"]

Closure = Callable[[], Any]
InnerStep = Callable[[], tuple[Any, bool]]

IN_GROUPS = "set param_groups[i]['lookahead_{}'], for each group"
READ_ONLY = without_effect(
    *("inner", "rule", "slow_dtype", "slow_device", "kernel", "capturable", "state_kinds"),
    "buffers",
    *("process_group", "timeout", "check_replicas", "worker", "skip_together"),
    *("fragments", "delay", "codec"),
    alpha=IN_GROUPS.format("alpha"),
    sync_period=IN_GROUPS.format("sync_period"),
)


class MetaOptimizer(Optimizer):
    """Any `SyncRule` around any torch optimizer.

    Use it in the place of the inner optimizer: step it, hand it to learning-rate schedulers and
    gradient scalers, save and load it. Never step `inner` yourself: that step would not count (a
    whole cycle of such steps is warned of).

    Parameters
    ----------
    inner : torch.optim.Optimizer or list of them
        Moves the fast weights, which are the model's parameters. Several, such as Muon for the
        matrices and AdamW for the rest, step and sync together, each with its own parameters.
    rule : SyncRule
        When to sync and how. `lookahead_alpha` (where the outer rule is `Interpolate`) and
        `lookahead_sync_period` in a parameter group override it, and may be changed there between
        syncs.
    slow_dtype : torch.dtype, optional
        Keep slow weights, and what the outer rule keeps, in this dtype where it is wider than the
        parameter's; float32 is right for bfloat16 and float16 parameters (clause C15).
    slow_device : torch.device or str, optional
        Keep them there, and not with their parameters: "cpu" frees the accelerator.
    kernel : {"foreach", "plain", "compiled"}
        How a sync computes: few launches, leaf by leaf, or one graph by `torch.compile`.
    capturable : bool
        Keep the counter on the device and select instead of branching, so that a step can be
        captured in a CUDA graph; every step then reads and writes the slow weights.
    state_kinds : mapping of str to {"moment", "count", "keep"}, optional
        What keys of the inner state are that this adapter does not know: moments start at zero,
        counts are not blended, and what is kept no policy touches.
    buffers : Buffers, optional
        Buffers of the model that are averaged with the first parameter group, by its rule, which
        must interpolate: `Buffers(model, "*running_*")`. Integer ones are copied.
    process_group : torch.distributed.ProcessGroup or Quorum, optional
        Workers that sync together: the outer rule sees the mean of their pseudo-gradients (clause
        C81). They start from the weights of the group's first one; call `sync` on all or on none.
        With a `Quorum` they may come and go (clause C94).
    timeout : datetime.timedelta, optional
        How long a sync waits for another worker; the group's own timeout if None.
    check_replicas : bool
        Compare the slow weights of all workers at each sync, bit for bit: reads them once more.
    worker : torch.distributed.ProcessGroup or DeviceMesh, optional
        The processes that are this worker, if it is several, for `work`. Meshes of the parameters
        tell it too; plain parameters, as under DistributedDataParallel, do not.
    skip_together : bool
        Skip a step on all workers if the GradScaler of one skips it: a small message at each step
        that a scaler takes. Else only that worker skips, and all count the step.

    Attributes
    ----------
    inner, rule, capturable
        As given; of several inner optimizers one that shows all, with the list as `optimizers`.
    work : float
        What this worker has done since the last sync, in any unit (tokens, samples): add to it
        before `step`. The mean weighs workers by it; if nobody adds anything they count alike.

    Raises
    ------
    ValueError
        If an argument is not of its kind, the inner optimizer is differentiable, a group overrides
        an alpha that the rule does not have, the rule needs a curvature that the inner optimizer
        does not keep, or workers differ; the message names it.

    Notes
    -----
    Slow weights are captured at construction and again at the first step of each cycle, so that
    weights loaded or edited between cycles are honoured (clauses C01, C26); where a sync does not
    put the fast weights back whole, at the first step of the first cycle only. Parameters with
    `requires_grad=False` then are left alone (clause C27). Groups with an alpha or a period of
    their own are a part of their own, in phase with the others: schedules, `restart_period` and
    nested rules count the syncs of their part (clause C42).

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.
    """

    inner: Optimizer
    rule: SyncRule
    capturable: bool
    found_inf: Any  # there while a GradScaler has it step
    _parts: Parts

    @translated
    def __init__(
        self,
        inner: Optimizer | Sequence[Optimizer],
        rule: SyncRule,
        *,
        slow_dtype: torch.dtype | None = None,
        slow_device: torch.device | str | None = None,
        kernel: Literal["foreach", "plain", "compiled"] = "foreach",
        capturable: bool = False,
        state_kinds: Mapping[str, Literal["moment", "count", "keep"]] | None = None,
        buffers: Buffers | None = None,
        process_group: "dist.ProcessGroup | Quorum | None" = None,
        timeout: timedelta | None = None,
        check_replicas: bool = False,
        worker: "dist.ProcessGroup | DeviceMesh | None" = None,
        skip_together: bool = False,
    ) -> None:
        inner = joined(inner)
        wrapped = [one for own in each(inner) for one in (own, held_by(own))]
        not_wrapped(inner, any(isinstance(one, MetaOptimizer) for one in wrapped))
        workers = None
        given = [one for one in (process_group, timeout, worker) if one is not None]
        if given or check_replicas is not False or skip_together is not False:
            from ._workers.workers import workers_of  # a shelf: nobody else needs torch.distributed

            workers = workers_of(
                process_group, timeout, check_replicas, worker, skip_together, rule, capturable
            )
        if workers is None:
            warn_of_no_group()
        parts = parts_of(
            inner, rule, kernel, slow_dtype, slow_device, state_kinds, buffers, workers
        )
        if workers is not None:
            parts = workers.parts(parts)
        if capturable and slow_device is not None:
            raise ValueError(
                "slow_device must be None if capturable (one graph, one device), "
                f"got {slow_device!r}"
            )
        current = parts.current()
        # Not super().__init__(): it makes parameter groups of its own. __setstate__ makes the six
        # hook registries without which schedulers and state_dict fail (kozistr#122).
        self.__setstate__({"inner": inner, "rule": rule, "capturable": capturable, "_parts": parts})
        if workers is not None:
            others = {} if buffers is None else buffers.now()
            workers.start(current, slow_dtype=str(slow_dtype), buffers=[*others])
            if others:
                workers.link.broadcast([*others.values()])
        parts.begin(current)
        if capturable:
            parts.count_on_device()

    # Properties, because load_state_dict replaces the inner's list and dicts (kozistr#237): a
    # copy made here would go stale and schedulers would move a dead learning rate. torch declares
    # plain attributes.
    @property
    def param_groups(self) -> list[Group]:
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, value: list[Group]) -> None:
        self.inner.param_groups = value

    @property
    def state(self) -> Any:
        return self.inner.state

    @state.setter
    def state(self, value: Any) -> None:
        self.inner.state = value

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        return self.inner.defaults

    @property
    def work(self) -> float:
        return self._parts.work

    @work.setter
    def work(self, value: float) -> None:
        parts, meaning = self._parts, "done since the last sync"
        number = non_negative("work", float(value), meaning)
        if number and not parts.work and parts.workers is not None:
            parts.workers.check_work(leaves_of(self.param_groups))
        parts.work = number

    @hooked
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
            Inside `slow_weights()` or after `eval()`, or if another worker does not come to a sync;
            nothing is changed. If one goes while the mean travels, the inner step is done: start
            again from a checkpoint.
        ValueError
            If workers differ at a sync; the message names the difference, and nothing is changed.

        Notes
        -----
        A step that the inner optimizer does not apply, because it skips it or because no parameter
        has a gradient, is not counted (clause C03); with many workers it is (clause C81).
        """
        self._refuse_while_evaluating("step")
        self._parts.inner_steps = 0
        if template.is_asked_for(self.inner, closure):
            template.make(self._parts)
            return offer(self._parts)
        if closure is None and not self._has_gradient():
            self._warn_without_gradient()
            if self._parts.workers is None:
                return self.inner.step()
        template.drop(self._parts)
        workers = self._parts.workers
        if workers is not None and workers.skip_together and hasattr(self, "found_inf"):
            self.found_inf = workers.one_skips(self._parts.parts, bool(self.found_inf))
        take = partial(self._inner_step, closure)
        return self._captured_step(take) if self.capturable else self._branching_step(take)

    def sync(self) -> None:
        """Sync now, whatever the counter says, and start it again (clause C05).

        Raises
        ------
        RuntimeError
            Inside `slow_weights()` or after `eval()`, if the rule asks for gradients and no
            parameter has one, or if another worker does not come; nothing is changed, unless it
            goes while the mean travels.
        ValueError
            If workers differ; the message names the difference, and nothing is changed.
        """
        self._refuse_while_evaluating("sync")
        if self.rule.needs_gradient and not self._has_gradient():
            raise RuntimeError(
                "sync() needs a gradient: no parameter has one (.grad is None for all); call "
                "loss.backward() before it"
            )
        parts, current = self._parts, self._parts.current()
        for part in current:
            parts.participating(part)
        parts.begin(part for part in current if between(part.on_host().count))
        self._sync_all(self._met(current, kind="sync()"))

    def leave(self) -> None:
        """Say that this worker is done, and take part in the syncs of the others until all are.

        Each worker calls it after its last step, which need not be the last one of the others. From
        then on the mean is of those who go on, and of the `work` that this one has done and not yet
        averaged. Returns when all have called it, within a cycle: `sync()` then ends that. With a
        `Quorum` it returns at once, and what this one has done since its last sync is lost. For
        workers alone; `torch.distributed.algorithms.join.Join([optimizer])` does the same.

        Raises
        ------
        RuntimeError
            Inside `slow_weights()` or after `eval()`, or if another worker does not come.
        """
        self._refuse_while_evaluating("leave")
        if self._parts.workers is not None:
            from ._workers.leaving import leave

            leave(self)

    def join_hook(self, **options: Any) -> Any:
        """For torch's `Join`."""
        from ._workers.leaving import Leaving

        return Leaving(self)

    @property
    def join_process_group(self) -> Any:
        """For torch's `Join`: the workers."""
        return self._parts.workers.link.group

    @property
    def join_device(self) -> torch.device:
        """For torch's `Join`: where its messages are."""
        device: torch.device = self._parts.workers.link.device
        return device

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler calls `step` of a batch to be skipped too: workers count it."""
        return self._parts.workers is not None

    def anchor(self) -> None:
        """Take the slow weights from the parameters when the next cycle begins, whatever they hold.

        That they were edited between two cycles is seen in most ways of doing it (clause C26). An
        edit that torch does not count, through `.data` or memory that NumPy shares, is seen by 64
        numbers of each parameter of 16,384 or more on a CPU: call this after one that may leave
        these as they are, such as a clamp that few numbers reach.
        """
        for part in self._parts.parts:
            part.witness = None
        if self._parts.buffers is not None and between(self._parts.parts[0].on_host().count):
            self._parts.buffers.anchor()

    def slow_weights(self) -> SlowWeights:
        """Context in which the parameters hold the slow weights, to evaluate or to save a model.

        So do the buffers that are averaged (`buffers=`).

        Use it by `with`: the call alone does nothing, and a warning says so. The fast weights come
        back bit for bit, also after an exception (clause C22). Holds a second copy of them
        meanwhile. Nested use is allowed. `state_dict` inside saves the fast weights too; `step`,
        `sync`, `add_param_group` and `load_state_dict` raise RuntimeError.
        """
        return SlowWeights(self, lambda: self._parts.evaluating)

    @torch.no_grad()
    def eval(self) -> None:
        """Put the slow weights into the parameters, until `train()`; as `slow_weights()` does.

        An inner optimizer with an `eval` of its own (schedule-free ones) then does it to them.
        """
        parts, inner_eval = self._parts, getattr(self.inner, "eval", None)
        if parts.evaluating:
            return
        parts.evaluating = True
        try:
            for part in parts.current():
                state = parts.filled(part, {}, part.on_host())
                if part.rule.fast_is_slow(state) and not (part.rule.has_readout or inner_eval):
                    continue
                slow = part.rule.slow(part.members, state)
                for leaf in part.members:
                    parts.kept[leaf].fast = leaf.clone()
                assign(part.members, slow)
            if parts.buffers is not None:
                parts.buffers.eval(parts.parts[0].rule, parts.parts[0].on_host())
            if inner_eval:
                inner_eval()
        except BaseException:
            self.train()
            raise

    @torch.no_grad()
    def train(self) -> None:
        """Put the fast weights back, bit for bit, after `eval()`; the inner's `train`, if any."""
        if inner_train := getattr(self.inner, "train", None):
            inner_train()
        for leaf, kept in self._parts.kept.items():
            if kept.fast is not None:
                leaf.copy_(kept.fast)
                kept.fast = None
        if self._parts.buffers is not None:
            self._parts.buffers.train()
        self._parts.evaluating = False

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """How far fast and slow weights are apart, in numbers to plot; nothing is kept for them.

        Returns
        -------
        dict of str to float
            As of `lookahead_core.analysis.metrics`. Where groups have settings of their own, each
            name is followed by the number of the part, as in "distance/0".

        Notes
        -----
        Just after a sync that puts the fast weights back both norms are 0: ask before `step()`. The
        weights are read once, and the CPU waits for the device. With sharded parameters all
        processes ask, or none; with many workers the numbers are this one's.
        """
        parts = self._parts
        found = [
            plain_numbers(
                metrics(part.rule, parts.fast(part), parts.filled(part, {}, part.on_host()))
            )
            for part in parts.current()
        ]
        if len(found) == 1:
            return found[0]
        return {f"{name}/{i}": v for i, own in enumerate(found) for name, v in own.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the inner optimizer's."""
        zero_grad(self.inner, set_to_none)

    def add_param_group(self, param_group: dict[str, Any], inner: Optimizer | None = None) -> None:
        """Add a group to the inner optimizer; its slow weights are captured at once.

        The one counter goes on, so that all groups sync together. Of several inner optimizers
        `inner` says to which, `add_param_group({"params": ...}, muon)`.
        """
        self._refuse_while_evaluating("add_param_group")
        parts, inner = self._parts, one_of_several(self.inner, inner)
        inner.add_param_group(param_group)
        added = inner.param_groups[-1]
        try:
            check_group(added, self.rule)
            own = next(p for p in parts.current() if any(group is added for group in p.groups))
            parts.hold(own, [added])
        except (ValueError, RuntimeError):
            inner.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """The inner's `state_dict` with `lookahead_*` entries in its states and groups."""
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        wait_for_pinned(self._parts.kept)
        state_dict = pack(self._parts)
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            changed = post_hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken. Load the model's weights before it.

        A checkpoint of the bare inner optimizer loads with a warning: the slow weights are then
        the current parameters, at the start of a cycle. `lookahead_alpha` follows the checkpoint,
        as the learning rate does. One that was saved while the parameters held the slow weights
        puts the fast ones into them.

        Raises
        ------
        ValueError
            If the checkpoint was made by another rule, was cut short, or holds an array of another
            shape than its parameter; nothing is changed.
        """
        self._refuse_while_evaluating("load_state_dict")
        state_dict = copy(state_dict)
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            changed = pre_hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        loaded = unpack(state_dict, self._parts)
        self._check_loaded(loaded)
        with self._parts.whole():
            with unchanged_if_refused(self.inner, self._parts):
                self.inner.load_state_dict(loaded.inner)
                loaded.restore(self._parts)
            self.train()  # it was saved with fast weights, if the parameters held the slow ones
            if self.capturable:
                self._parts.count_on_device()
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_to_set(self, name, READ_ONLY)
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rule!r}, {self.inner!r})"

    def __getstate__(self) -> dict[str, Any]:
        # As in torch, hooks stay behind, and the step that a scheduler has put on this instance.
        return {key: vars(self)[key] for key in ("inner", "rule", "capturable", "_parts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        known = set(state["inner"].defaults)
        super().__setstate__(state)
        for key in self.defaults.keys() - known:
            del self.defaults[key]  # torch adds one of its own; the inner optimizer's are its own
        StepsPast.count(self._parts)

    def _check_loaded(self, loaded: Loaded) -> None:
        """ValueError unless it can be this optimizer's."""
        if loaded.streaming:
            raise ValueError(
                "state_dict must not have lookahead_streaming_* entries (StreamingOptimizer made "
                f"it, load it there), got {', '.join(loaded.streaming)}"
            )

    def _branching_step(self, take: InnerStep) -> Any:
        """The ordinary step: on k - 2 of k it adds one to an integer."""
        parts, current = self._parts, self._parts.current()
        due = [part for part in current if part.rule.due(part.state)]
        starting = [part for part in current if begins(part.state.count)]
        # What could be wrong is refused before weights move.
        for part in due:
            parts.participating(part)
        if starting:
            refuse_ours_in(self.inner)
            if parts.catch_up(starting):
                take = _no_step  # the gradient is of weights that are no more
                due = [part for part in current if part.rule.due(part.state)]
            parts.begin(starting)
        average = self._met(due)
        if average and parts.workers.all_left:
            return None
        if average and parts.workers.leaving and parts.workers.forced:
            return self._sync_all(average)
        loss, is_applied = take()
        # Workers count what they are given: one that skips a step is to be at the next sync too.
        if not is_applied and parts.workers is None:
            return loss
        if starting:
            parts.watch(starting)
        with parts.whole(bool(due) or len(current) > 1):
            for part in due:  # before anything is counted: if one fails it is due again (C88)
                parts.sync(part, average)
                parts.work = 0.0
            others = [(p, p.rule.count_step(p.state)) for p in current if p not in due]
            parts.elapsed += 1
            for part, state in others:
                part.state = state
        return loss

    def _captured_step(self, take: InnerStep) -> Any:
        """The step for a graph: the counters are on the device, and nothing here waits for them."""
        self._parts.current()
        captured.begin(self._parts)
        loss, is_applied = take()
        if is_applied:
            with self._parts.whole():
                captured.count_and_sync(self._parts)
        return loss

    def _met(self, due: list[Part], **facts: Any) -> Average | None:
        """How to average over the other workers, once they are here; None without any."""
        if due and self._parts.workers is not None:
            from ._workers.leaving import notify

            notify(self)
        return self._parts.meet(due, **facts)

    def _sync_all(self, average: Average | None) -> None:
        """Sync every part, and start the clock again."""
        parts = self._parts
        with parts.whole():
            for part in parts.current():
                parts.sync(part, average)
            parts.elapsed *= 0
            parts.work = 0.0

    def _inner_step(self, closure: Closure | None) -> tuple[Any, bool]:
        """Step the inner optimizer: what it returns, and whether the step was applied.

        Refuses a state that it makes and that the policy does not know. At the first step of all,
        weights and groups go back to what they were then.
        """
        if self._skips_or_unscales():
            return None, False
        known = len(self.state)
        first = not self.capturable and self._parts.elapsed == -self.rule.start
        undo = first and known == 0 and self.rule.inner_state != "maintain"
        before = [leaf.detach().clone() for leaf in self._parts.kept] if undo else []
        groups = [dict(group) for group in self.param_groups] if undo else []
        have_gradient: list[bool] = []
        watched = closure and self._watched(closure, have_gradient)
        loss, is_applied = applied.step(self._parts, watched)
        if len(self.state) != known:
            try:
                for part in self._parts.parts:
                    self._parts.participating(part)
            except ValueError:
                if undo:
                    assign(self._parts.kept, before)
                    self.state.clear()
                    template.restore_groups(self.param_groups, groups)
                raise
        if have_gradient and not any(have_gradient):
            self._warn_without_gradient()
            return loss, False
        return loss, is_applied

    def _skips_or_unscales(self) -> bool:
        """Where a GradScaler leaves that to us: whether to skip the step; else unscale for it."""
        scale = getattr(self, "grad_scale", None)
        skips = bool(getattr(self, "found_inf", False))
        if scale is not None and not skips:
            for leaf in leaves_of(self.param_groups):
                if leaf.grad is not None:
                    leaf.grad.div_(scale.to(leaf.grad.device))
        return skips

    def _watched(self, closure: Closure, have_gradient: list[bool]) -> Closure:
        """`closure`, after which it is asked whether there is a gradient: a step may clear them."""

        def watched() -> Any:
            loss = closure()
            have_gradient.append(self._has_gradient())
            return loss

        return watched

    def _has_gradient(self) -> bool:
        return any(leaf.grad is not None for leaf in leaves_of(self.param_groups))

    def _warn_without_gradient(self) -> None:
        counted = "" if self._parts.workers is not None else " and is not counted"
        self._parts.warn_once(
            "step() without a gradient: no parameter has one (.grad is None for all), so the step "
            f"moves nothing{counted}; is loss.backward() missing? Or are these no longer the "
            "parameters of the model (fully_shard makes new ones: call it before any optimizer)?",
            stacklevel=4,
        )

    def _refuse_while_evaluating(self, action: str) -> None:
        not_evaluating(action, self._parts.evaluating)


def _no_step() -> tuple[None, bool]:
    """An inner step that is skipped."""
    return None, False


class Lookahead(MetaOptimizer):
    """Lookahead around any torch optimizer: k steps forward, one step back.

    Parameters
    ----------
    inner : torch.optim.Optimizer
        Moves the fast weights, which are the model's parameters.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    alpha : float, 0-d Tensor, callable (syncs) -> float or 0-d Tensor, or AdaptiveAlpha
        How far the slow weights move at a sync, in [0, 1]. A tensor is not checked; a callable is
        a schedule of the number of syncs so far; `AdaptiveAlpha()` estimates it.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner optimizer's own state.
    slow_dtype, slow_device, kernel, capturable, state_kinds, buffers : as of `MetaOptimizer`
        Where slow weights live, how a sync computes, what the inner state is, and what else syncs.
    process_group, timeout, check_replicas, worker, skip_together : as of `MetaOptimizer`
        For many workers.

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

    @translated
    def __init__(
        self,
        inner: Optimizer | Sequence[Optimizer],
        sync_period: Period = 5,
        alpha: Scheduled | AdaptiveAlpha = 0.5,
        inner_state: Literal["maintain", "reset", "interpolate"] = "maintain",
        *,
        slow_dtype: torch.dtype | None = None,
        slow_device: torch.device | str | None = None,
        kernel: Literal["foreach", "plain", "compiled"] = "foreach",
        capturable: bool = False,
        state_kinds: Mapping[str, Literal["moment", "count", "keep"]] | None = None,
        buffers: Buffers | None = None,
        process_group: "dist.ProcessGroup | Quorum | None" = None,
        timeout: timedelta | None = None,
        check_replicas: bool = False,
        worker: "dist.ProcessGroup | DeviceMesh | None" = None,
        skip_together: bool = False,
    ) -> None:
        super().__init__(
            inner,
            lookahead(sync_period, alpha, inner_state),
            slow_dtype=slow_dtype,
            slow_device=slow_device,
            kernel=kernel,
            capturable=capturable,
            state_kinds=state_kinds,
            buffers=buffers,
            process_group=process_group,
            timeout=timeout,
            check_replicas=check_replicas,
            worker=worker,
            skip_together=skip_together,
        )
