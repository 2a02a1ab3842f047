"""transformers: every checkpoint has the slow weights as its model, and so has the trained model.

Copy this file, and give the callback to the trainer:
`Trainer(..., optimizers=(optimizer, schedule), callbacks=[SlowWeights()])`. For an EMA `optimizer`
is `MetaOptimizer(inner, ema(0.999))`. The trainer evaluates on the slow weights by itself, because
it calls `optimizer.eval()`, and resumes exactly: the fast weights are in `optimizer.pt`.
"""

from transformers import TrainerCallback


class SlowWeights(TrainerCallback):
    """Puts the slow weights into the model before it is saved, and when the training is over."""

    def on_step_end(self, args, state, control, optimizer=None, **kwargs):
        if control.should_save or control.should_training_stop:
            optimizer.eval()  # the next training step calls optimizer.train()

    on_epoch_end = on_step_end
