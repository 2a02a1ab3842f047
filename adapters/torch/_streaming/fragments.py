"""Which parameters are synced together. When, is stream.py; how they travel is flight.py."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from lookahead_core.validation import int_at_least

from ..._fragments import balanced

__all__ = ["fragments_of"]


def fragments_of(fragments: Any, leaves: Iterable[Tensor], sync_period: int) -> dict[Tensor, int]:
    """The number of the fragment of each of `leaves`, or ValueError."""
    known = list(dict.fromkeys(leaves))
    most = min(sync_period, len(known))
    if isinstance(fragments, Sequence) and not isinstance(fragments, str):
        _check_lists(fragments, known)
        number = len(fragments)
        found = {leaf: index for index, own in enumerate(fragments) for leaf in own}
    else:
        meaning = "parts of the model that are synced at steps of their own, or lists of parameters"
        number = int_at_least(1, "fragments", fragments, meaning)
        found = _balanced(known, number)
    if number > most:
        raise ValueError(
            f"fragments must be no more than sync_period ({sync_period}) and parameters "
            f"({len(known)}), got {number}"
        )
    return {leaf: found[leaf] for leaf in known}


def _balanced(leaves: list[Tensor], number: int) -> dict[Tensor, int]:
    """Of sizes as equal as may be. Only what is trained now counts: what is frozen stays here."""
    sizes = [leaf.numel() if leaf.requires_grad else 0 for leaf in leaves]
    return dict(zip(leaves, balanced(sizes, number), strict=True))


def _check_lists(fragments: Sequence[Any], leaves: list[Tensor]) -> None:
    members = [leaf for own in fragments for leaf in own]
    position = {leaf: index for index, leaf in enumerate(leaves)}
    for leaf in members:
        if not isinstance(leaf, Tensor) or leaf not in position:
            raise ValueError(
                f"fragments must be lists of parameters of the inner optimizer, got {leaf!r}"
            )
    if len(set(members)) < len(members) or not all(map(len, fragments)) or not fragments:
        raise ValueError(
            "fragments must be lists that are not empty, with no parameter in two of them, got "
            f"{[[position[leaf] for leaf in own] for own in fragments]}"
        )
    missing = [index for leaf, index in position.items() if leaf not in set(members)]
    if missing:
        raise ValueError(f"fragments must have every parameter, got none for {missing}")
