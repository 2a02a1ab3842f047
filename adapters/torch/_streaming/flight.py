"""Means over workers that are on their way while training goes on: as they are, or encoded.

A flight is started, brought on once in its middle, and has arrived at its end; all workers do the
same of it at the same step, so their messages meet. What is averaged, and when it is applied, is
optimizer.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .._workers.collectives import Link, UnderWay, local
from .codecs import Codec

__all__ = ["CodedFlight", "Flight", "PlainFlight"]


class Flight(Protocol):
    """A mean on its way.

    Each of these may be called again where it failed, or where Ctrl-C came (clause C88).
    """

    halfway: bool

    def bring_on(self) -> None:
        """Start the second half, if it has not been."""

    def arrived(self) -> Sequence[Tensor]:
        """Wait for the means; start the second half if it has not been."""

    def kept(self) -> Sequence[Tensor]:
        """Wait for what has been started, and start nothing: what a checkpoint is to hold."""

    def settle(self) -> None:
        """Write down what a codec has lost: the message in which it was lost counts."""


@dataclass(eq=False)
class PlainFlight:
    """One sum over the workers.

    Attributes
    ----------
    link : Link
        To the others.
    leaves : sequence of Tensor
        What this worker adds to the mean; the mean, once it is there.
    under_way : list
        What is to be waited for.
    """

    link: Link
    leaves: Sequence[Tensor]
    under_way: UnderWay
    halfway: bool = False

    @classmethod
    def started(cls, link: Link, leaves: Sequence[Tensor]) -> "PlainFlight":
        return cls(link, leaves, link.start_sum(leaves))

    def bring_on(self) -> None:
        """Nothing: it is one message."""

    def arrived(self) -> Sequence[Tensor]:
        self.link.finish(self.under_way)
        self.under_way = []
        return self.leaves

    kept = arrived

    def settle(self) -> None:
        """Nothing: nothing is lost."""


@dataclass(eq=False)
class CodedFlight:
    """Each worker averages a chunk of its own, in float32, and sends the mean to all: two messages.

    What a codec loses stays with the worker that encoded, in `residual`, and goes into what it
    sends next. That of a mean too: the chunk's owner adds it to what it sends itself of that chunk
    (clause C83).

    Attributes
    ----------
    link, codec
        To the others, and how.
    leaves : sequence of Tensor
        As of a `PlainFlight`.
    residual : sequence of Tensor
        What is left over of each of them.
    message : (Tensor, wait) or None
        What is under way.
    mean : Tensor or None
        Of this worker's chunk.
    halfway : bool
        Whether the second message has been started.
    left : Tensor or None
        What is to be written into `residual`.
    """

    link: Link
    codec: Codec
    leaves: Sequence[Tensor]
    residual: Sequence[Tensor]
    message: tuple[Tensor, Any] | None = None
    mean: Tensor | None = None
    halfway: bool = False
    left: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def started(
        cls, link: Link, codec: Codec, leaves: Sequence[Tensor], residual: Sequence[Tensor]
    ) -> "CodedFlight":
        flight = cls(link, codec, leaves, residual)
        kept = getattr(codec, "decay", 1.0)
        chunks = flight._chunks(leaves) + kept * flight._chunks(residual)
        rows = torch.stack([flight._encoded(chunk) for chunk in chunks])
        flight.left = chunks - flight._decoded(rows)
        flight.message = link.exchange(rows)
        return flight

    @classmethod
    def resumed(
        cls,
        link: Link,
        codec: Codec,
        leaves: Sequence[Tensor],
        residual: Sequence[Tensor],
        halfway: bool,
    ) -> "CodedFlight":
        """From what `kept` gave, before or after the middle."""
        flight = cls(link, codec, leaves, residual, halfway=halfway)
        flight.mean = flight._chunks(leaves)[link.rank].clone()
        return flight

    @torch.no_grad()
    def bring_on(self) -> None:
        """Send the mean of this worker's chunk to all, once."""
        if self.halfway:
            return
        mean = self._own_mean()
        row = self._encoded(mean)
        left = self._chunks(self.residual) if self.left is None else self.left.clone()
        left[self.link.rank] += mean - self._decoded(row[None])[0]
        self.message, self.halfway, self.left = self.link.collect(row), True, left

    @torch.no_grad()
    def arrived(self) -> Sequence[Tensor]:
        """The means, decoded from the same bytes everywhere."""
        if not self.halfway:
            self.bring_on()
        if self.message is not None:
            self._scatter(self._decoded(self._received()), self.leaves)
            self.message = None
        return self.leaves

    @torch.no_grad()
    def settle(self) -> None:
        if self.left is not None:
            self._scatter(self.left, self.residual)
            self.left = None

    @torch.no_grad()
    def kept(self) -> Sequence[Tensor]:
        """The means; before the middle that of this worker's chunk, and zeros."""
        if self.halfway:
            return self.arrived()
        chunks = torch.zeros_like(self._chunks(self.leaves))
        chunks[self.link.rank] = self._own_mean()
        self._scatter(chunks, self.leaves)
        return self.leaves

    def _own_mean(self) -> Tensor:
        if self.mean is None:
            self.mean = self._decoded(self._received()).sum(dim=0)
        return self.mean

    def _received(self) -> Tensor:
        if self.message is None:
            raise AssertionError("nothing is under way")
        rows, work = self.message
        self.link.wait(work)
        return rows

    def _encoded(self, chunk: Tensor) -> Tensor:
        """Bytes of a chunk, or ValueError."""
        row = self.codec.encode(chunk)
        if not isinstance(row, Tensor) or row.dtype != torch.uint8 or row.dim() != 1:
            raise ValueError(f"codec.encode must return a 1-D uint8 Tensor, got {row!r}")
        return row

    def _decoded(self, rows: Tensor) -> Tensor:
        """A chunk from each row of bytes."""
        length, device = self._length, local(self.leaves[0]).device
        # A copy of each: a view of another dtype must begin where numbers of that dtype can.
        return torch.stack([self.codec.decode(row.clone(), length) for row in rows.to(device)])

    @property
    def _length(self) -> int:
        """Numbers in a chunk: the last one may end in zeros that are nobody's."""
        return max(1, -(-sum(local(leaf).numel() for leaf in self.leaves) // self.link.size))

    def _chunks(self, leaves: Sequence[Tensor]) -> Tensor:
        """A copy of all leaves in float32, a row for each worker."""
        flat = local(leaves[0]).new_zeros(self.link.size * self._length, dtype=torch.float32)
        for piece, leaf in self._pieces(flat, leaves):
            piece.copy_(leaf)
        return flat.view(self.link.size, -1)

    def _scatter(self, chunks: Tensor, leaves: Sequence[Tensor]) -> None:
        """The other way round."""
        for piece, leaf in self._pieces(chunks.view(-1), leaves):
            leaf.copy_(piece)

    def _pieces(self, flat: Tensor, leaves: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        begin = 0
        for leaf in map(local, leaves):
            yield flat[begin : begin + leaf.numel()].view(leaf.shape), leaf
            begin += leaf.numel()
