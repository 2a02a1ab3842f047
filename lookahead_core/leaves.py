"""Leaf policy: which leaves are averaged, how a leaf is copied, and when two sets of leaves match.

Floating and complex leaves are averaged. Integers, booleans and the like (counters, masks, random
keys) have no halfway point: the live value stays as it is and the slow copy takes it (clause C14).
"""

from lookahead_core.namespace import namespace
from lookahead_core.typing import Array, DType, Leaves

__all__ = ["check_match", "copied", "is_averaged", "widened"]


def is_averaged(dtype: DType) -> bool:
    """Whether leaves of `dtype` are averaged: real or complex floating point, of any width."""
    # By name, because `isdtype` raises TypeError for ml_dtypes' bfloat16 in NumPy, and no 16-bit
    # float but its own namespace's is in the standard.
    return "float" in str(dtype) or "complex" in str(dtype)


def copied(leaf: Array, dtype: DType | None = None) -> Array:
    """New array with the values of `leaf`, in `dtype` if one is given, on the same device."""
    return namespace(leaf).astype(leaf, leaf.dtype if dtype is None else dtype, copy=True)


def widened(leaf: Array, dtype: DType | None) -> Array:
    """Copy of `leaf` in the wider of its own dtype and `dtype`; never narrower (clause C15)."""
    if dtype is None or not is_averaged(leaf.dtype):
        return copied(leaf)
    return copied(leaf, namespace(leaf).result_type(leaf.dtype, dtype))


def check_match(name: str, leaves: Leaves, other_name: str, others: Leaves) -> None:
    """Raise ValueError unless `leaves` and `others` agree in number and in every shape."""
    if len(leaves) != len(others):
        raise ValueError(
            f"{name} must have as many leaves as {other_name} ({len(others)}), got {len(leaves)}"
        )
    for index, (leaf, other) in enumerate(zip(leaves, others, strict=True)):
        if leaf.shape != other.shape:
            raise ValueError(
                f"{name}[{index}] must have the shape of {other_name}[{index}], "
                f"{tuple(other.shape)}, got {tuple(leaf.shape)}"
            )
