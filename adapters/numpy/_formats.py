"""The two file formats of checkpoints: how a header and named arrays get into a file, and out.

Reading is told what to expect, and takes no more memory than that, whatever a file says of itself.
What the header means is _files.py.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from typing import IO, Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

__all__ = ["FORMATS", "PLAIN", "SLACK", "Arrays", "Contents", "Entry", "Format", "RefusedError"]

HEADER = "lookahead_core"
# What both formats store as it is, by the names that safetensors has for it.
WIDTHS = {"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64), "float": (16, 32, 64)}
PLAIN = {f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in WIDTHS for bits in WIDTHS[kind]}
PLAIN["bool"] = "BOOL"
DTYPES = {kind: np.dtype(name).newbyteorder("<") for name, kind in PLAIN.items()}
KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
# Bytes that a list of names may be longer than that of this optimizer: then the names are told.
SLACK = 2**20
NPY_HEADER = 10_000  # NumPy's own limit
ZIP_NAME_BYTES = 65535
ZIP_RECORD_BYTES = 46 + 32  # of an entry in the directory, beside its name
ROW_BYTES = 128  # of an array in the table of safetensors, beside its name and shape
PIECE = 2**20
Arrays = dict[str, np.ndarray]


class RefusedError(ValueError):
    """What is wrong with a file, in words that need only its name before them."""


class Entry(NamedTuple):
    """How an array lies in a file.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def room(self) -> np.ndarray:
        """A new array for it."""
        return np.empty(self.shape, self.dtype)


class Contents(NamedTuple):
    """An open file.

    Attributes
    ----------
    header : str, or None
        None if the file is not one of ours.
    names : set of str
        Of its arrays.
    read : callable, (name, entry) -> array
        Raises RefusedError, and reads nothing, unless that is how the array lies in the file.
    """

    header: str | None
    names: set[str]
    read: Callable[[str, Entry], np.ndarray]


class Format(NamedTuple):
    """One of the formats.

    Attributes
    ----------
    write : callable, (file, header, arrays) -> None
    open : callable, (file, header, names) -> Contents
        Of a good file the header, or a text as long as it, and names: how much may be read.
    """

    write: Callable[[IO[bytes], str, Arrays], None]
    open: Callable[[IO[bytes], str, Collection[str]], Contents]


# --- .npz ---


def _write_npz(file: IO[bytes], header: str, arrays: Arrays) -> None:
    for name in arrays:
        member = f"{name}.npy"
        # zipfile cuts names at a NUL and, on Windows, changes backslashes to slashes.
        if ZipInfo(member).filename != member or len(member.encode()) > ZIP_NAME_BYTES:
            raise ValueError(
                f"{name[:100]!r} cannot be the name of an array in an .npz file: rename the leaf, "
                "or save as .safetensors"
            )
    members: dict[str, Any] = {HEADER: np.asarray(header), **arrays}
    np.savez(file, **members)


class _Bounded:
    """A file of which nobody reads more than `limit` bytes at once, as zipfile does its list."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.limit: int | None = limit
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._read = file.read

    def read(self, size: int = -1) -> bytes:
        if self.limit is None:
            return self._read(size)
        content = self._read(self.limit + 1 if size < 0 else min(size, self.limit + 1))
        if len(content) > self.limit:
            raise RefusedError("more arrays, or longer names, than this optimizer has")
        return content


def _open_npz(file: IO[bytes], header: str, names: Collection[str]) -> Contents:
    listed = sum(len(name.encode()) + ZIP_RECORD_BYTES for name in (HEADER, *names))
    bounded = _Bounded(file, listed + SLACK)
    # Older type stubs ask for more methods than zipfile calls.
    archive = ZipFile(bounded)  # type: ignore[arg-type, unused-ignore]
    bounded.limit = None
    # By the members' own names: for "w.npy" NumPy gives what was saved as "w".
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise RefusedError("truncated or damaged, two arrays have one name")
    if HEADER not in members:
        return Contents(None, set(), lambda name, entry: entry.room())
    text = _npy_text(archive, members.pop(HEADER), len(header) + SLACK)

    def read(name: str, entry: Entry) -> np.ndarray:
        return _npy_array(archive, members[name], name, entry)

    return Contents(text, set(members), read)


def _npy_text(archive: ZipFile, info: ZipInfo, limit: int) -> str:
    """A text of at most `limit` characters, which NumPy stores in four bytes each."""
    with _member(archive, info, 4 * limit) as member:
        found, _ = _npy_header(member)
        if found.shape != () or found.dtype.kind != "U" or found.nbytes > 4 * limit:
            raise RefusedError("truncated or damaged, its header is no text")
        text = _filled(member, found)
        _check_end(member)
    return str(text[()])


def _npy_array(archive: ZipFile, info: ZipInfo, name: str, entry: Entry) -> np.ndarray:
    with _member(archive, info, entry.nbytes) as member:
        found, by_columns = _npy_header(member)
        _check_found(name, found, entry)
        array = _filled(member, entry)
        _check_end(member)
    return array.reshape(-1).reshape(entry.shape, order="F") if by_columns else array


def _member(archive: ZipFile, info: ZipInfo, nbytes: int) -> IO[bytes]:
    """A member of at most so many bytes and a header; LZMA may ask for gigabytes to be read."""
    if info.file_size > nbytes + NPY_HEADER:
        raise RefusedError(
            f"{info.filename} must have at most {nbytes} bytes, got {info.file_size}"
        )
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise RefusedError(f"{info.filename} must be stored or deflated, as np.savez does")
    return archive.open(info)


def _npy_header(member: IO[bytes]) -> tuple[Entry, bool]:
    """What the array is, and whether it is stored column by column."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise RefusedError("truncated or damaged, an array has another version of .npy")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.hasobject:
        raise RefusedError("truncated or damaged, it holds a pickle, and allow_pickle=False")
    return Entry(shape, dtype), by_columns


def _check_end(member: IO[bytes]) -> None:
    """At its end zipfile compares the checksum."""
    if member.read(1):
        raise RefusedError("truncated or damaged, an array is followed by something else")


# --- .safetensors ---


def _write_safetensors(file: IO[bytes], header: str, arrays: Arrays) -> None:
    # The widest first, so that each lies where its dtype wants it.
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    entries = {name: Entry(array.shape, array.dtype) for name, array in arrays.items()}
    text = _table(header, entries)
    file.write(len(text).to_bytes(8, "little") + text)
    for array in arrays.values():
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        file.write(little.reshape(-1).view("u1").data)


def _table(header: str, entries: Mapping[str, Entry]) -> bytes:
    """The JSON text at the start of the file, with blanks up to a multiple of eight bytes."""
    table: dict[str, Any] = {"__metadata__": {HEADER: header}}
    end = 0
    for name, entry in entries.items():
        begin, end = end, end + entry.nbytes
        kind = KINDS[entry.dtype]
        table[name] = {"dtype": kind, "shape": entry.shape, "data_offsets": (begin, end)}
    text = json.dumps(table, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _open_safetensors(file: IO[bytes], header: str, names: Collection[str]) -> Contents:
    length = int.from_bytes(_exactly(file, 8), "little")
    # The names are in the header as well, so that the table of a good file is shorter than this.
    if length > 2 * len(json.dumps(header)) + ROW_BYTES * len(names) + SLACK:
        raise RefusedError("truncated or damaged, or of more arrays than this optimizer has")
    table = json.loads(_exactly(file, length))
    own = table.pop("__metadata__", {}).get(HEADER)
    start, end = 8 + length, 0
    found = {name: _located(item) for name, item in table.items()}
    for entry, begin in sorted(found.values(), key=lambda located: located[1]):
        if begin != end:
            raise RefusedError("truncated or damaged, its arrays do not follow each other")
        end += entry.nbytes
    if start + end != os.fstat(file.fileno()).st_size:
        raise RefusedError("truncated or damaged, it ends elsewhere than its arrays")

    def read(name: str, entry: Entry) -> np.ndarray:
        there, begin = found[name]
        _check_found(name, there, entry)
        file.seek(start + begin)
        return _filled(file, entry)

    return Contents(own, set(found), read)


def _located(item: Mapping[str, Any]) -> tuple[Entry, int]:
    """What an item of the table says of its array, and where that begins."""
    shape, (begin, end) = item["shape"], item["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
        raise RefusedError("truncated or damaged, its shapes and places must be whole numbers")
    entry = Entry(tuple(shape), DTYPES[item["dtype"]])
    if end - begin != entry.nbytes:
        raise RefusedError("truncated or damaged, an array has not the bytes of its shape")
    return entry, begin


# --- both ---


def _check_found(name: str, found: Entry, expected: Entry) -> None:
    if found != expected:
        raise RefusedError(
            f"{name} must have shape {expected.shape} and dtype {expected.dtype} in the file, got "
            f"{found.shape} {found.dtype}"
        )


def _exactly(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise RefusedError("truncated or damaged, it ends too early")
    return content


def _filled(file: IO[bytes], entry: Entry) -> np.ndarray:
    """The array that begins here; a large one piece by piece, for `file` may copy what it reads."""
    if entry.nbytes <= PIECE:
        buffer = bytearray(_exactly(file, entry.nbytes))
        return np.ndarray(entry.shape, entry.dtype, buffer)
    array = entry.room()
    flat = array.reshape(-1).view("u1")
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        piece[...] = np.frombuffer(_exactly(file, piece.size), "u1")
    return array


FORMATS = {
    ".npz": Format(_write_npz, _open_npz),
    ".safetensors": Format(_write_safetensors, _open_safetensors),
}
