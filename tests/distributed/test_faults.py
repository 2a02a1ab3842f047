"""Workers that are killed, hang, or come and go: real processes, real signals, bounded waits."""

import json
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest
import torch
from torchft.coordination import LighthouseServer

ROOT = Path(__file__).parents[2]
PROGRAMS, EXAMPLES = Path(__file__).parent / "programs", ROOT / "examples" / "workers"
RESTARTS, COME_AND_GO = EXAMPLES / "restarts.py", EXAMPLES / "come_and_go.py"
CHAOS = PROGRAMS / "chaos.py"
# The launcher's own store still has the addresses of those that were killed (pytorch#135712).
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
PATIENCE = 150.0


def running(folder):
    """Processes with this folder among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except OSError:  # it has ended since
            continue
        if str(folder).encode() in arguments:
            found.append(int(path.parent.name))
    return found


def waited_for(condition, within=PATIENCE):
    """Whether `condition` holds before so many seconds are over."""
    end = time.monotonic() + within
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return holds


def end(folder):
    for process in running(folder):
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def folder(tmp_path):
    """An argument of every process that a test starts; none of them is to outlive the test."""
    yield tmp_path
    gone = waited_for(lambda: not running(tmp_path), within=20)
    end(tmp_path)
    assert gone


@contextmanager
def started(folder, *arguments, name):
    """A process of Python, with what it says in the file `name`."""
    command = [sys.executable, *map(str, arguments)]
    with open(folder / name, "w") as said:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=said, stderr=said)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def finished(folder, *arguments, name="said", within=PATIENCE):
    """What a process of Python says that has come to its end."""
    with started(folder, *arguments, name=name) as process:
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            end(folder)  # its workers too
        said = (folder / name).read_text()
        assert process.returncode == 0, said[-5000:]
    return said


@pytest.mark.parametrize(
    ("program", "blocks"),
    [(RESTARTS, {0, 1}), (PROGRAMS / "killed_saves.py", {2}), (CHAOS, {3}), (COME_AND_GO, {4, 5})],
    ids=lambda value: getattr(value, "stem", ""),
)
def test_the_page_shows_lines_of_the_programs_that_are_tested(program, blocks):
    page = (ROOT / "docs" / "distributed-faults.md").read_text()
    shown = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    source = dedented(program.read_text())
    assert {i for i, block in enumerate(shown) if dedented(block) in source} == blocks
    assert len(shown) == 6


def dedented(code):
    return "".join(line.lstrip() for line in code.splitlines(keepends=True))


# --- started again by the elastic launcher ---


def launched(folder, processes, *arguments, restarts=0):
    """What workers say under the launcher of torch, which starts them again so many times."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--monitor-interval=0.1"]
    launcher += [f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
    return finished(folder, *launcher, *arguments)


def tensors(path):
    leaves = torch.utils._pytree.tree_leaves(torch.load(path, weights_only=True))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


ONE_OF_TWO = [
    {"rank": 1, "step": 8, "before": "its step"},
    # The other one is then as far ahead as it can be: at the next sync.
    {"rank": 1, "step": 10, "before": "saving", "once": "worker-0/14.pt"},
    {"rank": 0, "step": 12, "before": "the rest of the file"},
    {"rank": 0, "step": 15, "before": "the mean"},
]
ONE_OF_FOUR = [{"rank": 2, "step": 9, "before": "its step"}]
ONE_THAT_HANGS = [{"rank": 1, "step": 15, "before": "its step", "hangs": True}]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Where so many workers have left what they saved, with nobody to disturb them."""

    @cache
    def run(processes):
        folder = tmp_path_factory.mktemp("undisturbed")
        launched(folder, processes, RESTARTS, folder)
        return folder

    return run


@pytest.mark.parametrize(
    ("processes", "moments", "lives"),
    [
        (2, ONE_OF_TWO, [0, 6, 8, 10, 14]),
        (2, ONE_THAT_HANGS, [0, 14]),
        (4, ONE_OF_FOUR, [0, 8]),
    ],
    ids=["killed at every kind of moment", "hanging", "one of four"],
)
def test_workers_that_are_started_again_end_with_the_weights_of_an_undisturbed_run(
    processes, moments, lives, undisturbed, folder
):
    killed = [PROGRAMS / "killed.py", RESTARTS, folder, json.dumps(moments)]
    said = launched(folder, processes, *killed, restarts=len(moments))
    resumed = [int(step) for step in re.findall(r"goes on after step (\d+)", said)]
    assert resumed == [step for step in lives for _ in range(processes)]
    for file in ["model.pt", *(f"worker-{rank}/22.pt" for rank in range(processes))]:
        whole, again = tensors(undisturbed(processes) / file), tensors(folder / file)
        assert len(whole) == len(again) > 0
        assert all(map(torch.equal, whole, again)), file


# --- a quorum ---


@pytest.mark.clause("C94")
def test_chaos_costs_time_and_no_quality(folder, capsys):
    """Four workers with a quorum: kills, restarts, stops, skipped steps (programs/chaos.py).

    For CHAOS_SECONDS of the environment, 10 of them by default, and with CHAOS_SEED, or any.
    """
    seconds = float(os.environ.get("CHAOS_SECONDS", "10"))
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(1 << 30)))

    said = finished(folder, CHAOS, folder, seed, seconds, within=PATIENCE + 5 * seconds)
    chaos, calm = json.loads(said.splitlines()[-1])
    goodput = chaos["cycles a second"] / calm["cycles a second"]
    with capsys.disabled():
        print(f"\nchaos with seed {seed}: {chaos}\nundisturbed: {calm}\ngoodput: {goodput:.0%}")
    told = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in (folder / "chaos").glob("said-*")
    ]
    syncs = {}
    for sync, *what in (line for lines in told for line in lines):
        assert syncs.setdefault(sync, what) == what
    assert syncs.keys() <= {*range(1, 1 + chaos["syncs"])}
    assert [lines[-1][0] for lines in told] == [chaos["syncs"]] * 4
    assert chaos["ended"] == calm["ended"] == 4
    assert min(chaos["kills"], chaos["stops"]) > 0
    there = {len(heard) for heard, _ in syncs.values()}
    assert min(there) < max(there)
    assert there <= {2, 3, 4}
    assert chaos["loss"] == pytest.approx(calm["loss"], rel=0.02)
    assert calm["loss"] < calm["loss before"] / 10


# --- killed while it saves ---


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_save_leaves_the_last_one_whole(kind, folder):
    kills, saves = 12, folder / "saves"
    saves.mkdir()
    said = finished(folder, PROGRAMS / "killed_saves.py", RESTARTS, saves, kind, kills)
    results = json.loads(said.splitlines()[-1])
    assert len(results) == kills
    for told, found, _ in results:
        assert found in (told, told + 1)
    in_mid_write = sum(left for _, _, left in results)
    assert in_mid_write >= 2  # else the moments would say little


# --- without a launcher ---


@pytest.mark.parametrize("where", ["at the start", "at a sync", "killed"])
def test_a_worker_that_is_not_there_ends_the_others_within_the_timeout(where, folder):
    size, timeout = 3, 4.0
    program = PROGRAMS / "alone.py"
    arguments = [[program, folder, rank, size, where, timeout] for rank in range(size)]
    with (
        started(folder, *arguments[0], name="0") as first,
        started(folder, *arguments[1], name="1") as second,
        started(folder, *arguments[2], name="2") as absent,
    ):
        for rank, process in enumerate([first, second]):
            assert process.wait(PATIENCE) == 3
            said = (folder / str(rank)).read_text()
            seconds, error = re.search(r"^([\d.]+) s: (.*)", said, re.MULTILINE).groups()
            assert float(seconds) < 60  # the group's own timeout is an hour
            assert f"rank {rank} waited for the other workers, and not all of 3 came" in error
            assert "timeout=0:00:04" in error
        assert (absent.poll() is None) == (where != "killed")


# --- with torchft, coming and going while the others train ---


@pytest.fixture
def lighthouse():
    """Where workers learn who else is there; in this process."""
    server = LighthouseServer(
        bind="[::]:0",
        min_replicas=1,
        join_timeout_ms=500,
        quorum_tick_ms=50,
        heartbeat_timeout_ms=5000,
    )
    yield server.address()
    server.shutdown()


def syncs_of(folder, *names):
    """What a worker has said in its lives: how many were there at each sync, and the weights."""
    found = {}
    for name in names:
        said = (folder / name).read_text() if (folder / name).exists() else ""
        lines = re.findall(r"^worker \d, sync (\d+) of (\d): (.*\])$", said, re.MULTILINE)
        found |= {int(sync): (int(there), slow) for sync, there, slow in lines}
    return found


def simulated(workers):
    """DiLoCo with these workers from sync to sync, by plain loops: the slow weights at each."""
    program = runpy.run_path(str(COME_AND_GO))
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    leaves = list(model.parameters())
    slow = [leaf.detach().clone() for leaf in leaves]
    momentum, found = [torch.zeros_like(s) for s in slow], {}
    for sync in sorted(workers):
        means = [torch.zeros_like(s) for s in slow]
        for worker in workers[sync]:
            with torch.no_grad():
                [leaf.copy_(s) for leaf, s in zip(leaves, slow, strict=True)]
            for step in range(5):
                inputs, targets = program["batch"](sync - 1, step, worker)
                loss = (model(inputs) - targets).square().mean()
                for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                    leaf.data -= 0.05 * gradient
            for mean, s, leaf in zip(means, slow, leaves, strict=True):
                mean += (s - leaf.detach()) / len(workers[sync])
        momentum = [0.9 * m + mean for m, mean in zip(momentum, means, strict=True)]
        moves = [mean + 0.9 * m for mean, m in zip(means, momentum, strict=True)]
        slow = [s - 0.7 * move for s, move in zip(slow, moves, strict=True)]
        found[sync] = slow
    return found


def test_a_worker_leaves_and_comes_back_while_the_other_one_trains(lighthouse, folder, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "TORCHFT_LIGHTHOUSE", lighthouse)
    program = [PROGRAMS / "leaving.py", COME_AND_GO, folder]

    def there(*counts):
        """How many were there, one sync after another, has come to end like this."""
        said = [count for count, _ in syncs_of(folder, "0").values()]
        return tuple(count for count, _ in groupby(said))[-len(counts) :] == counts

    with started(folder, *program, 0, name="0") as stays:
        assert waited_for(lambda: there(1))
        for life, moment in enumerate([("step", 23), ("average", 20)]):
            with started(folder, *program, 1, *moment, name=f"1-{life}") as leaves:
                assert leaves.wait(PATIENCE) == -signal.SIGKILL
            assert waited_for(lambda: there(2, 1))
        with started(folder, *program, 1, name="1-2") as comes_back:
            assert waited_for(lambda: there(1, 2))
            last = max(syncs_of(folder, "0")) + 20
            (folder / "told").write_text(str(last))
            os.replace(folder / "told", folder / "last")
            assert [process.wait(PATIENCE) for process in (stays, comes_back)] == [0, 0]
    one, other = syncs_of(folder, "0"), syncs_of(folder, "1-0", "1-1", "1-2")
    assert list(one) == list(range(2, last + 1))  # it was never stopped
    assert [max(one), max(other)] == [last, last]
    assert len(other) >= 3 + 3 + 1
    assert all(one[sync] == other[sync] for sync in other)
    assert "tries again" in (folder / "0").read_text()  # when the other one left in the average
    weights = simulated({sync: [0, 1] if sync in other else [0] for sync in one})
    for sync, (_, slow) in one.items():
        found = torch.cat([torch.tensor(leaf).flatten() for leaf in json.loads(slow)])
        expected = torch.cat([leaf.flatten() for leaf in weights[sync]])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
