"""What is compared on the slow network: one row a method, without torch.

To add a method add a row; with fragments, a delay or a codec it is the torch adapter's
StreamingOptimizer, else its MetaOptimizer.
"""

from dataclasses import dataclass

from lookahead_core import SyncRule, diloco, local_sgd

__all__ = ["METHODS", "Method"]

# Sent for each weight; of "int4" also one float32 for a block of 128.
BITS = {None: 32.0, "int4": 4 + 32 / 128}


@dataclass(frozen=True)
class Method:
    """How workers agree on their weights.

    Attributes
    ----------
    rule : SyncRule or None
        None: gradients are averaged at every step, by DistributedDataParallel.
    alone : bool
        Nothing is sent at all: the control that says what the others' data is worth.
    fragments : int
        Parts of the weights that are synced at steps of their own; divides the period.
    delay : int
        Steps that go on while a sync is on its way.
    codec : str or None
    """

    rule: SyncRule | None = None
    alone: bool = False
    fragments: int = 1
    delay: int = 0
    codec: str | None = None

    @property
    def sync_period(self) -> int | None:
        """Steps between syncs of the same weights; None if there are none."""
        if self.alone:
            return None
        return self.rule.sync_period if self.rule else 1

    @property
    def bits(self) -> float:
        """Sent for each weight."""
        return BITS[self.codec]

    @property
    def streams(self) -> bool:
        """Whether it is StreamingOptimizer's."""
        return self.fragments > 1 or self.delay > 0 or self.codec is not None

    def syncs(self, steps: int) -> list[tuple[int, int]]:
        """First and last step, from 0, of every sync of every fragment that ends in time."""
        if self.sync_period is None:
            return []
        apart = self.sync_period // self.fragments
        return [(s - 1, s - 1 + self.delay) for s in range(apart, steps + 1 - self.delay, apart)]


METHODS: dict[str, Method] = {
    "alone": Method(alone=True),
    "every step": Method(),
    "Local SGD, k = 5": Method(local_sgd(5)),
    "Local SGD, k = 30": Method(local_sgd(30)),
    "Local SGD, k = 100": Method(local_sgd(100)),
    "DiLoCo, k = 30": Method(diloco(30)),
    "k = 100, 4 fragments": Method(local_sgd(100), fragments=4),
    "k = 100, 4 bits": Method(local_sgd(100), codec="int4"),
    "k = 100, both, 5 late": Method(local_sgd(100), fragments=4, delay=5, codec="int4"),
}
