"""Checkpoints of the array loop: `.npz` or safetensors files, never pickles.

A file holds `params/<path>`, `state/<name>` and a header: a JSON text with the numbers of the
state and the dtype of each array. What a state means is its optimizer's; what a file is, is here.
"""

import json
import math
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import ZipInfo

import numpy as np

from lookahead_core.namespace import device, is_array, namespace
from lookahead_core.typing import Array

from ._inner.protocol import InnerOptimizer
from ._optimizer import MetaOptimizer
from ._tree import Layout, written

__all__ = ["load", "save"]

HEADER = "lookahead_core"
VERSION = 1
# What both formats store as it is; other dtypes are stored as bytes, and named in the header.
PLAIN = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {
    *("bool", "float16", "float32", "float64")
}
ZIP_NAME_BYTES = 65535
Arrays = dict[str, np.ndarray]
Optimizer = InnerOptimizer | MetaOptimizer


def save(path: str | os.PathLike[str], optimizer: Optimizer) -> None:
    """Write weights and state of `optimizer` to a file, all or nothing.

    The old file stays until the new one is complete and on the disk: a crash at any moment leaves
    one of the two, and perhaps a file `.<name>.<random>.tmp` beside it. The new one has the mode of
    the old one, and its owner and group where the system allows that.

    Parameters
    ----------
    path : path
        Ends in `.npz` or `.safetensors` (which needs the package of that name).
    optimizer : MetaOptimizer or InnerOptimizer
        Whose `params` and `state_dict()` are saved.

    Raises
    ------
    ValueError
        If the name has another ending, an entry of the state is neither array, number nor text, or
        the name of a leaf cannot be written to such a file.
    ModuleNotFoundError
        If safetensors is asked for and not installed.

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
    state = {f"state/{name}": value for name, value in optimizer.state_dict().items()}
    live = {**_weights(optimizer), **{n: value for n, value in state.items() if is_array(value)}}
    numbers = {name: value for name, value in state.items() if name not in live}
    for name, value in numbers.items():
        if not isinstance(value, int | float | str):
            raise ValueError(f"{name} must be an array, a number or a text, got {value!r}")
    dtypes = {name: _name(leaf.dtype) for name, leaf in live.items()}
    header = {"version": VERSION, "numbers": numbers, "dtypes": dtypes}
    arrays = {name: _stored(leaf) for name, leaf in live.items()}
    for name in arrays:
        if name.encode(errors="replace").decode() != name:
            raise ValueError(f"{name!r} must be Unicode text: rename the leaf")
    # A link stays, and the file that it leads to is replaced.
    target = Path(os.path.realpath(path))
    _replace(target, lambda file: form.write(file, json.dumps(header), arrays))


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
        If the file is truncated or damaged, not one of ours, or of another model or optimizer;
        nothing is changed then.
    FileNotFoundError
        If it is not there.
    ModuleNotFoundError
        If it is a safetensors file and the package of that name is not installed.

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
    header, stored = _read(path)
    weights = _weights(optimizer)
    saved = {name for name in stored if name.startswith("params/")}
    if saved != set(weights):
        missing, unknown = sorted(set(weights) - saved), sorted(saved - set(weights))
        raise ValueError(f"{path}: other weights; missing {missing}, unknown {unknown}")
    dtypes = header["dtypes"]
    new = [_like(leaf, stored[n], dtypes[n], f"{path}: {n}") for n, leaf in weights.items()]
    live = optimizer.state_dict()
    state = dict(header["numbers"])
    for name in stored.keys() - saved:
        reference = live.get(name.removeprefix("state/"))
        if not is_array(reference):
            raise ValueError(f"{path}: {name} must be no array in this optimizer, got one")
        state[name] = _like(reference, stored[name], dtypes[name], f"{path}: {name}")
    optimizer.load_state_dict({name.removeprefix("state/"): v for name, v in state.items()})
    layout, old = Layout(optimizer.params), weights.values()
    arrays = [written(leaf, value) for leaf, value in zip(old, new, strict=True)]
    params = layout.rebuilt(optimizer.params, arrays)
    if params is not optimizer.params:
        optimizer.params = params


def _weights(optimizer: Optimizer) -> dict[str, Array]:
    layout = Layout(optimizer.params)
    names = [f"params/{name}" for name in layout.names]
    return dict(zip(names, layout.distinct(optimizer.params), strict=True))


# --- files ---


class Format(NamedTuple):
    """How a header and arrays are in a file."""

    write: Callable[[IO[bytes], str, Arrays], None]
    read: Callable[[Path], tuple[str | None, Arrays]]


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


def _read_npz(path: Path) -> tuple[str | None, Arrays]:
    # Opened here: np.load leaves the file of a name open where it finds that it cannot read it.
    with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
        # By the members' own names: for "w.npy" NumPy gives what was saved as "w".
        members = {member.removesuffix(".npy"): member for member in file.zip.namelist()}
        if HEADER not in members:
            return None, {}
        header = str(file[members.pop(HEADER)])
        return header, {name: file[member] for name, member in members.items()}


def _write_safetensors(file: IO[bytes], header: str, arrays: Arrays) -> None:
    file.write(_safetensors().numpy.save(arrays, {HEADER: header}))


def _read_safetensors(path: Path) -> tuple[str | None, Arrays]:
    with _safetensors().safe_open(path, framework="numpy") as file:
        header = (file.metadata() or {}).get(HEADER)
        names = file.keys() if header else ()
        return header, {name: file.get_tensor(name) for name in names}


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a .safetensors file needs the package safetensors: pip install safetensors, or save "
            "as .npz"
        ) from error
    return safetensors


FORMATS = {
    ".npz": Format(_write_npz, _read_npz),
    ".safetensors": Format(_write_safetensors, _read_safetensors),
}


def _format(path: Path) -> Format:
    if path.suffix not in FORMATS:
        raise ValueError(f"path must end in .npz or .safetensors, got {str(path)!r}")
    return FORMATS[path.suffix]


def _read(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays of a file of ours, or ValueError."""
    form = _format(path)
    if path.suffix == ".safetensors":
        _safetensors()  # that it is missing is no fault of the file
    try:
        text, arrays = form.read(path)
        header = json.loads(text) if text else None
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and safetensors have a dozen between them
        raise ValueError(f"{path}: truncated or damaged, {error!r}") from error
    if not isinstance(header, Mapping) or header.get("version") != VERSION:
        raise ValueError(f"{path}: not a checkpoint of lookahead_core, version {VERSION}")
    if set(header["dtypes"]) != set(arrays):
        raise ValueError(f"{path}: truncated or damaged, its arrays are not those of its header")
    return dict(header), arrays


def _replace(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file beside `path`, bring it to the disk, and put it in the place of `path`."""
    old = path.stat() if path.exists() else None
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
    return str(dtype).rpartition(".")[2]


def _stored(leaf: Array) -> np.ndarray:
    """A NumPy array on the host with the bits of `leaf`, in a dtype that both formats know."""
    name = _name(leaf.dtype)
    if name == "bfloat16" and not isinstance(leaf, np.ndarray):
        leaf = leaf.view(namespace(leaf).uint16)  # NumPy has none, and takes none from torch
    array = np.ascontiguousarray(_on_host(leaf)).reshape(leaf.shape)
    return array if name in PLAIN else array.reshape(-1).view(np.uint8)


def _on_host(leaf: Array) -> np.ndarray:
    if hasattr(leaf, "get"):  # CuPy refuses to be read by NumPy
        return np.asarray(leaf.get())
    if hasattr(leaf, "cpu"):  # torch
        return np.from_dlpack(leaf.detach().cpu())
    return np.asarray(leaf)


def _like(reference: Array, stored: np.ndarray, name: str, where: str) -> Array:
    """The saved array in the namespace, dtype and on the device of `reference`, or ValueError."""
    shape, expected = tuple(reference.shape), _name(reference.dtype)
    if name != expected:
        raise ValueError(f"{where} must be {expected}, got {name}")
    ours = isinstance(reference, np.ndarray)
    bits = np.dtype(np.uint16) if name == "bfloat16" else None
    dtype = reference.dtype if ours else bits or np.dtype(name)
    size = math.prod(shape) * dtype.itemsize
    if name not in PLAIN and stored.dtype == np.uint8 and stored.nbytes == size:
        stored = stored.view(dtype).reshape(shape)
    if stored.shape != shape or stored.dtype != dtype:
        raise ValueError(f"{where} must have shape {shape} and dtype {name}, got {stored.shape}")
    if ours:
        return stored
    xp = namespace(reference)
    new = xp.asarray(stored, device=device(reference))
    return new.view(reference.dtype) if name == "bfloat16" else new
