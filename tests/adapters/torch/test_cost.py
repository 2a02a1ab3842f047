"""What a step of the torch adapter launches and allocates. No time is measured here."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.profiler import ProfilerActivity, profile

from lookahead_core import Momentum, SyncRule, ema, schedule_free
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from lookahead_core.adapters.torch._kernels import KERNELS, lists, prepared
from reference_loop import POLICIES
from torch_runs import DOUBLE, assert_same, launched_by, pull_down, single

# torch's own: when its compiler is first imported, and about caches in array-api-compat.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated", "ignore:Dynamo detected a call"
)
LEAF = 1 << 16
FAMILY = [
    SyncRule(100, Momentum()),
    SyncRule(100, Momentum(nesterov=False), restart=0.5),
    SyncRule(100, Momentum(lr=0.0)),
    ema(0.9, sync_period=100),
]


@pytest.fixture(autouse=True)
def graphs_of_its_own():
    """Beyond torch's limit of graphs a step runs as it is written, in more room than a graph takes.

    The limit is the process', and which tests came before in it is not ours to say.
    """
    torch._dynamo.reset()


@pytest.fixture
def on_a_cpu():
    with torch.device("cpu"):
        yield


def peak_of(action):
    """Most bytes that were allocated and not freed at one time, by torch's own allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        action()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def test_the_measure_of_memory_sees_what_is_allocated_inside_an_operation():
    x = torch.ones(1000)
    assert 8000 <= peak_of(lambda: x + (x + 1)) < 9000


# --- launches ---


@pytest.mark.clause("C44")
@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.float32, DOUBLE]], ids=len)
def test_a_sync_launches_twice_for_each_device_and_dtype(dtypes):
    slow, fast = ([torch.zeros(3, dtype=d) for d in dtypes for _ in range(20)] for _ in range(2))
    launched = launched_by(lambda: KERNELS["foreach"].interpolate(slow, fast, 0.5))
    expected = ["_foreach_lerp_", "_foreach_copy_"]
    assert sorted(launched) == sorted(expected * len(dtypes))


@pytest.mark.clause("C44")
def test_a_sync_on_an_accelerator_launches_twice_whatever_the_sizes(monkeypatch):
    monkeypatch.setattr(prepared, "on_cpu", lambda leaf: False)
    weights = [torch.nn.Parameter(torch.ones(size)) for size in (1, 100, LEAF)]
    optimizer = Lookahead(torch.optim.SGD(weights, lr=0.5), 4, 0.5)
    pull_down(optimizer, *weights)
    assert launched_by(optimizer.sync) == ["_foreach_lerp_", "_foreach_copy_"]


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.clause("C44")
@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.float32, DOUBLE]], ids=len)
def test_a_sync_of_small_leaves_on_a_cpu_takes_three_calls_for_each_dtype(dtypes):
    weights = [single(dtype=dtype) for dtype in dtypes for _ in range(20)]
    groups = [{"params": weights[::2], "lr": 1.0}, {"params": weights[1::2], "lr": 2.0}]
    optimizer = Lookahead(torch.optim.SGD(groups), 4, 0.5)
    pull_down(optimizer, *weights)
    launched = launched_by(optimizer.sync)
    assert launched == ["cat", "lerp_", "_foreach_copy_"] * len(dtypes)


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.clause("C44")
def test_an_average_of_small_leaves_on_a_cpu_takes_two_calls():
    weights = [single() for _ in range(20)]
    optimizer = MetaOptimizer(torch.optim.SGD(weights, lr=1.0), ema(0.9))
    pull_down(optimizer, *weights)
    assert launched_by(optimizer.sync) == ["cat", "_foreach_lerp_"]


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.clause("C44")
def test_a_large_leaf_on_a_cpu_is_moved_in_pieces_for_the_cache(monkeypatch):
    monkeypatch.setattr(lists, "CACHED", LEAF // 2)
    weight = torch.nn.Parameter(torch.ones(LEAF))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.5), 4, 0.5)
    pull_down(optimizer, weight)
    written = [name for name in launched_by(optimizer.sync) if name.endswith("_")]
    assert written == ["lerp_", "copy_"] * 2


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.clause("C44")
def test_a_large_leaf_with_wider_slow_weights_goes_in_pieces_for_the_cache(monkeypatch):
    monkeypatch.setattr(lists, "CACHED", LEAF // 8)
    weight = torch.nn.Parameter(torch.ones(LEAF, dtype=torch.bfloat16))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.5), 4, 0.5, slow_dtype=torch.float32)
    pull_down(optimizer, weight)
    assert launched_by(optimizer.sync).count("lerp_") == 8


@pytest.mark.clause("C44")
def test_a_step_of_schedule_free_takes_as_many_calls_for_many_leaves_as_for_few():
    def calls(leaves):
        weights = [single() for _ in range(leaves)]
        groups = [{"params": weights[::2], "lr": 1.0}, {"params": weights[1::2], "lr": 2.0}]
        optimizer = MetaOptimizer(torch.optim.SGD(groups), schedule_free())
        pull_down(optimizer, *weights)
        return launched_by(optimizer.sync)

    assert calls(30) == calls(4)


@pytest.mark.usefixtures("on_a_cpu")
@pytest.mark.clause("C44")
def test_small_leaves_share_the_room_that_a_sync_takes(monkeypatch):
    monkeypatch.setattr(prepared, "ROOM", 64)
    weights = [torch.nn.Parameter(torch.ones(16)) for _ in range(20)]
    optimizer = Lookahead(torch.optim.SGD(weights, lr=0.5), 4, 0.5)
    (part,) = optimizer._parts.parts
    flats = part.prepared.flats.values()
    rooms = {flat.room.data_ptr(): flat.room.untyped_storage().nbytes() for flat in flats}
    assert [*rooms.values()] == [4 * 64]


@pytest.mark.clause("C44")
def test_interpolating_the_inner_state_launches_twice_more(monkeypatch):
    monkeypatch.setattr(prepared, "on_cpu", lambda leaf: False)
    weights = [single() for _ in range(20)]
    inner = torch.optim.SGD(weights, lr=1.0, momentum=0.9)
    optimizer = Lookahead(inner, 4, 0.5, "interpolate")
    pull_down(optimizer, *weights)
    optimizer.sync()
    pull_down(optimizer, *weights)
    assert launched_by(optimizer.sync) == ["_foreach_lerp_", "_foreach_copy_"] * 2


@pytest.mark.clause("C44", "C71")
@pytest.mark.parametrize(
    ("nesterov", "expected"),
    [
        (False, ["_foreach_sub_", "_foreach_mul_", *["_foreach_add_"] * 3]),
        (True, ["_foreach_sub_", *["_foreach_mul_", "_foreach_add_"] * 2, "_foreach_add_"]),
    ],
)
def test_momentum_launches_five_or_six_times_and_the_restart_once(nesterov, expected, monkeypatch):
    monkeypatch.setattr(prepared, "on_cpu", lambda leaf: False)
    weights = [single() for _ in range(20)]
    rule = SyncRule(4, Momentum(0.7, 0.9, nesterov))
    optimizer = MetaOptimizer(torch.optim.SGD(weights, lr=1.0), rule)
    pull_down(optimizer, *weights)
    assert launched_by(optimizer.sync) == [*expected, "_foreach_copy_"]


@pytest.mark.clause("C44", "C72")
def test_an_average_that_nothing_feeds_on_launches_once(monkeypatch):
    monkeypatch.setattr(prepared, "on_cpu", lambda leaf: False)
    weights = [single() for _ in range(20)]
    optimizer = MetaOptimizer(torch.optim.SGD(weights, lr=1.0), ema(0.9))
    pull_down(optimizer, *weights)
    assert launched_by(optimizer.sync) == ["_foreach_lerp_"]


@pytest.mark.clause("C19", "C44")
def test_a_step_that_neither_starts_nor_ends_a_cycle_launches_what_the_inner_one_does():
    ours, bare = single(), single()
    optimizer, inner = Lookahead(torch.optim.Adam([ours]), 4, 0.5), torch.optim.Adam([bare])
    for weight, opt in ((ours, optimizer), (bare, inner)):
        pull_down(opt, weight)
        weight.grad = torch.ones_like(weight)
    assert launched_by(optimizer.step) == launched_by(inner.step)


# --- memory ---


@pytest.mark.clause("C44")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("dtype", "slow_dtype"),
    [(torch.float32, None), (torch.bfloat16, torch.float32), (torch.bfloat16, DOUBLE)],
)
def test_a_sync_and_the_anchor_take_no_more_than_one_leaf(dtype, slow_dtype, policy, kernel):
    weights = [torch.nn.Parameter(torch.ones(LEAF, dtype=dtype)) for _ in range(6)]
    inner = torch.optim.Adam(weights)
    optimizer = Lookahead(inner, 100, 0.3, policy, slow_dtype=slow_dtype, kernel=kernel)
    pull_down(optimizer, *weights)
    optimizer.sync()  # the slow copy of the inner state is there after the first
    leaf = optimizer.state_dict()["state"][0]["lookahead_slow"].nbytes
    assert peak_of(optimizer.sync) <= leaf
    bare = peak_of(inner.step)
    assert peak_of(optimizer.step) <= bare + leaf


@pytest.mark.clause("C44", "C71", "C72")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rule", FAMILY, ids=repr)
@pytest.mark.parametrize(
    ("dtype", "slow_dtype"),
    [(torch.float32, None), (torch.bfloat16, torch.float32), (torch.bfloat16, DOUBLE)],
)
def test_momentum_and_a_restart_take_no_more_than_one_leaf(dtype, slow_dtype, rule, kernel):
    weights = [torch.nn.Parameter(torch.ones(LEAF, dtype=dtype)) for _ in range(6)]
    inner = torch.optim.Adam(weights)
    optimizer = MetaOptimizer(inner, rule, slow_dtype=slow_dtype, kernel=kernel)
    pull_down(optimizer, *weights)
    optimizer.sync()
    leaf = optimizer.state_dict()["state"][0]["lookahead_slow"].nbytes
    assert peak_of(optimizer.sync) <= leaf
    bare = peak_of(inner.step)
    assert peak_of(optimizer.step) <= bare + leaf


@pytest.mark.clause("C44")
def test_a_leaf_that_cannot_be_flattened_takes_no_more_either():
    weight = torch.nn.Parameter(torch.ones(64, LEAF // 64, dtype=torch.bfloat16).t())
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.5), 100, 0.3, slow_dtype=torch.float32)
    pull_down(optimizer, weight)
    assert peak_of(optimizer.sync) <= 4 * LEAF


# --- torch.compile ---


@pytest.mark.parametrize("policy", POLICIES)
def test_a_compiled_step_needs_a_bounded_number_of_graphs_and_stays_exact(policy):
    ours, eager = single(), single()
    optimizer, other = (
        Lookahead(torch.optim.SGD([weight], lr=0.5, momentum=0.9), 3, 0.5, policy)
        for weight in (ours, eager)
    )
    counter = CompileCounter()
    step = torch.compile(optimizer.step, backend=counter)
    graphs = []
    for i in range(15):
        for weight in (ours, eager):
            weight.grad = weight.detach() - i
        step()
        other.step()
        graphs.append(counter.frame_count)
    assert graphs[5:] == [graphs[5]] * 10
    # The inner step in three pieces; a begin and a sync, twice each or with initial values made.
    assert 1 <= graphs[-1] <= 7
    assert_same(ours.detach(), eager.detach())


def test_a_compiled_step_syncs_slow_weights_that_share_storage():
    ours, eager = ([torch.nn.Parameter(torch.full((3,), float(i))) for i in range(4)] for _ in "ab")
    optimizer, other = (Lookahead(torch.optim.SGD(w, lr=0.5), 2, 0.3) for w in (ours, eager))
    step = torch.compile(optimizer.step, backend="aot_eager")
    for _ in range(5):
        for weight in (*ours, *eager):
            weight.grad = weight.detach() - 1
        step()
        other.step()
    assert_same(optimizer.state_dict()["state"], other.state_dict()["state"])
    assert_same(ours, eager)


def test_the_compiled_kernel_makes_one_graph_for_each_branch_whatever_the_alphas():
    torch._dynamo.utils.counters.clear()
    ours, other = single(), single()
    optimizers = [
        Lookahead(torch.optim.SGD([weight], lr=1.0), 1, kernel=kernel)
        for weight, kernel in ((ours, "compiled"), (other, "foreach"))
    ]
    graphs, reached = [], []
    for alpha in (0.5, 0.25, 0.5, 0.25, 1.0, 0.0, 0.75, 0.1, 0.9):
        for optimizer, weight in zip(optimizers, (ours, other), strict=True):
            optimizer.param_groups[0]["lookahead_alpha"] = alpha
            pull_down(optimizer, weight)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        reached.append(ours.item())
    assert graphs == [1, 2, 2, 2, 2, 2, 2, 2, 2]
    assert reached[5] == -2.5
    torch.testing.assert_close(ours, other)
