"""A worker that is done before the others: it takes part in their syncs with nothing of its own.

It counts the steps that it does not take, so its clock goes on as theirs do, and only a sync sends.
"""

from typing import TYPE_CHECKING, Any

from torch.distributed.algorithms.join import Join, JoinHook

from .quorum_parts import QuorumParts

if TYPE_CHECKING:
    from .._optimizer import MetaOptimizer

__all__ = ["Leaving", "follow", "leave", "notify"]


def leave(optimizer: "MetaOptimizer") -> None:
    """Follow the others until all have left; a quorum goes on without this worker."""
    if isinstance(optimizer._parts, QuorumParts):
        optimizer._parts.workers.quorum.leave()
        return
    _check_apart(optimizer)
    optimizer._parts.workers.all_left = False
    while not optimizer._parts.workers.all_left:
        follow(optimizer)


def follow(optimizer: "MetaOptimizer") -> None:
    """Take part in the next sync of the others, or hear that there is none, as all have left."""
    workers = optimizer._parts.workers
    workers.leaving, before = True, workers.met
    try:
        while workers.met == before:
            optimizer._branching_step(lambda: (None, True))
    finally:
        workers.leaving = False


def notify(optimizer: "MetaOptimizer") -> None:
    """Inside torch's `Join`, tell those who are done that there is a sync for them to follow."""
    if hasattr(optimizer, "_join_config") and not optimizer._parts.workers.leaving:
        # It has what torch asks of a `Joinable`, which would be a second base class with a state.
        Join.notify_join_context(optimizer)  # type: ignore[arg-type]


class Leaving(JoinHook):
    """What `Join([optimizer])` does for a worker that is done."""

    def __init__(self, optimizer: "MetaOptimizer") -> None:
        _check_apart(optimizer)
        self.optimizer: Any = optimizer

    def main_hook(self) -> None:
        """Shadow one sync."""
        follow(self.optimizer)

    def post_hook(self, is_last_joiner: bool) -> None:
        """Have the clocks of all at the same step; nobody is to be told of syncs after this."""
        del self.optimizer._join_config
        leave(self.optimizer)


def _check_apart(optimizer: "MetaOptimizer") -> None:
    """RuntimeError where each step of the others waits for a word of all."""
    if optimizer._parts.workers.skip_together:
        raise RuntimeError(
            "leave() and Join need skip_together=False: a worker that is done takes no steps, and "
            "the others would wait for its word at each of theirs"
        )
