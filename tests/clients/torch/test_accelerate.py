"""accelerate: prepare, accumulate, save_state and load_state."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from lookahead_core import ema, lookahead
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from torch_runs import assert_same, flat

DATA = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def own_state():
    """accelerate keeps its state in classes."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


class Training:
    def __init__(self, **options):
        self.accelerator = Accelerator(cpu=True, **options)
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = Lookahead(torch.optim.AdamW(model.parameters(), lr=0.1), 3, 0.5)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        loader = DataLoader(TensorDataset(DATA), batch_size=4)
        self.model, self.optimizer, self.schedule, self.loader = self.accelerator.prepare(
            model, optimizer, schedule, loader
        )

    def run(self):
        """One pass over the data."""
        for (batch,) in self.loader:
            with self.accelerator.accumulate(self.model):
                loss = self.model(batch).square().mean()
                self.accelerator.backward(loss)
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()

    def state(self):
        return flat([self.model.state_dict(), self.optimizer.state_dict()])


@pytest.mark.clause("C06")
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=str)
def test_a_run_resumes_bitwise_from_save_state(options, tmp_path):
    whole = Training(**options)
    whole.run()
    whole.run()
    first = Training(**options)
    first.run()
    first.accelerator.save_state(str(tmp_path))
    second = Training(**options)
    second.accelerator.load_state(str(tmp_path))
    second.run()
    assert_same(second.state(), whole.state())
    steps = 8 // options.get("gradient_accumulation_steps", 1)
    group = first.optimizer.state_dict()["param_groups"][0]
    assert (group["lookahead_syncs"], group["lookahead_count"]) == divmod(steps, 3)


@pytest.mark.clause("C22")
def test_its_optimizer_forwards_eval_and_train():
    training = Training()
    training.run()
    fast = training.model.weight.detach().clone()
    training.optimizer.eval()
    assert not torch.equal(training.model.weight, fast)
    training.optimizer.train()
    assert torch.equal(training.model.weight, fast)


# --- which weights it saves ---


@pytest.mark.clause("C22", "C41")
@pytest.mark.parametrize("average", [False, True])
def test_what_it_saves_are_the_fast_weights_and_after_eval_the_slow_ones(average, tmp_path):
    training = Training()
    training.run()
    fast = training.model.weight.detach().clone()
    if average:
        training.optimizer.eval()
    training.accelerator.save_state(str(tmp_path / "state"))
    training.accelerator.save_model(training.model, str(tmp_path / "model"))
    training.optimizer.train()
    slow = training.optimizer.state_dict()["state"][0]["lookahead_slow"]
    for folder in ("state", "model"):
        saved = load_file(tmp_path / folder / "model.safetensors")["weight"]
        assert torch.equal(saved, slow if average else fast), folder
    assert not torch.equal(slow, fast)


@pytest.mark.clause("C06", "C41")
def test_a_run_resumes_bitwise_from_a_state_saved_with_the_average(tmp_path):
    whole, first, second = Training(), Training(), Training()
    whole.run()
    whole.run()
    first.run()
    first.optimizer.eval()
    first.accelerator.save_state(str(tmp_path))
    second.accelerator.load_state(str(tmp_path))
    second.run()
    assert_same(second.state(), whole.state())


class Inside(Training):
    """The inner optimizer is prepared, and ours around it."""

    def __init__(self, scaler=None, **options):
        self.accelerator = Accelerator(cpu=True, **options)
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        inner = torch.optim.AdamW(model.parameters(), lr=0.1)
        loader = DataLoader(TensorDataset(DATA), batch_size=4)
        self.model, inner, self.loader = self.accelerator.prepare(model, inner, loader)
        if scaler is not None:
            inner = AcceleratedOptimizer(inner.optimizer, scaler=scaler)
        self.optimizer = Lookahead(inner, 3, 0.5)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 1.0)


@pytest.mark.clause("C03")
@pytest.mark.parametrize("batches", [1, 2, 3])
def test_around_a_prepared_optimizer_batches_that_are_accumulated_are_no_steps(batches):
    inside = Inside(gradient_accumulation_steps=batches)
    inside.run()
    inside.run()
    # The last batch of a pass steps, whatever was accumulated.
    steps = 2 * -(-8 // batches)
    group = inside.optimizer.state_dict()["param_groups"][0]
    assert (group["lookahead_syncs"], group["lookahead_count"]) == divmod(steps, 3)


@pytest.mark.clause("C03")
def test_both_orders_are_the_same_run():
    inside, around = Inside(gradient_accumulation_steps=2), Training(gradient_accumulation_steps=2)
    for group in around.optimizer.param_groups:
        group["lr"] = 0.1
    around.schedule = inside.schedule  # which keeps the rate
    inside.run()
    around.run()
    assert_same(inside.state()[0], around.state()[0])


@pytest.mark.clause("C03")
def test_around_a_prepared_optimizer_steps_that_its_scaler_skips_do_not_count():
    inside = Inside(scaler=torch.amp.GradScaler("cpu", init_scale=2.0))
    for step in range(4):
        loss = inside.model(DATA[:4]).square().mean()
        inside.optimizer.inner.scaler.scale(loss).backward()
        if step % 2:
            inside.model.weight.grad.fill_(torch.inf)
        inside.optimizer.step()
        inside.optimizer.zero_grad()
    assert inside.optimizer.state_dict()["param_groups"][0]["lookahead_count"] == 2


# --- the loop to copy ---


class Loop:
    """What the loop is given."""

    def __init__(self, rule):
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        torch.manual_seed(0)
        model, loader = torch.nn.Linear(3, 2), DataLoader(TensorDataset(DATA), batch_size=4)
        inner = torch.optim.AdamW(model.parameters(), lr=0.1)
        prepared = self.accelerator.prepare(model, MetaOptimizer(inner, rule), loader)
        self.model, self.optimizer, loader = prepared
        self.loaders = {"train": loader, "validation": loader}

    def run(self, example, epochs, folder, **options):
        given = (self.accelerator, self.model, self.optimizer, self.loaders, loss_of)
        return example("accelerate")["train"](*given, epochs, folder, **options)

    def state(self):
        return flat([self.model.state_dict(), self.optimizer.state_dict()])


def loss_of(model, batch):
    return model(batch[0]).square().mean()


@pytest.mark.clause("C06", "C22", "C41")
@pytest.mark.parametrize("rule", [lookahead(5), ema(0.8)], ids=["lookahead", "ema"])
def test_the_loop_resumes_bitwise_and_saves_the_weights_that_it_has_evaluated(
    rule, example, tmp_path
):
    whole, first, second = Loop(rule), Loop(rule), Loop(rule)
    losses = whole.run(example, 3, str(tmp_path / "whole"))
    first.run(example, 2, str(tmp_path / "halves"))
    assert second.run(example, 3, str(tmp_path / "halves"), resume_from=2) == losses[2:]
    assert_same(second.state(), whole.state())
    shipped = torch.nn.Linear(3, 2)
    shipped.load_state_dict(load_file(tmp_path / "whole/3/model.safetensors"))
    found = torch.stack([loss_of(shipped, (batch,)) for batch in DATA.split(4)]).mean().item()
    assert found == losses[-1]
    slow = whole.optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert torch.equal(shipped.weight, slow)
    assert not torch.equal(whole.model.weight, slow)
