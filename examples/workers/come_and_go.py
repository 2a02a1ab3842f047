"""DiLoCo on workers that come and go while the others train on: torchft says who is there.

torchft_lighthouse --min_replicas 1 --join_timeout_ms 1000 &
export TORCHFT_LIGHTHOUSE=http://localhost:29510
python examples/workers/come_and_go.py 0 &
python examples/workers/come_and_go.py 1     # kill it, start it again

The rule is pure: a sync that fails has changed nothing, and is tried again with those who are left.
"""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torchft import Manager, ProcessGroupGloo

from lookahead_core import diloco

SYNC_PERIOD, SYNCS, WAIT = 5, 20, timedelta(seconds=20)


class Worker:
    """A model, what moves it between syncs, and what the core carries from sync to sync."""

    def __init__(self, number: int) -> None:
        torch.manual_seed(0)  # the same start for all
        self.number, self.worked = number, 0
        self.model = torch.nn.Linear(8, 1)
        self.inner = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.rule = diloco(SYNC_PERIOD)
        self.sync_state = self.rule.init(self.weights())
        # Kept, because the others connect to it as well as the manager.
        self.store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        self.manager = Manager(
            pg=ProcessGroupGloo(timeout=WAIT),
            state_dict=self.state_dict,
            load_state_dict=self.load_state_dict,
            min_replica_size=1,
            use_async_quorum=False,  # who comes late has the others' weights before it averages
            init_sync=False,
            timeout=WAIT,
            quorum_timeout=WAIT,
            rank=0,
            world_size=1,
            store_addr="localhost",
            store_port=self.store.port,
            replica_id=f"worker-{number}",
            hostname="localhost",
        )

    def weights(self) -> list[torch.Tensor]:
        return [leaf.detach().clone() for leaf in self.model.parameters()]

    def put(self, weights: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for leaf, value in zip(self.model.parameters(), weights, strict=True):
                leaf.copy_(value)

    def state_dict(self) -> dict:
        """What a worker that comes is given: all workers have the same slow weights."""
        return {"sync": self.sync_state, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.sync_state, self.worked = state["sync"], 0
        self.inner.load_state_dict(state["inner"])

    def train(self) -> None:
        """The k steps between two syncs, on data of this worker's own."""
        for _ in range(SYNC_PERIOD):
            inputs, targets = batch(self.sync_state.syncs, self.worked, self.number)
            self.inner.zero_grad()
            torch.nn.functional.mse_loss(self.model(inputs), targets).backward()
            self.inner.step()
            self.worked += 1

    def average(self, differences: list[torch.Tensor]) -> list[torch.Tensor]:
        """Mean over those who are there, by the steps they have done: 0, if they have just come."""
        sums = [torch.tensor(float(self.worked)), *(d * self.worked for d in differences)]
        for message in [self.manager.allreduce(s, reduce_op=dist.ReduceOp.SUM) for s in sums]:
            message.wait()
        total, *weighted = sums
        return [d / total.clamp(min=1) for d in weighted]

    def sync(self) -> None:
        while True:
            self.manager.start_quorum()
            _, _, synced = self.rule.sync(self.weights(), (), self.sync_state, average=self.average)
            if self.manager.should_commit():
                break
            print(f"worker {self.number} tries again", flush=True)
        self.sync_state, self.worked = synced, 0
        self.put(synced.slow)


def batch(syncs: int, step: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed((syncs * SYNC_PERIOD + step) * 1000 + number)
    inputs = torch.randn(32, 8, generator=generator)
    return inputs, inputs.sum(1, keepdim=True) + torch.randn(32, 1, generator=generator)


def main(number: int) -> None:
    worker = Worker(number)
    worker.sync()  # who comes late is given the others' weights; otherwise nothing has moved
    while worker.sync_state.syncs < SYNCS:
        worker.train()
        worker.sync()
        there, syncs = worker.manager.num_participants(), worker.sync_state.syncs
        slow = [s.tolist() for s in worker.sync_state.slow]
        print(f"worker {number}, sync {syncs} of {there}: {slow}", flush=True)
    worker.manager.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
