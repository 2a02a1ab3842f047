"""Which leaves are averaged: a dtype's kind decides, and not what it prints as."""

import pytest

from lookahead_core.leaves import is_averaged, kind_of

KINDS = {
    "float": ["float32", "float64"],
    "int": ["int8", "int32", "int64", "uint8"],
    "other": ["bool"],
}


@pytest.mark.clause("C14", "C28")
@pytest.mark.parametrize(("expected", "name"), [(k, name) for k in KINDS for name in KINDS[k]])
def test_the_kind_of_a_dtype(expected, name, xp):
    dtype = xp.zeros(1, dtype=getattr(xp, name)).dtype
    assert kind_of(dtype) == expected
    assert is_averaged(dtype) == (expected == "float")


@pytest.mark.clause("C32")
def test_complex_leaves_are_averaged(xp):
    dtype = xp.zeros(1, dtype=xp.complex64).dtype
    assert kind_of(dtype) == "complex"
    assert is_averaged(dtype)


@pytest.mark.clause("C28")
def test_bfloat16_is_a_float(bfloat16):
    xp, dtype = bfloat16
    assert kind_of(xp.zeros(1, dtype=dtype).dtype) == "float"
