"""Checkpoint files of the array loop resume bitwise, foreign ones are refused, none is lost."""

import json
import os
import stat
import sys
import tempfile
from pathlib import Path

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from array_checkpoints import POLICIES, K, assert_resumes, everything, make, train
from lookahead_core.adapters.numpy import SGD, Lookahead, _files, load, save

FORMATS = (".npz", ".safetensors")


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    return tmp_path / f"run{request.param}"


def start(dtype=float):
    return [np.asarray([1.0, -2.0, 3.0], dtype), np.asarray([[0.5, 4.0]], dtype)]


def bits(array):
    return array.tobytes(), array.dtype, array.shape


@pytest.fixture
def saved(path):
    """A file in mid-cycle, and a second optimizer that is somewhere else."""
    optimizer, other = make(start()), make(start())
    train(optimizer, 8)
    train(other, 3)
    save(path, optimizer)
    return path, other


@pytest.mark.clause("C06")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("phase", range(K))
def test_a_run_resumes_from_a_file_bitwise_at_every_phase(phase, policy, path):
    assert_resumes(path, start(), bits, phase, policy)


@pytest.mark.clause("C06")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.longdouble, ml_dtypes.bfloat16])
def test_a_file_keeps_every_dtype(dtype, path):
    def exact(array):  # a long double has bytes that mean nothing
        return [repr(value) for value in array.flat], array.dtype

    assert_resumes(path, start(dtype), exact, 3)


@pytest.mark.clause("C06")
def test_a_file_keeps_wider_slow_weights(path):
    assert_resumes(path, start(ml_dtypes.bfloat16), bits, 3, slow_dtype=np.float32)


@pytest.mark.clause("C06")
def test_read_only_arrays_resume_as_new_read_only_arrays(path):
    def frozen():
        params = [np.ones(2)]
        params[0].flags.writeable = False
        return Lookahead(SGD(params, 1.0), 3)

    optimizer, other = frozen(), frozen()
    optimizer.step([np.ones(2)])
    save(path, optimizer)
    load(path, other)
    assert other.params[0].tolist() == [0.0, 0.0]
    assert not other.params[0].flags.writeable


@pytest.mark.clause("C06")
@pytest.mark.column("array-api-strict")
def test_arrays_of_the_strict_namespace_resume_from_a_file(path):
    xp = array_api_strict
    leaves = [xp.asarray(leaf) for leaf in start()]
    assert_resumes(path, leaves, lambda leaf: bits(np.asarray(leaf)), 3)


@pytest.mark.clause("C06")
@pytest.mark.column("array-api-strict")
def test_arrays_on_another_device_resume_from_a_file_and_stay_there(path):
    xp = array_api_strict
    where = xp.Device("device1")
    leaves = [xp.asarray(leaf.tolist(), dtype=xp.float64, device=where) for leaf in start()]
    cpu = xp.Device("CPU_DEVICE")
    assert_resumes(path, leaves, lambda leaf: bits(np.asarray(leaf.to_device(cpu))), 3)
    optimizer = make(leaves)
    load(path, optimizer)
    held = [*optimizer.params["b"], *optimizer.inner.state.values(), *optimizer._state.slow]
    assert {leaf.device for leaf in held} == {where}


@pytest.mark.clause("C25", "C61")
@pytest.mark.parametrize("act", [save, load])
@pytest.mark.parametrize("value", [np.asarray([print]), np.asarray([{}])], ids=["code", "a dict"])
def test_an_array_of_objects_is_refused_with_what_to_do(value, act, path):
    if act is load:
        save(path, SGD({"w": np.ones(1)}, 0.1))
    message = "params/f must be an array of numbers .* got object: leave it out of params, or save"
    with pytest.raises(ValueError, match=message):
        act(path, SGD({"w": np.ones(1), "f": value}, 0.1))
    assert act is load or not path.exists()


def test_complex_scalar_and_integer_leaves_come_back(path):
    def new(values):
        leaves = [np.asarray(v) for v in values]
        leaves[2] = leaves[2].astype(np.int64)
        return Lookahead(SGD(leaves, 0.1), 3)

    optimizer, other = new([[1 + 2j], 3.0, [7]]), new([[0j], 0.0, [0]])
    save(path, optimizer)
    load(path, other)
    assert [bits(leaf) for leaf in other.params] == [bits(leaf) for leaf in optimizer.params]


def test_an_optimizer_without_lookahead_is_saved_as_well(path):
    optimizer, other = SGD([np.ones(2)], 0.1, 0.9), SGD([np.zeros(2)], 0.5, 0.9)
    optimizer.step([np.ones(2)])
    save(path, optimizer)
    load(path, other)
    assert other.params[0].tobytes() == optimizer.params[0].tobytes()
    assert repr(other.state_dict()) == repr(optimizer.state_dict())


def test_the_arrays_of_a_file_can_be_read_without_us(tmp_path):
    optimizer = make(start())
    save(tmp_path / "run.npz", optimizer)
    with np.load(tmp_path / "run.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["params/w"], optimizer.params["w"])
        assert "state/slow/b/0" in file


# --- many small arrays ---


@pytest.fixture
def packing(monkeypatch):
    """Files of few arrays are laid out like those of many."""
    monkeypatch.setattr(_files, "MANY", 0)


def arrays_in(path):
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name != "lookahead_core"}
    from safetensors.numpy import load_file

    return load_file(path)


def test_many_small_arrays_are_one_for_each_dtype(path):
    save(path, SGD([np.asarray(float(i)) for i in range(5001)], 0.1, 0.9))
    arrays = arrays_in(path)
    assert {name: array.shape for name, array in arrays.items()} == {"float64": (10002,)}
    save(path, SGD([np.asarray(float(i)) for i in range(5000)], 0.1, 0.9))
    assert len(arrays_in(path)) == 10_000


def test_large_arrays_are_not_copied_into_one(packing, path):
    save(path, SGD([np.zeros(128)], 0.1))
    assert list(arrays_in(path)) == ["params/0"]


@pytest.mark.clause("C06")
@pytest.mark.parametrize("dtype", [np.float32, np.longdouble, ml_dtypes.bfloat16, ">f8"])
def test_a_run_resumes_from_packed_arrays(dtype, packing, path):
    def exact(array):
        return [repr(value) for value in array.flat], array.dtype, array.shape

    wider = np.float32 if dtype is ml_dtypes.bfloat16 else None
    assert_resumes(path, start(dtype), exact, 3, slow_dtype=wider)
    assert {array.ndim for array in arrays_in(path).values()} == {1}


@pytest.mark.clause("C06")
def test_packed_arrays_of_the_strict_namespace_resume(packing, path):
    leaves = [array_api_strict.asarray(leaf) for leaf in start()]
    assert_resumes(path, leaves, lambda leaf: bits(np.asarray(leaf)), 3)


@pytest.mark.clause("C06")
def test_arrays_by_themselves_are_still_read_where_they_would_be_packed_now(saved, packing):
    path, other = saved
    load(path, other)
    again = make(start())
    train(again, 8)
    assert everything(other, bits) == everything(again, bits)


@pytest.mark.clause("C06", "C25", "C61")
@pytest.mark.parametrize(
    "leaves", [[np.zeros((3, 1)), np.zeros((1, 2))], [np.zeros(2), np.zeros(3)]]
)
def test_packed_arrays_of_other_shapes_and_the_same_size_are_refused(leaves, packing, path):
    save(path, make(start()))
    refused(path, make(leaves), r"params/\S+ must be float64 \(.*\), got float64 \(")


# --- names of leaves become names in a file ---


def named(*names):
    return SGD({name: np.asarray([float(i)]) for i, name in enumerate(names)}, 0.1, 0.9)


@pytest.mark.clause("C06")
@pytest.mark.parametrize(
    "names",
    [
        ("w", "w.npy", "w.npy.npy"),
        ("", ".npy"),
        ("lookahead_core", "lookahead_core.npy"),
        ("a/b", "a\\b", "../a", "/a"),
        ("ü", "u\u0308"),
        ("W", "w", " w", "w "),
    ],
    ids=repr,
)
def test_leaves_of_similar_names_come_back_as_themselves(names, path):
    optimizer, other = named(*names), named(*reversed(names))
    save(path, optimizer)
    load(path, other)
    assert other.params == optimizer.params
    assert repr(other.state_dict()) == repr(optimizer.state_dict())


NO_NAME_IN_A_ZIP = {"a NUL": "a\0b", "a NUL at the end": "w\0", "too long": "w" * 70000}


@pytest.mark.clause("C25", "C61")
@pytest.mark.parametrize("case", NO_NAME_IN_A_ZIP)
def test_a_name_that_no_zip_can_hold_is_refused_before_the_old_file_goes(case, tmp_path):
    path, optimizer = tmp_path / "run.npz", named("w", NO_NAME_IN_A_ZIP[case])
    save(path, named("w"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"params/.* rename the leaf, or save as .safetensors"):
        save(path, optimizer)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.npz"]
    other = named("w", NO_NAME_IN_A_ZIP[case])
    save(tmp_path / "run.safetensors", optimizer)
    load(tmp_path / "run.safetensors", other)
    assert other.params == optimizer.params


@pytest.mark.clause("C25")
def test_a_name_that_is_no_unicode_text_is_refused(path):
    with pytest.raises(ValueError, match=r"'params/\\udc80' must be Unicode text: rename the leaf"):
        save(path, named("\udc80"))
    assert not path.exists()


PIECES = st.sampled_from(["w", ".npy", "/", ".", "\0", "\\", " ", "é", "\ud800"])
NAMES = st.sets(st.lists(PIECES, max_size=3).map("".join), min_size=2, max_size=4).map(sorted)


@pytest.mark.parametrize("suffix", FORMATS)
@given(names=NAMES)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_whatever_leaves_are_called_they_come_back_or_are_refused(suffix, names):
    optimizer, other = named(*names), named(*reversed(names))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"run{suffix}"
        try:
            save(path, optimizer)
        except ValueError:
            assert os.listdir(folder) == []
        else:
            load(path, other)
            assert other.params == optimizer.params


# --- what is refused ---


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_its_end(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("weights")


def foreign(path):
    arrays = {"params/w": np.zeros(3)}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        from safetensors.numpy import save_file

        save_file(arrays, path)


def of_another_version(path):
    header = json.dumps({"version": 3, "numbers": {}, "dtypes": {}})
    if path.suffix == ".npz":
        np.savez(path, lookahead_core=np.asarray(header))
    else:
        from safetensors.numpy import save_file

        save_file({}, path, {"lookahead_core": header})


BROKEN = {
    truncated: "truncated or damaged",
    without_its_end: "truncated or damaged",
    empty: "truncated or damaged",
    text: "truncated or damaged",
    foreign: "not a checkpoint of lookahead_core",
    of_another_version: "not a checkpoint of lookahead_core, version 1 or 2",
}


def refused(path, optimizer, message, error=ValueError):
    before = everything(optimizer, bits)
    with pytest.raises(error, match=message):
        load(path, optimizer)
    assert everything(optimizer, bits) == before


@pytest.mark.clause("C25", "C61")
@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_or_foreign_file_is_refused_and_changes_nothing(damage, saved):
    path, other = saved
    damage(path)
    refused(path, other, BROKEN[damage])


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.clause("C25", "C61")
def test_a_pickle_in_a_file_is_refused_and_never_run(tmp_path):
    path, trap = tmp_path / "run.npz", tmp_path / "sprung"
    np.savez(path, lookahead_core=np.asarray([Trap(trap)], object))
    refused(path, make(start()), "truncated or damaged.*allow_pickle=False")
    assert not trap.exists()
    np.load(path, allow_pickle=True)["lookahead_core"]
    assert trap.exists()  # it would have been


@pytest.mark.clause("C25", "C61")
def test_a_flipped_bit_in_an_npz_is_seen(tmp_path):
    path, optimizer = tmp_path / "run.npz", make(start())
    save(path, optimizer)
    content = bytearray(path.read_bytes())
    content[content.index(optimizer.params["w"].tobytes())] ^= 1
    path.write_bytes(content)
    refused(path, optimizer, "truncated or damaged.*CRC")


OTHERS = {
    "other weights": (lambda: Lookahead(SGD({"w": np.zeros(3)}, 0.1)), r"unknown \['params/b/0'\]"),
    "other shape": (lambda: make([np.zeros(4), np.zeros((1, 2))]), r"params/w must have shape \(4"),
    "other dtype": (lambda: make(start(np.float32)), "params/b/0 must be float32, got float64"),
    "other inner": (
        lambda: Lookahead(SGD({"w": np.zeros(3), "b": [np.zeros((1, 2))]}, 0.1), K, 0.3),
        "must be no array in this optimizer",
    ),
    "other rule": (lambda: make(start(), "maintain"), "must be no array in this optimizer"),
    "other period": (
        lambda: Lookahead(make(start()).inner, 7, 0.3, "interpolate"),
        "made with sync_period=5, this optimizer has sync_period=7",
    ),
}


@pytest.mark.clause("C06", "C25", "C61")
@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_another_model_or_optimizer_is_refused(case, saved):
    path, _ = saved
    make_other, message = OTHERS[case]
    other = make_other()
    before = repr((other.params, other.state_dict()))
    with pytest.raises(ValueError, match=message):
        load(path, other)
    assert repr((other.params, other.state_dict())) == before


def test_a_file_that_is_not_there_is_a_file_not_found_error(tmp_path):
    refused(tmp_path / "none.npz", make(start()), "none.npz", FileNotFoundError)


@pytest.mark.parametrize("name", ["run", "run.pt", "run.npz.bak"])
def test_an_unknown_ending_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .npz or .safetensors, got '.*run"):
        save(tmp_path / name, make(start()))
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_no_file_can_hold_is_refused(path):
    optimizer = SGD([np.zeros(1)], 0.1)
    optimizer.state_dict = lambda: {"hook": print}
    with pytest.raises(ValueError, match="state/hook must be an array, a number or a text, got"):
        save(path, optimizer)
    assert not path.exists()


def test_safetensors_need_no_package_and_are_what_the_package_reads_and_writes(
    tmp_path, monkeypatch
):
    import safetensors
    from safetensors.numpy import save_file

    path, optimizer, other = tmp_path / "run.safetensors", make(start()), make(start())
    train(optimizer, 8)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "safetensors", None)
        save(path, optimizer)
        load(path, other)
    assert everything(other, bits) == everything(optimizer, bits)
    with safetensors.safe_open(path, framework="numpy") as file:
        names, metadata = file.keys(), file.metadata()
        arrays = {name: file.get_tensor(name) for name in names}
    np.testing.assert_array_equal(arrays["params/w"], optimizer.params["w"])
    save_file(arrays, path, metadata)
    other = make(start())
    load(path, other)
    assert everything(other, bits) == everything(optimizer, bits)


# --- atomic ---


@pytest.mark.clause("C61")
def test_a_save_that_fails_leaves_the_old_file_and_no_other(saved, monkeypatch):
    path, other = saved
    before = path.read_bytes()

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save(path, other)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.clause("C61")
def test_the_content_is_on_the_disk_before_it_takes_the_place_of_the_old_file(path, monkeypatch):
    order = []

    def noting(name):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a: order.append(name) or original(*a))

    noting("fsync")
    noting("replace")
    save(path, make(start()))
    assert order == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.clause("C61")
@pytest.mark.parametrize("access", [0o600, 0o640, 0o664, 0o444])
def test_saving_again_keeps_who_may_read_the_file(access, path):
    save(path, make(start()))
    path.chmod(access)
    save(path, make(start()))
    assert mode(path) == access
    load(path, make(start()))


def test_a_new_file_is_as_readable_as_any_other(path):
    save(path, make(start()))
    other = path.with_name("other")
    other.touch()
    assert mode(path) == mode(other)


@pytest.mark.clause("C61")
def test_nobody_else_can_read_what_is_being_written_in_the_place_of_a_private_file(
    path, monkeypatch
):
    save(path, make(start()))
    path.chmod(0o600)
    modes = []
    written = os.fsync

    def look(descriptor):
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        written(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    save(path, make(start()))
    assert modes[0] == 0o600


@pytest.mark.clause("C61")
@pytest.mark.parametrize("allowed", [True, False])
def test_saving_again_keeps_the_owner_where_that_is_allowed(allowed, path, monkeypatch):
    save(path, make(start()))
    given = []

    def give(descriptor, *owner):
        given.append(owner)
        if not allowed:
            raise PermissionError

    monkeypatch.setattr(os, "fchown", give)
    save(path, make(start()))
    owner = path.stat().st_uid, path.stat().st_gid
    # Whoever may not give a file away may still give it to a group.
    assert given == ([owner] if allowed else [owner, (-1, owner[1])])
    load(path, make(start()))


@pytest.mark.parametrize("letter", ["a", "é"])
def test_a_name_may_be_as_long_as_the_file_system_lets_it_be(letter, path):
    room = 254 - len(path.suffix)
    long = path.with_name(letter * (room // len(letter.encode())) + path.suffix)
    for _ in range(2):
        save(long, make(start()))
    load(long, make(start()))
    assert os.listdir(path.parent) == [long.name]


def test_a_link_still_leads_to_the_file(path, tmp_path):
    link = tmp_path / f"latest{path.suffix}"
    path.touch()
    link.symlink_to(path)
    save(link, make(start()))
    assert link.is_symlink()
    load(path, make(start()))


def test_a_link_ends_in_the_format_whatever_the_file_is_called(path, tmp_path):
    (tmp_path / "store").touch()
    path.symlink_to("store")
    save(path, make(start()))
    load(path, make(start()))
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, "store"])


def test_a_link_is_refused_by_the_name_that_it_was_given(path, tmp_path):
    link = tmp_path / "latest"
    link.symlink_to(path)
    with pytest.raises(ValueError, match=r"path must end in .npz or .safetensors, got '.*/latest'"):
        save(link, make(start()))
    assert not path.exists()
