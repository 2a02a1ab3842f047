"""Fragments that are synced at steps of their own, and behind the steps: clause C82."""

from datetime import timedelta
from io import BytesIO
from math import prod
from weakref import ref

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lookahead_core import (
    AdaptiveAlpha,
    Interpolate,
    Momentum,
    SyncRule,
    diloco,
    local_sgd,
    lookahead,
    slowmo,
)
from lookahead_core.adapters.torch import MetaOptimizer, StreamingOptimizer
from lookahead_core.analysis import peak_traffic
from sharded_runs import folder, gathered
from streaming_runs import LR, SHAPES, Run, target

K, STEPS = 6, 27
RULES = {
    "local sgd": local_sgd(K),
    "lookahead": lookahead(K, 0.4),
    "heavy ball": slowmo(K, momentum=0.5, slow_lr=0.8),
    "nesterov": diloco(K, lr=0.7, momentum=0.9),
    "nesterov, mixed": SyncRule(K, Momentum(0.7, 0.9), restart=0.5),
    "mixed": SyncRule(K, Interpolate(0.9), restart=0.25),
    "a schedule": SyncRule(K, Interpolate(lambda syncs: 1 / (1 + syncs))),
}
OWN = [[0, 3], [1, 2, 4]]  # fragments by the positions of parameters


def simulated(rule, size, fragments, delay):
    """All workers on one process, by plain loops on lists of numbers: nothing of the library's.

    `fragments` are lists of positions in the flat model; fragment p of P is taken at k (p + 1) / P.
    """
    k, outer = rule.sync_period, rule.outer
    number = sum(map(prod, SHAPES))
    targets = [target(worker).tolist() for worker in range(size)]
    slow = torch.linspace(-1, 1, number, dtype=torch.float64).tolist()
    fast = [list(slow) for _ in range(size)]
    velocity = [[0.0] * number for _ in range(size)]
    buffer = [0.0] * number
    syncs = [0] * len(fragments)
    due = {}
    for step in range(1, STEPS + 1):
        for w in range(size):
            for i in range(number):
                velocity[w][i] = 0.9 * velocity[w][i] + fast[w][i] - targets[w][i]
                fast[w][i] -= LR * velocity[w][i]
        for p, members in enumerate(fragments):
            if (step - k * (p + 1) // len(fragments)) % k == 0 and step >= k // len(fragments):
                mean = {i: sum(slow[i] - f[i] for f in fast) / size for i in members}
                due[p] = step + delay, mean
        for p, (when, mean) in list(due.items()):
            if when != step:
                continue
            del due[p]
            for i, d in mean.items():
                if isinstance(outer, Interpolate):
                    alpha = outer.alpha(syncs[p]) if callable(outer.alpha) else outer.alpha
                    slow[i] -= alpha * d
                else:
                    buffer[i] = outer.momentum * buffer[i] + d
                    ahead = d + outer.momentum * buffer[i] if outer.nesterov else buffer[i]
                    slow[i] -= outer.lr * ahead
                for w in range(size):
                    fast[w][i] += rule.restart * (slow[i] - fast[w][i])
            syncs[p] += 1
    return slow, fast


def positions(fragments):
    """Positions in the flat model of the parameters of each fragment."""
    begins = [sum(map(prod, SHAPES[:n])) for n in range(len(SHAPES) + 1)]
    return [[i for n in own for i in range(begins[n], begins[n + 1])] for own in fragments]


@pytest.mark.clause("C82")
@pytest.mark.parametrize("delay", [0, 1, 2, K - 1])
@pytest.mark.parametrize("fragments", [[[0, 1, 2, 3, 4]], OWN, [[4], [0], [2], [1], [3]]], ids=len)
@pytest.mark.parametrize("name", RULES)
def test_it_is_a_simulation_of_it_on_one_process(name, fragments, delay, rank, size):
    run = Run(rank, RULES[name], positions=fragments, delay=delay, check_replicas=True).to(STEPS)
    slow, fast = simulated(RULES[name], size, positions(fragments), delay)
    assert run.flat() == pytest.approx(fast[rank], rel=1e-12, abs=1e-12)
    if delay or len(fragments) > 1:  # else a cycle has ended, and the slow weights are the fast
        with run.optimizer.slow_weights():
            assert run.flat() == pytest.approx(slow, rel=1e-12, abs=1e-12)


# --- what it is without fragments, and what the others have in common ---


@pytest.mark.clause("C82")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*RULES, "every second"])
def test_one_fragment_at_once_and_as_it_is_is_a_meta_optimizer_to_the_bit(name, dtype, rank):
    every_second = SyncRule(K, Momentum(0.7, 0.5), restart_period=2)
    rule = {**RULES, "every second": every_second}[name]
    runs = [
        Run(rank, rule, kind=kind, dtype=dtype, slow_dtype=torch.float32)
        for kind in (MetaOptimizer, StreamingOptimizer)
    ]
    for step in range(1, STEPS):
        for run in runs:
            run.optimizer.work += 1 + rank * step
            run.step()
            if step == 2 * K + 2:
                run.optimizer.sync()
        one, other = (slow_weights(run) for run in runs)
        assert runs[0].flat() == runs[1].flat()
        assert one == other


def slow_weights(run):
    with run.optimizer.slow_weights():
        return run.flat()


@pytest.mark.clause("C22", "C82")
@pytest.mark.parametrize("codec", [None, "int4"])
@pytest.mark.parametrize("restart", [1.0, 0.5])
def test_all_workers_have_the_same_slow_weights_after_every_step(restart, codec, rank):
    rule = SyncRule(K, Momentum(0.7, 0.9), restart=restart)
    run = Run(rank, rule, fragments=3, delay=1, codec=codec, dtype=torch.float32)
    for _ in range(2 * K):
        run.step()
        fast = run.flat()
        slow = torch.tensor(slow_weights(run), dtype=torch.float64)
        assert run.flat() == fast
        assert all(torch.equal(theirs, slow) for theirs in gathered(slow))
    assert len({tuple(theirs.tolist()) for theirs in gathered(torch.tensor(fast))}) > 1


@pytest.mark.clause("C82")
@pytest.mark.parametrize("saved", [False, True])
def test_work_weighs_a_fragment_by_what_was_done_since_it_was_taken(saved, rank):
    run = Run(rank, SyncRule(4, Interpolate(1.0)), positions=OWN, delay=1)
    since = [0.0, 0.0]
    expected = None
    for step in range(1, 12):
        done = step * step if rank == 0 else 1
        since = [own + done for own in since]
        run.optimizer.work += done
        run.step()
        if saved:
            run.optimizer.load_state_dict(run.optimizer.state_dict())
        if expected is not None:
            arrived, means = expected
            slow = slow_weights(run)
            assert [slow[i] for i in arrived] == pytest.approx(means, rel=1e-12)
            expected = None
        if step % 2 == 0:  # the one is taken at 2, 6, 10, the other at 4, 8
            fragment = 0 if step % 4 else 1
            weights = torch.stack(gathered(torch.tensor(since[fragment], dtype=torch.float64)))
            fast = torch.stack(gathered(torch.tensor(run.flat(), dtype=torch.float64)))
            means = weights @ fast / weights.sum()
            own = positions(OWN)[fragment]
            expected = own, [float(means[i]) for i in own]
            since[fragment] = 0.0


@pytest.mark.clause("C05", "C82")
def test_a_forced_sync_applies_what_is_on_its_way_and_takes_the_rest(rank, size, messages):
    run = Run(rank, SyncRule(K, Interpolate(1.0)), positions=OWN, delay=2).to(4)
    plain = Run(rank, SyncRule(100), kind=MetaOptimizer)
    means = [
        torch.stack(gathered(torch.tensor(plain.to(step).flat(), dtype=torch.float64))).mean(0)
        for step in (3, 4)
    ]
    run.optimizer.sync()
    for own, mean in zip(positions(OWN), means, strict=True):
        assert [run.flat()[i] for i in own] == pytest.approx([float(mean[i]) for i in own])
    assert slow_weights(run) == run.flat()
    steps = []
    for step in range(5, 17):
        del messages[:]
        run.step()
        steps += [step] if any(name == "all_reduce" for name, _ in messages) else []
    assert steps == [7, 10, 13, 16]
    assert size > 1


@pytest.mark.clause("C26", "C82")
@pytest.mark.parametrize("saved", [False, True])
def test_weights_edited_between_two_cycles_of_a_fragment_are_its_slow_weights(saved, rank):
    run = Run(rank, lookahead(K, 0.5), positions=OWN).to(3)
    if saved:
        run.optimizer.load_state_dict(run.optimizer.state_dict())
    with torch.no_grad():
        for leaf in run.leaves:
            leaf.zero_()
    first, second = positions(OWN)
    for _ in range(2):  # before the next step, and after it
        slow = slow_weights(run)
        assert [slow[i] for i in first] == [0.0] * len(first)  # its cycle had ended
        assert all(slow[i] != 0 for i in second)
        run.step()


@pytest.mark.clause("C27", "C82")
@pytest.mark.parametrize("codec", [None, "int8"])
def test_a_frozen_fragment_is_left_alone(codec, rank):
    run = Run(rank, lookahead(K, 0.5), positions=OWN, delay=1, codec=codec)
    for n in OWN[0]:
        run.leaves[n].requires_grad_(False)
        run.leaves[n].grad = None
    before = [run.leaves[n].clone() for n in OWN[0]]
    for _ in range(2 * K):
        for n in OWN[1]:
            run.leaves[n].grad = torch.ones_like(run.leaves[n])
        run.optimizer.step()
    assert all(torch.equal(run.leaves[n], b) for n, b in zip(OWN[0], before, strict=True))


def test_an_alpha_of_a_group_holds_in_all_its_fragments(rank):
    def one(kind, **options):
        run = Run(rank, lookahead(K, 0.5), kind=kind, groups=[[0, 1], [2, 3, 4]], **options)
        run.optimizer.param_groups[1]["lookahead_alpha"] = 0.25
        return run

    plain, run = one(MetaOptimizer), one(StreamingOptimizer, positions=[[4, 0], [1, 3, 2]])
    second = positions([[4, 0], [1, 3, 2]])[1]
    ends, slow = slow_weights(plain.to(K)), slow_weights(run.to(K))
    # Not to the bit: a sum over workers has another order at another place of a message.
    assert [slow[i] for i in second] == pytest.approx([ends[i] for i in second], rel=1e-12)


@pytest.mark.world(4)
@pytest.mark.clause("C82")
@pytest.mark.parametrize("codec", [None, "bfloat16"])
def test_shards_of_a_model_are_synced_as_the_whole_is(codec):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("workers", "shards"))
    group = mesh.get_group("workers")

    def trained(shard):
        torch.manual_seed(0)
        # In float64: in float32 a last bit may make another bfloat16 of a number.
        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)).double()
        if shard:
            fully_shard(model, mesh=mesh["shards"])
        inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        options = {"fragments": 3, "delay": 1, "codec": codec, "check_replicas": True}
        optimizer = StreamingOptimizer(inner, diloco(4), process_group=group, **options)
        own = torch.Generator().manual_seed(dist.get_rank(group))
        data = torch.randn(8, 4, generator=own, dtype=torch.float64)
        for step in range(14):
            if shard and step == 8:  # one fragment is on its way
                optimizer.load_state_dict(optimizer.state_dict())
            optimizer.zero_grad()
            model(data).square().mean().backward()
            optimizer.step()
        return [leaf.full_tensor() if shard else leaf for leaf in model.parameters()]

    for sharded, whole in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(sharded.detach(), whole.detach(), rtol=1e-9, atol=1e-9)


# --- what is sent ---


@pytest.mark.clause("C82")
@pytest.mark.parametrize(("codec", "bits"), [(None, 32), ("bfloat16", 16), ("int4", 4.25)])
@pytest.mark.parametrize("fragments", [1, 4])
def test_the_peak_is_that_of_the_formula(fragments, codec, bits, size, messages):
    leaves = [torch.nn.Parameter(torch.zeros(1 << 12)) for _ in range(8)]
    inner = torch.optim.SGD(leaves, lr=1.0)
    optimizer = StreamingOptimizer(
        inner, local_sgd(4), process_group=dist.group.WORLD, fragments=fragments, codec=codec
    )
    sent = []
    for _ in range(8):
        for leaf in leaves:
            leaf.grad = torch.ones_like(leaf)
        del messages[:]
        optimizer.step()
        agreement = [own for own in messages if own == ("all_gather", 32)]
        assert len(agreement) == (len(messages) > 0)
        sent.append(sum(on_the_wire(*own, size) for own in messages if own not in agreement))
    assert max(sent) == peak_traffic(8 << 12, size, bits, fragments)
    assert sum(sent) == 2 * peak_traffic(8 << 12, size, bits)


def on_the_wire(name, given, size):
    """Bytes that a ring sends for what a collective is given."""
    others = size - 1
    return {
        "all_reduce": 2 * others / size * given,
        "all_to_all_single": others / size * given,
        "all_gather": others * given,
    }[name]


@pytest.mark.clause("C82")
@pytest.mark.parametrize("codec", [None, "int4"])
def test_a_delay_is_two_messages_far_apart(codec, rank, messages):
    run = Run(rank, local_sgd(K), delay=4, codec=codec)
    found = {}
    for step in range(1, 2 * K + 1):
        del messages[:]
        run.step()
        found[step] = [name for name, given in messages if (name, given) != ("all_gather", 32)]
    halves = {6: ["all_to_all_single"], 8: ["all_gather"], 12: ["all_to_all_single"]}
    plain = {6: ["all_reduce"], 12: ["all_reduce"]}
    expected = plain if codec is None else halves
    assert {step: names for step, names in found.items() if names} == expected


# --- checkpoints ---


def copied(run, rule, **options):
    """A new worker that goes on where `run` is, by way of a file."""
    file = BytesIO()
    torch.save([run.optimizer.state_dict(), [leaf.detach() for leaf in run.leaves]], file)
    file.seek(0)
    state, weights = torch.load(file)
    again = Run(run.rank, rule, dtype=weights[0].dtype, **options)
    with torch.no_grad():
        for leaf, value in zip(again.leaves, weights, strict=True):
            leaf.copy_(value)
    again.optimizer.load_state_dict(state)
    again.steps = run.steps
    return again


@pytest.mark.clause("C06", "C82", "C83")
@pytest.mark.parametrize("codec", [None, "bfloat16", "int4"])
@pytest.mark.parametrize("delay", [0, 1, 3, K - 1])
def test_a_saved_state_resumes_exactly_at_every_step(delay, codec, rank):
    rule = SyncRule(K, Momentum(0.7, 0.9), restart=0.5)
    options = {"positions": OWN, "delay": delay, "codec": codec, "check_replicas": True}
    run = Run(rank, rule, dtype=torch.float32, **options)
    undisturbed = Run(rank, rule, dtype=torch.float32, **options).to(3 * K + 2).flat()
    for step in range(2 * K + 1):
        again = copied(run.to(step), rule, **options)
        assert again.to(3 * K + 2).flat() == undisturbed
    assert run.to(3 * K + 2).flat() == undisturbed


@pytest.mark.clause("C06", "C82")
@pytest.mark.parametrize("codec", [None, "int8"])
def test_one_worker_may_save_alone(codec, rank):
    options = {"positions": OWN, "delay": 3, "codec": codec}
    undisturbed = Run(rank, diloco(K), **options).to(3 * K).flat()
    run = Run(rank, diloco(K), **options)
    for _ in range(3 * K):
        run.step()
        if rank == 0:
            run.optimizer.state_dict()
    assert run.flat() == undisturbed


@pytest.mark.clause("C06", "C82")
def test_a_run_of_a_meta_optimizer_goes_on_in_fragments(rank):
    rule = lookahead(K, 0.5)
    plain = Run(rank, rule, kind=MetaOptimizer).to(K + 2)
    run = copied(plain, rule, positions=OWN)
    assert slow_weights(run) == slow_weights(plain)
    ends = slow_weights(plain.to(2 * K))
    second = positions(OWN)[1]
    slow = slow_weights(run.to(2 * K))
    assert [slow[i] for i in second] == pytest.approx([ends[i] for i in second], rel=1e-12)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"positions": [[0], [1, 2, 3, 4]]}, r"made with fragments=\[0, 1, 1, 0, 1\]"),
        ({"positions": OWN, "delay": 2}, "made with delay=3, this optimizer has delay=2"),
        ({"positions": OWN, "delay": 3, "codec": "int4"}, "made with codec='int8'"),
    ],
    ids=["fragments", "delay", "codec"],
)
def test_a_checkpoint_of_other_settings_is_refused(other, told, rank):
    run = Run(rank, diloco(K), positions=OWN, delay=3, codec="int8").to(K)
    again = Run(rank, diloco(K), **{"delay": 3, "codec": "int8", **other})
    with pytest.raises(ValueError, match=told):
        again.optimizer.load_state_dict(run.optimizer.state_dict())


@pytest.mark.parametrize("name", ["resting", "syncs", "work", "under_way", "halfway", "member"])
def test_a_checkpoint_that_was_cut_short_is_refused(name, rank):
    run = Run(rank, diloco(K), positions=OWN, delay=3, codec="int8").to(K)
    state = run.optimizer.state_dict()
    for group in state["param_groups"]:
        del group[f"lookahead_streaming_{name}"]
    with pytest.raises(ValueError, match=f"must have 'lookahead_streaming_{name}'.*got None"):
        run.optimizer.load_state_dict(state)


def test_saving_leaves_nothing_behind(rank):
    run = Run(rank, diloco(K), positions=OWN, delay=3).to(K)
    arriving = ref(run.optimizer.state_dict()["state"][1]["lookahead_arriving"])
    assert arriving() is not None
    run.to(K + 3)
    assert arriving() is None


def test_a_meta_optimizer_refuses_a_checkpoint_of_fragments(rank):
    run = Run(rank, diloco(K), positions=OWN, delay=3).to(K)
    again = Run(rank, diloco(K), kind=MetaOptimizer)
    with pytest.raises(ValueError, match="StreamingOptimizer made it"):
        again.optimizer.load_state_dict(run.optimizer.state_dict())


def test_a_part_of_an_encoded_mean_is_for_the_worker_that_saved_it(rank, size):
    run = Run(rank, diloco(K), positions=OWN, delay=3, codec="int8").to(K)
    states = [None] * size
    dist.all_gather_object(states, run.optimizer.state_dict())
    told = f"must be loaded by worker {(rank + 1) % size} of {size}, got worker {rank}"
    with pytest.raises(ValueError, match=told):
        run.optimizer.load_state_dict(states[(rank + 1) % size])


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"process_group": None}, "process_group must be .*got None"),
        ({"delay": K}, f"delay must be below sync_period={K} .*got {K}"),
        ({"delay": -1}, "delay must be an int >= 0"),
        ({"fragments": 0}, "fragments must be an int >= 1"),
        ({"fragments": 6}, r"no more than sync_period \(6\) and parameters \(5\), got 6"),
        ({"fragments": "two"}, "fragments must be an int >= 1"),
        ({"positions": [[0, 1], [2, 3]]}, r"must have every parameter, got none for \[4\]"),
        ({"positions": [[0, 1, 2], [2, 3, 4]]}, "no parameter in two of them"),
        ({"positions": [[0, 1, 2, 3, 4], []]}, "lists that are not empty"),
        ({"fragments": [[torch.zeros(2)]]}, "fragments must be lists of parameters of the inner"),
        ({"codec": "int3"}, "codec must be None, one of 'bfloat16', 'int8', 'int4', or have"),
        ({"codec": Exception}, "codec must be None"),
    ],
)  # fmt: skip
def test_arguments_of_another_kind_are_refused(options, told, rank):
    with pytest.raises(ValueError, match=told):
        Run(rank, lookahead(K), **options)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (lookahead(K, inner_state="reset"), "rule must have inner_state='maintain'"),
        (lookahead(K, AdaptiveAlpha()), "a rule for many workers must not ask for gradients"),
        ("lookahead", "rule must be a SyncRule"),
    ],
    ids=["policy", "gradients", "kind"],
)
def test_rules_without_fragments_are_refused(rule, told, rank):
    with pytest.raises(ValueError, match=told):
        Run(rank, rule, fragments=2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (lambda rank: {"delay": rank}, "delay must be the same .* rank 0 has 0, rank 1 has 1"),
        (lambda rank: {"fragments": 1 + rank}, "fragments must be the same on all workers"),
        (lambda rank: {"codec": "int4" if rank else None}, "codec must be the same"),
    ],
    ids=["delay", "fragments", "codec"],
)
def test_workers_with_other_settings_are_refused_at_the_start(options, told, rank):
    with pytest.raises(ValueError, match=told):
        Run(rank, lookahead(K), **options(rank))


def test_a_period_of_a_group_is_refused_before_anything_moves(rank):
    run = Run(rank, lookahead(K), positions=OWN).to(2)
    run.optimizer.param_groups[0]["lookahead_sync_period"] = 3
    before = run.flat()
    with pytest.raises(ValueError, match=r"lookahead_sync_period .* must be the rule's .*got 3"):
        run.step()
    assert run.flat() == before


def test_new_groups_are_refused(rank):
    run = Run(rank, lookahead(K))
    with pytest.raises(RuntimeError, match="make a new StreamingOptimizer"):
        run.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})


def test_a_worker_that_does_not_send_on_is_an_error_before_anything_moves(rank):
    group = dist.new_group(timeout=timedelta(seconds=60))
    options = {"process_group": group, "timeout": timedelta(seconds=1), "codec": "int4"}
    run = Run(rank, lookahead(K), delay=2, **options).to(K + 1 if rank == 0 else K)
    if rank == 0:
        run.step_is_refused(RuntimeError, r"rank 0 waited .* timeout=0:00:01")
    dist.barrier()


@pytest.mark.parametrize("action", ["step", "sync"])
def test_a_worker_whose_replica_has_come_apart_is_named(action, rank):
    run = Run(rank, SyncRule(K, Momentum(), restart=0.5), positions=OWN, check_replicas=True).to(K)
    state = run.optimizer.state_dict()
    if rank == 1:
        state["state"][0]["lookahead_slow"][1] += 1
    run.optimizer.load_state_dict(state)
    run.to(K + 2)
    with pytest.raises(ValueError, match="those of rank 1 are not those of rank 0"):
        run.step() if action == "step" else run.optimizer.sync()


@pytest.mark.clause("C06", "C82", "C83")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # with no_dist
@pytest.mark.parametrize("codec", [None, "int4"])
@pytest.mark.parametrize("saved_at", [4, 9])
def test_torch_distributed_checkpoint_has_what_is_on_its_way(codec, saved_at, rank, tmp_path):
    def made():
        run = Run(rank, RULES["nesterov"], positions=OWN, delay=2, codec=codec, dtype=torch.float32)
        return run, torch.nn.ParameterList(run.leaves)

    run, model = made()
    run.to(saved_at)
    assert run.optimizer._parts.flights
    place = folder(tmp_path, f"worker-{rank}")
    for leaf in run.leaves:
        leaf.grad = None
    state = [model.state_dict(), get_optimizer_state_dict(model, run.optimizer)]
    dcp.save({"model": state[0], "optimizer": state[1]}, checkpoint_id=place, no_dist=True)
    again, model = made()
    state = {"model": model.state_dict()}
    state["optimizer"] = get_optimizer_state_dict(model, again.optimizer)
    dcp.load(state, checkpoint_id=place, no_dist=True)
    model.load_state_dict(state["model"])
    set_optimizer_state_dict(model, again.optimizer, state["optimizer"])
    for _ in range(9):
        run.step()
        again.step()
    assert again.flat() == run.flat()


@pytest.mark.world(2)
@pytest.mark.clause("C06", "C82")
@pytest.mark.parametrize("saved_at", [2, 3])
def test_a_full_state_has_what_is_on_its_way(saved_at, rank):
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("workers", "shards"))
    full = StateDictOptions(full_state_dict=True)

    def made():
        torch.manual_seed(0)
        model = fully_shard(torch.nn.Linear(3, 1), mesh=mesh["shards"])
        inner = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
        group = mesh.get_group("workers")
        return model, StreamingOptimizer(
            inner, diloco(4), process_group=group, fragments=2, delay=1, codec="int4"
        )

    def to(steps, model, optimizer):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.full((2, 3), 1.0 + rank)).square().mean().backward()
            optimizer.step()
        optimizer.zero_grad()

    model, optimizer = made()
    to(saved_at, model, optimizer)
    saved = get_state_dict(model, optimizer, options=full)
    again, resumed = made()
    set_state_dict(
        again, resumed, model_state_dict=saved[0], optim_state_dict=saved[1], options=full
    )
    assert len(resumed._parts.flights) == len(optimizer._parts.flights) == 3 - saved_at
    for own in ((model, optimizer), (again, resumed)):
        to(6, *own)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours.to_local(), theirs.to_local())


def test_a_state_is_to_be_had_after_its_group_is_gone(rank):
    run = Run(rank, RULES["nesterov"]).to(3)
    # As destroy_process_group() leaves it; the tests after this one need their group.
    group, dist.group.WORLD = dist.group.WORLD, None
    try:
        assert not dist.is_initialized()
        saved = run.optimizer.state_dict()["param_groups"][0]
    finally:
        dist.group.WORLD = group
    assert saved["lookahead_streaming_member"] == [rank, dist.get_world_size()]
