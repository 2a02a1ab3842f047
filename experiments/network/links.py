"""A machine for each worker, on one machine: network namespaces and a switch, links that are slow.

Every worker has a namespace with one interface, eth0. Its other end is a port of a bridge, in a
namespace of its own: nothing of the machine's own network is touched. Both ends of each link let
through so many bits a second and no more. Latency is not imitated: that takes `netem`.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeAlias

__all__ = ["INTERFACE", "Network", "refusal", "run"]

INTERFACE = "eth0"
SECONDS_A_COMMAND = 20
# What may pass at once after a pause. More than 64 KB, the largest piece that the kernel hands on:
# cut into frames here, half a gigabit a second would keep two processors busy with them alone.
BURST = "128kb"
# Of what waits at a port; enough for nothing to be dropped.
QUEUE = "4mb"
# In every kernel. What the machine has chosen for its own network, such as BBR, stays out of it.
CONGESTION = "reno"
Run: TypeAlias = Callable[[Sequence[str]], None]


def run(command: Sequence[str]) -> None:
    """Run it, or RuntimeError with what it said."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS_A_COMMAND, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def refusal() -> str | None:
    """Why there can be no namespaces here; None if there can."""
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"needs Linux with iproute2: there is no {' and no '.join(missing)} here"
    if os.geteuid() != 0:
        return "needs root, for network namespaces and tc; this is an ordinary user"
    return None


class Network:
    """So many machines on one switch; all of it is gone when the `with` block is left.

    Parameters
    ----------
    workers : int
        Machines, 2 to 200.
    run : callable, (command) -> None
        Runs one command; tests give another one.
    """

    def __init__(self, workers: int, run: Run = run) -> None:
        if not 2 <= workers <= 200:
            raise ValueError(f"workers must be 2 to 200, got {workers}")
        own = f"slow-network-{os.getpid()}"
        self.machines = [f"{own}-{rank}" for rank in range(workers)]
        self._switch = f"{own}-switch"
        self._run = run
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._make(self._switch)
            self._in_switch("ip link add name switch type bridge")
            self._in_switch("ip link set switch up")
            for rank, machine in enumerate(self.machines):
                self._make(machine)
                self._join(rank, machine)
        except BaseException:
            self._delete()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._delete()

    def address(self, rank: int) -> str:
        """IPv4 address of a machine."""
        return f"10.77.0.{rank + 1}"

    def inside(self, rank: int, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on the machine of `rank`."""
        return ["ip", "netns", "exec", self.machines[rank], *command]

    def limit(self, megabits: float) -> None:
        """Let every link pass so many megabits a second, each way."""
        bucket = f"root tbf rate {megabits:g}mbit burst {BURST} limit {QUEUE}"
        for rank, machine in enumerate(self.machines):
            self._run(f"tc -n {machine} qdisc replace dev {INTERFACE} {bucket}".split())
            self._run(f"tc -n {self._switch} qdisc replace dev port{rank} {bucket}".split())

    def _make(self, namespace: str) -> None:
        self._run(["ip", "netns", "add", namespace])
        self._made.append(namespace)

    def _join(self, rank: int, machine: str) -> None:
        ends = f"port{rank} type veth peer name {INTERFACE} netns {machine}"
        self._in_switch(f"ip link add {ends}")
        self._in_switch(f"ip link set port{rank} master switch up")
        for command in (
            f"address add {self.address(rank)}/24 dev {INTERFACE}",
            f"link set {INTERFACE} up",
            "link set lo up",
        ):
            self._run(["ip", "-n", machine, *command.split()])
        setting = "/proc/sys/net/ipv4/tcp_congestion_control"
        self._run(self.inside(rank, ["sh", "-c", f"echo {CONGESTION} > {setting}"]))

    def _in_switch(self, command: str) -> None:
        program, *rest = command.split()
        self._run([program, "-n", self._switch, *rest])

    def _delete(self) -> None:
        """Every namespace that was made, whatever comes of the others; links go with them."""
        errors = []
        while self._made:
            try:
                self._run(["ip", "netns", "delete", self._made.pop()])
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                errors.append(str(error))
        if errors:
            raise RuntimeError(f"not deleted: {'; '.join(errors)}")
