"""Codecs by themselves: what comes back, and in how many bytes (clause C83)."""

import pytest
import torch

from lookahead_core.adapters.torch._streaming.codecs import CODECS, Blocks, TopK, codec_of, name_of
from torch_runs import generator


class Whole:
    """All bits of a float32."""

    def encode(self, values):
        return values.view(torch.uint8)

    def decode(self, sent, size):
        return sent.view(torch.float32)


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
@pytest.mark.parametrize("size", SIZES)
def test_the_largest_of_each_block_come_back_and_the_others_are_zero(size):
    values, codec = numbers(size), TopK(k=5, size=64, values=Whole())
    expected = torch.zeros(size)
    for begin in range(0, size, 64):
        block = range(begin, min(begin + 64, size))
        for place in sorted(block, key=lambda n: -abs(values[n]))[:5]:
            expected[place] = values[place]
    assert torch.equal(back(codec, values), expected)


@pytest.mark.clause("C83")
@pytest.mark.parametrize(("values", "bits"), [("bfloat16", 16), ("int8", 8.25), ("int4", 4.25)])
def test_of_the_largest_so_many_bytes_are_sent(values, bits):
    sent = TopK(values=values).encode(numbers(8 * 4096))
    assert (sent.dtype, sent.shape) == (torch.uint8, (8 * 64 * (16 + bits) / 8,))
    assert TopK(values=values).encode(numbers(1)).numel() > 0


@pytest.mark.clause("C83")
@pytest.mark.parametrize("values", CODECS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_of_the_largest_what_is_not_finite_is_one(values, wrong):
    given = numbers(300)
    given[7] = wrong
    got = back(TopK(k=2, size=100, values=values), given)
    assert not got[7].isfinite()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"k": 0}, "k must be an int >= 1"),
        ({"k": 5, "size": 4}, "size must be from k=5 to 32768, got 4"),
        ({"size": 40000}, "size must be from k=64 to 32768, got 40000"),
        ({"values": "int3"}, "values must be None, one of"),
        ({"values": None}, "values must be the name of a codec"),
        ({"decay": 1.5}, r"decay must be in \[0, 1\], got 1.5"),
    ],
)
def test_a_top_k_out_of_range_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        TopK(**wrong)


def test_workers_and_checkpoints_are_told_the_settings_of_a_codec():
    assert name_of(TopK(k=3)) == "TopK(k=3, size=4096, values=bfloat16, decay=1.0)"
    assert name_of(TopK(values=Whole(), decay=0.5)).endswith("values=Whole, decay=0.5)")
    assert [name_of(codec) for codec in (None, "int4", Whole())] == [None, "int4", "Whole"]


@pytest.mark.clause("C83")
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_numbers_too_small_for_a_step_are_zero(name):
    assert torch.equal(back(CODECS[name], torch.full((3,), 1e-45)), torch.zeros(3))


def test_a_codec_of_ones_own_is_taken_as_it_is():
    own = Blocks(8, size=4)
    assert codec_of(own) is own
    assert codec_of(None) is None
