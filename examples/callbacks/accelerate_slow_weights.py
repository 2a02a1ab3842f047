"""accelerate: a loop that validates on the slow weights, saves them, and resumes exactly.

Copy what you need of it into your own loop. `optimizer` is one of ours, prepared; for an EMA it is
`accelerator.prepare(MetaOptimizer(inner, ema(0.999)))`.
"""

from contextlib import contextmanager

import torch


@contextmanager
def slow_weights(optimizer):
    """Inside, the model holds the slow weights."""
    with optimizer.optimizer.slow_weights():  # accelerate wraps what it prepares
        yield


def train_epoch(accelerator, model, optimizer, loader, loss_of):
    model.train()
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, batch))
            optimizer.step()
            optimizer.zero_grad()


@torch.no_grad()
def validate(accelerator, model, optimizer, loader, loss_of):
    """The mean loss of the slow weights."""
    model.eval()
    with slow_weights(optimizer):
        losses = [accelerator.gather_for_metrics(loss_of(model, batch)) for batch in loader]
    return torch.stack(losses).mean().item()


def save(accelerator, model, optimizer, folder):
    """The model's file has the slow weights; the fast ones are in the state of the optimizer."""
    with slow_weights(optimizer):
        accelerator.save_state(folder)


def train(accelerator, model, optimizer, loaders, loss_of, epochs, folder, resume_from=None):
    """Train for so many `epochs`, each with a checkpoint in `folder`; returns their losses."""
    begin, losses = 0, []
    if resume_from is not None:
        accelerator.load_state(f"{folder}/{resume_from}")  # puts the fast weights back
        begin = resume_from
    for epoch in range(begin, epochs):
        train_epoch(accelerator, model, optimizer, loaders["train"], loss_of)
        losses.append(validate(accelerator, model, optimizer, loaders["validation"], loss_of))
        save(accelerator, model, optimizer, f"{folder}/{epoch + 1}")
    return losses
