"""The context in which the parameters hold the slow weights; it says so if nobody enters it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ContextDecorator
from typing import Any
from warnings import warn

__all__ = ["SlowWeights"]


class SlowWeights(AbstractContextManager[None], ContextDecorator):
    """What `slow_weights()` of `optimizer` returns; `is_evaluating` tells if they are in already.

    It is not a generator's context: of one that is never entered nobody would hear.
    """

    def __init__(self, optimizer: Any, is_evaluating: Callable[[], bool]) -> None:
        self._optimizer, self._is_evaluating = optimizer, is_evaluating
        self._entered = False
        # For each entry that has not been left, whether it was the one that put them in.
        self._outermost: list[bool] = []

    def __enter__(self) -> None:
        self._entered = True
        self._outermost.append(not self._is_evaluating())
        if self._outermost[-1]:
            try:
                self._optimizer.eval()
            except BaseException:
                self.__exit__()
                raise

    def __exit__(self, *_: object) -> None:
        if self._outermost.pop():
            self._optimizer.train()

    def __del__(self) -> None:
        if not self._entered:
            warn(
                "slow_weights() did nothing: the parameters hold the slow weights inside "
                "`with optimizer.slow_weights():` alone",
                stacklevel=2,
            )
