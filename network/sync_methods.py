"""What is compared on the slow network: one row a method, without torch.

To add a method add a row; `options` go to the torch adapter's MetaOptimizer as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lookahead_core import SyncRule, diloco, local_sgd

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """How workers agree on their weights.

    Attributes
    ----------
    rule : SyncRule or None
        None: gradients are averaged at every step, by DistributedDataParallel.
    alone : bool
        Nothing is sent at all: the control that says what the others' data is worth.
    bits : float
        Sent for each weight.
    fragments : int
        Parts of the weights that are synced at different steps.
    options : mapping
        Further arguments of MetaOptimizer.
    """

    rule: SyncRule | None = None
    alone: bool = False
    bits: float = 32.0
    fragments: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sync_period(self) -> int | None:
        """Steps between syncs of the same weights; None if there are none."""
        if self.alone:
            return None
        return self.rule.sync_period if self.rule else 1


METHODS: dict[str, Method] = {
    "alone": Method(alone=True),
    "every step": Method(),
    "Local SGD, k = 5": Method(local_sgd(5)),
    "Local SGD, k = 30": Method(local_sgd(30)),
    "Local SGD, k = 100": Method(local_sgd(100)),
    "DiLoCo, k = 30": Method(diloco(30)),
}
