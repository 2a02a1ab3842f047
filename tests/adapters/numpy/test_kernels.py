"""The blocked kernel is the reference kernel, bit for bit: any layout, any dtype, any size."""

import os
import tracemalloc
from threading import Barrier, get_ident

import ml_dtypes
import numpy as np
import pytest

from lookahead_core import REFERENCE_KERNEL
from lookahead_core.adapters.numpy import SGD, Lookahead
from lookahead_core.adapters.numpy._kernels import in_place, machine
from lookahead_core.adapters.numpy._kernels.in_place import IN_PLACE

DTYPES = (np.float16, np.float32, np.float64, np.longdouble, np.complex64, np.complex128)
ALPHAS = (0.0, 0.3, 0.5, 0.8, 1.0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, the last one shorter, without large arrays."""
    monkeypatch.setattr(in_place, "BLOCK", 64)


def values(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    real = rng.standard_normal(shape)
    new = real + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else real
    return new.astype(dtype)


def same(one, other):
    """Bit for bit; a long double has bytes that mean nothing."""
    return one.dtype == other.dtype and [*map(repr, one.flat)] == [*map(repr, other.flat)]


def assert_is_the_reference_in_place(slow, fast, alpha):
    copies = slow.copy(), fast.copy()
    (expected,), (expected_fast,) = REFERENCE_KERNEL.interpolate([copies[0]], [copies[1]], alpha)
    (moved,), (moved_fast,) = IN_PLACE.interpolate([slow], [fast], alpha)
    assert moved is slow
    assert moved_fast is fast
    assert same(slow, expected)
    assert same(fast, expected_fast)


@pytest.mark.clause("C07", "C08", "C10")
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [*DTYPES, ml_dtypes.bfloat16])
def test_every_dtype_is_the_reference_in_place(dtype, alpha):
    assert_is_the_reference_in_place(values(50, dtype, 1), values(50, dtype, 2), alpha)


@pytest.mark.clause("C15")
@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_a_wider_leaf_after_one_that_is_not_is_the_reference(alpha):
    slow = [values(9, np.float32, seed) for seed in (1, 2)]
    fast = [values(9, np.float32, 3), values(9, np.float16, 4)]
    expected = REFERENCE_KERNEL.interpolate(slow, fast, alpha)
    moved = IN_PLACE.interpolate(
        *([leaf.copy() for leaf in leaves] for leaves in (slow, fast)), alpha
    )
    assert all(map(same, moved[0], expected[0]))
    assert all(map(same, moved[1], expected[1]))


def test_no_leaf_is_moved_in_more_than_a_block_at_once(monkeypatch):
    sizes = []
    monkeypatch.setattr(in_place, "_move", lambda slow, *_: sizes.append(slow.size))
    leaves = [values(size, np.float32, size) for size in (4, 40)]
    IN_PLACE.interpolate(leaves, [leaf.copy() for leaf in leaves], 0.5)
    assert sizes == [4, 16, 16, 8]


def f_order(array):
    return np.asfortranarray(array)


def strided(array):
    wide = np.zeros((array.shape[0], 2 * array.shape[1]), array.dtype)
    wide[:, ::2] = array
    return wide[:, ::2]


def reversed_(array):
    return array[::-1].copy()[::-1]


def c_order(array):
    return np.ascontiguousarray(array)


LAYOUTS = (c_order, f_order, strided, reversed_)


@pytest.mark.clause("C08", "C10", "C23")
@pytest.mark.parametrize("fast_layout", LAYOUTS)
@pytest.mark.parametrize("slow_layout", LAYOUTS)
def test_every_pair_of_layouts_is_the_reference_in_place(slow_layout, fast_layout):
    slow = slow_layout(values((7, 9), np.float32, 1))
    assert_is_the_reference_in_place(slow, fast_layout(values((7, 9), np.float32, 2)), 0.3)


@pytest.mark.clause("C10", "C15")
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_wider_slow_weights_are_the_reference_in_place(dtype, layout, alpha):
    slow, fast = values((7, 9), np.float64, 1), layout(values((7, 9), dtype, 2))
    assert_is_the_reference_in_place(slow, fast, alpha)


@pytest.mark.clause("C26")
@pytest.mark.parametrize("slow_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_anchor_is_the_reference_in_place(layout, slow_dtype):
    fast = layout(values((7, 9), np.float32, 2))
    slow = fast.astype(slow_dtype) * (1 + 1e-12)  # keeps its extra bits where it is wider
    slow[3] = 7.0
    (expected,) = REFERENCE_KERNEL.anchor([slow.copy()], [fast])
    (anchored,) = IN_PLACE.anchor([slow], [fast])
    assert anchored is slow
    assert same(slow, expected)


@pytest.mark.clause("C29")
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (16,), (17,), (2, 3, 5)])
def test_every_shape_is_the_reference_in_place(shape):
    slow, fast = (np.asarray(values(shape, np.float32, seed)) for seed in (1, 2))
    assert_is_the_reference_in_place(slow, fast, 0.3)


@pytest.mark.clause("C08", "C10", "C23")
@pytest.mark.parametrize("alpha", ALPHAS)
def test_many_leaves_of_one_kind_are_the_reference_each(alpha):
    def leaves(first):
        kinds = [(3, np.float32)] * 3 + [(3, np.float64)] * 2 + [(40, np.float32)] * 2
        made = [values(size, dtype, first + i) for i, (size, dtype) in enumerate(kinds)]
        made[1].flags.writeable = False
        made[4] = made[4][::-1]
        return made

    slow, fast = leaves(0), leaves(50)
    expected = REFERENCE_KERNEL.interpolate(leaves(0), leaves(50), alpha)
    moved = IN_PLACE.interpolate(slow, fast, alpha)
    for got, wanted in zip(moved, expected, strict=True):
        assert all(map(same, got, wanted))
    assert [a is b for a, b in zip(moved[0], slow, strict=True)] == [i != 1 for i in range(7)]


@pytest.mark.clause("C10")
@pytest.mark.parametrize("shift", [0, 1])
def test_what_overlaps_becomes_two_arrays_also_among_others_of_its_kind(shift):
    base = np.arange(4.0)
    overlapping = (base, base) if shift == 0 else (base[:-1], base[1:])
    first = np.zeros(overlapping[0].shape)
    slow, fast = IN_PLACE.interpolate(
        [first, overlapping[0]], [np.ones_like(first), overlapping[1]], 0.3
    )
    assert not np.shares_memory(slow[1], fast[1])


@pytest.mark.clause("C10")
@pytest.mark.parametrize("which", ["slow", "fast"])
def test_a_read_only_array_is_left_alone_and_the_other_is_still_overwritten(which):
    leaves = {"slow": np.zeros(40), "fast": np.ones(40)}
    leaves[which].flags.writeable = False
    before = leaves[which].copy()
    (slow,), (fast,) = IN_PLACE.interpolate([leaves["slow"]], [leaves["fast"]], 0.25)
    assert same(leaves[which], before)
    assert slow.tolist() == fast.tolist() == [0.25] * 40
    assert (slow is leaves["slow"]) == (which == "fast")
    assert (fast is leaves["fast"]) == (which == "slow")


@pytest.mark.clause("C10")
@pytest.mark.parametrize("shift", [0, 1])
def test_overlapping_views_become_arrays_apart(shift):
    base = np.arange(41.0)
    slow, fast = base[: 41 - shift], base[shift:]
    expected = 0.75 * slow + 0.25 * fast
    (moved,), (moved_fast,) = IN_PLACE.interpolate([slow], [fast], 0.25)
    np.testing.assert_allclose(moved, expected)
    assert same(moved, moved_fast)
    assert not np.shares_memory(moved, moved_fast)


def test_interleaved_views_are_overwritten():
    base = np.arange(40.0)
    assert_is_the_reference_in_place(base[::2], base[1::2], 0.3)


def test_memory_maps_are_written_through(tmp_path):
    params = [np.ones(50, np.float32)]

    def buffer(name, leaf):
        return np.memmap(tmp_path / name, leaf.dtype, "w+", shape=leaf.shape)

    optimizer = Lookahead(SGD(params, 1.0), 1, 0.25, slow_buffer=buffer)
    assert np.fromfile(tmp_path / "0", np.float32).tolist() == [1.0] * 50
    optimizer.step([np.ones(50, np.float32)])
    assert np.fromfile(tmp_path / "0", np.float32).tolist() == [0.75] * 50
    assert params[0].tolist() == [0.75] * 50


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("buffer", "message"),
    [
        (lambda name, leaf: np.zeros(3), r"slow_buffer\('0', ...\) must be .* \(2,\), got \(3,\)"),
        (lambda name, leaf: None, "must be a writeable array of shape .* got None"),
        (lambda name, leaf: leaf, "must share no memory with params"),
        (lambda name, leaf: leaf[:], "must share no memory with params"),
        (lambda name, leaf: np.zeros(2, np.float16), "float32 or wider, got float16"),
    ],
)
def test_a_buffer_that_cannot_hold_the_slow_weights_is_refused(buffer, message):
    params = [np.ones(2, np.float32)]
    with pytest.raises(ValueError, match=message):
        Lookahead(SGD(params, 1.0), slow_buffer=buffer)
    assert params[0].tolist() == [1.0, 1.0]


def test_a_buffer_and_a_dtype_are_one_too_many():
    with pytest.raises(ValueError, match="slow_dtype must be None where slow_buffer decides"):
        Lookahead(SGD([np.ones(1)], 1.0), slow_dtype=np.float64, slow_buffer=np.zeros_like)


def peak_of(slow, fast):
    tracemalloc.start()
    try:
        IN_PLACE.anchor([slow], [fast])
        IN_PLACE.interpolate([slow], [fast], 0.3)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("slow_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_of_the_size_of_a_leaf_is_allocated(layout, slow_dtype, monkeypatch):
    monkeypatch.setattr(in_place, "BLOCK", 4096)
    fast = layout(np.ones((500, 800), np.float32))
    assert peak_of(np.zeros((500, 800), slow_dtype), fast) < fast.nbytes / 10


def test_an_allocation_of_the_size_of_a_leaf_would_be_seen():
    tracemalloc.start()
    try:
        np.ones((500, 800), np.float32)
        assert tracemalloc.get_traced_memory()[1] >= 500 * 800 * 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_large_leaves_go_side_by_side_to_the_same_bits(dtype, alpha, monkeypatch):
    threads = set()

    def noted(*arguments):
        threads.add(get_ident())
        barrier.wait()  # for the other two: each has a thread of its own
        moved(*arguments)

    barrier, moved = Barrier(3), in_place._move_block_by_block
    monkeypatch.setattr(in_place, "threads_for", lambda size: 3)
    monkeypatch.setattr(in_place, "_move_block_by_block", noted)
    slow, fast = (values((50, 2), dtype, seed) for seed in (1, 2))
    assert_is_the_reference_in_place(slow, fast, alpha)
    assert len(threads) == (0 if alpha in (0, 1) else 3)


def test_what_numpy_does_about_an_overflow_is_the_callers_in_each_thread(monkeypatch):
    monkeypatch.setattr(in_place, "threads_for", lambda size: 2)
    slow, fast = (sign * np.full(100, np.finfo(np.float32).max, np.float32) for sign in (1, -1))
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
        IN_PLACE.interpolate([slow], [fast], 0.5)


@pytest.mark.parametrize(
    ("size", "processors", "setting", "threads"),
    [
        (1 << 23, 2, None, 2),
        (1 << 23, 64, None, 4),
        (1 << 23, 64, "3", 3),
        (1 << 23, 64, "2,1", 2),
        (1 << 23, 64, "64", 4),
        (1 << 23, 64, "many", 4),
        (1 << 23, 64, "1", 1),
        (1 << 23, 1, None, 1),
        ((1 << 23) - 1, 64, None, 1),
    ],
)
def test_threads_are_few_and_none_where_the_process_is_pinned_or_the_leaf_small(
    size, processors, setting, threads, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(processors), raising=False)
    assert machine.threads_for(size) == threads


@pytest.mark.parametrize(
    ("text", "size"), [("512K\n", 1 << 19), ("8K", 1 << 18), ("99999K", 1 << 22), ("?", 1 << 20)]
)
def test_blocks_are_for_the_cache_that_is_there(text, size, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "SIZE", tmp_path / "size")
    assert machine.level_2_cache() == 1 << 20  # the file is not there
    machine.SIZE.write_text(text)
    assert machine.level_2_cache() == size
