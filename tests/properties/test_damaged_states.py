"""State dicts of the torch adapter that were changed at random (clause C06): loaded, or refused.

A thousand in every run, `pytest --hypothesis-profile full` for fifty thousand. What is refused is a
ValueError and changes nothing; what is loaded trains on, syncs and is saved, wherever the bare
inner optimizer does so with its own part of it. A failure says the seed of its state dict:
`python -m pytest ... -k SEED` is that one again.
"""

import copy
import math
import random
import warnings

import pytest
import torch
from hypothesis import settings

from damaged import PLAIN, STRUCTURES, changed
from lookahead_core import Momentum, SyncRule, ema
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer
from reference_loop import K
from torch_runs import INNERS, Quadratic, assert_same, snapshot, train

FULL = settings.get_current_profile_name() == "full"
EACH = 225 if FULL else 5  # in each of 225 runs
OPTIMIZERS = {
    **{
        f"{policy} around {name}": lambda leaves, policy=policy, name=name: Lookahead(
            INNERS[name](leaves), K, 0.5, policy
        )
        for policy in ("maintain", "reset", "interpolate")
        for name in INNERS
    },
    "momentum outside": lambda leaves: MetaOptimizer(
        INNERS["adam"](leaves), SyncRule(K, Momentum(0.5, 0.5))
    ),
    "an average": lambda leaves: MetaOptimizer(INNERS["sgd"](leaves), ema(0.75)),
    "captured": lambda leaves: Lookahead(
        torch.optim.Adam(leaves, lr=0.1, capturable=False), K, 0.5, capturable=True
    ),
}
SEEDS = range(25)
# They say what there was, and are made anew.
UNLIKE = ("lookahead_entries", "lookahead_inner_step", "lookahead_numbers")


def others(value, draw):
    """What may stand in the place of `value`."""
    tensors = (
        torch.tensor(1.5),
        torch.tensor(3),
        torch.zeros(3),
        torch.zeros(0),
        torch.zeros(2, 2, dtype=torch.float64),
        torch.tensor([1 + 2j, 2j], dtype=torch.complex128),
        torch.zeros(2, dtype=torch.int64),
        torch.ones(2, dtype=torch.bool),
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
        torch.full((2,), math.nan, dtype=torch.float64),
    )
    if isinstance(value, torch.Tensor) and draw.random() < 0.4:
        return draw.choice((value.double(), value.to(torch.float16), value.to(torch.complex64)))
    return draw.choice((*PLAIN, *STRUCTURES, *tensors))


def outcome(optimizer, model, state_dict):
    """How far it comes: ("load" or "train", the error), or None if it comes to the end."""
    stage = "load"
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            optimizer.load_state_dict(state_dict)
            stage = "save"
            if not said:  # else it was taken for one of the bare inner optimizer
                assert_ours_are_what_was_loaded(state_dict, optimizer.state_dict())
            stage = "train"
            train(optimizer, model, 2 * K)
            optimizer.state_dict()
    except Exception as error:
        return stage, error
    return None


def assert_ours_are_what_was_loaded(given, saved):
    """Each entry of ours that was taken is the one that is saved again."""
    # Between two cycles what is slow is what the model and the inner optimizer have.
    between = saved["param_groups"][0]["lookahead_count"] <= 0
    unlike = (*UNLIKE, "lookahead_slow") if between else UNLIKE
    pairs = list(zip(given["param_groups"], saved["param_groups"], strict=True))
    for given_group, saved_group in list(pairs):
        numbers = zip(given_group["params"], saved_group["params"], strict=True)
        pairs += [(given["state"].get(i, {}), saved["state"].get(j, {})) for i, j in numbers]
    for mine, again in pairs:
        for name in mine.keys() & again.keys():
            if str(name).startswith("lookahead_") and not name.startswith(unlike):
                where = f"{name}: given {mine[name]!r}, saved {again[name]!r}"
                if torch.is_tensor(again[name]):
                    same = mine[name].to(again[name].dtype), again[name]
                    assert torch.allclose(*same, rtol=0, atol=0, equal_nan=True), where
                    assert mine[name].is_complex() == again[name].is_complex(), where
                else:
                    assert mine[name] == again[name], where


def bare_outcome(kind, state_dict):
    """The same of the inner optimizer with its own part of the state dict."""
    model = Quadratic()
    inner = OPTIMIZERS[kind](list(model.parameters())).inner
    try:
        return outcome(inner, model, theirs(state_dict))
    except Exception as error:  # it cannot even be taken apart
        return "load", error


def theirs(value):
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not str(k).startswith("lookahead_")}
        return {k: theirs(v) for k, v in kept.items()}
    return [theirs(own) for own in value] if isinstance(value, list) else value


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_damaged_state_dict_is_loaded_or_refused(kind, seed):
    draw = random.Random(f"{kind}{seed}")
    model = Quadratic()
    optimizer = OPTIMIZERS[kind](list(model.parameters()))
    train(optimizer, model, draw.randrange(2 * K + 1))
    good = optimizer.state_dict()
    for number in range(EACH):
        damaged = changed(copy.deepcopy(good), draw, others)
        model = Quadratic()
        optimizer = OPTIMIZERS[kind](list(model.parameters()))
        train(optimizer, model, 2)
        before = snapshot(model, optimizer)
        failed = outcome(optimizer, model, damaged)
        where = f"seed {seed}, number {number}"
        if failed is None:
            continue
        stage, error = failed
        if stage == "load":
            assert isinstance(error, ValueError), f"{where}: {error!r}"
            assert_same(snapshot(model, optimizer), before, where)
        elif stage == "save":
            raise AssertionError(where) from error
        else:
            assert bare_outcome(kind, damaged) is not None, f"{where}: {error!r} while training"
