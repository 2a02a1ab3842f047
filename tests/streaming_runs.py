"""What the tests of streaming and codecs run: a small model, pulled elsewhere on each worker."""

from math import prod

import pytest
import torch
import torch.distributed as dist

from lookahead_core.adapters.torch import StreamingOptimizer

LR = 0.05
SHAPES = [(3,), (2, 2), (), (5,), (1, 3)]


def target(rank):
    """What this worker's data pulls the weights to."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(sum(map(prod, SHAPES)), generator=generator, dtype=torch.float64)


def parts(flat):
    pieces = flat.split([prod(shape) for shape in SHAPES])
    return [piece.reshape(shape).clone() for piece, shape in zip(pieces, SHAPES, strict=True)]


class Run:
    """A worker's model and optimizer; `to(n)` goes on to n steps in all."""

    def __init__(
        self,
        rank,
        rule,
        *,
        kind=StreamingOptimizer,
        positions=None,
        groups=None,
        dtype=torch.float64,
        **options,
    ):
        start = torch.linspace(-1, 1, sum(map(prod, SHAPES)), dtype=torch.float64)
        self.rank, self.steps = rank, 0
        self.leaves = [torch.nn.Parameter(part.to(dtype)) for part in parts(start)]
        if positions is not None:
            options["fragments"] = [[self.leaves[n] for n in own] for own in positions]
        groups = [range(len(self.leaves))] if groups is None else groups
        groups = [{"params": [self.leaves[n] for n in own]} for own in groups]
        inner = torch.optim.SGD(groups, lr=LR, momentum=0.9)
        self.optimizer = kind(inner, rule, **{"process_group": dist.group.WORLD, **options})

    def step(self):
        for leaf, goal in zip(self.leaves, parts(target(self.rank)), strict=True):
            leaf.grad = (leaf.detach() - goal).to(leaf.dtype)
        self.optimizer.step()
        self.steps += 1

    def to(self, steps):
        while self.steps < steps:
            self.step()
        return self

    def step_is_refused(self, error, told):
        """With that error, and nothing has moved."""
        before = self.flat()
        with pytest.raises(error, match=told):
            self.step()
        assert self.flat() == before

    def flat(self):
        return [x for leaf in self.leaves for x in leaf.flatten().tolist()]
