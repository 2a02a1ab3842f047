"""Ctrl-C waits until arrays that are overwritten in place are written: a sync, or a load (C88).

An interrupt may come between any two instructions of Python. Half of the arrays would then be those
of before and half those of after, and nobody has a copy of either.
"""

# The functions behind those of `signal`, which take ten times as long: they look for an enum first.
from _signal import SIGINT, getsignal, signal  # type: ignore[import-not-found]
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import current_thread, main_thread
from typing import Any

__all__ = ["Uninterrupted", "whole"]

AT_ONCE = nullcontext()


class Uninterrupted:
    """Context in which the handler of SIGINT is not called; if it should have been, it is after it.

    A second Ctrl-C does not wait. Python calls handlers in the main thread, so in others there is
    nothing to do, and a handler that is no function of Python's is left alone.
    """

    def __enter__(self) -> None:
        self._handler: Callable[..., Any] | None = None
        self._missed: tuple[Any, ...] = ()
        handler = getsignal(SIGINT)
        if callable(handler) and current_thread() is main_thread():
            self._handler = handler
            signal(SIGINT, self._miss)

    def _miss(self, *arguments: Any) -> None:
        if self._missed and self._handler is not None:
            self._handler(*arguments)
        self._missed = arguments

    def __exit__(self, *_: object) -> None:
        if self._handler is not None:
            signal(SIGINT, self._handler)
            if self._missed:
                self._handler(*self._missed)


def whole(needed: bool) -> AbstractContextManager[None]:
    """Context in which Ctrl-C waits, if that is needed: it costs two microseconds."""
    return Uninterrupted() if needed else AT_ONCE
