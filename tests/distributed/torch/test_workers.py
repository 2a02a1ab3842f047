"""Workers that sync together: one rule on the mean of what they did, and the same to the bit."""

from copy import deepcopy
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lookahead_core import (
    AdaptiveAlpha,
    Interpolate,
    Momentum,
    PostLocal,
    SyncRule,
    diloco,
    ema,
    local_sgd,
    lookahead,
    nested,
    slowmo,
)
from lookahead_core.adapters.torch import Buffers, MetaOptimizer, StreamingOptimizer
from lookahead_core.adapters.torch._workers import buckets
from lookahead_core.adapters.torch._workers.collectives import Link
from sharded_runs import gathered

LR, STEPS = 0.05, 11
RULES = {
    "local sgd": local_sgd(3),
    "post-local sgd": local_sgd(PostLocal(2, 4)),
    "lookahead": lookahead(3, 0.4),
    "slowmo": slowmo(3, momentum=0.5, slow_lr=0.8),
    "diloco": diloco(3, lr=0.7, momentum=0.9),
    "diloco, k=1": diloco(1, lr=0.3, momentum=0.5),
    "half way back": SyncRule(3, Interpolate(0.7), restart=0.5),
}


def target(rank):
    """What this worker's data pulls the weights to."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(7, generator=generator, dtype=torch.float64)


def parameter(dtype=torch.float64):
    return torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=dtype))


def trained(rule, rank, *, steps=STEPS, leaf=None, **options):
    """A worker's parameter and optimizer after some steps on its own data."""
    leaf = parameter() if leaf is None else leaf
    inner = torch.optim.SGD([leaf], lr=LR, momentum=0.9)
    options = {"process_group": dist.group.WORLD, "check_replicas": True, **options}
    optimizer = MetaOptimizer(inner, rule, **options)
    for _ in range(steps):
        step(optimizer, leaf, rank)
    return leaf, optimizer


def step(optimizer, leaf, rank):
    leaf.grad = (leaf.detach() - target(rank)).to(leaf.dtype)
    optimizer.step()


def simulated(rule, size, weights=None):
    """The same on one process, by plain loops on lists of numbers: nothing of the library's."""
    weights = [1 / size] * size if weights is None else weights
    outer, k, count, syncs = rule.outer, rule.sync_period, 0, 0
    alpha = getattr(outer, "alpha", None)
    targets = [target(rank).tolist() for rank in range(size)]
    fast = [parameter().tolist() for _ in range(size)]
    slow, n = parameter().tolist(), 7
    velocity = [[0.0] * n for _ in range(size)]
    buffer = [0.0] * n
    for _ in range(STEPS):
        for w in range(size):
            for i in range(n):
                velocity[w][i] = 0.9 * velocity[w][i] + fast[w][i] - targets[w][i]
                fast[w][i] -= LR * velocity[w][i]
        count += 1
        if count < (k(syncs) if callable(k) else k):
            continue
        count, syncs = 0, syncs + 1
        for i in range(n):
            mean = sum(weights[w] * (slow[i] - fast[w][i]) for w in range(size))
            if alpha is not None:
                slow[i] -= alpha * mean
            else:
                buffer[i] = outer.momentum * buffer[i] + mean
                ahead = mean + outer.momentum * buffer[i] if outer.nesterov else buffer[i]
                slow[i] -= outer.lr * ahead
            for w in range(size):
                fast[w][i] += rule.restart * (slow[i] - fast[w][i])
    return slow, fast


@pytest.mark.clause("C81")
@pytest.mark.parametrize("kernel", ["foreach", "plain"])
@pytest.mark.parametrize("name", RULES)
def test_workers_are_a_simulation_of_them_on_one_process(name, kernel, rank, size):
    leaf, optimizer = trained(RULES[name], rank, kernel=kernel)
    slow, fast = simulated(RULES[name], size)
    assert leaf.tolist() == pytest.approx(fast[rank], rel=1e-12, abs=1e-12)
    saved = optimizer.state_dict()
    kept = saved["state"][0]["lookahead_slow"].tolist()
    between_cycles = saved["param_groups"][0]["lookahead_count"] == 0
    assert kept == pytest.approx(slow, rel=1e-12, abs=1e-12) or between_cycles


@pytest.mark.clause("C81")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slow_dtype", [None, torch.float32])
@pytest.mark.parametrize("name", RULES)
def test_slow_weights_are_the_same_to_the_bit(name, slow_dtype, dtype, rank):
    leaf, optimizer = trained(RULES[name], rank, leaf=parameter(dtype), slow_dtype=slow_dtype)
    optimizer.sync()
    with optimizer.slow_weights():
        everywhere = gathered(leaf.detach().view(torch.uint8))
    assert all(torch.equal(theirs, everywhere[0]) for theirs in everywhere)
    assert len({tuple(target(r).tolist()) for r in range(dist.get_world_size())}) > 1


@pytest.mark.clause("C81")
@pytest.mark.parametrize("rule", [local_sgd(3), ema(0.75)], ids=["local sgd", "ema"])
def test_buffers_are_averaged_over_the_workers(rule, rank, size):
    model, leaf = torch.nn.BatchNorm1d(7, affine=False), parameter()
    which = Buffers(model, "*")
    model.running_mean.fill_(1.0 + rank)  # they start from the first worker's
    inner = torch.optim.SGD([leaf], lr=LR)
    optimizer = MetaOptimizer(inner, rule, buffers=which, process_group=dist.group.WORLD)
    assert model.running_mean.tolist() == [1.0] * 7
    slow = torch.full((7,), 0.5)
    with torch.no_grad():
        model.running_mean.fill_(0.5)  # the first forward pass
    for number in range(1, 4):
        model.running_mean.add_(float(number > 1) * (1 + rank))
        model.num_batches_tracked.add_(1 + rank)
        step(optimizer, leaf, rank)
        mean = 0.5 + (number - 1) * sum(1 + r for r in range(size)) / size
        if number % rule.sync_period == 0:
            slow += rule.outer.alpha * (mean - slow)
    with optimizer.slow_weights():
        torch.testing.assert_close(model.running_mean, slow)
        assert model.num_batches_tracked.item() == 3 * (1 + rank)
        everywhere = gathered(model.running_mean.view(torch.uint8))
    assert all(torch.equal(theirs, everywhere[0]) for theirs in everywhere)


@pytest.mark.clause("C81")
def test_work_weighs_the_workers(rank, size):
    rule = SyncRule(STEPS, Interpolate(1.0))
    leaf, optimizer = trained(rule, rank, steps=STEPS - 1)
    optimizer.work += 3 if rank == 0 else 1
    step(optimizer, leaf, rank)
    total = size + 2
    expected, _ = simulated(rule, size, [(3 if w == 0 else 1) / total for w in range(size)])
    assert leaf.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert optimizer.work == 0


@pytest.mark.clause("C81")
def test_one_without_work_is_not_heard_even_if_it_has_run_away(rank, size):
    rule = SyncRule(STEPS, Interpolate(1.0))
    leaf, optimizer = trained(rule, rank, steps=STEPS - 1)
    optimizer.work = float(rank != 0)
    if rank == 0:
        with torch.no_grad():
            leaf.fill_(float("nan"))
    step(optimizer, leaf, rank)
    expected, _ = simulated(rule, size, [0, *[1 / (size - 1)] * (size - 1)])
    assert leaf.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.clause("C05", "C81")
def test_a_forced_sync_is_one_of_all_workers(rank):
    leaf, optimizer = trained(local_sgd(100), rank)
    assert not torch.equal(*gathered(leaf)[:2])
    optimizer.sync()
    assert torch.equal(*gathered(leaf)[:2])


def test_all_start_from_the_first_ones_weights(rank):
    leaf = torch.nn.Parameter(torch.full((3,), float(rank)))
    inner = torch.optim.SGD([leaf], lr=LR)
    optimizer = MetaOptimizer(inner, local_sgd(3), process_group=dist.group.WORLD)
    added = torch.nn.Parameter(torch.full((3,), float(rank + 5)))
    optimizer.add_param_group({"params": [added]})
    assert leaf.tolist() == [0.0] * 3
    assert added.tolist() == [5.0] * 3


def test_leaves_of_every_kind_and_size_travel(rank, size):
    start = [
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(2, 5).t(),
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(3, (1 << 22) // 3 + 7),
        torch.zeros(5, dtype=torch.float16),
        torch.zeros((1 << 22) - 3),
    ]
    leaves = [torch.nn.Parameter(leaf) for leaf in start]
    optimizer = MetaOptimizer(
        torch.optim.SGD(leaves, lr=1.0), local_sgd(1), process_group=dist.group.WORLD
    )
    for number, leaf in enumerate(leaves):
        leaf.grad = torch.full_like(leaf, -(number + 1) * (rank + 1))
    optimizer.step()
    mean = sum(range(1, size + 1)) / size
    for number, leaf in enumerate(leaves):
        assert torch.equal(leaf, torch.full_like(leaf, (number + 1) * mean)), number


# --- in buckets ---


@pytest.fixture
def room(monkeypatch):
    """Buckets of three numbers, and a list of where each that is sent lies."""
    monkeypatch.setattr(buckets, "SMALLEST", 3)
    monkeypatch.setattr(buckets, "BUCKETS", 1 << 20)
    found = []

    def start_sum(self, leaves, original=Link.start_sum):
        found.append({leaf.untyped_storage().data_ptr() for leaf in leaves})
        return original(self, leaves)

    monkeypatch.setattr(Link, "start_sum", start_sum)
    return found


@pytest.mark.clause("C81")
@pytest.mark.parametrize("name", RULES)
def test_a_sync_in_buckets_is_the_same_in_the_room_of_three(name, room, rank, size):
    leaf, optimizer = trained(RULES[name], rank)
    _, fast = simulated(RULES[name], size)
    assert leaf.tolist() == pytest.approx(fast[rank], rel=1e-12, abs=1e-12)
    syncs = optimizer.state_dict()["param_groups"][0]["lookahead_syncs"]
    assert len(room) == 3 * syncs  # seven numbers


def test_no_more_than_three_buckets_are_under_way_at_once(room, rank, size):
    leaf = torch.nn.Parameter(torch.zeros(30, dtype=torch.float64))
    inner = torch.optim.SGD([leaf], lr=1.0)
    optimizer = MetaOptimizer(inner, diloco(1, 1.0, 0.5), process_group=dist.group.WORLD)
    leaf.grad = torch.full_like(leaf, -1.0 - rank)
    optimizer.step()
    assert len(room) == 10
    assert len(set.union(*room)) == 3
    assert leaf.tolist() == [pytest.approx(1.5 * (1 + (size - 1) / 2))] * 30


@pytest.mark.parametrize("policy", ["maintain", "reset", "interpolate"])
def test_leaves_of_every_kind_are_cut_into_buckets(policy, room, rank, size):
    start = [
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(2, 5).t(),
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(5, dtype=torch.bfloat16),
    ]
    shared = torch.zeros(8)
    start += [shared[:4], shared[4:]]
    leaves = [torch.nn.Parameter(leaf) for leaf in start]
    inner = torch.optim.SGD(leaves, lr=1.0, momentum=0.5)
    rule = lookahead(1, 1.0, policy)
    optimizer = MetaOptimizer(inner, rule, process_group=dist.group.WORLD, slow_dtype=torch.float32)
    for number, leaf in enumerate(leaves):
        leaf.grad = torch.full_like(leaf, -(number + 1) * (rank + 1))
    optimizer.step()
    for number, leaf in enumerate(leaves):
        mean = torch.full_like(leaf, (number + 1) * (size + 1) / 2)
        torch.testing.assert_close(leaf.detach(), mean)
        if policy == "reset":
            assert not inner.state[leaf]["momentum_buffer"].count_nonzero()


def test_leaves_that_share_memory_are_averaged_before_one_of_them_is_written(room, rank, size):
    memory = torch.zeros(12)
    leaves = [torch.nn.Parameter(memory), torch.nn.Parameter(memory[3:])]
    optimizer = MetaOptimizer(
        torch.optim.SGD(leaves, lr=1.0), lookahead(1, 0.5), process_group=dist.group.WORLD
    )
    leaves[0].grad = torch.full_like(leaves[0], -4.0)
    optimizer.step()
    assert memory.tolist() == [2.0] * 12


@pytest.mark.clause("C11", "C81")
def test_a_leaf_without_a_gradient_on_one_worker_is_averaged(rank, size):
    leaves = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = MetaOptimizer(
        torch.optim.SGD(leaves, lr=1.0), local_sgd(1), process_group=dist.group.WORLD
    )
    leaves[0].grad = torch.zeros(1)
    leaves[1].grad = torch.full((1,), -float(size)) if rank == 0 else None
    optimizer.step()
    assert leaves[1].tolist() == [1.0]


@pytest.mark.clause("C06", "C81")
@pytest.mark.parametrize("saved_at", range(4))
def test_each_worker_resumes_from_its_own_state(saved_at, rank):
    rule = diloco(3, lr=0.7, momentum=0.9)
    undisturbed, _ = trained(rule, rank)
    leaf, first = trained(rule, rank, steps=saved_at)
    first.work = 0.0
    state = first.state_dict()
    again = torch.nn.Parameter(leaf.detach().clone())
    inner = torch.optim.SGD([again], lr=LR, momentum=0.9)
    optimizer = MetaOptimizer(inner, rule, process_group=dist.group.WORLD, check_replicas=True)
    with torch.no_grad():
        again.copy_(leaf)  # each worker's own: the constructor gave all of them the first one's
    optimizer.load_state_dict(state)
    for _ in range(STEPS - saved_at):
        step(optimizer, again, rank)
    assert torch.equal(again, undisturbed)


def test_work_that_was_done_is_saved(rank):
    _, optimizer = trained(local_sgd(100), rank, steps=2)
    optimizer.work = 7.0
    _, other = trained(local_sgd(100), rank, steps=0)
    other.load_state_dict(optimizer.state_dict())
    assert other.work == 7.0


def test_parameters_that_fully_shard_has_replaced_are_named(rank):
    model = torch.nn.Linear(3, 2)
    inner = torch.optim.SGD(model.parameters(), lr=LR)
    optimizer = MetaOptimizer(inner, local_sgd(2), process_group=dist.group.WORLD)
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    model(torch.ones(1, 3)).sum().backward()
    told = r"no longer the parameters of the model \(fully_shard makes new ones: call it before"
    with pytest.warns(UserWarning, match=told):
        optimizer.step()


# --- parameters that join ---


def unfrozen(optimizer, leaves):
    leaves[1].requires_grad_(True)


def resized(optimizer, leaves):
    leaves[0].data = torch.full((4,), float(dist.get_rank()))


def replaced(optimizer, leaves):
    """As by fully_shard, or by hand."""
    leaves[0] = torch.nn.Parameter(torch.full((4,), float(dist.get_rank())))
    optimizer.param_groups[0]["params"][0] = leaves[0]


def added_to_a_group(optimizer, leaves):
    leaves.append(torch.nn.Parameter(torch.full((4,), float(dist.get_rank()))))
    optimizer.param_groups[0]["params"].append(leaves[-1])


def loaded_from_the_inner_optimizer(optimizer, leaves):
    with pytest.warns(UserWarning, match="of the inner optimizer alone"):
        optimizer.load_state_dict(optimizer.inner.state_dict())


JOINING = [unfrozen, resized, replaced, added_to_a_group, loaded_from_the_inner_optimizer]


@pytest.mark.clause("C81")
@pytest.mark.parametrize("at", [2, 4, 5])
@pytest.mark.parametrize("join", JOINING)
@pytest.mark.parametrize("kind", [MetaOptimizer, StreamingOptimizer])
def test_a_parameter_that_joins_has_the_same_slow_weights_on_all_workers(kind, join, at, rank):
    leaves = [torch.nn.Parameter(torch.zeros(5)) for _ in range(2)]
    leaves[1].requires_grad_(False)
    inner = torch.optim.SGD(leaves, lr=LR)
    if kind is StreamingOptimizer and join in (replaced, added_to_a_group):
        return  # its fragments are those of the parameters at construction
    optimizer = kind(inner, lookahead(3, 0.4), process_group=dist.group.WORLD)
    for number in range(1, 12):
        if number == at:
            join(optimizer, leaves)
        trained = [leaf for leaf in leaves if leaf.requires_grad]
        for leaf in trained:
            leaf.grad = leaf.detach() - (1.0 + rank)
        optimizer.step()
    with optimizer.slow_weights():
        for leaf in trained:
            assert torch.equal(*gathered(leaf.detach())[:2])
    for leaf in trained:
        assert not torch.equal(*gathered(leaf.detach())[:2])  # in mid-cycle they are their own


def test_a_parameter_that_joins_on_one_worker_alone_is_named(rank):
    leaf, optimizer = trained(lookahead(3), rank, steps=1)
    step(optimizer, leaf, rank)
    group = {"params": [torch.nn.Parameter(torch.zeros(3))]}
    grow = partial(optimizer.add_param_group, group)
    go_on = grow if rank == 1 else partial(step, optimizer, leaf, rank)
    told = r"what is done must .* rank 0 has 'a sync', rank 1 has 'taking in parameters'"
    with pytest.raises(ValueError, match=told):
        go_on()
    assert len(optimizer.param_groups) == 1


def test_what_is_frozen_does_not_travel_whatever_it_is(rank):
    start = [
        torch.zeros(3, dtype=torch.int16),
        torch.zeros(3, dtype=torch.uint16),
        torch.zeros(3).to(torch.float8_e4m3fn),
        torch.zeros(1).expand(3),
        torch.zeros(3, dtype=torch.complex64).conj(),
    ]
    frozen = [torch.nn.Parameter(leaf, requires_grad=False) for leaf in start]
    leaf = parameter()
    inner = torch.optim.SGD([leaf, *frozen], lr=LR)
    optimizer = MetaOptimizer(inner, lookahead(2), process_group=dist.group.WORLD)
    for _ in range(2):
        step(optimizer, leaf, rank)
    assert torch.equal(*gathered(leaf.detach())[:2])


def turned_over(leaf):
    """Its numbers in memory are others: their conjugates, and their negatives."""
    return leaf.conj() if leaf.is_complex() else torch.complex(leaf, leaf).conj().imag


@pytest.mark.parametrize("kind", [MetaOptimizer, StreamingOptimizer])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float32])
def test_what_is_trained_travels_as_it_reads_and_not_as_it_lies(kind, dtype, rank, size):
    start = torch.full((3,), 1 + 2j if dtype.is_complex else 1.0, dtype=dtype)
    leaf = torch.nn.Parameter(turned_over(start) if rank else turned_over(start).clone())
    first = gathered(leaf.detach().resolve_conj().resolve_neg())[0]
    optimizer = kind(torch.optim.SGD([leaf], lr=1.0), local_sgd(1), process_group=dist.group.WORLD)
    leaf.grad = torch.full_like(leaf, (1 + 1j if dtype.is_complex else 1.0) * (1 + rank))
    optimizer.step()
    mean = (1 + size) / 2 * (1 + 1j if dtype.is_complex else 1.0)
    torch.testing.assert_close(leaf.detach().resolve_conj().resolve_neg(), first - mean)


def test_what_is_frozen_must_be_the_same_on_all_workers(rank):
    frozen = torch.nn.Parameter(torch.full((3,), float(rank)), requires_grad=False)
    inner = torch.optim.SGD([parameter(), frozen], lr=LR)
    with pytest.raises(ValueError, match=r"frozen parameters must .* those of rank 1.* are not"):
        MetaOptimizer(inner, lookahead(2), process_group=dist.group.WORLD)


# --- what is refused ---


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (lambda rank: lookahead(3, lambda n: 0.5 + n * rank / 10), r"alpha .* has 0\.5, .* 0\.6"),
        (lambda rank: lookahead(3, torch.tensor(0.5 + rank / 4)), r"alpha .* has 0\.5, .* 0\.75"),
        (
            lambda rank: SyncRule(3, Momentum(lambda n: 1.0 + n * rank, 0.5)),
            r"outer .*lr=1\.0, momentum.*lr=2\.0, momentum",
        ),
        (
            lambda rank: nested(lookahead(3, lambda n: 0.5 + n * rank / 10), lookahead(6)),
            r"outer .*alpha=0\.5.*alpha=0\.6",
        ),
    ],
    ids=["alpha", "array", "lr", "nested"],
)
def test_schedules_that_differ_at_a_sync_are_named(rule, told, rank):
    with pytest.raises(ValueError, match=told):
        trained(rule(rank), rank, steps=6)


def test_parameters_in_another_order_are_named(rank):
    named = [("a", parameter()), ("b", parameter())]
    inner = torch.optim.SGD(named[::-1] if rank else named, lr=LR)
    told = "the name of parameter 0 must .* rank 0 has 'a', rank 1 has 'b'"
    with pytest.raises(ValueError, match=told):
        MetaOptimizer(inner, lookahead(3), process_group=dist.group.WORLD)


def test_optimizers_that_are_stepped_in_another_order_are_named(rank):
    pairs = [trained(lookahead(3), rank, steps=2) for _ in range(2)]
    leaf, optimizer = pairs[int(rank == 1)]
    with pytest.raises(ValueError, match=r"the optimizer must .* rank 0 has (\d+), rank 1 has"):
        step(optimizer, leaf, rank)


def test_a_period_that_differs_is_named_as_the_period(rank):
    leaf, optimizer = trained(lookahead(3), rank, steps=1)
    optimizer.param_groups[0]["lookahead_sync_period"] = 3 + rank
    for _ in range(1 + rank):
        step(optimizer, leaf, rank)
    with pytest.raises(ValueError, match=r"sync_period must .* rank 0 has 3, rank 1 has 4"):
        step(optimizer, leaf, rank)


def test_work_is_refused_where_nobody_can_tell_who_is_one_worker(rank):
    alone = dist.new_group([rank], use_local_synchronization=True)
    _, optimizer = trained(lookahead(3), rank, steps=0, process_group=alone)
    with pytest.raises(ValueError, match="work needs to know which processes are one worker"):
        optimizer.work += 1
    for worker in (alone, dist.group.WORLD):
        _, optimizer = trained(lookahead(3), rank, process_group=alone, worker=worker, steps=0)
        optimizer.work += 1
    told = "worker must be the processes that are one worker, and have no other rank"
    with pytest.raises(ValueError, match=told):
        trained(lookahead(3), rank, worker=dist.group.WORLD)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            lambda rank: lookahead(3, 0.8 - rank / 10),
            r"alpha must .* rank 0 has 0\.8, rank 1 has 0\.7",
        ),
        (lambda rank: lookahead(3 + rank), r"sync_period must .* rank 0 has 3, rank 1 has 4"),
        (lambda rank: diloco(3) if rank else lookahead(3), "outer must be the same"),
    ],
    ids=["alpha", "sync_period", "outer"],
)
def test_workers_with_other_settings_are_refused_at_the_start(settings, told, rank):
    with pytest.raises(ValueError, match=told):
        trained(settings(rank), rank, steps=0)


def test_workers_with_other_shapes_are_refused_at_the_start(rank):
    leaf = torch.nn.Parameter(torch.full((2 + rank,), 1.0 + rank))
    with pytest.raises(ValueError, match=r"parameter 0 must be .*rank 0 has '\(2,\) float32"):
        trained(lookahead(3), rank, leaf=leaf, steps=0)
    assert leaf.tolist() == [1.0 + rank] * (2 + rank)


def test_a_worker_at_another_step_is_named_before_anything_moves(rank):
    leaf, optimizer = trained(lookahead(3), rank, steps=1)
    step(optimizer, leaf, rank)
    if rank == 1:
        state = optimizer.state_dict()
        state["param_groups"][0]["lookahead_count"] = 1
        optimizer.load_state_dict(state)
        step(optimizer, leaf, rank)
        state = optimizer.state_dict()
        state["param_groups"][0]["lookahead_syncs"] = 4
        optimizer.load_state_dict(state)
    before = leaf.detach().clone()
    with pytest.raises(ValueError, match=r"the number of syncs must .* rank 0 has 0, rank 1 has 4"):
        step(optimizer, leaf, rank)
    assert torch.equal(leaf, before)


def test_an_alpha_that_moved_on_one_worker_is_named(rank):
    leaf, optimizer = trained(lookahead(3), rank, steps=2)
    if rank == 1:
        optimizer.param_groups[0]["lookahead_alpha"] = 0.9
    with pytest.raises(ValueError, match=r"alpha must .* rank 0 has 0\.5, rank 1 has 0\.9"):
        step(optimizer, leaf, rank)


def test_replicas_that_have_come_apart_are_found(rank):
    leaf, optimizer = trained(ema(0.9, 3), rank, steps=4)
    if rank == 1:
        state = optimizer.state_dict()
        slow = state["state"][0]["lookahead_slow"]
        slow[2] = torch.nextafter(slow[2], slow[2] + 1)
        optimizer.load_state_dict(state)
    step(optimizer, leaf, rank)
    with pytest.raises(ValueError, match="those of rank 1 are not those of rank 0"):
        step(optimizer, leaf, rank)


def test_weights_edited_on_one_worker_between_cycles_are_found(rank):
    leaf, optimizer = trained(lookahead(1), rank, steps=2)
    if rank == 1:
        with torch.no_grad():
            leaf[0] += 1
    with pytest.raises(ValueError, match="those of rank 1 are not those of rank 0"):
        step(optimizer, leaf, rank)


def test_a_worker_that_does_not_come_is_an_error_and_no_hang(rank):
    group = dist.new_group(timeout=timedelta(seconds=60))
    leaf, optimizer = trained(
        lookahead(2), rank, steps=1, process_group=group, timeout=timedelta(seconds=1)
    )
    if rank == 0:
        before = leaf.detach().clone()
        with pytest.raises(RuntimeError, match=r"rank 0 waited .* timeout=0:00:01"):
            step(optimizer, leaf, rank)
        assert torch.equal(leaf, before)
    dist.barrier()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"process_group": "world"}, "process_group must be a torch.distributed.ProcessGroup"),
        (
            {"process_group": dist.GroupMember.NON_GROUP_MEMBER},
            r"process_group must be a group that this process is in, got one without rank \d",
        ),
        ({"worker": 3}, "worker must be a torch.distributed.ProcessGroup or a DeviceMesh"),
        ({"timeout": 3}, "timeout must be a timedelta"),
        ({"check_replicas": 1}, "check_replicas must be True or False"),
        ({"skip_together": 1}, "skip_together must be True or False"),
        ({"capturable": True}, "capturable must be False with a process_group"),
    ],
)
def test_arguments_of_another_kind_are_refused(options, told, rank):
    with pytest.raises(ValueError, match=told):
        trained(lookahead(3), rank, **options)


@pytest.mark.parametrize(
    "rule", [lookahead(3, AdaptiveAlpha()), ema(0.9, start=2)], ids=["gradients", "start"]
)
def test_a_rule_whose_slow_weights_would_differ_is_refused(rule, rank):
    with pytest.raises(ValueError, match="a rule for many workers must not"):
        trained(rule, rank)


def test_work_is_a_number(rank):
    _, optimizer = trained(lookahead(3), rank, steps=0)
    with pytest.raises(ValueError, match="work must be a finite number >= 0"):
        optimizer.work = -1


def test_it_is_not_copied_in_silence(rank):
    _, optimizer = trained(SyncRule(3, Momentum()), rank, steps=0)
    with pytest.raises(TypeError, match="Save its state_dict"):
        deepcopy(optimizer)


# --- workers that skip a step, and workers that are done ---


def run_out(optimizer, leaf, rank):
    """Rank 1 goes on to a sync more than the others; returns its weights at that sync."""
    for _ in range(7 if rank != 1 else 8):
        step(optimizer, leaf, rank)
    alone = leaf.detach().clone()
    alone -= LR * (alone - target(1))
    for _ in range(0 if rank != 1 else 3):
        step(optimizer, leaf, rank)
    return alone


@pytest.mark.clause("C81")
@pytest.mark.parametrize("way", ["leave", "Join"])
@pytest.mark.parametrize("kind", [MetaOptimizer, StreamingOptimizer])
def test_the_mean_is_of_those_that_go_on_when_a_worker_is_done(kind, way, rank):
    leaf = parameter()
    inner = torch.optim.SGD([leaf], lr=LR)
    optimizer = kind(inner, local_sgd(3), process_group=dist.group.WORLD, check_replicas=True)
    if way == "leave":
        alone = run_out(optimizer, leaf, rank)
        optimizer.leave()
    else:
        with Join([optimizer]):
            alone = run_out(optimizer, leaf, rank)
    with optimizer.slow_weights():
        torch.testing.assert_close(leaf.detach(), gathered(alone)[1], rtol=0, atol=1e-12)
    optimizer.sync()
    assert torch.equal(*gathered(leaf.detach())[:2])


@pytest.mark.clause("C81")
def test_one_that_is_done_follows_a_forced_sync_and_its_work_is_heard(rank):
    leaf, optimizer = trained(local_sgd(100), rank, steps=2)
    optimizer.work = 3.0 if rank == 0 else 1.0
    weights = torch.tensor([3.0 if r == 0 else 1.0 for r in range(dist.get_world_size())])
    mean = weights.double() @ torch.stack(gathered(leaf.detach())) / weights.sum()
    if rank == 1:
        optimizer.sync()
    optimizer.leave()
    torch.testing.assert_close(leaf.detach(), mean, rtol=0, atol=1e-12)


def skipped_by_a_scaler(optimizer, leaf, rank, skips):
    """Unscaled by the optimizer, or nothing but counted."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    loss = (leaf - target(rank)).square().sum() / 2
    scaler.scale(loss).backward()
    if skips:
        leaf.grad.fill_(float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == (2.0 if skips else 4.0)


def without_a_gradient(optimizer, leaf, rank, skips):
    leaf.grad = None if skips else leaf.detach() - target(rank)
    optimizer.step()


@pytest.mark.clause("C03", "C81")
@pytest.mark.filterwarnings("ignore:step.. without a gradient:UserWarning")
@pytest.mark.parametrize("taken", [skipped_by_a_scaler, without_a_gradient])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("kind", [MetaOptimizer, StreamingOptimizer])
def test_a_step_that_one_worker_skips_is_counted(kind, at, taken, rank, size):
    leaf = parameter()
    inner = torch.optim.SGD([leaf], lr=LR)
    optimizer = kind(inner, local_sgd(3), process_group=dist.group.WORLD)
    own = [parameter().detach() for _ in range(size)]
    for number in range(3):
        optimizer.zero_grad()
        taken(optimizer, leaf, rank, skips=number == at and rank == 1)
        own = [
            w if number == at and r == 1 else w - LR * (w - target(r)) for r, w in enumerate(own)
        ]
    mean = torch.stack(own).mean(dim=0)
    torch.testing.assert_close(leaf.detach(), mean, rtol=0, atol=1e-12)


@pytest.mark.clause("C81")
@pytest.mark.parametrize("unscaled", [False, True])
@pytest.mark.parametrize("kind", [MetaOptimizer, StreamingOptimizer])
def test_with_skip_together_all_skip_what_one_skips(kind, unscaled, rank, size):
    leaf = parameter()
    inner = torch.optim.SGD([leaf], lr=LR)
    optimizer = kind(inner, local_sgd(4), process_group=dist.group.WORLD, skip_together=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    own = [parameter().detach() for _ in range(size)]
    for number in range(4):
        optimizer.zero_grad()
        scaler.scale((leaf - target(rank)).square().sum() / 2).backward()
        if number == 1 and rank == 1:
            leaf.grad.fill_(float("inf"))
        if unscaled:  # as to clip gradients
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        own = [w - LR * (w - target(r)) * (number != 1) for r, w in enumerate(own)]
        if number == 1:
            torch.testing.assert_close(leaf.detach(), own[rank], rtol=0, atol=1e-12)
    mean = torch.stack(own).mean(dim=0)
    torch.testing.assert_close(leaf.detach(), mean, rtol=0, atol=1e-12)


def test_a_step_without_a_scaler_on_one_worker_is_named_under_skip_together(rank):
    leaf, optimizer = trained(local_sgd(2), rank, steps=1, skip_together=True)
    leaf.grad = torch.zeros_like(leaf)
    if rank == 0:
        optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(0.0)
    told = r"what is done must .* rank 0 has 'a step that a GradScaler takes', rank 1 has 'a sync'"
    with pytest.raises(ValueError, match=told):
        optimizer.step()


def test_one_that_is_done_is_refused_under_skip_together(rank):
    _, optimizer = trained(local_sgd(2), rank, steps=0, skip_together=True)
    for leaving in (optimizer.leave, partial(Join, [optimizer])):
        with pytest.raises(RuntimeError, match=r"leave\(\) and Join need skip_together"):
            leaving()
