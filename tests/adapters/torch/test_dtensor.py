"""Parameters that are DTensors, as FSDP2 makes them: one process, whose shard is the whole.

More than one process is NOT verified here. The rule is element-wise, so a shard needs no other.
"""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lookahead_core import AdaptiveAlpha, Momentum, SyncRule, ema, lookahead, nested
from lookahead_core.adapters.torch import MetaOptimizer
from lookahead_core.adapters.torch._kernels import KERNELS

# torch's own, when its compiler is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")


@pytest.fixture
def mesh(tmp_path):
    address = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    with torch.device("cpu"):  # gloo's, also where a GPU is tested
        yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


RULES = {
    "lookahead": lookahead(2, 0.3),
    "lookahead, reset": lookahead(2, 0.3, "reset"),
    "lookahead, interpolate": lookahead(2, 0.3, "interpolate"),
    "momentum, restart": SyncRule(2, Momentum(), restart=0.5, start=1),
    "ema": ema(0.9),
    "nested": nested(lookahead(2, 0.3), SyncRule(4, Momentum())),
    "adaptive, secant": lookahead(2, AdaptiveAlpha()),
    "adaptive, inner": lookahead(2, AdaptiveAlpha(curvature="inner")),
}


@pytest.mark.clause("C02", "C71", "C72", "C77", "C78")
@pytest.mark.parametrize("slow_dtype", [None, torch.float64])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_sharded_parameters_move_as_plain_ones_beside_them(kernel, name, slow_dtype, mesh):
    def shard(tensor):
        return distribute_tensor(tensor, mesh, [Shard(0)])

    sharded = torch.nn.Parameter(shard(torch.zeros(4, 2)))
    plain = torch.nn.Parameter(torch.zeros(4, 2))
    inner = torch.optim.Adam([sharded, plain], lr=0.1, foreach=False)
    optimizer = MetaOptimizer(inner, RULES[name], slow_dtype=slow_dtype, kernel=kernel)
    for step in range(5):
        gradient = torch.full((4, 2), step - 1.5)
        sharded.grad, plain.grad = shard(gradient), gradient.clone()
        optimizer.step()
    assert isinstance(optimizer.state_dict()["state"][0]["lookahead_slow"], DTensor)
    assert torch.equal(sharded.full_tensor(), plain)
