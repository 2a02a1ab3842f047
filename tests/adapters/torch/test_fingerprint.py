"""The number by which workers compare their slow weights: one bit changes it."""

import pytest
import torch

from lookahead_core.adapters.torch._workers.collectives import fingerprint

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64]


def leaves(dtype):
    return [torch.linspace(-1, 1, 6).to(dtype).view(2, 3).t(), torch.ones((), dtype=dtype)]


@pytest.mark.parametrize("dtype", [*DTYPES, torch.complex128, torch.float8_e4m3fn])
def test_equal_leaves_have_the_same(dtype):
    assert fingerprint(leaves(dtype)) == fingerprint(leaves(dtype)) != 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bit", [0, 7])
def test_one_bit_changes_it(dtype, bit):
    changed = leaves(dtype)
    memory = changed[0].t().view(torch.uint8)
    memory[1, 2] ^= 1 << bit
    assert fingerprint(changed) != fingerprint(leaves(dtype))


def test_leaves_in_another_order_change_it():
    one, two = torch.ones(3), torch.zeros(3)
    assert fingerprint([one, two]) != fingerprint([two, one])


def test_it_is_sent_as_64_bits():
    large = torch.full((1 << 16,), -1, dtype=torch.int64).view(torch.float64)
    assert -(1 << 63) <= fingerprint([large] * 40) < 1 << 63
