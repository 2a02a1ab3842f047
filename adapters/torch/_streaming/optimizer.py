"""A `MetaOptimizer` of many workers that syncs in fragments, behind the steps, and in few bits.

Streaming DiLoCo and its relatives. What a sync means is lookahead_core's: a fragment is a cycle of
its own at a phase of its own, whose mean may arrive some steps after it was taken, and mixing on
arrival is the rule's `restart`. Which parameters are together is fragments.py, how they
travel flight.py and codecs.py.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from lookahead_core import SyncRule
from lookahead_core.schedule import begins
from lookahead_core.words import translated

from ..._fragments import checked_delay, checked_period
from ..._interrupts import whole
from .._checkpoint import Loaded
from .._checks import check_wrapped
from .._groups import leaves_of
from .._hooks import StepsPast
from .._joint import joined
from .._optimizer import InnerStep, MetaOptimizer
from .._workers.leaving import notify
from .._workers.workers import Workers, workers_of
from .codecs import Codec, codec_of, name_of
from .fragments import fragments_of
from .stream import Stream

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["StreamingOptimizer"]


class StreamingOptimizer(MetaOptimizer):
    """`MetaOptimizer` of many workers that sends less at a time, and trains on meanwhile.

    The parameters are synced in fragments, each at its own step of the cycle. There the
    pseudo-gradient of the fragment is taken and its mean over the workers started; `delay` steps
    later it is applied. `SyncRule(restart=...)` says how far the fast weights, which have gone on,
    then go back to the slow ones: 1 forgets those steps, 0.5 mixes half and half.

    Parameters
    ----------
    inner : torch.optim.Optimizer
        Moves the fast weights, which are the model's parameters.
    rule : SyncRule
        With `inner_state="maintain"`, no start, and one that asks for no gradient. Parameter
        groups may override alpha, not the sync_period.
    process_group : torch.distributed.ProcessGroup
        Workers that sync together.
    fragments : int or sequence of sequences of Tensor
        Into how many parts the parameters are to be put, of sizes as equal as whole parameters
        allow, or which. No more than `sync_period`: one is taken at a step.
    delay : int
        Steps from the taking of a fragment to its sync, in [0, sync_period).
    codec : {"bfloat16", "int8", "int4"} or Codec, optional
        How pseudo-gradients are sent; what it loses is added to the next one (error feedback, one
        float32 for each weight). As they are if None.
    slow_dtype, slow_device, kernel, timeout, check_replicas, worker : as of `MetaOptimizer`
        Where slow weights live, how a sync computes, and what workers check.
    skip_together : bool
        As of `MetaOptimizer`.

    Raises
    ------
    ValueError
        If an argument is not of its kind, or workers differ; the message names it.

    Notes
    -----
    With one fragment, no delay and no codec this is `MetaOptimizer(process_group=...)`, bit for
    bit. The slow weights, of `slow_weights()` too, are those of the fragments that have arrived.
    `sync()` waits for what is on its way and applies it, takes and syncs the other fragments, and
    starts the cycle again. `state_dict()` waits for messages under way and sends none, so one
    worker may save alone; what it holds of a codec is for the same worker of as many.
    `load_state_dict()` takes a checkpoint of a `MetaOptimizer` too, whose fragments have been
    synced together so far, and refuses other fragments, another delay or codec. Schedules of the
    number of syncs count those of the fragment.

    References
    ----------
    Douillard et al. 2025, Streaming DiLoCo, arXiv:2501.18512. Error feedback: Seide et al. 2014,
    1-bit stochastic gradient descent, Interspeech.

    Examples
    --------
    Under torchrun, `dist.init_process_group()` is all. Alone, as here, it is one worker:

    >>> import torch
    >>> import torch.distributed as dist
    >>> from lookahead_core import diloco
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = StreamingOptimizer(
    ...     torch.optim.SGD(model.parameters(), lr=0.1),
    ...     diloco(sync_period=4),
    ...     process_group=dist.group.WORLD,
    ...     fragments=2,
    ...     delay=1,
    ...     codec="int4",
    ... )
    >>> for _ in range(9):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(1, 2)).square().sum().backward()
    ...     optimizer.step()
    >>> optimizer.state_dict()["param_groups"][0]["lookahead_streaming_syncs"]
    [2, 2]
    >>> dist.destroy_process_group()
    """

    _parts: Stream

    @translated
    def __init__(
        self,
        inner: Optimizer | Sequence[Optimizer],
        rule: SyncRule,
        *,
        process_group: "dist.ProcessGroup",
        fragments: int | Sequence[Sequence[Tensor]] = 1,
        delay: int = 0,
        codec: Literal["bfloat16", "int8", "int4"] | Codec | None = None,
        slow_dtype: torch.dtype | None = None,
        slow_device: torch.device | str | None = None,
        kernel: Literal["foreach", "plain", "compiled"] = "foreach",
        timeout: timedelta | None = None,
        check_replicas: bool = False,
        worker: "dist.ProcessGroup | DeviceMesh | None" = None,
        skip_together: bool = False,
    ) -> None:
        inner = joined(inner)
        check_wrapped(inner, rule)
        period = checked_period(rule)
        number = fragments_of(fragments, leaves_of(inner.param_groups), period)
        delay = checked_delay(delay, period)
        decoder = codec_of(codec)
        workers = workers_of(process_group, timeout, False, worker, False, rule, False)
        if not isinstance(workers, Workers):
            raise ValueError(
                "process_group must be a torch.distributed.ProcessGroup (dist.group.WORLD is None "
                "before dist.init_process_group(); without other workers, or with a Quorum, use "
                "MetaOptimizer), got "
                f"{process_group!r}"
            )
        name = name_of(codec)
        facts = {"fragments": [*number.values()], "delay": delay, "codec": name}
        workers.meet("making an optimizer", facts)
        super().__init__(
            inner,
            rule,
            slow_dtype=slow_dtype,
            slow_device=slow_device,
            kernel=kernel,
            process_group=process_group,
            timeout=timeout,
            check_replicas=check_replicas,
            worker=worker,
            skip_together=skip_together,
        )
        self._parts = Stream.of(
            self._parts, fragment=number, delay=delay, codec=decoder, codec_name=name
        )
        StepsPast.count(self._parts)

    def sync(self) -> None:
        """Sync all fragments now, each once, and start the cycle again (clauses C05, C82).

        One that is on its way is waited for and applied; the others are taken and applied. All
        workers call it, or none.

        Raises
        ------
        RuntimeError
            Inside `slow_weights()` or after `eval()`, or if another worker does not come.
        ValueError
            If workers differ; the message names the difference, and nothing is changed.
        """
        self._refuse_while_evaluating("sync")
        stream = self._parts
        stream.begin(part for part in stream.current() if begins(part.state.count))
        others = [n for n in range(len(stream.phases)) if n not in stream.flights]
        kind = "sync() of fragments"
        shares = {number: stream.meet_fragment(number, kind=kind) for number in others}
        taken = {number: stream.take(number, share) for number, share in shares.items()}
        for _, flight in [*stream.flights.values(), *taken.values()]:
            flight.arrived()
        with whole(True):
            stream.start_again(taken)

    def add_param_group(self, param_group: dict[str, Any], inner: Optimizer | None = None) -> None:
        """Refused with RuntimeError: the fragments are those of the parameters at construction."""
        raise RuntimeError(
            "add_param_group() needs new fragments: put the group into the inner optimizer and "
            "make a new StreamingOptimizer"
        )

    def state_dict(self) -> dict[str, Any]:
        """As `MetaOptimizer.state_dict`, with what is on its way and what codecs have left over.

        Waits for messages under way and sends none: one worker may call it alone.
        """
        self._parts.save()
        saved = super().state_dict()
        self._parts.saved()
        return saved

    def _check_loaded(self, loaded: Loaded) -> None:
        self._parts.check(loaded.streaming)

    def _branching_step(self, take: InnerStep) -> Any:
        """The ordinary step: what is taken or applied at it, if anything, the clock tells."""
        stream = self._parts
        stream.begin(part for part in stream.current() if begins(part.state.count))
        # What could be wrong is refused, and what has to be here is waited for, before weights
        # move.
        numbers = stream.numbers(1 + stream.delay)
        if numbers:
            notify(self)
        shares = {number: stream.meet_fragment(number) for number in numbers}
        if shares and stream.workers.all_left:
            return None
        stream.bring_on()
        loss, _ = take()
        due = [part for part in stream.parts if part.rule.due(part.state)]
        taken = {number: stream.take(number, share) for number, share in shares.items()}
        every = {**stream.flights, **taken}
        arriving = {number: every[number] for number in stream.numbers(1)}
        for _, flight in arriving.values():
            flight.arrived()
        others = [(p, p.rule.count_step(p.state)) for p in stream.parts if p not in due]
        with whole(True):  # nobody is waited for in it
            stream.keep(taken, arriving)
            for part, state in others:
                part.state = state
            stream.elapsed += 1
        return loss
