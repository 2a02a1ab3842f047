"""Lightning: validate on the slow weights, save them as the model's, and resume exactly.

Copy this file, and give the callback to the trainer in the place of EMAWeightAveraging:
`Trainer(callbacks=[SlowWeights()])`. The optimizer is the module's own, from its
`configure_optimizers`; for an EMA it is `MetaOptimizer(inner, ema(0.999))`.
"""

from contextlib import ExitStack
from functools import wraps

from lightning.pytorch.callbacks import Callback

from lookahead_core.adapters.torch import MetaOptimizer


def slow_weights(trainer):
    """A context in which the parameters of all our optimizers hold the slow weights."""
    stack = ExitStack()
    for optimizer in trainer.optimizers:
        if isinstance(optimizer, MetaOptimizer):
            stack.enter_context(optimizer.slow_weights())
    return stack


class SlowWeights(Callback):
    """Validates on the slow weights, saves them, and leaves them in the module after training.

    The fast weights are in the checkpoint too, in the state of the optimizer, from which the
    trainer puts them back when it resumes.
    """

    def __init__(self):
        self.validation = ExitStack()

    def setup(self, trainer, pl_module, stage):
        save = type(trainer).save_checkpoint

        # Not `on_save_checkpoint`: it is not called for checkpoints of the weights alone.
        @wraps(save)
        def save_slow_weights(*args, **options):
            with slow_weights(trainer):
                save(trainer, *args, **options)

        trainer.save_checkpoint = save_slow_weights

    def on_validation_start(self, trainer, pl_module):
        self.validation = slow_weights(trainer)

    def on_validation_end(self, trainer, pl_module):
        self.validation.close()

    def on_exception(self, trainer, pl_module, exception):
        self.validation.close()

    def on_train_end(self, trainer, pl_module):
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, MetaOptimizer):
                optimizer.eval()
