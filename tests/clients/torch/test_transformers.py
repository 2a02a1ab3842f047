"""transformers.Trainer on a tiny model of random weights: train, evaluate, save, resume."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

from lookahead_core.adapters.torch import Lookahead
from torch_runs import assert_same, flat

TOKENS = torch.randint(0, 32, (40, 8), generator=torch.Generator().manual_seed(1))
DATA = [{"input_ids": row, "labels": row} for row in TOKENS]
CONFIG = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def trainer(folder, **options):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    optimizer = Lookahead(torch.optim.AdamW(model.parameters(), lr=0.01), 3, 0.5)
    schedule = get_cosine_schedule_with_warmup(optimizer, 2, 20)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=20,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        **options,
    )
    return Trainer(
        model,
        arguments,
        train_dataset=DATA,
        eval_dataset=DATA[:8],
        optimizers=(optimizer, schedule),
    )


def weights(run):
    return flat(dict(run.model.state_dict()))


@pytest.mark.clause("C06", "C41")
@pytest.mark.parametrize("evaluation", ["no", "steps"])
def test_a_run_resumes_bitwise_from_its_checkpoint(evaluation, tmp_path):
    # With evaluation the checkpoint is written while the slow weights are in the model.
    options = {"save_steps": 7, "eval_strategy": evaluation, "eval_steps": 7}
    whole, second = trainer(tmp_path, **options), trainer(tmp_path, **options)
    whole.train()
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert_same(weights(second), weights(whole))


# --- which weights it saves ---


def saved(folder):
    return load_file(folder / "model.safetensors")["model.norm.weight"]


def of_the_average(folder):
    """The slow and the fast weights of the same parameter, by what the optimizer has saved."""
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    (state,) = [s for s in optimizer["state"].values() if s["lookahead_slow"].shape == (16,)][-1:]
    return state["lookahead_slow"], state.get("lookahead_fast")


@pytest.mark.clause("C22", "C41")
@pytest.mark.parametrize("how", ["no evaluation", "evaluation", "callback"])
def test_a_checkpoint_has_the_fast_weights_unless_there_was_an_evaluation(how, example, tmp_path):
    evaluation = {"eval_strategy": "steps", "eval_steps": 7} if how == "evaluation" else {}
    run = trainer(tmp_path, save_steps=7, **evaluation)
    if how == "callback":
        run.add_callback(example("transformers")["SlowWeights"]())
    run.train()
    folder = tmp_path / "checkpoint-7"
    slow, fast = of_the_average(folder)
    assert torch.equal(saved(folder), slow) == (how != "no evaluation")
    assert (fast is not None) == (how != "no evaluation")


@pytest.mark.clause("C22", "C41")
def test_a_run_that_saves_the_average_resumes_bitwise(example, tmp_path):
    whole, second = (trainer(tmp_path, save_steps=7) for _ in range(2))
    for run in (whole, second):
        run.add_callback(example("transformers")["SlowWeights"]())
    whole.train()
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert_same(weights(second), weights(whole))


@pytest.mark.clause("C22")
@pytest.mark.parametrize("best", [False, True])
def test_with_the_callback_the_trained_model_is_the_average_or_the_best_one(
    best, example, tmp_path
):
    options = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 7}
    run = trainer(tmp_path, **({"save_steps": 7, **options} if best else {"save_strategy": "no"}))
    run.add_callback(example("transformers")["SlowWeights"]())
    run.train()
    if best:
        slow, _ = of_the_average(Path(run.state.best_model_checkpoint))
    else:
        slow = run.optimizer.state_dict()["state"][0]["lookahead_slow"]
    shown = run.model.model.norm.weight if best else next(run.model.parameters())
    assert torch.equal(shown, slow)


@pytest.mark.clause("C22")
def test_save_model_saves_what_the_model_holds(tmp_path):
    run = trainer(tmp_path, save_strategy="no")
    run.train()
    fast = run.model.model.norm.weight.detach().clone()
    run.save_model(str(tmp_path / "fast"))
    with run.optimizer.optimizer.slow_weights():
        run.save_model(str(tmp_path / "slow"))
    assert torch.equal(saved(tmp_path / "fast"), fast)
    assert not torch.equal(saved(tmp_path / "slow"), fast)
    assert torch.equal(run.model.model.norm.weight, fast)


@pytest.mark.clause("C22")
def test_the_best_model_is_the_average_that_was_evaluated(tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 7}
    run = trainer(tmp_path, save_steps=7, **best)
    run.train()
    slow, _ = of_the_average(Path(run.state.best_model_checkpoint))
    assert torch.equal(run.model.model.norm.weight, slow)


@pytest.mark.clause("C22")
def test_it_evaluates_on_the_slow_weights(tmp_path):
    run = trainer(tmp_path, save_strategy="no")
    run.train()
    fast = run.model.lm_head.weight.detach().clone()
    run.evaluate()
    slow = run.optimizer.state_dict()["state"][0]["lookahead_slow"]
    assert torch.equal(next(run.model.parameters()), slow)
    run.optimizer.train()
    assert torch.equal(run.model.lm_head.weight, fast)


@pytest.mark.clause("C09")
def test_alpha_one_trains_as_the_bare_optimizer_does(tmp_path):
    ours, bare = trainer(tmp_path, save_strategy="no"), trainer(tmp_path, save_strategy="no")
    for group in ours.optimizer.param_groups:
        group["lookahead_alpha"] = 1.0
    bare.optimizer = torch.optim.AdamW(bare.model.parameters(), lr=0.01)
    bare.lr_scheduler = get_cosine_schedule_with_warmup(bare.optimizer, 2, 20)
    ours.train()
    bare.train()
    assert_same(weights(ours), weights(bare))
