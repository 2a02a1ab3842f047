"""Models in shards, and the same ones whole, for tests of many processes.

Gradients are made by hand and element by element, so that a sharded run can be the whole one to the
bit: of a matrix product no two layouts give the same last bit.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

# More than the adapter takes at once, and rows that 2 and 4 processes share unevenly; fewer rows
# than processes; one that 4 share unevenly.
SHAPES = {"large": (130, 70), "few": (3,), "small": (6, 5)}


class Leaves(torch.nn.Module):
    """Parameters alone: what is made of them, the tests say."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        for index, (name, shape) in enumerate(SHAPES.items()):
            value = random(shape, index).to(dtype)
            self.register_parameter(name, torch.nn.Parameter(value))


def random(shape, *seed):
    generator = torch.Generator().manual_seed(hash(seed) % 2**31)  # of ints: the same everywhere
    return torch.randn(shape, generator=generator)


def give_gradients(leaves, step, seed=0):
    """Those of a quadratic whose minimum is elsewhere at each step."""
    for index, leaf in enumerate(leaves):
        away = placed_like(leaf, random(leaf.shape, index, step, seed).to(leaf.dtype))
        leaf.grad = leaf.detach() - away


def placed_like(leaf, whole):
    """The part of `whole` that this process holds of `leaf`, without a message."""
    if not isinstance(leaf, DTensor):
        return whole
    return distribute_tensor(whole, leaf.device_mesh, leaf.placements, src_data_rank=None)


def whole(tensor):
    """All of it, also of a DTensor."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def mlp(dtype=torch.float32):
    """A model with a forward pass, of layers that no number of processes divides."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3)]
    return torch.nn.Sequential(*layers).to(dtype)


def fully_sharded(model, mesh, **options):
    """`model`, as FSDP2 makes it: its layers, and the last one with the whole, by the options."""
    for layer in list(model.children())[:-1]:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh, **options)


def together(value):
    """The first process' `value`, on all of them."""
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def gathered(tensor):
    """Every process' `tensor`, on all of them."""
    everywhere = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(everywhere, tensor.detach().contiguous())
    return everywhere


def folder(tmp_path, name="checkpoint"):
    """One folder for all processes: each has a tmp_path of its own."""
    return Path(together(str(tmp_path))) / name
