"""Parameters in shards (FSDP2, DTensor): a sync needs no message, and means what it always does."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from lookahead_core import (
    AdaptiveAlpha,
    Interpolate,
    Momentum,
    SyncRule,
    diloco,
    ema,
    lookahead,
    nested,
    slowmo,
)
from lookahead_core.adapters.torch import MetaOptimizer
from sharded_runs import (
    Leaves,
    fully_sharded,
    gathered,
    give_gradients,
    mlp,
    placed_like,
    random,
    whole,
)

# torch's own, when its compiler is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")

STEPS = 7
RULES = {
    "lookahead": lookahead(3, 0.3),
    "reset": lookahead(3, 0.3, "reset"),
    "interpolate": lookahead(3, 0.7, "interpolate"),
    "half way back": SyncRule(3, Interpolate(0.7), restart=0.5, inner_state="reset"),
    "slowmo": slowmo(3, momentum=0.5, slow_lr=0.8),
    "diloco": diloco(3),
    "late start": SyncRule(2, Momentum(), restart=0.5, start=1),
    "ema": ema(0.9),
    "nested": nested(lookahead(2, 0.3), SyncRule(4, Momentum())),
}
INNERS = {
    "sgd": lambda leaves: torch.optim.SGD(leaves, lr=0.1, momentum=0.9),
    "adam": lambda leaves: torch.optim.Adam(leaves, lr=0.1),
}
RUNS = {
    "sgd": (INNERS["sgd"], torch.float32, None),
    "adam": (INNERS["adam"], torch.float32, None),
    "adam, slow float64": (INNERS["adam"], torch.float32, torch.float64),
    # At other rates torch rounds the last few numbers of a list otherwise than the others.
    "bfloat16, slow float32": (
        lambda leaves: torch.optim.SGD(leaves, lr=1.0),
        torch.bfloat16,
        torch.float32,
    ),
}


@pytest.fixture(scope="module")
def mesh():
    return init_device_mesh("cpu", (dist.get_world_size(),))


def sharded(leaves, mesh, dim=0):
    """Parameters with the values of `leaves`, sharded; along their last dimension for dim=-1."""
    return [
        torch.nn.Parameter(distribute_tensor(leaf.detach(), mesh, [Shard(dim % leaf.dim())]))
        for leaf in leaves
    ]


def assert_placed_like_their_parameters(optimizer):
    """Everything of a parameter's shape is in shards that lie where the parameter's do."""
    state = optimizer.state_dict()["state"]
    leaves = [leaf for group in optimizer.param_groups for leaf in group["params"]]
    for number, leaf in enumerate(leaves):
        for key, value in state[number].items():
            if key not in ("step", "lookahead_inner_step", "lookahead_numbers"):
                assert isinstance(value, DTensor), key
                assert (value.device_mesh, value.placements) == (leaf.device_mesh, leaf.placements)


# --- DTensors, and gradients element by element: to the bit ---


@pytest.mark.clause("C02", "C15", "C71", "C72", "C78", "C84")
@pytest.mark.parametrize(
    ("run", "kernel", "dim"),
    [
        ("sgd", "foreach", 0),
        ("adam", "foreach", -1),
        ("bfloat16, slow float32", "foreach", 0),
        ("sgd", "plain", 0),
        ("adam, slow float64", "plain", -1),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_a_run_in_shards_is_the_whole_one_to_the_bit_and_sends_nothing(
    rule, run, kernel, dim, mesh
):
    inner, dtype, slow_dtype = RUNS[run]
    plain = list(Leaves(dtype).parameters())
    shards = sharded(plain, mesh, dim)
    options = {"kernel": kernel, "slow_dtype": slow_dtype}
    one, other = (
        MetaOptimizer(inner(leaves), RULES[rule], **options) for leaves in (plain, shards)
    )
    for step in range(STEPS):
        give_gradients(plain, step)
        give_gradients(shards, step)
        one.step()
        with CommDebugMode() as messages:
            other.step()
        assert messages.get_total_counts() == 0
        assert all(torch.equal(whole(a), b) for a, b in zip(shards, plain, strict=True)), step
    assert_placed_like_their_parameters(other)


@pytest.mark.clause("C06", "C84")
def test_saving_what_has_had_no_gradient_needs_no_other_process(mesh, rank):
    shards = sharded(list(Leaves().parameters()), mesh)
    optimizer = MetaOptimizer(INNERS["adam"](shards), RULES["lookahead"])
    give_gradients(shards, 0)
    shards[0].grad = None
    optimizer.step()
    if rank == 0:  # if it asked the others it would wait for them
        assert set(optimizer.state_dict()["state"]) == {*range(1, len(shards))}


@pytest.mark.clause("C84")
@pytest.mark.world(2)  # a compiler for each process
@pytest.mark.parametrize("rule", ["interpolate", "diloco"])
def test_compiled_syncs_of_shards_send_nothing_either(rule, mesh):
    plain = list(Leaves().parameters())
    shards = sharded(plain, mesh)
    one, other = (
        MetaOptimizer(INNERS["sgd"](leaves), RULES[rule], kernel="compiled")
        for leaves in (plain, shards)
    )
    for step in range(STEPS):
        give_gradients(plain, step)
        give_gradients(shards, step)
        one.step()
        with CommDebugMode() as messages:
            other.step()
        assert messages.get_total_counts() == 0
    for a, b in zip(shards, plain, strict=True):  # two graphs: not to the bit
        torch.testing.assert_close(whole(a), b.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.clause("C05", "C22", "C84")
@pytest.mark.parametrize("kernel", ["foreach", "plain"])
def test_a_forced_sync_and_an_evaluation_of_shards_send_nothing(kernel, mesh):
    shards = sharded(Leaves().parameters(), mesh)
    optimizer = MetaOptimizer(INNERS["adam"](shards), RULES["diloco"], kernel=kernel)
    before = [leaf.detach().clone() for leaf in shards]
    give_gradients(shards, 0)
    optimizer.step()
    moved = [leaf.detach().clone() for leaf in shards]
    with CommDebugMode() as messages:
        with optimizer.slow_weights():
            within = [leaf.detach().clone() for leaf in shards]
        after = [leaf.detach().clone() for leaf in shards]
        optimizer.sync()
    assert messages.get_total_counts() == 0
    for b, w, m, a, leaf in zip(before, within, moved, after, shards, strict=True):
        assert torch.equal(w.to_local(), b.to_local())
        assert torch.equal(a.to_local(), m.to_local())
        assert not torch.equal(whole(leaf), whole(a))


def test_messages_are_counted(mesh):
    """What the tests above find none of."""
    (leaf,) = sharded([torch.ones(4)], mesh)
    with CommDebugMode() as messages:
        leaf.detach().full_tensor()
        dist.all_reduce(torch.ones(1))
    assert messages.get_total_counts() == 2


@pytest.mark.clause("C05")
def test_a_first_step_at_a_rate_of_zero_counts_on_all_processes_alike(mesh, rank):
    # One process has a gradient: torch 2.13 asks each shard alone for `any`.
    (leaf,) = sharded([torch.zeros(8)], mesh)
    optimizer = MetaOptimizer(torch.optim.SGD([leaf], lr=0.0), lookahead(3))
    leaf.grad = placed_like(leaf, torch.eye(8)[0])
    optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["lookahead_count"] == 1


@pytest.mark.clause("C77")
@pytest.mark.parametrize("curvature", ["secant", "inner"])
def test_an_adaptive_alpha_of_shards_is_one_number_for_all(curvature, mesh):
    rule = lookahead(2, AdaptiveAlpha(curvature=curvature))
    other = init_device_mesh("cpu", (dist.get_world_size(), 1), mesh_dim_names=("a", "b"))["a"]
    plain = [torch.nn.Parameter(random((n, 3), n)) for n in (7, 2, 5)]
    mixed = [
        sharded(plain[:1], mesh)[0],
        torch.nn.Parameter(plain[1].detach().clone()),
        sharded(plain[2:], other)[0],
    ]
    bare = [torch.nn.Parameter(leaf.detach().clone()) for leaf in plain]
    inners = [torch.optim.Adam(own, lr=0.8, foreach=False) for own in (plain, mixed, bare)]
    optimizers = [MetaOptimizer(inner, rule) for inner in inners[:2]] + inners[2:]
    for step in range(STEPS):
        for leaf in (*plain, *mixed, *bare):
            leaf.grad = leaf.detach().clone()
        optimizers[0].step()
        optimizers[2].step()
        with CommDebugMode() as messages:
            optimizers[1].step()
        assert messages.get_total_counts() == (4 if step % 2 else 0)  # two sums on each mesh
    assert not torch.equal(plain[0], bare[0])  # some alpha was not 1
    for a, b in zip(mixed, plain, strict=True):
        torch.testing.assert_close(whole(a), b.detach(), rtol=1e-6, atol=1e-6)
    theirs = gathered(mixed[1])
    assert all(torch.equal(t, theirs[0]) for t in theirs)


@pytest.mark.parametrize("rule", ["interpolate", "diloco"])
def test_the_counter_may_be_on_the_device(rule, mesh):
    leaves = sharded(Leaves().parameters(), mesh), sharded(Leaves().parameters(), mesh)
    one, other = (
        MetaOptimizer(INNERS["sgd"](own), RULES[rule], capturable=capturable)
        for own, capturable in zip(leaves, (False, True), strict=True)
    )
    for step in range(STEPS):
        for own, optimizer in zip(leaves, (one, other), strict=True):
            give_gradients(own, step)
            with CommDebugMode() as messages:
                optimizer.step()
            assert messages.get_total_counts() == 0
    for a, b in zip(*leaves, strict=True):
        torch.testing.assert_close(whole(a), whole(b), rtol=1e-6, atol=1e-6)


# --- FSDP2, and DistributedDataParallel: models with a forward pass ---


def batch(step, rank, size):
    """What this process has of the batch, and the batch."""
    x = random((4 * size, 5), step)
    return x[4 * rank : 4 * (rank + 1)], x


def train(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def parameters(optimizer):
    # Not the model's: between a forward and a backward pass those of FSDP2 are other ones.
    return [whole(leaf) for group in optimizer.param_groups for leaf in group["params"]]


@pytest.mark.clause("C02", "C71", "C84")
@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize("rule", RULES)
def test_an_fsdp2_model_trains_as_the_whole_one_on_the_whole_batch(rule, inner, mesh, rank, size):
    model, reference = fully_sharded(mlp(), mesh), mlp()
    one, other = (
        MetaOptimizer(INNERS[inner](m.parameters()), RULES[rule]) for m in (reference, model)
    )
    for step in range(STEPS):
        own, everything = batch(step, rank, size)
        train(reference, one, everything)
        train(model, other, own)
    for a, b in zip(parameters(other), parameters(one), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert_placed_like_their_parameters(other)


@pytest.mark.clause("C22")
@pytest.mark.parametrize("root_reshards", [None, True])
def test_an_fsdp2_model_is_evaluated_on_the_slow_weights_and_trains_on_unchanged(
    root_reshards, mesh, rank, size
):
    models = [fully_sharded(mlp(), mesh, reshard_after_forward=root_reshards) for _ in range(2)]
    optimizers = [MetaOptimizer(INNERS["sgd"](m.parameters()), RULES["lookahead"]) for m in models]
    slow = mlp()  # its weights: those of the last sync
    for step in range(STEPS):
        own, everything = batch(step, rank, size)
        for model, optimizer in zip(models, optimizers, strict=True):
            train(model, optimizer, own)
        model, optimizer = models[1], optimizers[1]
        if (step + 1) % 3 == 0:
            for leaf, value in zip(slow.parameters(), parameters(optimizer), strict=True):
                leaf.data.copy_(value)
        with torch.no_grad(), optimizer.slow_weights():
            told = model(everything)
            if not root_reshards:
                # Its root's weights stay gathered after a forward pass without a backward one.
                model.reshard()
        torch.testing.assert_close(told, slow(everything), rtol=1e-6, atol=1e-6)
        for a, b in zip(*map(parameters, optimizers), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("rule", ["interpolate", "diloco"])
def test_a_data_parallel_model_needs_nothing_and_stays_the_same_everywhere(rule, rank, size):
    model, reference = torch.nn.parallel.DistributedDataParallel(mlp()), mlp()
    one, other = (
        MetaOptimizer(INNERS["adam"](m.parameters()), RULES[rule]) for m in (reference, model)
    )
    for step in range(STEPS):
        own, everything = batch(step, rank, size)
        train(reference, one, everything)
        train(model, other, own)
    for a, b in zip(parameters(other), parameters(one), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        assert all(torch.equal(t, a) for t in gathered(a))
