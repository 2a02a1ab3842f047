"""The three methods that the demo compares, and their settings. No training here."""

from enum import StrEnum

__all__ = ["ALPHA", "MOMENTUM", "SYNC_PERIOD", "Method"]

MOMENTUM = 0.9
SYNC_PERIOD = 5
ALPHA = 0.5


class Method(StrEnum):
    """A way to train at a nominal learning rate.

    Attributes
    ----------
    INNER
        The bare inner optimizer: SGD with momentum.
    CONTROL
        The same at alpha * lr. At a small learning rate this is where Lookahead's slow weights go,
        so without it a plot against the learning rate mostly shows a shift of the axis.
    LOOKAHEAD
        Lookahead around the inner optimizer.
    """

    INNER = "inner"
    CONTROL = "control"
    LOOKAHEAD = "lookahead"

    @property
    def label(self) -> str:
        """Name in the table and in the picture."""
        return {"inner": "SGD", "control": f"SGD({ALPHA:g}*lr)", "lookahead": "Lookahead"}[self]

    def inner_lr(self, lr: float) -> float:
        """Learning rate of the inner optimizer where `lr` is the one on the axis."""
        return ALPHA * lr if self is Method.CONTROL else lr
