"""Workers that are several processes each: FSDP2 in rows of a mesh, one sync along its columns."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.debug import CommDebugMode

from lookahead_core import Interpolate, SyncRule, diloco, local_sgd, lookahead, slowmo
from lookahead_core.adapters.torch import MetaOptimizer
from sharded_runs import Leaves, folder, fully_sharded, give_gradients, mlp, random, whole

pytestmark = pytest.mark.world(4)

WORKERS, STEPS, LR = 2, 8, 0.1
RULES = {
    "local sgd": local_sgd(3),
    "lookahead": lookahead(3, 0.4),
    "slowmo": slowmo(3, momentum=0.5, slow_lr=0.8),
    "diloco": diloco(3, lr=0.7, momentum=0.9),
    "half way back": SyncRule(3, Interpolate(0.7), restart=0.5),
}


@pytest.fixture(scope="module")
def mesh():
    return init_device_mesh("cpu", (WORKERS, 2), mesh_dim_names=("worker", "shard"))


def sgd(leaves):
    return torch.optim.SGD(leaves, lr=LR, momentum=0.9)


def adam(leaves):
    return torch.optim.Adam(leaves, lr=LR)


def made(model, rule, mesh, inner=sgd, **options):
    """A model in shards, and its optimizer, which syncs with the same shards of the others."""
    options = {"process_group": mesh["worker"].get_group(), "check_replicas": True, **options}
    fully_sharded(model, mesh["shard"])
    return model, MetaOptimizer(inner(model.parameters()), rule, **options)


def weights(optimizer):
    return [whole(leaf) for group in optimizer.param_groups for leaf in group["params"]]


def replicas(leaf, mesh):
    """The same shard of all workers."""
    own = leaf.detach().to_local().contiguous()
    theirs = [torch.empty_like(own) for _ in range(WORKERS)]
    dist.all_gather(theirs, own, group=mesh["worker"].get_group())
    return theirs


def assert_replicas(optimizer, mesh):
    for group in optimizer.param_groups:
        for leaf in group["params"]:
            first, *others = replicas(leaf, mesh)
            assert all(torch.equal(first, other) for other in others)


def batch(worker, step):
    return random((8, 5), worker, step).double()


def simulated(rule, shares=(0.5, 0.5)):
    """The workers on one process, whole, in loops that are nobody's but this test's."""
    models = [mlp(torch.float64) for _ in range(WORKERS)]
    inners = [torch.optim.SGD(m.parameters(), lr=LR, momentum=0.9) for m in models]
    slow = [p.detach().clone() for p in models[0].parameters()]
    buffer = [torch.zeros_like(p) for p in slow]
    outer = rule.outer
    for step in range(STEPS):
        for worker, (model, inner) in enumerate(zip(models, inners, strict=True)):
            inner.zero_grad()
            model(batch(worker, step)).square().mean().backward()
            inner.step()
        if (step + 1) % rule.sync_period:
            continue
        fast = [[p.data for p in m.parameters()] for m in models]
        for i, s in enumerate(slow):
            mean = sum(share * (s - f[i]) for share, f in zip(shares, fast, strict=True))
            if isinstance(outer, Interpolate):
                s -= outer.alpha * mean
            else:
                buffer[i] = outer.momentum * buffer[i] + mean
                ahead = mean + outer.momentum * buffer[i] if outer.nesterov else buffer[i]
                s -= outer.lr * ahead
            for f in fast:
                f[i] += rule.restart * (s - f[i])
    return [[p.detach() for p in m.parameters()] for m in models]


def train(model, optimizer, mesh, steps=STEPS, work=None):
    """On this process' half of its worker's batch."""
    worker, shard = mesh.get_coordinate()
    for step in range(steps):
        optimizer.zero_grad()
        half = batch(worker, step)[4 * shard : 4 * (shard + 1)]
        model(half.to(model[0].weight.dtype)).square().mean().backward()
        if work is not None:
            optimizer.work += work(worker, shard)
        optimizer.step()


@pytest.mark.clause("C81")
@pytest.mark.parametrize("rule", RULES)
def test_sharded_workers_are_a_simulation_of_whole_ones_on_one_process(rule, mesh):
    model, optimizer = made(mlp(torch.float64), RULES[rule], mesh)
    train(model, optimizer, mesh)
    expected = simulated(RULES[rule])[mesh.get_coordinate()[0]]
    for ours, theirs in zip(weights(optimizer), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    optimizer.sync()
    with optimizer.slow_weights():
        assert_replicas(optimizer, mesh)


@pytest.mark.clause("C81")
@pytest.mark.parametrize("inner", [sgd, adam])
@pytest.mark.parametrize("policy", ["maintain", "reset", "interpolate"])
def test_replicas_are_equal_to_the_bit_under_every_policy(policy, inner, mesh):
    model, optimizer = made(mlp(), lookahead(3, 0.4, policy), mesh, inner)
    train(model, optimizer, mesh, steps=7)
    first, other = replicas(optimizer.param_groups[0]["params"][0], mesh)
    assert not torch.equal(first, other)  # in mid-cycle each has its own
    optimizer.sync()
    assert_replicas(optimizer, mesh)


@pytest.mark.clause("C81")
@pytest.mark.parametrize(
    "work",
    [lambda worker, shard: 1 + 2 * worker + shard, lambda worker, shard: (3, 7)[worker]],
    ids=["each process its own", "each the whole worker's"],
)
def test_work_is_that_of_a_whole_worker(work, mesh):
    model, optimizer = made(mlp(torch.float64), RULES["local sgd"], mesh)
    train(model, optimizer, mesh, work=work)
    expected = simulated(RULES["local sgd"], shares=(0.3, 0.7))[mesh.get_coordinate()[0]]
    for ours, theirs in zip(weights(optimizer), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def group_or_mesh(kind, mesh):
    return mesh["shard"].get_group() if kind == "group" else mesh["shard"]


@pytest.mark.clause("C81")
@pytest.mark.parametrize("kind", ["group", "mesh"])
def test_work_of_plain_parameters_is_that_of_the_worker_that_is_named(kind, mesh):
    """As under DistributedDataParallel inside a worker."""
    worker, shard = mesh.get_coordinate()
    options = {"process_group": mesh["worker"].get_group(), "check_replicas": True}
    leaf = torch.nn.Parameter(torch.zeros(3))
    optimizer = MetaOptimizer(
        sgd([leaf]), local_sgd(1), worker=group_or_mesh(kind, mesh), **options
    )
    leaf.grad = torch.full((3,), -10.0 * (worker + 1))  # the mean over the worker's processes
    optimizer.work += 1 + 2 * worker + shard  # 3 and 7
    optimizer.step()
    expected = torch.full((3,), 0.3 * LR * 10 + 0.7 * LR * 20)
    torch.testing.assert_close(leaf.detach(), expected)
    copies = [torch.empty(3) for _ in range(4)]
    dist.all_gather(copies, leaf.detach())
    assert all(torch.equal(copies[0], other) for other in copies)


@pytest.mark.clause("C81")
def test_work_is_that_of_all_meshes_of_the_parameters(mesh):
    """As of experts and shards: the first parameter's mesh is not all of the worker."""
    worker, shard = mesh.get_coordinate()
    by_itself = init_device_mesh("cpu", (4, 1), mesh_dim_names=("every", "one"))["one"]
    leaves = [
        torch.nn.Parameter(DTensor.from_local(torch.zeros(2), own, [placement], run_check=False))
        for own, placement in ((by_itself, Replicate()), (mesh["shard"], Shard(0)))
    ]
    group = mesh["worker"].get_group()
    optimizer = MetaOptimizer(sgd(leaves), local_sgd(1), process_group=group)
    for leaf in leaves:
        leaf.grad = torch.full_like(leaf, -10.0 * (worker + 1))
    optimizer.work += 1 + 2 * worker + shard  # 3 and 7
    optimizer.step()
    for leaf in leaves:
        expected = torch.full((2,), 0.3 * LR * 10 + 0.7 * LR * 20)
        torch.testing.assert_close(leaf.detach().to_local(), expected)


def test_a_worker_that_is_named_has_no_process_of_another_one(mesh):
    group = mesh["worker"].get_group()
    with pytest.raises(ValueError, match=r"worker must be the processes that are one worker"):
        MetaOptimizer(
            sgd([torch.nn.Parameter(torch.zeros(3))]),
            local_sgd(1),
            process_group=group,
            worker=mesh,
        )


@pytest.mark.clause("C84")
def test_a_sync_of_shards_sends_to_the_other_workers_alone(mesh):
    model, optimizer = made(Leaves(), RULES["diloco"], mesh, check_replicas=False)
    leaves = list(model.parameters())
    counts = []
    for step in range(3):
        give_gradients(leaves, step)
        with CommDebugMode() as messages:
            optimizer.step()
        counts.append(messages.get_total_counts())
    # Who is here and with what, the work of this worker's other process, and the mean.
    assert counts == [0, 0, 3]


def test_workers_that_hold_other_shards_are_refused_before_anything_is_sent(mesh, rank):
    model = fully_sharded(mlp(), mesh["shard"])
    before = [leaf.detach().to_local().clone() for leaf in model.parameters()]
    with pytest.raises(ValueError, match=r"parameter 0 .* rank 0 has .*Shard\(dim=0\) 0 of 2'"):
        MetaOptimizer(sgd(model.parameters()), local_sgd(3), process_group=dist.group.WORLD)
    for leaf, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(leaf.to_local(), value)


# --- checkpoints: one folder for each worker ---


def parts(model, optimizer):
    return {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}


def run(leaves, optimizer, steps, worker):
    for step in steps:
        give_gradients(leaves, step, worker)
        optimizer.step()


@pytest.mark.clause("C06", "C81")
@pytest.mark.parametrize("saved_at", [3, 4, 5])
@pytest.mark.parametrize(
    "rule", [lookahead(3, 0.4, "interpolate"), diloco(3)], ids=["la", "diloco"]
)
def test_each_worker_resumes_from_a_folder_of_its_own(rule, saved_at, mesh, tmp_path):
    worker, shards = mesh.get_coordinate()[0], mesh["shard"].get_group()
    place = folder(tmp_path, f"worker-{worker}")
    model, optimizer = made(Leaves(), rule, mesh, adam)
    run(list(model.parameters()), optimizer, range(saved_at), worker)
    model.zero_grad()
    dcp.save(parts(model, optimizer), checkpoint_id=place, process_group=shards)
    run(list(model.parameters()), optimizer, range(saved_at, STEPS), worker)
    again, resumed = loaded(place, rule, mesh)
    run(list(again.parameters()), resumed, range(saved_at, STEPS), worker)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(whole(ours), whole(theirs))
    assert not torch.equal(*replicas(model.large, mesh))


@pytest.mark.clause("C81")
def test_other_workers_start_from_the_folder_of_one(mesh, tmp_path):
    worker, shards = mesh.get_coordinate()[0], mesh["shard"].get_group()
    model, optimizer = made(Leaves(), diloco(3), mesh, adam)
    run(list(model.parameters()), optimizer, range(4), worker)
    model.zero_grad()
    place = folder(tmp_path, f"worker-{worker}")
    dcp.save(parts(model, optimizer), checkpoint_id=place, process_group=shards)
    dist.barrier()
    again, resumed = loaded(place.with_name("worker-0"), diloco(3), mesh)
    assert torch.equal(*replicas(again.large, mesh))
    run(list(again.parameters()), resumed, range(4, 6), worker)
    assert_replicas(resumed, mesh)


def loaded(place, rule, mesh):
    """A new model and its optimizer, with what this worker's processes find there."""
    model, optimizer = made(Leaves(), rule, mesh, adam)
    state = parts(model, optimizer)
    dcp.load(state, checkpoint_id=place, process_group=mesh["shard"].get_group())
    model.load_state_dict(state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    return model, optimizer
