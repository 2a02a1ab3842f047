"""lightning: automatic optimization, a checkpoint in mid-cycle, and a restart from it."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lookahead_core import ema
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
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


# --- the callback ---


class Averaged(WithoutHooks):
    """Under an EMA that, like Lightning's, begins with the weights after the first step."""

    decay = 0.8

    def configure_optimizers(self):
        return MetaOptimizer(torch.optim.AdamW(self.parameters(), lr=0.1), ema(self.decay, start=1))


class Bare(WithoutHooks):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def weights(saved):
    return saved["state_dict"]["linear.weight"]


@pytest.mark.clause("C22")
def test_the_callback_does_what_lightnings_own_average_does(example, tmp_path):
    ours, theirs = Averaged(), Bare()
    saved = []
    for module, callback in [
        (ours, example("lightning")["SlowWeights"]()),
        (theirs, EMAWeightAveraging(decay=Averaged.decay)),
    ]:
        checkpoints = ModelCheckpoint(tmp_path / type(module).__name__, save_last=True)
        run = trainer(16, tmp_path, callbacks=[callback, checkpoints])
        run.fit(module, loader(), loader())
        saved.append(torch.load(checkpoints.last_model_path, weights_only=False))
    torch.testing.assert_close(weights(saved[0]), weights(saved[1]))
    torch.testing.assert_close(ours.evaluated, theirs.evaluated)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))


WHEN = {
    "after an epoch": {},
    "after a validation": DURING,
    "after some steps": {"every_n_train_steps": 7},
    "weights alone": {"save_weights_only": True},
}


@pytest.mark.clause("C22")
@pytest.mark.parametrize("when", WHEN)
def test_with_the_callback_every_checkpoint_has_the_slow_weights(when, example, tmp_path):
    checkpoints = ModelCheckpoint(tmp_path, save_last=True, **WHEN[when])
    run = trainer(8, tmp_path, callbacks=[example("lightning")["SlowWeights"](), checkpoints])
    module = WithoutHooks()
    run.fit(module, loader(), loader())
    saved = weights(torch.load(checkpoints.last_model_path, weights_only=False))
    slow = run.optimizers[0].state_dict()["state"][0]["lookahead_slow"]
    assert torch.equal(saved, slow)
    assert torch.equal(module.linear.weight, slow)
    run.optimizers[0].train()
    assert not torch.equal(module.linear.weight, slow)


@pytest.mark.clause("C06", "C41")
@pytest.mark.parametrize("module", [WithoutHooks, Averaged])
def test_with_the_callback_a_run_resumes_bitwise(module, example, tmp_path):
    whole, first, second = module(), module(), module()
    new = example("lightning")["SlowWeights"]
    undisturbed, before, after = (
        trainer(steps, tmp_path, callbacks=[new()]) for steps in (16, 8, 16)
    )
    undisturbed.fit(whole, loader(), loader())
    before.fit(first, loader(), loader())
    before.save_checkpoint(tmp_path / "half.ckpt")
    after.fit(second, loader(), loader(), ckpt_path=tmp_path / "half.ckpt")
    for run in (undisturbed, after):
        run.optimizers[0].train()
    assert_same(flat(dict(second.state_dict())), flat(dict(whole.state_dict())))


@pytest.mark.clause("C22")
def test_a_validation_that_fails_leaves_the_fast_weights(example, tmp_path):
    class Fails(WithoutHooks):
        def validation_step(self, batch, _):
            raise ArithmeticError

    module, checked = Fails(), WithoutHooks()
    run = trainer(8, tmp_path, callbacks=[example("lightning")["SlowWeights"]()])
    with pytest.raises(ArithmeticError):
        run.fit(module, loader(), loader())
    trainer(8, tmp_path).fit(checked, loader(), loader())
    assert torch.equal(module.linear.weight, checked.linear.weight)
