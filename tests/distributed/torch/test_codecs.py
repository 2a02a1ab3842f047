"""Means that are sent in few bits, and what is left over of them: clause C83."""

import pytest
import torch
import torch.distributed as dist

from lookahead_core import Interpolate, SyncRule, diloco, local_sgd
from lookahead_core.adapters.torch import StreamingOptimizer, TopK
from sharded_runs import gathered
from streaming_runs import Run

CODECS = ["bfloat16", "int8", "int4"]
N = 300


class Sign:
    """Signs, and the mean size of the numbers."""

    def encode(self, values):
        size = values.abs().mean()[None].view(torch.uint8)
        return torch.cat([size, (values > 0).to(torch.uint8)])

    def decode(self, sent, size):
        return sent[:4].view(torch.float32) * (2.0 * sent[4:] - 1)


def drawn(rank, scale=1.0):
    generator = torch.Generator().manual_seed(rank)
    return scale * torch.randn(N, generator=generator)


class Quadratic:
    """A model of N weights that this worker's loss, curvature / 2 * (x - target)^2, pulls at."""

    def __init__(self, rank, rule, *, curvature=1.0, lr=0.1, **options):
        self.leaf = torch.nn.Parameter(torch.zeros(N))
        self.target, self.curvature = drawn(rank), curvature
        inner = torch.optim.SGD([self.leaf], lr=lr)
        self.optimizer = StreamingOptimizer(
            inner, rule, process_group=dist.group.WORLD, check_replicas=True, **options
        )

    def steps(self, number, forget=False):
        for _ in range(number):
            self.leaf.grad = self.curvature * (self.leaf.detach() - self.target)
            self.optimizer.step()
            if forget:
                state = self.optimizer.state_dict()
                state["state"][0].get("lookahead_residual", torch.zeros(1)).zero_()
                self.optimizer.load_state_dict(state)
        return self

    def residual(self):
        return self.optimizer.state_dict()["state"][0]["lookahead_residual"]


def mean(tensor):
    return torch.stack(gathered(tensor)).double().mean(0)


@pytest.mark.clause("C83")
@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("codec", [*CODECS, Sign(), TopK(8, 64)])
def test_what_was_not_sent_is_left_over_and_nothing_is_lost(codec, delay, rank):
    run = Quadratic(rank, local_sgd(4), codec=codec, delay=delay, lr=0.0)
    exact = torch.zeros(N, dtype=torch.float64)
    for cycle in range(1, 6):
        step = drawn(100 * cycle + rank)
        run.steps(3)
        with torch.no_grad():
            run.leaf.sub_(step)
        run.steps(1 + delay)
        with run.optimizer.slow_weights():
            moved = -run.leaf.detach().double()
        exact += mean(step)
        left = torch.stack(gathered(run.residual())).double().sum(0)
        torch.testing.assert_close(moved + left, exact, rtol=0, atol=1e-5)
        run.steps(-delay % 4) if delay else None
    assert (moved - exact).abs().max() > 1e-3


@pytest.mark.clause("C83")
def test_with_feedback_four_bits_come_to_the_optimum_and_without_they_do_not(rank):
    """Of the mean loss, which no worker has alone: their errors do not vanish there."""
    curvature = torch.linspace(0.5, 1, N)

    def distance(codec, forget=False):
        rule = SyncRule(4, Interpolate(0.1))
        run = Quadratic(rank, rule, codec=codec, curvature=curvature, lr=0.3)
        with run.steps(560, forget).optimizer.slow_weights():
            optimum = mean(run.target)
            return float((run.leaf.detach() - optimum).norm() / optimum.norm())

    assert distance(None) < 1e-3
    assert distance("int4") < 0.01
    assert distance("int4", forget=True) > 0.05
    assert distance(TopK(8, 64)) < 0.15
    assert distance(TopK(8, 64), forget=True) > 0.3


class Exact:
    """All bits of a float32."""

    def encode(self, values):
        return values.view(torch.uint8)

    def decode(self, sent, size):
        return sent.view(torch.float32)


@pytest.mark.clause("C83")
def test_sparse_loco_is_its_lines_with_the_mean_cut_as_well(rank, size):
    """Plain SGD outside, error feedback that decays: the numbers that wait are the momentum."""
    k, decay, chunk = 4, 0.9, N // size
    run = Quadratic(rank, local_sgd(3), codec=TopK(k, chunk, Exact(), decay))
    slow, waiting = torch.zeros(N), [torch.zeros(N) for _ in range(size)]

    def cut(numbers):
        kept = torch.zeros_like(numbers)
        places = sorted(range(len(numbers)), key=lambda n: -abs(numbers[n]))[:k]
        kept[places] = numbers[places]
        return kept

    for _ in range(5):
        run.steps(3)
        means = torch.zeros(N)
        for worker in range(size):
            fast = slow
            for _ in range(3):
                fast = fast - 0.1 * (fast - drawn(worker))
            memory = decay * waiting[worker] + (slow - fast) / size
            sent = torch.cat([cut(part) for part in memory.split(chunk)])
            waiting[worker], means = memory - sent, means + sent
        for owner, (begin, part) in enumerate(
            zip(range(0, N, chunk), means.split(chunk), strict=True)
        ):
            waiting[owner][begin : begin + chunk] += part - cut(part)
        slow = slow - torch.cat([cut(part) for part in means.split(chunk)])
        torch.testing.assert_close(run.leaf.detach(), slow, rtol=1e-5, atol=1e-6)


@pytest.mark.clause("C83")
@pytest.mark.parametrize("codec", [*CODECS, Sign()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_all_workers_decode_the_same(dtype, codec, rank):
    rule = diloco(3)
    run = Run(rank, rule, dtype=dtype, codec=codec, fragments=2, check_replicas=True)
    run.to(10).optimizer.sync()
    own = torch.view_as_real(run.leaves[0]) if run.leaves[0].is_complex() else run.leaves[0]
    assert all(torch.equal(theirs, own) for theirs in gathered(own))


@pytest.mark.clause("C83")
def test_numbers_of_every_kind_and_size_travel(rank, size):
    start = [
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(2, 5).t(),
        torch.zeros(()),
        torch.zeros(0),
        torch.zeros(5, dtype=torch.float16),
        torch.zeros(1001, dtype=torch.float64),
    ]
    leaves = [torch.nn.Parameter(leaf) for leaf in start]
    inner = torch.optim.SGD(leaves, lr=1.0)
    group = dist.group.WORLD
    optimizer = StreamingOptimizer(inner, local_sgd(1), process_group=group, codec="bfloat16")
    for number, leaf in enumerate(leaves):
        leaf.grad = torch.full_like(leaf, -(number + 1) * size * (rank + 1))
    optimizer.step()
    total = sum(range(1, size + 1))
    for number, leaf in enumerate(leaves):
        assert torch.equal(leaf, torch.full_like(leaf, (number + 1) * total)), number


@pytest.mark.clause("C83")
def test_of_nothing_at_all_nothing_comes(rank):
    leaf = torch.nn.Parameter(torch.zeros(0, 3))
    inner = torch.optim.SGD([leaf], lr=1.0)
    group = dist.group.WORLD
    optimizer = StreamingOptimizer(inner, local_sgd(1), process_group=group, codec="int4")
    leaf.grad = torch.zeros(0, 3)
    optimizer.step()
    assert leaf.shape == (0, 3)


@pytest.mark.clause("C06", "C83")
def test_the_residual_is_saved_in_float32_beside_its_parameter(rank):
    run = Run(rank, local_sgd(2), dtype=torch.bfloat16, codec="int4", fragments=2).to(4)
    entries = run.optimizer.state_dict()["state"]
    for n, leaf in enumerate(run.leaves):
        residual = entries[n]["lookahead_residual"]
        assert (residual.dtype, residual.shape) == (torch.float32, leaf.shape)
    largest = torch.stack([entries[n]["lookahead_residual"].abs().max() for n in entries]).max()
    assert largest > 0
    assert len({float(theirs) for theirs in gathered(largest)}) > 1


@pytest.mark.clause("C83")
def test_one_without_work_is_not_heard_even_if_it_has_run_away(rank):
    run = Quadratic(rank, local_sgd(2), codec="int4").steps(2)
    run.steps(1)
    run.optimizer.work = float(rank != 0)
    if rank == 0:
        with torch.no_grad():
            run.leaf.fill_(float("nan"))
    run.steps(1)
    assert run.leaf.isfinite().all()
    assert run.residual().isfinite().all()


@pytest.mark.parametrize(
    "encode",
    [lambda values: values, lambda values: values.view(torch.uint8)[None], lambda values: None],
    ids=["dtype", "shape", "kind"],
)
def test_a_codec_that_gives_no_bytes_is_told_so(encode, rank):
    codec = Sign()
    codec.encode = encode
    run = Quadratic(rank, local_sgd(2), codec=codec).steps(1)
    with pytest.raises(ValueError, match=r"codec\.encode must return a 1-D uint8 Tensor"):
        run.steps(1)
