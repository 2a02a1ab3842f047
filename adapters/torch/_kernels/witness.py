"""Which large tensors nobody has written to since a sync left them equal to their slow copies.

A cycle begins by taking the slow weights, and the slow copy of the inner state, from the live ones
(clauses C26 and C18). After a sync that put the live ones back, the two are equal already: a copy
is needed only where somebody has written in between. torch counts the writes to each tensor
(`_version`). It does not count those through `.data` or through memory that NumPy shares, so some
numbers of each tensor, spread over it, are compared as well.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lookahead_core import Kernel
from lookahead_core.typing import Leaves

from .lists import LARGE, Row, is_plain

__all__ = ["Witness"]

# So many numbers are looked at in each tensor: enough to see a mask or an update, and few beside
# those of a large tensor, each of which takes a cache line.
NUMBERS = 64


class Witness(NamedTuple):
    """What large tensors looked like after a sync.

    Attributes
    ----------
    seen : dict
        For each live tensor: its slow copy, and what was seen of both.
    views : list of Tensor
        The numbers that are compared, where they are.
    numbers : Tensor or None
        What they were; None if there are no large tensors.
    """

    seen: dict[Tensor, tuple[Tensor, Any]]
    views: list[Tensor]
    numbers: Tensor | None

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Witness":
        """Of each slow copy and the live tensor that equals it now."""
        if torch.compiler.is_compiling():  # a look at storage would break the graph
            return cls({}, [], None)
        seen = {live: (slow, look(slow, live)) for slow, live in rows if can_tell(slow, live)}
        views = [spread(live) for live in seen]
        return cls(seen, views, torch.cat(views) if views else None)

    def over(self, kernel: Kernel) -> Kernel:
        """The same kernel, which copies nothing that is as it was."""
        if self.numbers is None or torch.compiler.is_compiling():
            return kernel
        untouched = {
            live: slow for live, (slow, was) in self.seen.items() if look(slow, live) == was
        }
        if not torch.equal(torch.cat(self.views), self.numbers):
            untouched = {}

        def anchor(slow: Leaves, fast: Leaves) -> Leaves:
            rows = [(s, f) for s, f in zip(slow, fast, strict=True) if untouched.get(f) is not s]
            if rows:
                kernel.anchor(*zip(*rows, strict=True))
            return slow

        return kernel._replace(anchor=anchor)


def can_tell(slow: Tensor, live: Tensor) -> bool:
    """Whether it is worth it and possible: a GPU would have to be waited for."""
    if live.numel() < LARGE or not all(map(on_this_host, (slow, live))):
        return False
    return live.is_contiguous() and live.is_floating_point()


def on_this_host(tensor: Tensor) -> bool:
    """Whether it is an ordinary tensor in the CPU's memory whose writes are counted."""
    return is_plain(tensor) and tensor.device.type == "cpu" and not tensor.is_inference()


def look(slow: Tensor, live: Tensor) -> tuple[Any, ...]:
    return slow._version, live._version, live.data_ptr(), live.shape, live.dtype


def spread(live: Tensor) -> Tensor:
    """Numbers of the tensor at equal distances, without a copy."""
    return live.detach().view(-1)[:: max(1, live.numel() // NUMBERS)]
