"""A callback that validates on the slow weights, and lets other callbacks see them."""

from typing import Any

import keras

__all__ = ["SlowWeights", "wrapper_of"]


def wrapper_of(optimizer: Any) -> Any:
    """Our optimizer, by itself or inside LossScaleOptimizer."""
    while optimizer is not None and not hasattr(optimizer, "slow_weights"):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    if optimizer is None:
        raise ValueError("SlowWeights needs a model that was compiled with Lookahead")
    return optimizer


class SlowWeights(keras.callbacks.Callback):
    """Validate on the slow weights, and show them to the callbacks that are given to it.

    Give it what chooses or saves weights to ship: ModelCheckpoint, and EarlyStopping with
    `restore_best_weights`. What resumes a run, BackupAndRestore, stays beside it, and saves the
    fast weights with the state of the optimizer.

    Parameters
    ----------
    *callbacks : keras.callbacks.Callback
        They hear of the beginning and the end of training, of epochs and of validation; of batches
        they do not.

    Raises
    ------
    ValueError
        If a callback would save between epochs.

    Examples
    --------
    >>> import keras, numpy as np
    >>> model = keras.Sequential([keras.layers.Dense(1)])
    >>> model.compile(Lookahead(keras.optimizers.SGD(0.1)), "mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 1))
    >>> best = keras.callbacks.EarlyStopping(restore_best_weights=True)
    >>> history = model.fit(
    ...     x, y, validation_data=(x, y), callbacks=[SlowWeights(best)], verbose=0
    ... )
    """

    def __init__(self, *callbacks: keras.callbacks.Callback) -> None:
        super().__init__()
        for callback in callbacks:
            if getattr(callback, "save_freq", "epoch") != "epoch":
                raise ValueError(
                    f"save_freq of {type(callback).__name__} must be 'epoch' inside SlowWeights, "
                    f"got {callback.save_freq!r}"
                )
        self.callbacks = callbacks

    def set_params(self, params: Any) -> None:
        """As Keras calls it."""
        super().set_params(params)
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model: Any) -> None:
        """As Keras calls it."""
        super().set_model(model)
        for callback in self.callbacks:
            callback.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        """The fast weights, if the model was loaded with the slow ones."""
        wrapper_of(self.model.optimizer).train()
        for callback in self.callbacks:
            callback.on_train_begin(logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Passed on: EarlyStopping puts the best weights in."""
        for callback in self.callbacks:
            callback.on_train_end(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Passed on."""
        for callback in self.callbacks:
            callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Passed on, with the slow weights in the model."""
        with wrapper_of(self.model.optimizer).slow_weights():
            for callback in self.callbacks:
                callback.on_epoch_end(epoch, logs)

    def on_test_begin(self, logs: Any = None) -> None:
        """The slow weights for validation."""
        wrapper_of(self.model.optimizer).eval()
        for callback in self.callbacks:
            callback.on_test_begin(logs)

    def on_test_end(self, logs: Any = None) -> None:
        """The fast ones again."""
        for callback in self.callbacks:
            callback.on_test_end(logs)
        wrapper_of(self.model.optimizer).train()
