"""Leaf policy: which leaves are averaged, how a leaf is copied, and when two sets of leaves match.

Floating and complex leaves are averaged. Integers, booleans and the like (counters, masks, random
keys) have no halfway point: the live value stays as it is and the slow copy takes it (clause C14).
"""

from collections.abc import Sequence
from typing import Any

from lookahead_core.namespace import device, is_array, namespace, to_device
from lookahead_core.typing import Array, DType, Fraction, Leaves

__all__ = [
    "averaged",
    "check_arrays",
    "check_match",
    "chosen",
    "copied",
    "each",
    "in_precision_of",
    "inner_product",
    "is_averaged",
    "kind_of",
    "merged",
    "unrounded",
    "widened",
    "zeros",
]

UNKNOWN = "V"
LETTERS = {"f": "float", "c": "complex", "i": "int", "u": "int"}


def kind_of(dtype: DType) -> str:
    """What `dtype` is: "float", "complex", "int" or "other" (booleans, random keys, objects).

    By NumPy's letter where there is one: a float of the other byte order prints as ">f4". Most of
    ml_dtypes' have only the letter of unknown bytes, and other namespaces have none: then it is the
    name that tells. The standard's `isdtype` raises TypeError for ml_dtypes' bfloat16.
    """
    letter = getattr(dtype, "kind", UNKNOWN)
    if letter != UNKNOWN:
        return LETTERS.get(letter, "other")
    name = getattr(dtype, "name", str(dtype))
    return next((word for word in ("float", "complex", "int") if word in name), "other")


def is_averaged(dtype: DType) -> bool:
    """Whether leaves of `dtype` are averaged: real or complex floating point, of any width."""
    return kind_of(dtype) in ("float", "complex")


def averaged(leaves: Leaves) -> list[bool]:
    """For each leaf, whether it is averaged."""
    # Once a dtype, not once a leaf: a name takes microseconds.
    kinds = {dtype: is_averaged(dtype) for dtype in {leaf.dtype for leaf in leaves}}
    return [kinds[leaf.dtype] for leaf in leaves]


def chosen(leaves: Leaves, which: Sequence[bool]) -> Leaves:
    """The leaves that `which` marks; the same sequence where it marks all."""
    return leaves if all(which) else [x for x, mark in zip(leaves, which, strict=True) if mark]


def merged(picked: Leaves, others: Leaves, which: Sequence[bool]) -> Leaves:
    """`others`, with those that `which` marks replaced by `picked`."""
    if all(which):
        return picked
    rest = iter(picked)
    return tuple(next(rest) if mark else leaf for leaf, mark in zip(others, which, strict=True))


def each(numbers: Any, number_of_leaves: int) -> Sequence[Fraction]:
    """One number for each leaf, of a list, a tuple or an array of them; or one for all leaves."""
    if isinstance(numbers, list | tuple):
        return numbers
    if getattr(numbers, "shape", ()) != ():
        # Not by `unstack`: mx.compile of mlx 0.32 raises IndexError in schedule_free's step.
        return [numbers[index] for index in range(number_of_leaves)]
    return [numbers] * number_of_leaves


def unrounded(slow: Leaves, fast: Leaves) -> Leaves:
    """`slow` and the step of `fast` from its rounding, where `slow` is wider; else `fast`."""
    return tuple(
        f if s.dtype == f.dtype else s + (copied(f, s.dtype) - copied(copied(s, f.dtype), s.dtype))
        for s, f in zip(slow, fast, strict=True)
    )


def zeros(leaves: Leaves) -> Leaves:
    """New arrays of zeros like `leaves`."""
    return tuple(namespace(leaf).zeros_like(leaf) for leaf in leaves)


def copied(leaf: Array, dtype: DType | None = None) -> Array:
    """New array with the values of `leaf`, in `dtype` if one is given, on the same device."""
    return namespace(leaf).astype(leaf, leaf.dtype if dtype is None else dtype, copy=True)


def widened(leaf: Array, dtype: DType | None) -> Array:
    """Copy of `leaf` in the wider of its own dtype and `dtype`; never narrower (clause C15)."""
    if dtype is None or not is_averaged(leaf.dtype):
        return copied(leaf)
    return copied(leaf, namespace(leaf).result_type(leaf.dtype, dtype))


def in_precision_of(leaf: Array, number: float | Array) -> float | Array:
    """A number that will not promote `leaf`, nor make it complex: a wider 0-d array would."""
    if not is_array(number):
        return number
    xp = namespace(leaf)
    real = xp.real(leaf) if kind_of(leaf.dtype) == "complex" else leaf
    return xp.astype(number, real.dtype)


def inner_product(left: Leaves, right: Leaves) -> Array:
    """Inner product over all leaves, real, added up in float32 or wider."""
    totals: dict[Any, Array] = {}
    for part in (_leaf_product(a, b) for a, b in zip(left, right, strict=True)):
        # Of torch's DTensors those on one mesh: others cannot be added to them.
        mesh = getattr(part, "device_mesh", None)
        totals[mesh] = totals.get(mesh, 0.0) + to_device(part, device(left[0]))
    return sum(t.full_tensor() if mesh else t for mesh, t in totals.items())


def _leaf_product(left: Array, right: Array) -> Array:
    xp = namespace(right)
    wide = xp.result_type(right.dtype, xp.float32)
    left, right = xp.astype(left, wide), xp.astype(right, wide)
    if kind_of(wide) == "complex":
        return xp.real(xp.sum(xp.conj(left) * right))
    return xp.sum(left * right)


def check_match(name: str, leaves: Leaves, other_name: str, others: Leaves) -> None:
    """Raise ValueError unless `leaves` and `others` agree in number and in every shape."""
    check_sequence(name, leaves)
    if len(leaves) != len(others):
        raise ValueError(
            f"{name} must have as many leaves as {other_name} ({len(others)}), got {len(leaves)}"
        )
    # All at once first: a third of the time of the loop, which is there to say which one it is.
    shapes = [getattr(leaf, "shape", None) for leaf in leaves]
    if shapes == [other.shape for other in others]:
        return
    check_arrays(name, leaves)
    for index, (leaf, other) in enumerate(zip(leaves, others, strict=True)):
        if leaf.shape != other.shape:
            raise ValueError(
                f"{name}[{index}] must have the shape of {other_name}[{index}], "
                f"{tuple(other.shape)}, got {tuple(leaf.shape)}"
            )


def check_sequence(name: str, leaves: Any) -> None:
    """Raise ValueError unless `leaves` is a list, a tuple or the like: trees belong to adapters."""
    if not isinstance(leaves, Sequence):
        way_out = "[weights] for one, list(params.values()) for a flat dict"
        raise ValueError(
            f"{name} must be a list or tuple of arrays ({way_out}), got {told(leaves)}"
        )


def check_arrays(name: str, leaves: Any) -> None:
    """Raise ValueError unless `leaves` is a list, a tuple or the like, and all in it are arrays."""
    check_sequence(name, leaves)
    for index, leaf in enumerate(leaves):
        if not is_array(leaf):
            raise ValueError(f"{name}[{index}] must be an array, got {told(leaf)}")


def told(value: Any) -> str:
    """What `value` is, in a few words: not the numbers of an array."""
    if is_array(value):
        return f"an array of shape {tuple(value.shape)}"
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"
