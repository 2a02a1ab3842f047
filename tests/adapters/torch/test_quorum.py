"""Workers that come and go (C94), against plain loops: who is in which mean is up to the test."""

import threading
import time
from copy import deepcopy
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from lookahead_core import SyncRule, diloco, lookahead, snoo
from lookahead_core.adapters.torch import Buffers, MetaOptimizer, Quorum, StreamingOptimizer
from lookahead_core.adapters.torch._workers import quorum as exchange

PERIOD, LR = 3, 0.1
TARGETS = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([4.0, 0.5, -1.0]), torch.ones(3)]


class Worker:
    """A weight that each worker draws to a target of its own."""

    def __init__(self, store, rank, size=2, rule=None, start=5.0, check=True, **options):
        options = {"quorum": 1, "window": timedelta(0), "timeout": timedelta(seconds=20), **options}
        self.quorum = Quorum(store, rank, size, **options)
        self.leaf = torch.nn.Parameter(torch.full((3,), start, dtype=torch.float64))
        self.rule = diloco(PERIOD) if rule is None else rule
        inner = torch.optim.SGD([self.leaf], lr=LR)
        self.optimizer = MetaOptimizer(
            inner, self.rule, process_group=self.quorum, check_replicas=check
        )

    def steps(self, number, work=0.0):
        for _ in range(number):
            self.leaf.grad = self.leaf.detach() - TARGETS[self.quorum.rank]
            self.optimizer.work += work
            self.optimizer.step()

    def cycle(self, **work):
        self.steps(PERIOD, **work)

    def slow(self):
        with self.optimizer.slow_weights():
            return self.leaf.detach().clone()


class PlainLoop:
    """DiLoCo of the paper, by who is in each mean."""

    def __init__(self):
        self.slow, self.momentum = torch.full((3,), 5.0, dtype=torch.float64), 0.0

    def done(self, rank, steps=PERIOD):
        """What a worker does from the slow weights on."""
        fast = self.slow
        for _ in range(steps):
            fast = fast - LR * (fast - TARGETS[rank])
        return self.slow - fast

    def sync(self, *done, weights=None):
        weights = [1.0] * len(done) if weights is None else weights
        mean = sum(w * d for w, d in zip(weights, done, strict=True)) / sum(weights)
        self.momentum = 0.9 * self.momentum + mean
        self.slow = self.slow - 0.7 * (mean + 0.9 * self.momentum)
        return self.slow


def at_once(*workers, **work):
    """A cycle of each, all at the same time."""
    threads = [threading.Thread(target=worker.cycle, kwargs=work) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A second for each worker that does not make the mean is long for a test."""
    monkeypatch.setattr(exchange, "PATIENCE", 0.05)


@pytest.fixture(params=["HashStore", "FileStore", "TCPStore"])
def store(request, tmp_path):
    if request.param == "HashStore":
        return dist.HashStore()
    if request.param == "FileStore":
        return dist.FileStore(str(tmp_path / "store"), -1)
    return dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


@pytest.mark.parametrize("piece", [1 << 22, 64])
@pytest.mark.clause("C94")
def test_workers_that_come_in_time_do_what_the_group_does(store, piece, monkeypatch):
    monkeypatch.setattr(exchange, "PIECE", piece)
    one, other = (Worker(store, rank, quorum=2) for rank in range(2))
    plain = PlainLoop()
    for sync in range(3):
        at_once(one, other)
        plain.sync(plain.done(0), plain.done(1))
        close(one.slow(), plain.slow)
        assert torch.equal(one.slow(), other.slow())
        assert one.quorum.heard(sync) == [0, 1]


@pytest.mark.clause("C94")
def test_a_late_worker_has_the_same_weights_and_its_work_is_in_the_next_mean():
    store = dist.HashStore()
    one, late = Worker(store, 0), Worker(store, 1)
    plain = PlainLoop()
    owed = plain.done(1)
    late.steps(1)
    one.cycle()  # alone
    close(one.slow(), plain.sync(plain.done(0)))
    late.steps(PERIOD - 1)
    assert torch.equal(late.slow(), one.slow())
    late.steps(1)  # it has gone on: what it did too late is said before it comes again
    second = plain.done(1)
    one.cycle()
    close(one.slow(), plain.sync(plain.done(0), owed))
    assert one.quorum.heard(1) == [0, 1]
    late.steps(PERIOD - 1)
    assert torch.equal(late.slow(), one.slow())
    # In time now, with two cycles that nobody has heard of, and one of the other worker.
    waits = timedelta(seconds=10)
    late.quorum.window = one.quorum.window = waits
    third = plain.done(1), plain.done(0)
    at_once(one, late)
    close(one.slow(), plain.sync(second, *third))
    assert torch.equal(late.slow(), one.slow())
    at_once(one, late)
    close(late.slow(), plain.sync(plain.done(0), plain.done(1)))  # nothing was heard twice


@pytest.mark.clause("C94")
def test_a_worker_that_is_far_behind_comes_to_the_last_sync_at_once():
    store = dist.HashStore()
    one, late = Worker(store, 0), Worker(store, 1)
    late.steps(1)
    for _ in range(4):
        one.cycle()
    late.steps(PERIOD - 1)
    assert torch.equal(late.slow(), one.slow())
    saved, others = (worker.optimizer.state_dict()["state"][0] for worker in (late, one))
    assert torch.equal(saved["lookahead_outer_0"], others["lookahead_outer_0"])


@pytest.mark.clause("C94")
def test_by_work_where_anybody_says_some_and_nan_of_nobody_is_not_heard():
    store = dist.HashStore()
    one, other = (Worker(store, rank, quorum=2) for rank in range(2))
    plain = PlainLoop()
    threads = [
        threading.Thread(target=one.cycle, kwargs={"work": 1.0}),
        threading.Thread(target=other.cycle, kwargs={"work": 3.0}),
    ]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    close(one.slow(), plain.sync(plain.done(0), plain.done(1), weights=[1, 3]))
    with torch.no_grad():
        other.steps(1)
        other.leaf.fill_(torch.nan)
    threads = [
        threading.Thread(target=one.cycle, kwargs={"work": 1.0}),
        threading.Thread(target=other.steps, args=(PERIOD - 1,)),
    ]
    [thread.start() for thread in threads]
    [thread.join(30) for thread in threads]
    close(one.slow(), plain.sync(plain.done(0)))
    assert torch.equal(other.slow(), one.slow())


@pytest.mark.clause("C94")
def test_a_worker_comes_back_with_the_checkpoint_of_any_other():
    store = dist.HashStore()
    one, killed = Worker(store, 0), Worker(store, 1)
    one.cycle()
    saved = deepcopy(one.optimizer.state_dict())
    weights = one.leaf.detach().clone()
    for _ in range(3):
        one.cycle()
    del killed
    back = Worker(store, 1, start=77.0)
    close(back.leaf.detach(), torch.full((3,), 5.0, dtype=torch.float64))  # as all have started
    with torch.no_grad():
        back.leaf.copy_(weights)
    back.optimizer.load_state_dict(saved)
    back.steps(1)  # whose gradient is of weights that are no more
    assert torch.equal(back.slow(), one.slow())
    assert torch.equal(back.leaf.detach(), back.slow())
    back.quorum.window = one.quorum.window = timedelta(seconds=10)
    plain = PlainLoop()
    for _ in range(4):
        plain.sync(plain.done(0))
    other = threading.Thread(target=back.steps, args=(PERIOD - 1,))
    other.start()
    one.cycle()
    other.join(30)
    assert one.quorum.heard(4) == [0, 1]
    close(back.slow(), plain.sync(plain.done(0), plain.done(1, PERIOD - 1)))
    assert torch.equal(back.slow(), one.slow())


def test_one_that_is_too_far_behind_is_told_to_load_a_newer_checkpoint():
    store = dist.HashStore()
    one, behind = (Worker(store, rank, keep=2) for rank in range(2))
    for _ in range(3):
        one.cycle()
    with pytest.raises(RuntimeError, match=r"worker 1 is at sync 0, .*\(keep=2\): load a newer"):
        behind.cycle()


def test_without_a_quorum_nobody_waits_for_ever_and_the_sync_is_still_due():
    store = dist.HashStore()
    short = {"quorum": 2, "timeout": timedelta(seconds=0.1)}
    one, other = (Worker(store, rank, size=3, **short) for rank in range(2))
    plain = PlainLoop()
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match=r"no quorum of 2 came within timeout=0:00:00.1.*\[0\]"):
        one.cycle()
    assert time.monotonic() - begin < 5
    # What it has said counts, although it has gone: the other one is the second.
    other.cycle()
    close(other.slow(), plain.sync(plain.done(0), plain.done(1)))
    one.optimizer.sync()
    assert torch.equal(one.slow(), other.slow())


def test_nobody_waits_for_one_that_has_left():
    store = dist.HashStore()
    one, other = (Worker(store, rank, window=timedelta(hours=1)) for rank in range(2))
    other.optimizer.leave()
    begin = time.monotonic()
    one.cycle()
    assert time.monotonic() - begin < 5
    with pytest.raises(RuntimeError, match="with a Quorum call leave"):
        _ = one.optimizer.join_process_group


@pytest.mark.clause("C94")
def test_the_next_worker_makes_the_mean_if_the_first_is_killed_before_it_does(monkeypatch):
    store = dist.HashStore()
    killed, one = (Worker(store, rank, quorum=2) for rank in range(2))

    def die(*arguments):
        raise InterruptedError

    monkeypatch.setattr(killed.quorum, "_decide", die)
    monkeypatch.setattr(killed.quorum, "quorum", 1)
    with pytest.raises(InterruptedError):
        killed.cycle()
    plain = PlainLoop()
    one.cycle()
    close(one.slow(), plain.sync(plain.done(0), plain.done(1)))


@pytest.mark.clause("C94")
@pytest.mark.parametrize("needed", [1, 2])
def test_a_worker_that_was_killed_while_it_wrote_is_not_waited_for(needed):
    store = dist.HashStore()
    one, killed = Worker(store, 0, quorum=1), Worker(store, 1)
    sync = killed.optimizer._parts._where(killed.optimizer._parts.parts[0])
    killed.quorum._say("0", 0, exchange.Done([torch.ones(3)], 0.0, 1), True, sync["digest"])
    killed.quorum._put("0/done/1", b"half of what it has done since")
    one.quorum.quorum, one.quorum.timeout = needed, timedelta(seconds=0.1)
    if needed == 1:
        one.cycle()
        assert one.quorum.heard(0) == [0]
    else:
        with pytest.raises(RuntimeError, match="no quorum of 2"):
            one.cycle()


def test_a_message_that_is_overwritten_while_it_is_read_is_read_again(monkeypatch):
    store = dist.HashStore()
    one = Quorum(store, 0, 1)
    record = one._put("here", b"old")
    assert one._got(record) == b"old"
    one._put("here", b"new")
    assert one._got(record) is None


def test_workers_of_other_settings_are_refused():
    store = dist.HashStore()
    rule = lookahead(PERIOD, 0.8)
    one = Worker(store, 0, rule=rule)
    with pytest.raises(ValueError, match=r"alpha.* the first one has 0.8, worker 1 has 0.5"):
        Worker(store, 1, rule=lookahead(PERIOD, 0.5))
    other = Worker(store, 1, rule=rule)
    one.cycle()
    other.optimizer.param_groups[0]["lookahead_alpha"] = 0.3
    with pytest.raises(ValueError, match="worker 1 has other ones at sync 0"):
        other.cycle()


def test_slow_weights_that_were_edited_on_one_worker_are_refused():
    store = dist.HashStore()
    one, other = Worker(store, 0), Worker(store, 1)
    with torch.no_grad():
        other.leaf += 1
    one.cycle()
    with pytest.raises(ValueError, match="slow weights must be those of the others: worker 1"):
        other.cycle()


def test_the_function_is_an_average_for_loops_of_ones_own():
    quorum, rule = Quorum(dist.HashStore(), 0, 1), snoo(1)
    slow = [torch.tensor([1.0])]
    state = rule.init(slow)
    for sync in range(3):
        fast = [slow[0] - 0.5]
        expected, _, plain = rule.sync(fast, (), state)
        slow, _, state = rule.sync(
            fast, (), state, average=lambda own, sync=sync: quorum.mean(own, sync)
        )
        assert torch.equal(slow[0], expected[0])
        assert torch.equal(state.outer[0][0], plain.outer[0][0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"store": {}}, "store must be a torch.distributed.Store"),
        ({"size": 0}, "size must be"),
        ({"rank": 2}, "rank must be below size=2, got 2"),
        ({"quorum": 3}, "quorum must be no more than size=2, got 3"),
        ({"quorum": 0}, "quorum must be"),
        ({"keep": 0}, "keep must be"),
        ({"window": 1.0}, "window must be a timedelta of zero or more, got 1.0"),
        ({"timeout": timedelta(seconds=-1)}, "timeout must be a timedelta"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Quorum(**{"store": dist.HashStore(), "rank": 0, "size": 2, **wrong})


def test_what_a_quorum_cannot_do_is_refused():
    model = torch.nn.BatchNorm1d(3)
    quorum, every_two = Quorum(dist.HashStore(), 0, 1), diloco(2)

    def make(cls=MetaOptimizer, rule=every_two, group=quorum, **options):
        inner = torch.optim.SGD(model.parameters(), lr=0.1)
        return cls(inner, rule, process_group=group, **options)

    with pytest.raises(ValueError, match="timeout must be None with a Quorum"):
        make(timeout=timedelta(seconds=1))
    with pytest.raises(ValueError, match="skip_together must be False with a Quorum"):
        make(skip_together=True)
    with pytest.raises(ValueError, match="buffers must be None with a Quorum"):
        make(rule=lookahead(2), buffers=Buffers(model, "*running_*"))
    with pytest.raises(ValueError, match="or with a Quorum, use MetaOptimizer"):
        make(StreamingOptimizer)
    with pytest.raises(ValueError, match="start"):
        make(rule=SyncRule(2, start=3))
    with pytest.raises(ValueError, match="or a Quorum, got 'all'"):
        make(group="all")
