"""lightning: automatic optimization, a checkpoint in mid-cycle, and a restart from it."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lookahead_core.adapters.torch import Lookahead
from torch_runs import assert_same, flat

DATA = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))


class Module(lightning.LightningModule):
    """Evaluates on the slow weights, through the proxy that lightning hands out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 2)
        self.evaluated = []

    def training_step(self, batch, _):
        return self.linear(batch[0]).square().mean()

    def validation_step(self, batch, _):
        self.evaluated.append(self.linear.weight.detach().clone())

    def on_validation_start(self):
        self.optimizers().eval()

    def on_validation_end(self):
        self.optimizers().train()

    def configure_optimizers(self):
        optimizer = Lookahead(torch.optim.AdamW(self.parameters(), lr=0.1), 3, 0.5)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def trainer(steps, folder, **options):
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=bool(options),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        **options,
    )


def loader():
    return DataLoader(TensorDataset(DATA), batch_size=4)


@pytest.mark.clause("C06", "C22")
def test_a_run_resumes_bitwise_from_a_checkpoint_in_mid_cycle(tmp_path):
    whole, first, second = Module(), Module(), Module()
    undisturbed, before, after = (trainer(steps, tmp_path) for steps in (16, 8, 16))
    undisturbed.fit(whole, loader(), loader())
    before.fit(first, loader(), loader())
    before.save_checkpoint(tmp_path / "half.ckpt")
    after.fit(second, loader(), loader(), ckpt_path=tmp_path / "half.ckpt")
    assert_same(flat(dict(second.state_dict())), flat(dict(whole.state_dict())))
    group = before.optimizers[0].state_dict()["param_groups"][0]
    assert (group["lookahead_syncs"], group["lookahead_count"]) == (2, 2)


@pytest.mark.clause("C22")
def test_validation_sees_the_slow_weights_and_training_goes_on_from_the_fast_ones(tmp_path):
    module = Module()
    run = trainer(8, tmp_path)
    run.fit(module, loader(), loader())
    (optimizer,) = run.optimizers
    slow = optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert torch.equal(module.evaluated[-1], slow)
    assert not torch.equal(module.linear.weight, slow)


# --- which weights it saves ---


class WithoutHooks(Module):
    """One that does not put the slow weights in for its validation."""

    on_validation_start = lightning.LightningModule.on_validation_start
    on_validation_end = lightning.LightningModule.on_validation_end


# By default ModelCheckpoint saves when the epoch has ended, and the validation is over by then.
DURING = {"save_on_train_epoch_end": False}


@pytest.mark.clause("C22", "C41")
@pytest.mark.parametrize(
    ("module", "when", "average"),
    [(Module, {}, False), (Module, DURING, True), (WithoutHooks, DURING, False)],
)
def test_what_is_saved_during_a_validation_on_slow_weights_has_them(
    module, when, average, tmp_path
):
    checkpoints = ModelCheckpoint(tmp_path, save_last=True, **when)
    run = trainer(8, tmp_path, callbacks=[checkpoints])
    run.fit(module(), loader(), loader())
    saved = torch.load(checkpoints.last_model_path, weights_only=False)
    slow = saved["optimizer_states"][0]["state"][0]["lookahead_slow"]
    assert torch.equal(saved["state_dict"]["linear.weight"], slow) == average


@pytest.mark.clause("C06", "C41")
def test_a_checkpoint_of_the_average_resumes_bitwise(tmp_path):
    whole, first, second = WithoutHooks(), WithoutHooks(), WithoutHooks()
    undisturbed, before, after = (trainer(steps, tmp_path) for steps in (16, 8, 16))
    undisturbed.fit(whole, loader(), loader())
    before.fit(first, loader(), loader())
    with before.optimizers[0].slow_weights():
        before.save_checkpoint(tmp_path / "average.ckpt")
    saved = torch.load(tmp_path / "average.ckpt", weights_only=False)
    slow = saved["optimizer_states"][0]["state"][0]["lookahead_slow"]
    assert torch.equal(saved["state_dict"]["linear.weight"], slow)
    after.fit(second, loader(), loader(), ckpt_path=tmp_path / "average.ckpt")
    assert_same(flat(dict(second.state_dict())), flat(dict(whole.state_dict())))
