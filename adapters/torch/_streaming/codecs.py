"""Codecs: fewer bits for each number of a pseudo-gradient.

What a codec loses is not lost: flight.py adds it to the next pseudo-gradient (error
feedback). Nothing here communicates, or knows of workers.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from lookahead_core.validation import int_at_least

__all__ = ["CODECS", "BFloat16", "Blocks", "Codec", "TopK", "codec_of", "name_of"]


class Codec(Protocol):
    """What a codec of your own must have: `encode` and `decode`.

    Sums are in float32, of what was decoded: a codec is never asked to add. All workers decode the
    same bytes, so `decode` must be deterministic; `encode` need not be. If it has a `decay`, what
    it has lost is multiplied by that each time before it is added to what is sent next.

    Examples
    --------
    A codec that sends signs, and the mean size of the numbers:

    >>> import torch
    >>> class Sign:
    ...     def encode(self, values):
    ...         size = values.abs().mean()[None].view(torch.uint8)
    ...         return torch.cat([size, (values > 0).to(torch.uint8)])
    ...
    ...     def decode(self, sent, size):
    ...         return sent[:4].view(torch.float32) * (2.0 * sent[4:] - 1)
    >>> Sign().decode(Sign().encode(torch.tensor([1.0, -3.0])), 2)
    tensor([ 2., -2.])
    """

    def encode(self, values: Tensor) -> Tensor:
        """1-D float32 -> bytes, 1-D uint8; how many depends on the number of values alone."""

    def decode(self, sent: Tensor, size: int) -> Tensor:
        """What `encode` gave, in memory of its own -> 1-D float32 of `size` values."""


@dataclass(frozen=True)
class BFloat16:
    """The upper half of a float32: 8 bits of precision, the range whole."""

    def encode(self, values: Tensor) -> Tensor:
        return values.to(torch.bfloat16).view(torch.uint8)

    def decode(self, sent: Tensor, size: int) -> Tensor:
        return sent.view(torch.bfloat16).float()


@dataclass(frozen=True)
class Blocks:
    """Integers of `bits` bits, and a float32 for each block: its largest number over theirs.

    A block with a number that is not finite is decoded to such numbers.

    Attributes
    ----------
    bits : int
        8, or 4: two numbers a byte.
    size : int
        Numbers in a block; even.
    """

    bits: int
    size: int = 128

    def encode(self, values: Tensor) -> Tensor:
        blocks = pad(values, (0, -len(values) % self.size)).view(-1, self.size)
        scale = blocks.abs().amax(dim=1) / self._largest
        # Where the scale is 0 these are anything, and are decoded to 0.
        codes = (
            (blocks / scale[:, None])
            .round()
            .to(torch.int8)
            .view(-1)[: len(values)]
            .view(torch.uint8)
        )
        if self.bits == 4:
            low, high = pad(codes, (0, len(codes) % 2)).view(-1, 2).unbind(1)
            codes = (low & 15) | (high << 4)
        return torch.cat([scale.view(torch.uint8), codes])

    def decode(self, sent: Tensor, size: int) -> Tensor:
        blocks = -(-size // self.size)
        scale, codes = sent[: 4 * blocks].view(torch.float32), sent[4 * blocks :]
        if self.bits == 4:
            # Four bits with a sign: up into the sign of eight, and down with it.
            codes = torch.stack([codes << 4, codes & 240], dim=1).view(-1)[:size]
            steps = codes.view(torch.int8) >> 4
        else:
            steps = codes.view(torch.int8)
        whole = pad(steps.float(), (0, -size % self.size)).view(-1, self.size)
        return (whole * scale[:, None]).view(-1)[:size]

    @property
    def _largest(self) -> int:
        return int(2 ** (self.bits - 1) - 1)


@dataclass(frozen=True)
class TopK:
    """The numbers of the largest size in each block, and where they are; the others wait.

    Parameters
    ----------
    k : int
        Numbers of a block that are sent: each takes 16 bits for its place, and those of `values`.
    size : int
        Numbers in a block, k to 32768.
    values : str or Codec
        How these numbers are sent.
    decay : float
        What is kept of the numbers that waited, in [0, 1]. Below 1 they are forgotten in time, and
        are a momentum of their own: the paper has 0.95, and an outer rule without momentum.

    Raises
    ------
    ValueError
        If one of them is out of range.

    References
    ----------
    Sarfi et al. 2025, SparseLoCo, arXiv:2508.15706, where all workers get the numbers of all; here
    their mean is encoded, too.

    Examples
    --------
    >>> import torch
    >>> codec = TopK(k=1, size=3)
    >>> codec.decode(codec.encode(torch.tensor([1.0, -3.0, 2.0, 0.5, 0.0, 0.0])), 6)
    tensor([ 0.0000, -3.0000,  0.0000,  0.5000,  0.0000,  0.0000])
    """

    k: int = 64
    size: int = 4096
    values: "str | Codec" = "bfloat16"
    decay: float = 1.0

    def __post_init__(self) -> None:
        int_at_least(1, "k", self.k, "numbers of a block that are sent")
        if not self.k <= int_at_least(1, "size", self.size, "numbers in a block") <= 1 << 15:
            raise ValueError(f"size must be from k={self.k} to 32768, got {self.size}")
        if codec_of(self.values, "values") is None:
            raise ValueError("values must be the name of a codec or a codec, got None")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {self.decay!r}")

    def encode(self, values: Tensor) -> Tensor:
        """1-D float32 -> bytes: places of 16 bits, and the numbers that are there."""
        blocks = self._blocks(values)
        # What is not finite counts as the largest.
        _, places = blocks.abs().topk(self._sent(blocks))
        largest = blocks.gather(1, places).view(-1)
        return torch.cat([places.to(torch.int16).view(-1).view(torch.uint8), self._encode(largest)])

    def decode(self, sent: Tensor, size: int) -> Tensor:
        """What `encode` gave -> 1-D float32 of `size` values, with zeros for those that wait."""
        blocks = self._blocks(sent.new_zeros(size, dtype=torch.float32))
        number = len(blocks) * self._sent(blocks)
        places = sent[: 2 * number].view(torch.int16).long()
        own: Any = codec_of(self.values)
        largest = own.decode(sent[2 * number :].clone(), number)
        blocks.scatter_(1, places.view(len(blocks), -1), largest.view(len(blocks), -1))
        return blocks.view(-1)[:size]

    def _encode(self, values: Tensor) -> Tensor:
        own: Any = codec_of(self.values)
        encoded: Tensor = own.encode(values)
        return encoded

    def _blocks(self, values: Tensor) -> Tensor:
        size = min(self.size, max(1, len(values)))
        return pad(values, (0, -len(values) % size)).view(-1, size)

    def _sent(self, blocks: Tensor) -> int:
        return min(self.k, blocks.shape[1])


CODECS: dict[str, Codec] = {"bfloat16": BFloat16(), "int8": Blocks(8), "int4": Blocks(4)}


def codec_of(codec: Any, name: str = "codec") -> Codec | None:
    """The codec of that name, or the user's own, or ValueError."""
    if isinstance(codec, str) and codec in CODECS:
        return CODECS[codec]
    has_both = hasattr(codec, "encode") and hasattr(codec, "decode")
    if codec is None or (has_both and not isinstance(codec, type)):
        own: Codec | None = codec
        return own
    raise ValueError(
        f"{name} must be None, one of {', '.join(map(repr, CODECS))}, or have encode and decode "
        f"(see Codec), got {codec!r}"
    )


def name_of(codec: Any) -> str | None:
    """What checkpoints and other workers are told of it."""
    if codec is None or isinstance(codec, str):
        return codec
    if isinstance(codec, TopK):
        values = name_of(codec.values)
        return f"TopK(k={codec.k}, size={codec.size}, values={values}, decay={codec.decay})"
    return type(codec).__name__
