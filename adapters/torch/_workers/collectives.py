"""Collectives over a process group, on lists of tensors: few messages, and no wait without an end.

What is sent, and what for, is workers.py.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from .._kernels.lists import is_plain, part_here

__all__ = ["Link", "UnderWay", "fingerprint", "local"]

# Leaves, the flat memory that is sent for them, and what to wait for.
UnderWay: TypeAlias = list[tuple[list[Tensor], Tensor, Any]]
BUCKET = 1 << 22  # numbers: messages of 16 MB in float32


class Link(NamedTuple):
    """A process group and how long to wait for it.

    Attributes
    ----------
    group : ProcessGroup
        Those who take part.
    timeout : timedelta or None
        For each message; None leaves it to the group's own.
    """

    group: "dist.ProcessGroup"  # not there in builds of torch without it
    timeout: timedelta | None = None

    # The group's own: torch.distributed knows it no longer once it has been destroyed.
    @property
    def size(self) -> int:
        return int(self.group.size())

    @property
    def rank(self) -> int:
        """This process' place among the members."""
        return int(self.group.rank())

    def name(self, index: int) -> str:
        """A member as the user knows it."""
        return f"rank {dist.get_global_rank(self.group, index)}"

    @torch.no_grad()
    def sum(self, leaves: Sequence[Tensor]) -> None:
        """Each leaf becomes the sum over the group, to the bit the same everywhere."""
        self.finish(self.start_sum(leaves))

    @torch.no_grad()
    def start_sum(self, leaves: Sequence[Tensor]) -> UnderWay:
        """The same, under way: leave the leaves alone until it is finished."""
        return self._start(
            leaves, lambda flat: dist.all_reduce(flat, group=self.group, async_op=True)
        )

    @torch.no_grad()
    def broadcast(self, leaves: Sequence[Tensor]) -> None:
        """Each leaf becomes that of the group's first member."""
        first = dist.get_global_rank(self.group, 0)
        under_way = self._start(
            leaves, lambda flat: dist.broadcast(flat, first, group=self.group, async_op=True)
        )
        self.finish(under_way)

    def exchange(self, rows: Tensor) -> tuple[Tensor, Any]:
        """Row i of the result is what member i has for this one; under way, and what to wait for.

        Bytes, as many in each row.
        """
        sent = rows.to(self.device)
        received = torch.empty_like(sent)
        work = dist.all_to_all_single(received, sent, group=self.group, async_op=True)
        return received, work

    def collect(self, row: Tensor) -> tuple[Tensor, Any]:
        """Row i of the result is that of member i; under way, and what to wait for."""
        sent = row.to(self.device)
        received = sent.new_empty(self.size, sent.numel())
        # Not into one tensor: torch 2.13 warns of that name, and 2.4 has no other.
        work = dist.all_gather([*received], sent, group=self.group, async_op=True)
        return received, work

    def gathered(self, numbers: Sequence[int]) -> list[list[int]]:
        """The same few integers of every member."""
        own = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        return [theirs.tolist() for theirs in self._gathered(own)]

    def gathered_objects(self, own: Any) -> list[Any]:
        """The same of anything that can be pickled."""
        # Not all_gather_object: how long that waits is the group's alone to say.
        written = pickle.dumps(own)
        lengths = [length for (length,) in self.gathered([len(written)])]
        padded = torch.tensor([*written.ljust(max(lengths))], dtype=torch.uint8)
        everywhere = self._gathered(padded.to(self.device))
        return [pickle.loads(bytes(theirs.tolist())) for theirs in everywhere]

    def wait(self, work: Any) -> None:
        """Wait for a message; RuntimeError if somebody does not come."""
        try:
            work.wait() if self.timeout is None else work.wait(self.timeout)
        except RuntimeError as error:
            waited = "the group's timeout" if self.timeout is None else f"timeout={self.timeout}"
            raise RuntimeError(
                f"{self.name(self.rank)} waited for the other workers, and not all "
                f"of {self.size} came within {waited}: {error}"
            ) from error

    def _gathered(self, own: Tensor) -> list[Tensor]:
        """A tensor of the same shape of every member."""
        all_of_them = [torch.empty_like(own) for _ in range(self.size)]
        self.wait(dist.all_gather(all_of_them, own, group=self.group, async_op=True))
        return all_of_them

    def _start(self, leaves: Sequence[Tensor], start: Callable[[Tensor], Any]) -> UnderWay:
        """`start` on all of it, in flat pieces that are under way at the same time."""
        return [(bucket, flat, start(_as_real(flat))) for bucket, flat in _buckets(leaves)]

    @torch.no_grad()
    def finish(self, under_way: UnderWay) -> None:
        """Wait for all of it, and put the results where they belong."""
        for bucket, flat, work in under_way:
            self.wait(work)
            if flat.data_ptr() != bucket[0].data_ptr():
                pieces = torch.split(flat, [leaf.numel() for leaf in bucket])
                for leaf, piece in zip(bucket, pieces, strict=True):
                    leaf.copy_(piece.view(leaf.shape))

    @property
    def device(self) -> torch.device:
        """Where small messages are: gloo takes them from the CPU, NCCL from the GPU alone."""
        # The configuration, since the name is "undefined" where init_process_group() chose.
        cpu = "gloo" in dist.get_backend_config(self.group)
        return torch.device("cpu") if cpu else torch.device("cuda", torch.cuda.current_device())


def local(leaf: Tensor) -> Tensor:
    """This process' part of `leaf`, as real numbers; shares its memory."""
    return _as_real(part_here(leaf))


def _as_real(leaf: Tensor) -> Tensor:
    return torch.view_as_real(leaf) if leaf.is_complex() else leaf


def _written_out(leaf: Tensor) -> Tensor:
    """The leaf, with its numbers in memory as they are: `x.conj()` has those of x there."""
    return leaf.resolve_conj().resolve_neg()


@torch.no_grad()
def fingerprint(leaves: Sequence[Tensor]) -> int:
    """A number that differs where one bit does, at the price of reading the leaves once."""
    total = torch.zeros((), dtype=torch.int64)
    # What a third party has quantized knows itself what its bits are.
    for leaf in filter(is_plain, map(part_here, leaves)):
        leaf = _as_real(_written_out(leaf.detach()).contiguous())
        width = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[leaf.element_size()]
        bits = leaf.view(width).sum(dtype=torch.int64)  # wraps around
        total = total.to(bits.device) * 31 + bits
    return int(total)


def _buckets(leaves: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Leaves by dtype and device, with the flat memory to send for some of them at once."""
    kinds: dict[Any, list[Tensor]] = {}
    for leaf in map(part_here, leaves):
        if leaf.numel():
            kinds.setdefault((leaf.dtype, leaf.device), []).append(leaf)
    for some in kinds.values():
        bucket: list[Tensor] = []
        for leaf in some:
            if bucket and sum(other.numel() for other in bucket) + leaf.numel() > BUCKET:
                yield bucket, _flat(bucket)
                bucket = []
            bucket.append(leaf)
        yield bucket, _flat(bucket)


def _flat(bucket: list[Tensor]) -> Tensor:
    """All of them end to end; of one alone its own memory, where that is contiguous."""
    pieces = [_written_out(leaf).reshape(-1) for leaf in bucket]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
