"""What is compared on the slow network: one row a method, without torch.

To add a method add a row; `options` go to the torch adapter's MetaOptimizer as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lookahead_core import SyncRule, diloco, local_sgd

__all__ = ["EVERY_STEP", "METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """How workers agree on their weights.

    Attributes
    ----------
    rule : SyncRule or None
        None: gradients are averaged at every step, by DistributedDataParallel.
    bits : float
        Sent for each weight.
    fragments : int
        Parts of the weights that are synced at different steps.
    options : mapping
        Further arguments of MetaOptimizer.
    """

    rule: SyncRule | None = None
    bits: float = 32.0
    fragments: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sync_period(self) -> int:
        """Steps between syncs of the same weights."""
        return self.rule.sync_period if self.rule else 1


EVERY_STEP = "every step"
METHODS: dict[str, Method] = {
    EVERY_STEP: Method(),
    "Local SGD, k = 5": Method(local_sgd(5)),
    "Local SGD, k = 30": Method(local_sgd(30)),
    "Local SGD, k = 100": Method(local_sgd(100)),
    "DiLoCo, k = 30": Method(diloco(30)),
}
