"""Codecs by themselves: what comes back, and in how many bytes (clause C83)."""

import pytest
import torch

from lookahead_core.adapters.torch._streaming.codecs import CODECS, Blocks, codec_of
from torch_runs import generator

SIZES = [1, 2, 3, 127, 128, 129, 1000]


def numbers(size, spread=3.0):
    own = generator(size)
    scale = torch.exp(spread * torch.randn(size, generator=own))
    return torch.randn(size, generator=own) * scale


def back(codec, values):
    return codec.decode(codec.encode(values), len(values))


@pytest.mark.clause("C83")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "steps"), [("int8", 127), ("int4", 7)])
def test_integers_are_within_half_a_step_of_their_block(name, steps, size):
    values = numbers(size)
    got = back(CODECS[name], values)
    for begin in range(0, size, 128):
        block = values[begin : begin + 128]
        error = (got[begin : begin + 128] - block).abs().max()
        assert error <= block.abs().max() / steps / 2 * (1 + 1e-6)
    assert got.dtype == torch.float32


@pytest.mark.clause("C83")
@pytest.mark.parametrize(("bits", "steps"), [(8, 127), (4, 7)])
def test_what_a_block_can_say_comes_back_to_the_bit(bits, steps):
    values = torch.arange(-steps, steps + 1).float() * 0.25
    assert torch.equal(back(Blocks(bits), values), values)
    assert torch.equal(back(Blocks(bits), torch.zeros(5)), torch.zeros(5))


@pytest.mark.clause("C83")
@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_is_the_cast(size):
    values = numbers(size)
    assert torch.equal(back(CODECS["bfloat16"], values), values.bfloat16().float())


@pytest.mark.clause("C83")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "bits"), [("bfloat16", 16), ("int8", 8), ("int4", 4)])
def test_so_many_bytes_are_sent(name, bits, size):
    sent = CODECS[name].encode(numbers(size))
    scales = 0 if name == "bfloat16" else 4 * -(-size // 128)
    assert (sent.dtype, sent.shape) == (torch.uint8, (scales + -(-size * bits // 8),))


@pytest.mark.clause("C83")
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", CODECS)
def test_what_is_not_finite_is_not_hidden(name, wrong):
    values = numbers(300)
    values[5] = wrong
    got = back(CODECS[name], values)
    assert not got[5].isfinite()
    assert got[128:].isfinite().all()


@pytest.mark.clause("C83")
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_numbers_too_small_for_a_step_are_zero(name):
    assert torch.equal(back(CODECS[name], torch.full((3,), 1e-45)), torch.zeros(3))


def test_a_codec_of_ones_own_is_taken_as_it_is():
    own = Blocks(8, size=4)
    assert codec_of(own) is own
    assert codec_of(None) is None
