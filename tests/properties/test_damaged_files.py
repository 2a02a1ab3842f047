"""Files of the array loop that were changed at random: the right state, or one kind of error.

A thousand in every run, `pytest --hypothesis-profile full` for fifty thousand, half of them with
packed arrays. A failure says the seed of its file; `-s` prints what the loads of each hundred took.
"""

import io
import json
import random
import signal
import time
import tracemalloc
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import settings

from array_checkpoints import everything, make, train
from lookahead_core.adapters.numpy import SGD, _files, _formats, load, save

# Files of each format and layout, and how many of them are one test.
EACH = 12_500 if settings.get_current_profile_name() == "full" else 250
TOGETHER = 50
LAYOUTS = {"apart": 10_000, "packed": 0}  # more arrays than this are packed
FORMATS = (".npz", ".safetensors")
MIB = 2**20
# What takes the place of a value in a header.
VALUES = (None, True, -1, 2**63, 10**400, 1.5, float("nan"), "x", "float32", [], {}, [[]], ["x"])


def start():
    return [np.asarray([1.0, -2.0, 3.0]), np.asarray([[0.5, 4.0]], np.float32)]


def bits(array):
    return array.tobytes(), array.dtype, array.shape


def looks_of(optimizer):
    """Shapes and dtypes of weights and state, and the types of the numbers."""
    weights, state = everything(optimizer, lambda array: f"{array.dtype} {array.shape}")
    return weights, {n: v if "(" in str(v) else type(v) for n, v in state.items()}


# --- how a file is changed ---


def flipped(content, draw):
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(content, draw):
    return content[: draw.randrange(len(content))]


def without_a_piece(content, draw):
    begin = draw.randrange(len(content))
    return content[:begin] + content[begin + draw.randrange(1, 64) :]


def with_a_piece(content, draw):
    begin = draw.randrange(len(content))
    source = draw.randrange(len(content))
    piece = draw.choice((draw.randbytes(16), content[source : source + 64], b"\0" * 64, b"(" * 99))
    return content[:begin] + piece + content[begin:]


def overwritten(content, draw):
    begin = draw.randrange(len(content))
    piece = draw.choice((b"\0", b"\xff", b" ", b"9", b"[")) * draw.randrange(1, 32)
    return (content[:begin] + piece + content[begin + len(piece) :])[: len(content)]


def with_another_header(content, draw):
    """One value of the header or of the table of arrays is another, or has another name."""
    if content[:2] == b"PK":
        members = members_of(content)
        text = str(np.load(io.BytesIO(members["lookahead_core.npy"])))
        members["lookahead_core.npy"] = npy(np.asarray(json.dumps(edited(json.loads(text), draw))))
        return zipped(members)
    length = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + length])
    if draw.random() < 0.5:
        table = edited(table, draw)
    else:
        own = table["__metadata__"]
        own["lookahead_core"] = json.dumps(edited(json.loads(own["lookahead_core"]), draw))
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def edited(value, draw):
    """The same JSON value with one part changed."""
    if isinstance(value, dict) and value and draw.random() < 0.95:
        name = draw.choice(sorted(value))
        changed = {**value, name: edited(value[name], draw)}
        if draw.random() < 0.1:
            changed[draw.choice(("x", "count", "params/w"))] = changed.pop(name)
        return changed
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        return [*value[:place], edited(value[place], draw), *value[place + 1 :]]
    return draw.choice(VALUES)


def with_another_array(content, draw):
    """One array of an .npz is another, is packed, or is there twice."""
    if content[:2] != b"PK":
        return with_another_header(content, draw)
    members = members_of(content)
    name = draw.choice(sorted(members))
    others = (
        np.zeros((3, 1)),
        np.zeros(3, ">f8"),
        np.zeros(10**5),
        np.asarray("x"),
        np.zeros(0, "O"),
    )
    if draw.random() < 0.7:
        members[name] = draw.choice((b"", *map(npy, others)))
    packing = draw.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    return zipped(members, draw.choice((None, name, name + ".npy", "../x")), packing)


CHANGES = (
    *(flipped, cut, without_a_piece, with_a_piece, overwritten),
    *(with_another_header, with_another_array),
)


def members_of(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def zipped(members, extra=None, packing=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if extra:
            archive.writestr(extra, b"more")
    return file.getvalue()


# --- what comes of it ---


@contextmanager
def memory_below(limit):
    """Gives a list, which has the bytes at the peak and the seconds of CPU time afterwards."""
    costs = []
    tracemalloc.start()
    start = time.process_time()
    try:
        yield costs
        costs += [tracemalloc.get_traced_memory()[1], time.process_time() - start]
        assert costs[0] < limit
    finally:
        tracemalloc.stop()


def loaded_or_refused(path, optimizer, costs=None):
    """Whether the file was taken. If not, it is one error with its name, and nothing changed."""
    before = everything(optimizer, bits)
    message = ""
    with memory_below(64 * MIB) as cost:
        try:
            load(path, optimizer)
        except ValueError as error:
            message = str(error)
    if costs is not None:
        costs.append(cost)
    if message:
        assert message.startswith(f"{path}: ")
        assert everything(optimizer, bits) == before
    return not message


@pytest.mark.filterwarnings("ignore")
@pytest.mark.clause("C25", "C61", "C62")
@pytest.mark.parametrize("first", range(0, EACH, TOGETHER))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_changed_file_is_the_right_state_or_one_kind_of_error(
    suffix, layout, first, tmp_path, monkeypatch
):
    monkeypatch.setattr(_files, "MANY", LAYOUTS[layout])
    path, optimizer = tmp_path / f"run{suffix}", make(start())
    train(optimizer, 8)
    save(path, optimizer)
    content, looks = path.read_bytes(), looks_of(optimizer)
    good, costs = [], []
    for _ in range(3):
        assert loaded_or_refused(path, optimizer, good)
    for seed in range(first, first + TOGETHER):
        draw = random.Random(f"{suffix} {layout} {seed}")
        change = draw.choice(CHANGES)
        path.write_bytes(change(content, draw))
        try:
            if loaded_or_refused(path, optimizer, costs):
                assert looks_of(optimizer) == looks
                train(optimizer, 5)  # and it goes on
                optimizer = make(start())
                train(optimizer, 8)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {change.__name__}") from error
    once = min(seconds for _, seconds in good)
    memory, seconds = (max(cost) for cost in zip(*costs, strict=True))
    print(f"{memory / MIB:.3f} MiB, {seconds / once:.1f} times a good load of {once:.4f} s")
    # A collection of all garbage may fall into any load.
    assert seconds < 10 * once + 0.5


def test_most_changes_are_found_and_some_files_are_still_good(tmp_path):
    """The changes are not all of one sort: else the test above would say little."""
    taken = dict.fromkeys(FORMATS, 0)
    for suffix in FORMATS:
        path, optimizer = tmp_path / f"run{suffix}", make(start())
        save(path, optimizer)
        content = path.read_bytes()
        for seed in range(100):
            draw = random.Random(seed)
            path.write_bytes(flipped(content, draw))
            taken[suffix] += loaded_or_refused(path, make(start()))
    assert all(0 < number < 60 for number in taken.values()), taken


# --- files that claim, or are, much more than this optimizer has ---


def good(path):
    save(path, make(start()))
    return path.read_bytes()


def npz_with(path, name, chunk, times):
    """The file with a member that unpacks to `times` chunks."""
    members = members_of(good(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for own in members.keys() - {name}:
            archive.writestr(own, members[own])
        with archive.open(name, "w", force_zip64=True) as member:
            for _ in range(times):
                member.write(chunk)


def a_large_array(path):
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (16 * MIB,)}
    np.lib.format.write_array_header_1_0(header, shape)
    npz_with(path, "params/w.npy", header.getvalue().ljust(MIB, b"\0"), 128)


def a_large_header(path):
    header = io.BytesIO()
    shape = {"descr": f"<U{32 * MIB}", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(header, shape)
    npz_with(path, "lookahead_core.npy", header.getvalue().ljust(MIB, b"\0"), 128)


def many_names(path):
    members = members_of(good(path))
    with zipfile.ZipFile(path, "w") as archive:
        for name in members:
            archive.writestr(name, members[name])
        for index in range(100_000):
            archive.writestr(f"params/{index}.npy", b"")


def an_array_of_many_numbers(path):
    members = members_of(good(path))
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, shape)
    path.write_bytes(zipped({**members, "params/w.npy": header.getvalue()}))


def blanks(path):
    content = good(path)
    length = int.from_bytes(content[:8], "little")
    with path.open("wb") as file:
        file.write((length + 128 * MIB).to_bytes(8, "little") + content[8 : 8 + length])
        for _ in range(128):
            file.write(b" " * MIB)
        file.write(content[8 + length :])


def a_table_of_many_names(path):
    table = {
        f"w{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_000)
    }
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def a_tensor_of_many_numbers(path):
    content = good(path)
    length = int.from_bytes(content[:8], "little")
    table = json.loads(content[8 : 8 + length])
    table["params/w"]["shape"] = [10**12]
    table["params/w"]["data_offsets"][1] = 8 * 10**12
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


LARGE = {
    a_large_array: ".npz",
    a_large_header: ".npz",
    many_names: ".npz",
    an_array_of_many_numbers: ".npz",
    blanks: ".safetensors",
    a_table_of_many_names: ".safetensors",
    a_tensor_of_many_numbers: ".safetensors",
}


@pytest.mark.clause("C61", "C62")
@pytest.mark.parametrize("write", LARGE, ids=lambda write: write.__name__)
def test_a_file_takes_no_more_memory_than_a_good_one(write, tmp_path):
    path = tmp_path / f"run{LARGE[write]}"
    write(path)
    assert not loaded_or_refused(path, make(start()))


@pytest.mark.clause("C62")
@pytest.mark.parametrize("write", [a_large_header, blanks], ids=lambda write: write.__name__)
def test_a_reader_without_bounds_would_be_seen(write, tmp_path, monkeypatch):
    path = tmp_path / f"run{LARGE[write]}"
    write(path)
    monkeypatch.setattr(_formats, "SLACK", 2**29)
    with pytest.raises(AssertionError, match=r"assert \d+ < \(?64|assert \d+ < 67108864"):
        loaded_or_refused(path, make(start()))


@pytest.mark.clause("C62")
def test_a_large_model_is_read_in_the_memory_that_it_needs_once(tmp_path):
    """Weights, slow weights and two moments: what the names and shapes came from is gone."""
    size = 16 * MIB
    optimizer = make([np.zeros(size // 8), np.zeros((1, 1))], "maintain")
    for suffix in FORMATS:
        path = tmp_path / f"run{suffix}"
        save(path, optimizer)
        with memory_below(4 * size + 8 * MIB):
            load(path, optimizer)


@pytest.mark.clause("C62")
@pytest.mark.parametrize("suffix", FORMATS)
def test_many_small_arrays_take_600_bytes_each(suffix, tmp_path):
    optimizer = SGD([np.ones(()) for _ in range(5001)], 0.1, 0.9)
    path = tmp_path / f"run{suffix}"
    save(path, optimizer)
    with memory_below(600 * 2 * 5001):
        load(path, optimizer)


@pytest.mark.clause("C62")
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_pipe_is_refused_and_not_waited_for(suffix, tmp_path):
    import os

    path = tmp_path / f"run{suffix}"
    os.mkfifo(path)

    def give_up(*arguments):
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    try:
        with pytest.raises(ValueError, match=rf"run{suffix}: must be a regular file"):
            load(path, make(start()))
        with pytest.raises(ValueError, match=rf"run{suffix}: must be a regular file"):
            save(path, make(start()))
    finally:
        signal.alarm(0)


@pytest.mark.clause("C62")
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_folder_is_refused_by_the_system(suffix, tmp_path):
    path = tmp_path / f"run{suffix}"
    path.mkdir()
    for act in (load, save):
        with pytest.raises((OSError, ValueError), match=f"run{suffix}"):
            act(path, make(start()))
