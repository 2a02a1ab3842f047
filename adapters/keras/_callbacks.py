"""A callback that validates on the slow weights, and lets other callbacks see them."""

from typing import Any

import keras

__all__ = ["SlowWeights"]


class SlowWeights(keras.callbacks.CallbackList):
    """Validate on the slow weights, and show them to the callbacks that are given to it.

    Give it what chooses or saves weights to ship: ModelCheckpoint, and EarlyStopping with
    `restore_best_weights`. What resumes a run, BackupAndRestore, stays beside it, and saves the
    fast weights with the state of the optimizer.

    Parameters
    ----------
    *callbacks : keras.callbacks.Callback
        They see the slow weights in validation and at the end of an epoch.

    Raises
    ------
    ValueError
        If a callback would save between epochs.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from lookahead_core.adapters.keras import Lookahead
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(Lookahead(keras.optimizers.SGD(0.1)), "mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> best = keras.callbacks.EarlyStopping(restore_best_weights=True)
    >>> shown = [SlowWeights(best)]
    >>> history = model.fit(x, y, validation_data=(x, y), callbacks=shown, verbose=0)
    """

    def __init__(self, *callbacks: keras.callbacks.Callback) -> None:
        for callback in callbacks:
            kind, freq = type(callback).__name__, getattr(callback, "save_freq", "epoch")
            if freq != "epoch":
                raise ValueError(f"save_freq of {kind} must be 'epoch' here, got {freq!r}")
        super().__init__([*callbacks])

    def on_train_begin(self, logs: Any = None) -> None:
        """The fast weights, if the model was loaded with the slow ones."""
        self._optimizer.train()
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """With the slow weights in the model."""
        with self._optimizer.slow_weights():
            super().on_epoch_end(epoch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """The slow weights for validation."""
        self._optimizer.eval()
        super().on_test_begin(logs)

    def on_test_end(self, logs: Any = None) -> None:
        """The fast ones again."""
        super().on_test_end(logs)
        self._optimizer.train()

    @property
    def _optimizer(self) -> Any:
        """Ours, by itself or inside LossScaleOptimizer."""
        outer = self.model.optimizer
        own = getattr(outer, "inner_optimizer", outer)
        if not hasattr(own, "slow_weights"):
            raise ValueError(f"SlowWeights needs a model compiled with Lookahead, got {outer!r}")
        return own
