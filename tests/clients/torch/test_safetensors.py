"""safetensors: the tensors of a checkpoint in one file, its numbers as JSON."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lookahead_core.adapters.torch import Lookahead
from reference_loop import POLICIES, STEPS, K
from torch_runs import Quadratic, adam, train


def write(state, folder):
    """Tensors under "parameter.key"; everything else is plain numbers, strings and lists."""
    tensors = {
        f"{number}.{key}": value
        for number, entries in state["state"].items()
        for key, value in entries.items()
    }
    save_file(tensors, folder / "optimizer.safetensors")
    (folder / "groups.json").write_text(json.dumps(state["param_groups"]))


def read(folder):
    state = {}
    for name, tensor in load_file(folder / "optimizer.safetensors").items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor
    return {"state": state, "param_groups": json.loads((folder / "groups.json").read_text())}


@pytest.mark.clause("C06")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_checkpoint_in_safetensors_resumes_bitwise(policy, tmp_path):
    whole, first, second = Quadratic(), Quadratic(), Quadratic()
    undisturbed, before, after = (
        Lookahead(adam(model.parameters()), K, 0.5, policy) for model in (whole, first, second)
    )
    train(undisturbed, whole, STEPS)
    train(before, first, K + 2)
    write(before.state_dict(), tmp_path)
    second.load_state_dict(first.state_dict())
    after.load_state_dict(read(tmp_path))
    train(after, second, STEPS - K - 2)
    assert torch.equal(second.x, whole.x)
