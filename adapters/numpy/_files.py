"""Checkpoints of the array loop: `.npz` or safetensors files, never pickles.

A file holds `params/<path>`, `state/<name>` and a header: a JSON text with the numbers of the
state and the dtype of each array. Where the arrays are many and small, the file holds one array for
each dtype, with all numbers of that dtype, and the header has the shapes as well. What a state
means is its optimizer's; how a file is laid out is _formats.py; what is saved of it and put back,
and that a file is the old or the new one, is here.
"""

import errno
import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from itertools import accumulate, pairwise
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

import numpy as np

from lookahead_core.namespace import device, is_array, namespace, to_device
from lookahead_core.typing import Array
from lookahead_core.validation import shown

from .._interrupts import Uninterrupted
from ._formats import FORMATS, PLAIN, Arrays, Contents, Entry, Format, RefusedError
from ._inner.protocol import InnerOptimizer
from ._optimizer import MetaOptimizer
from ._tree import Layout, written

__all__ = ["load", "save"]

APART, PACKED = VERSIONS = 1, 2  # of the header: each array by itself, or one for each dtype
# An array of its own takes tens of microseconds: more arrays than this are packed, if they have
# fewer bytes than that on average.
MANY, SMALL = 10_000, 1024
SHOWN = 5  # names in a message
Optimizer = InnerOptimizer | MetaOptimizer


def save(path: str | os.PathLike[str], optimizer: Optimizer) -> None:
    """Write weights and state of `optimizer` to a file, all or nothing.

    The old file stays until the new one is complete and on the disk: a crash at any moment leaves
    one of the two, and perhaps a file `.<name>.<random>.tmp` beside it. The new one has the mode of
    the old one, and its owner and group where the system allows that.

    Parameters
    ----------
    path : path
        Ends in `.npz` or `.safetensors`.
    optimizer : MetaOptimizer or InnerOptimizer
        Whose `params` and `state_dict()` are saved.

    Raises
    ------
    ValueError
        If the name has another ending or is that of something else than a regular file, an entry of
        the state is neither array, number nor text, or an array or the name of a leaf cannot be
        written to such a file.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from lookahead_core.adapters.numpy import SGD, Lookahead, load, save
    >>> optimizer = Lookahead(SGD({"w": np.ones(2)}, lr=0.1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/run.npz", optimizer)
    ...     load(f"{folder}/run.npz", optimizer)
    """
    form = _format(Path(path))
    weights, _ = _weights(optimizer)
    state, numbers = _state(optimizer)
    # In the order of their names, which is that of packed arrays: to sort them again takes no time.
    arrays = dict(sorted({**weights, **state}.items(), key=itemgetter(0)))
    for name, value in numbers.items():
        if not isinstance(value, int | float | str):
            raise ValueError(f"{name} must be an array, a number or a text, got {value!r}")
    for name in arrays:
        if not name.isascii() and name.encode(errors="replace").decode() != name:
            raise ValueError(f"{name!r} must be Unicode text: rename the leaf")
    kinds = {name: Kind.of(name, leaf) for name, leaf in arrays.items()}
    stored = {name: _stored(name, leaf, kinds[name].name) for name, leaf in arrays.items()}
    version = APART
    if len(stored) > MANY and sum(array.nbytes for array in stored.values()) < SMALL * len(stored):
        version, stored = PACKED, _packed(stored, kinds)
    header = _header(version, numbers, kinds)
    # A link stays, and the file that it leads to is replaced.
    _replace(Path(os.path.realpath(path)), lambda file: form.write(file, header, stored))


def load(path: str | os.PathLike[str], optimizer: Optimizer) -> None:
    """Go on where `save` was called: weights and state into `optimizer`, bit for bit.

    Parameters
    ----------
    path : path
        A file that `save` wrote; from which namespace, and on which device, does not matter.
    optimizer : MetaOptimizer or InnerOptimizer
        Made like the one that was saved. Arrays are overwritten where they can be written to, else
        replaced: `optimizer.params` is the tree as it is then.

    Raises
    ------
    ValueError
        If the file is truncated or damaged, not one of ours or no regular file, or of another model
        or optimizer: the message begins with its name, and nothing is changed.
    OSError
        If the system cannot read it; FileNotFoundError if it is not there.

    Notes
    -----
    Names, shapes and sizes are compared with those of `optimizer` before numbers are read, so that
    a file takes no more memory than a good one, whatever it says of itself (clause C62).

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from lookahead_core.adapters.numpy import SGD, load, save
    >>> first, second = SGD([np.ones(2)], lr=0.1), SGD([np.zeros(2)], lr=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/run.npz", first)
    ...     load(f"{folder}/run.npz", second)
    >>> second.params, second.lr
    ([array([1., 1.])], 0.1)
    """
    path = Path(path)
    form, (weights, layout) = _format(path), _weights(optimizer)
    state, numbers = _state(optimizer)
    kinds = {name: Kind.of(name, leaf) for name, leaf in {**weights, **state}.items()}
    del state  # copies, in the room of which the file is read
    with _opened(path) as file, _named(path):
        # As long as the longer of the two headers, and made in a third of the time.
        header = json.dumps([numbers, *kinds, *(kind.described for kind in kinds.values())])
        contents = form.open(file, header, kinds)
        version, numbers, names = _described(contents, kinds)
        read = _apart if version == APART else _unpacked
        arrays = dict(read(contents, names, kinds))
    saved = {**numbers, **arrays}.items()
    state = {name.removeprefix("state/"): value for name, value in saved if name not in weights}
    with Uninterrupted():
        try:
            optimizer.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        new = [written(leaf, arrays[name]) for name, leaf in weights.items()]
        params = layout.rebuilt(optimizer.params, new)
        if params is not optimizer.params:
            optimizer.params = params


def _weights(optimizer: Optimizer) -> tuple[dict[str, Array], Layout]:
    """The weights under their names in a file, and where in `params` they are."""
    if isinstance(optimizer, MetaOptimizer):
        layout = optimizer._layout  # made already, which takes as long as much of the rest
    else:
        layout = Layout(optimizer.params)
    names = [f"params/{name}" for name in layout.names]
    return dict(zip(names, layout.distinct(optimizer.params), strict=True)), layout


def _state(optimizer: Optimizer) -> tuple[dict[str, Array], dict[str, Any]]:
    """Copies of the arrays of the state under their names in a file, and what is no array."""
    arrays: dict[str, Array] = {}
    numbers: dict[str, Any] = {}
    for name, value in optimizer.state_dict().items():
        known = isinstance(value, np.ndarray) or is_array(value)
        (arrays if known else numbers)[f"state/{name}"] = value
    return arrays, numbers


# --- the header ---


def _header(version: int, numbers: Mapping[str, Any], kinds: Mapping[str, "Kind"]) -> str:
    dtypes = _dtypes(version, kinds)
    return json.dumps({"version": version, "numbers": numbers, "dtypes": dtypes})


def _dtypes(version: int, kinds: Mapping[str, "Kind"]) -> dict[str, str]:
    return {name: k.name if version == APART else k.described for name, k in kinds.items()}


def _described(
    contents: Contents, kinds: Mapping[str, "Kind"]
) -> tuple[int, dict[str, Any], Iterable[str]]:
    """Version, numbers of the state and names of the arrays; RefusedError unless they are ours."""
    header = json.loads(contents.header or "null")
    version = header.get("version") if isinstance(header, dict) else None
    if version not in VERSIONS:
        raise RefusedError(f"not a checkpoint of lookahead_core, version {APART} or {PACKED}")
    dtypes, numbers = header["dtypes"], header["numbers"]
    if not all(isinstance(value, int | float | str) for value in numbers.values()):
        raise RefusedError("truncated or damaged, its numbers are none")
    expected = _dtypes(version, kinds)
    if dtypes != expected:
        _check_arrays(dtypes, expected)
    if any(not name.startswith("state/") for name in numbers):
        raise RefusedError("truncated or damaged, it has numbers that are not of a state")
    there = dtypes.keys() if version == APART else {kinds[name].name for name in dtypes}
    if there != contents.names:
        raise RefusedError("truncated or damaged, its arrays are not those of its header")
    return version, dict(numbers), dtypes


def _check_arrays(dtypes: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise RefusedError unless there are all weights, and nothing that is not expected."""
    saved, own = ({n for n in names if n.startswith("params/")} for names in (dtypes, expected))
    if saved != own:
        missing, unknown = _some(own - saved), _some(saved - own)
        raise RefusedError(f"other weights; missing {missing}, unknown {unknown}")
    for name, dtype in dtypes.items():
        if name not in expected:
            raise RefusedError(f"{name} must be no array in this optimizer, got one")
        if dtype != expected[name]:
            raise RefusedError(f"{name} must be {expected[name]}, got {dtype}")


def _some(names: set[str]) -> str:
    """A few names of many, as a list prints."""
    shown = sorted(names)[:SHOWN]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{shown}{more}"


def _apart(
    contents: Contents, names: Iterable[str], kinds: Mapping[str, "Kind"]
) -> Iterator[tuple[str, Array]]:
    """Each array with its name."""
    for name in names:
        yield name, kinds[name].like(contents.read(name, kinds[name].entry))


# --- many small arrays as one for each dtype, in the order of their names ---


def _by_dtype(names: Iterable[str], kinds: Mapping[str, "Kind"]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(kinds[name].name, []).append(name)
    return groups


def _packed(stored: Arrays, kinds: Mapping[str, "Kind"]) -> Arrays:
    groups = _by_dtype(stored, kinds)
    return {
        dtype: np.concatenate([stored[name] for name in names], axis=None)
        for dtype, names in groups.items()
    }


def _unpacked(
    contents: Contents, names: Iterable[str], kinds: Mapping[str, "Kind"]
) -> Iterator[tuple[str, Array]]:
    """Each array with its name: of NumPy a view of the one that is read."""
    for dtype, group in _by_dtype(names, kinds).items():
        own = [kinds[name] for name in group]
        ends = [0, *accumulate(math.prod(kind.entry.shape) for kind in own)]
        whole = contents.read(dtype, Entry((ends[-1],), own[0].entry.dtype))
        for name, kind, (begin, end) in zip(group, own, pairwise(ends), strict=True):
            yield name, kind.like(whole[begin:end].reshape(kind.entry.shape))


# --- files ---


def _format(path: Path) -> Format:
    if path.suffix not in FORMATS:
        raise ValueError(f"path must end in .npz or .safetensors, got {str(path)!r}")
    return FORMATS[path.suffix]


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file, if it is a regular one: opening a pipe for reading would wait for a writer."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path}: must be a regular file, got something else")
        yield file


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file into one kind of error, with its name."""
    try:
        yield
    except RefusedError as error:
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        # zipfile asks for places that do not exist where a file is damaged.
        if error.errno != errno.EINVAL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise ValueError(f"{path}: truncated or damaged, {shown(error)}") from error
    except Exception as error:  # zipfile, zlib, JSON and NumPy have a dozen between them
        raise ValueError(f"{path}: truncated or damaged, {shown(error)}") from error


def _replace(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file beside `path`, bring it to the disk, and put it in the place of `path`."""
    old = path.stat() if path.exists() else None
    if old and not stat.S_ISREG(old.st_mode):
        raise ValueError(f"{path}: must be a regular file or not there, got something else")
    # Cut, because `path` may have a name that is as long as the file system allows.
    name = os.fsdecode(os.fsencode(path.name)[:100])
    temporary = path.with_name(f".{name}.{secrets.token_hex(8)}.tmp")
    opener = partial(os.open, mode=0o600 if old else 0o666)
    try:
        with open(temporary, "xb", opener=opener) as file:
            if old and os.name == "posix":
                _give_access(file.fileno(), old)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The new name itself is on the disk only with its folder; Windows cannot open one.
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _give_access(file: int, old: os.stat_result) -> None:
    """Owner and group of `old` as far as this process may give them, and its mode."""
    for owner in (old.st_uid, old.st_gid), (-1, old.st_gid):
        with suppress(OSError):  # not permitted, or unknown in a container
            os.fchown(file, *owner)
            break
    os.fchmod(file, stat.S_IMODE(old.st_mode))


# --- arrays ---


def _name(dtype: Any) -> str:
    """ "float32" for torch.float32, numpy.dtype("float32") and the like."""
    return _name_in_numpy(dtype) if isinstance(dtype, np.dtype) else str(dtype).rpartition(".")[2]


@cache
def _name_in_numpy(dtype: np.dtype) -> str:
    """Kept, because NumPy takes ten microseconds for it."""
    return str(dtype)


@dataclass(frozen=True)
class Kind:
    """What an array of an optimizer is, without its numbers.

    Attributes
    ----------
    name : str
        Of its dtype, in the header.
    shape : tuple of int
    dtype : numpy.dtype
        That has its bits in NumPy.
    own : dtype
        In its own namespace.
    xp, where : namespace and device, or None
        None of arrays of NumPy.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    own: Any
    xp: Any
    where: Any

    @classmethod
    def of(cls, label: str, leaf: Array) -> "Kind":
        """Of an array that is called `label`; ValueError if no file can hold it."""
        if isinstance(leaf, np.ndarray):
            if leaf.dtype.hasobject:
                raise _unstorable(label, leaf)
            return _kind_in_numpy(leaf.dtype, leaf.shape)
        name, shape = _name(leaf.dtype), tuple(leaf.shape)
        try:
            # NumPy has no bfloat16, and takes none from torch.
            bits = np.dtype("uint16" if name == "bfloat16" else name)
        except TypeError as error:
            raise _unstorable(label, leaf) from error
        return cls(name, shape, bits, leaf.dtype, namespace(leaf), device(leaf))

    @cached_property
    def described(self) -> str:
        """Dtype and shape, in a header that has both."""
        return f"{self.name} {self.shape}"

    @cached_property
    def entry(self) -> Entry:
        """How the array lies in a file: as it is, or as its bytes."""
        whole = Entry(self.shape, self.dtype)
        return whole if self.name in PLAIN else Entry((whole.nbytes,), np.dtype("u1"))

    def like(self, stored: np.ndarray) -> Array:
        """The array of a file in the namespace, dtype and on the device of the optimizer's."""
        array = stored if self.name in PLAIN else stored.view(self.dtype).reshape(self.shape)
        if self.xp is None:
            return array
        new = self.xp.asarray(array, device=self.where)
        return new.view(self.own) if self.name == "bfloat16" else new


@lru_cache
def _kind_in_numpy(dtype: np.dtype, shape: tuple[int, ...]) -> Kind:
    """Kept, because a model of a million arrays has a few kinds of them."""
    return Kind(_name(dtype), shape, dtype, dtype, None, None)


def _stored(label: str, leaf: Array, name: str) -> np.ndarray:
    """A NumPy array on the host with the bits of `leaf`, in a dtype that both formats know."""
    try:
        if name == "bfloat16" and not isinstance(leaf, np.ndarray):
            leaf = leaf.view(namespace(leaf).uint16)
        array = np.asarray(_on_host(leaf), order="C")
    except Exception as error:  # each namespace has its own
        raise _unstorable(label, leaf) from error
    return array if name in PLAIN else array.reshape(-1).view(np.uint8)


def _unstorable(label: str, leaf: Array) -> ValueError:
    where = "" if isinstance(leaf, np.ndarray) else f" on {device(leaf)}"
    return ValueError(
        f"{label} must be an array of numbers that NumPy can have, got {leaf.dtype}{where}: leave "
        "it out of params, or save it by itself"
    )


def _on_host(leaf: Array) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf
    if hasattr(leaf, "get"):  # CuPy refuses to be read by NumPy
        return np.asarray(leaf.get())
    if hasattr(leaf, "cpu"):  # torch
        return np.from_dlpack(leaf.detach().cpu())
    try:
        return np.asarray(leaf)
    except RuntimeError:  # array-api-strict lets NumPy read arrays of its default device alone
        home = namespace(leaf).__array_namespace_info__().default_device()
        return np.asarray(to_device(leaf, home))
