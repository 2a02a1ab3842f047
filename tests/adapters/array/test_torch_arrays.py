"""The conformance suite on the array loop with torch tensors, without torch.optim."""

import array_api_compat.torch
import pytest
import torch

from array_checkpoints import K, assert_resumes
from drivers.array_driver import ArrayDriver
from lookahead_core.adapters._array_kernel import IN_PLACE
from lookahead_core.conformance import AdapterConformance, KernelConformance


@pytest.mark.column("torch-arrays")
class TestTorchArrays(AdapterConformance):
    driver = ArrayDriver("array_api_compat.torch")


@pytest.mark.column("torch-arrays")
class TestKernel(KernelConformance):
    kernel = IN_PLACE
    xp = array_api_compat.torch


@pytest.mark.clause("C06")
@pytest.mark.column("torch-arrays")
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("phase", range(K))
def test_a_run_resumes_from_a_file_bitwise(phase, dtype, suffix, tmp_path):
    leaves = [torch.tensor([1.0, -2.0, 3.0], dtype=dtype), torch.tensor([[0.5, 4.0]], dtype=dtype)]
    assert_resumes(
        tmp_path / f"run{suffix}", leaves, lambda leaf: (leaf.tolist(), leaf.dtype), phase
    )
