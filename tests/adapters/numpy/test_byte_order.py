"""Floats of the other byte order, as FITS and other files hold them, are floats like any other."""

import ml_dtypes
import numpy as np
import pytest

from lookahead_core import (
    AdaptiveAlpha,
    diloco,
    ema,
    interpolate,
    lookahead,
    move_with_momentum,
    nested,
)
from lookahead_core.adapters.numpy import (
    SGD,
    Adam,
    Lookahead,
    MetaOptimizer,
    clip_by_value,
    global_norm,
    load,
    save,
)
from lookahead_core.leaves import is_averaged, kind_of
from lookahead_core.workers import pseudo_gradients

BIG, LITTLE = np.dtype(">f4"), np.dtype("<f4")
RULES = {
    "lookahead": lookahead(3, 0.3),
    "lookahead, far": lookahead(3, 0.8),
    "reset": lookahead(3, 0.3, "reset"),
    "interpolate": lookahead(3, 0.3, "interpolate"),
    "adaptive": lookahead(3, AdaptiveAlpha()),
    "diloco": diloco(3),
    "ema": ema(0.5),
    "nested": nested(lookahead(2, 0.5), lookahead(4, 0.5)),
}


@pytest.mark.clause("C14")
@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        *((">f2", "float"), (">f4", "float"), (">f8", "float"), (np.longdouble, "float")),
        *((">c8", "complex"), (">c16", "complex")),
        *((">i4", "int"), (">u8", "int"), ("?", "other"), (">M8[s]", "other"), ("O", "other")),
        *((ml_dtypes.bfloat16, "float"), (ml_dtypes.float8_e5m2, "float"), (ml_dtypes.int4, "int")),
        ([("float", ">f4")], "other"),
    ],
    ids=str,
)
def test_the_kind_of_a_dtype_of_numpy(dtype, expected):
    assert kind_of(np.dtype(dtype)) == expected
    assert is_averaged(np.dtype(dtype)) == (expected in ("float", "complex"))


def trained(dtype, rule, inner, **settings):
    params = [np.asarray([1.0, -2.0, 3.0], dtype)]
    optimizer = MetaOptimizer(inner(params), rule, **settings)
    for _ in range(8):
        optimizer.step([(params[0] * 0.5).astype(dtype)])
    return optimizer


@pytest.mark.clause("C28")
@pytest.mark.parametrize("inner", [lambda p: SGD(p, 0.1, 0.9), Adam], ids=["SGD", "Adam"])
@pytest.mark.parametrize("rule", RULES)
def test_a_run_is_that_of_native_floats_bit_for_bit(rule, inner):
    ours, native = (trained(dtype, RULES[rule], inner) for dtype in (BIG, LITTLE))
    assert ours.params[0].dtype == ours.slow_weights()[0].dtype == BIG
    assert ours.params[0].tolist() == native.params[0].tolist()
    assert ours.slow_weights()[0].tolist() == native.slow_weights()[0].tolist()
    assert ours.params[0].tolist() != [1.0, -2.0, 3.0]


@pytest.mark.clause("C23")
@pytest.mark.parametrize("rule", RULES)
def test_the_core_keeps_the_byte_order(rule):
    rule = RULES[rule]
    fast, inner = [np.asarray([1.0, -2.0], BIG)], [np.ones(2, BIG)]
    state = rule.init(fast, inner)
    for _ in range(6):
        state = rule.begin(fast, inner, state)
        fast = [(leaf * 0.5).astype(BIG) for leaf in fast]
        fast, inner, state = rule.step(fast, inner, state, gradient=fast)
    held = [*fast, *inner, *state.slow, *rule.slow(fast, state), *state.inner_slow]
    held += [leaf for slot in state.outer for leaf in slot]
    assert {leaf.dtype for leaf in held} == {BIG}


@pytest.mark.clause("C51")
@pytest.mark.parametrize("alpha", [np.asarray(0.3, ">f8"), lambda syncs: np.asarray(0.3, ">f8")])
def test_alpha_may_be_of_the_other_byte_order(alpha):
    ours, native = (
        trained(LITTLE, lookahead(3, a), lambda p: SGD(p, 0.1)) for a in (alpha, np.asarray(0.3))
    )
    assert ours.params[0].tolist() == native.params[0].tolist()


@pytest.mark.clause("C15")
def test_slow_weights_may_be_wider():
    optimizer = trained(BIG, RULES["ema"], lambda p: SGD(p, 0.1), slow_dtype=np.float64)
    assert optimizer.slow_weights()[0].dtype == np.float64
    assert optimizer.params[0].dtype == BIG


@pytest.mark.clause("C23")
@pytest.mark.parametrize("alpha", [0.3, 0.8, np.asarray(0.3)])
@pytest.mark.parametrize("dtype", [">f4", ">f8", ">c8"])
def test_the_formulas_keep_the_byte_order(dtype, alpha):
    slow, fast = np.asarray([1.0, 2.0], dtype), np.asarray([3.0, -1.0], dtype)
    moved = [interpolate(slow, fast, alpha)]
    moved += move_with_momentum(slow, fast, slow, alpha, 0.5, True)
    assert [leaf.dtype.str for leaf in moved] == [dtype] * 3


@pytest.mark.clause("C06")
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_keeps_the_byte_order(suffix, tmp_path):
    optimizer, other = (
        Lookahead(Adam([np.asarray(v, BIG)]), 3, 0.3, "interpolate") for v in ([1.0, 2.0], [0, 0])
    )
    optimizer.step([np.ones(2, BIG)])
    save(tmp_path / f"run{suffix}", optimizer)
    load(tmp_path / f"run{suffix}", other)
    assert repr(other.state_dict()) == repr(optimizer.state_dict())
    assert other.params[0].tolist() == optimizer.params[0].tolist()


@pytest.mark.clause("C32")
def test_complex_leaves_are_known_as_such():
    params, gradient = [np.asarray([1.0 + 2.0j], ">c8")], [np.asarray([3.0 - 4.0j], ">c8")]
    SGD(params, 0.5).step(gradient)
    assert params[0].tolist() == [-0.5 + 4.0j]
    assert clip_by_value(gradient, 1.0)[0].tolist() == [1.0 - 1.0j]
    assert global_norm(gradient) == 5.0
    assert pseudo_gradients(params, gradient)[0].tolist() == [-3.5 + 8.0j]
    with pytest.raises(ValueError, match="params must be real for Adam, got a leaf of >c8"):
        Adam(params)
    with pytest.raises(ValueError, match="must be real as"):
        SGD([np.zeros(1, BIG)], 0.1).step(gradient)


@pytest.mark.clause("C32", "C77")
def test_an_adaptive_alpha_of_complex_leaves_is_real():
    rule = lookahead(2, AdaptiveAlpha())
    weights = []
    for dtype in (">c8", "<c8"):
        params = [np.asarray([1.0 + 2.0j, -0.5j], dtype)]
        optimizer = MetaOptimizer(SGD(params, 0.3), rule)
        for step in range(4):
            optimizer.step([(params[0] * (0.5 + step)).astype(dtype)])
        weights.append(params[0].tolist())
    assert weights[0] == weights[1]
