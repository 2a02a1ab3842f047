"""Four workers with a quorum, which are killed, started again, stopped for a while, and skip steps.

chaos.py FOLDER SEED SECONDS: so long, and then some more syncs with all of them, in FOLDER/chaos;
after it as many syncs with nobody to disturb them, in FOLDER/calm.

Each worker says in the file of its rank after each sync: its number, who is in its mean, and a
fingerprint of the slow weights. The last line of this program is JSON, what came of both runs. No
process is started but by fork, so that one that comes back need not import torch again.
"""

import json
import os
import random
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from lookahead_core import diloco
from lookahead_core.adapters.torch import MetaOptimizer, Quorum
from lookahead_core.adapters.torch._workers.collectives import fingerprint

SIZE, PERIOD, STEP, NOISE = 4, 5, 0.01, 0.5
WINDOW, TIMEOUT = timedelta(seconds=0.1), timedelta(seconds=20)
AFTER = 10  # syncs when nobody is disturbed any longer


def batch(seed, size):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 8, generator=generator)
    noise = NOISE * torch.randn(size, 1, generator=generator)
    return inputs, inputs.sum(1, keepdim=True) + noise


def new_model():
    torch.manual_seed(0)
    return torch.nn.Linear(8, 1)


def loss_of(model):
    inputs, targets = batch(-1, 20_000)
    with torch.no_grad():
        return torch.nn.functional.mse_loss(model(inputs), targets).item()


class Worker:
    def __init__(self, folder, rank, seed):
        self.folder, self.rank, self.random = folder, rank, random.Random(f"{seed} {os.getpid()}")
        self.model = new_model()
        store = dist.TCPStore("localhost", int((folder / "port").read_text()), is_master=False)
        self.quorum = Quorum(store, rank, SIZE, quorum=2, window=WINDOW, timeout=TIMEOUT)
        self.optimizer = MetaOptimizer(
            torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.5),
            diloco(PERIOD, lr=0.7, momentum=0.5),
            process_group=self.quorum,
            check_replicas=True,
        )
        if (folder / "checkpoint").exists():  # that of any worker
            state = torch.load(folder / "checkpoint", weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])

    @property
    def syncs(self):
        return self.optimizer.state_dict()["param_groups"][0]["lookahead_syncs"]

    def save(self):
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        own = self.folder / f"checkpoint-{self.rank}"
        torch.save(state, own)
        os.replace(own, self.folder / "checkpoint")

    def train(self, disturbed, last):
        synced = self.syncs
        with open(self.folder / f"said-{self.rank}", "a") as said:
            while last() is None or synced < last():
                inputs, targets = batch(self.random.getrandbits(60), 32)
                self.optimizer.zero_grad()
                torch.nn.functional.mse_loss(self.model(inputs), targets).backward()
                self.optimizer.found_inf = float(disturbed and self.random.random() < 0.05)
                self.optimizer.step()
                time.sleep(STEP)
                if self.syncs != synced:
                    synced = self.syncs
                    self.say(said)
                    self.save()
            self.say(said)  # where it has come to, even if it has only loaded that
        self.optimizer.leave()

    def say(self, said):
        heard = self.quorum.heard(self.syncs - 1)
        with self.optimizer.slow_weights():
            bits = fingerprint([*self.model.parameters()])
        print(json.dumps([self.syncs, heard, bits]), file=said, flush=True)


def forked(function):
    """The process that does it; a raise in it is a traceback and status 1."""
    if process := os.fork():
        return process
    status = 1
    try:
        function()
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
        os._exit(status)


def serve(folder):
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    (folder / "port.tmp").write_text(str(store.port))
    os.replace(folder / "port.tmp", folder / "port")
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.1)


class Nursery:
    """The workers that are there, and those that are to be started again, and when."""

    def __init__(self, folder, seed, disturbed, last):
        self.folder, self.seed, self.disturbed, self.last = folder, seed, disturbed, last
        self.random = random.Random(seed)
        self.there, self.back, self.killed, self.ended = {}, {}, set(), 0
        self.kills = self.stops = 0
        for rank in range(SIZE):
            self.start(rank)

    def start(self, rank):
        def work():
            Worker(self.folder, rank, self.seed).train(self.disturbed, self.last)

        self.there[rank] = forked(work)

    def look(self):
        """Start again those whose time has come; whoever ends by itself has to have ended well."""
        for rank in [r for r, when in self.back.items() if when <= time.monotonic()]:
            del self.back[rank]
            self.start(rank)
        for rank, process in [*self.there.items()]:
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended:
                continue
            del self.there[rank]
            if process not in self.killed and status:
                raise RuntimeError(f"worker {rank} ended with status {status}")
            self.ended += process not in self.killed

    def disturb(self):
        """Kill one, and start it again later; or stop one for a while. Two are always left."""
        free = [rank for rank in self.there if self.there[rank] not in self.killed]
        if len(free) < 3:
            return
        rank = self.random.choice(free)
        if self.random.random() < 0.5:
            os.kill(self.there[rank], signal.SIGKILL)
            self.killed.add(self.there[rank])
            self.back[rank] = time.monotonic() + self.random.uniform(0.1, 1.5)
            self.kills += 1
        else:
            process = self.there[rank]
            os.kill(process, signal.SIGSTOP)
            forked(
                lambda: (
                    time.sleep(self.random.uniform(0.1, 1.0)),
                    os.kill(process, signal.SIGCONT),
                )
            )
            self.stops += 1

    def end(self):
        for process in self.there.values():
            os.kill(process, signal.SIGKILL)


def synced(folder):
    return max((json.loads(line)[0] for line in said(folder)), default=0)


def said(folder):
    return [line for path in folder.glob("said-*") for line in path.read_text().splitlines()]


def warm_up():
    """Have everything imported that a first step imports: forked workers are there at once."""
    model = new_model()
    inner = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    optimizer = MetaOptimizer(inner, diloco(1), process_group=Quorum(dist.HashStore(), 0, 1))
    for leaf in model.parameters():  # not backward(): a process that has its threads cannot fork
        leaf.grad = torch.zeros_like(leaf)
    optimizer.step()


def run(folder, seed, amount, disturbed):
    """What comes of so many seconds of chaos, or of so many syncs in peace."""
    folder.mkdir()
    server, last = forked(lambda: serve(folder)), folder / "last"
    while not (folder / "port").exists():
        time.sleep(0.01)
    if not disturbed:
        last.write_text(str(amount))

    def last_sync():
        return int(last.read_text()) if last.exists() else None

    nursery, began = Nursery(folder, seed, disturbed, last_sync), time.monotonic()
    try:
        while disturbed and time.monotonic() < began + amount:
            time.sleep(nursery.random.uniform(0.1, 0.8))
            nursery.look()
            nursery.disturb()
        seconds, syncs = time.monotonic() - began, synced(folder)
        if disturbed:
            (folder / "last.tmp").write_text(str(syncs + AFTER))
            os.replace(folder / "last.tmp", last)
        until = time.monotonic() + 60 + (0 if disturbed else amount)
        while nursery.there or nursery.back:
            nursery.look()
            time.sleep(0.02)
            if time.monotonic() > until:
                raise RuntimeError(f"workers {[*nursery.there]} have not come to an end")
    finally:
        nursery.end()
        os.kill(server, signal.SIGKILL)
    if not disturbed:
        seconds, syncs = time.monotonic() - began, synced(folder)
    heard = dict(json.loads(line)[:2] for line in said(folder))
    cycles = sum(len(ranks) for sync, ranks in heard.items() if sync <= syncs)
    model = new_model()
    before = loss_of(model)
    model.load_state_dict(torch.load(folder / "checkpoint", weights_only=True)["model"])
    result = {"loss before": before, "loss": loss_of(model), "syncs": synced(folder)}
    result |= {"kills": nursery.kills, "stops": nursery.stops, "ended": nursery.ended}
    return result | {"cycles a second": cycles / seconds}


def main(folder, seed, seconds):
    torch.set_num_threads(1)
    warm_up()
    chaos = run(folder / "chaos", seed, seconds, disturbed=True)
    calm = run(folder / "calm", seed, chaos["syncs"], disturbed=False)
    print(json.dumps([chaos, calm]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
