"""How a run stands, in numbers to plot (clause C91).

Nothing is kept for them: they are computed from the weights and the state, as these are when
somebody asks. Which leaves there are, and what becomes of the numbers, is an adapter's matter.
"""

from collections.abc import Mapping
from typing import Any

from lookahead_core.leaves import averaged, chosen, copied, inner_product
from lookahead_core.namespace import device, is_array, namespace, to_device
from lookahead_core.outer import ALPHA
from lookahead_core.rule import SyncRule
from lookahead_core.state import SyncState
from lookahead_core.typing import Leaves

__all__ = ["metrics", "plain_numbers"]


def metrics(rule: SyncRule, fast: Leaves, state: SyncState) -> dict[str, Any]:
    """Distances between the weights, and where the syncs stand.

    Parameters
    ----------
    rule : SyncRule
        What syncs them.
    fast : sequence of arrays
        The fast weights now.
    state : SyncState
        With its arrays.

    Returns
    -------
    dict of str to int, float or 0-d array
        ``syncs``: syncs so far. ``distance``: from the fast weights to those to ship, the norm over
        all floating leaves. ``pseudo_gradient_norm``: the norm of slow - fast, the pseudo-gradient
        that a sync now would see. ``momentum_cosine``: its cosine to the outer momentum, which is
        the sum of the last ones; where the rule keeps that. ``alpha``: that of the next sync, where
        the rule has one and does not estimate it.

    Examples
    --------
    >>> import numpy as np
    >>> from lookahead_core import lookahead
    >>> rule = lookahead(sync_period=5)
    >>> state = rule.init([np.zeros(2)])._replace(count=3)
    >>> plain_numbers(metrics(rule, [np.asarray([3.0, 4.0])], state))
    {'syncs': 0, 'distance': 5.0, 'pseudo_gradient_norm': 5.0, 'alpha': 0.5}
    """
    which = averaged(state.slow)
    fast_floats = chosen(fast, which)
    pseudo = _difference(chosen(rule.anchored(fast, state), which), fast_floats)
    shipped = _difference(chosen(rule.slow(fast, state), which), fast_floats)
    norm = _norm(pseudo)
    found = {"syncs": state.syncs, "distance": _norm(shipped), "pseudo_gradient_norm": norm}
    outer: Any = rule.outer
    if hasattr(outer, "momentum_slot"):
        buffer = state.outer[outer.momentum_slot]
        found["momentum_cosine"] = _ratio(inner_product(pseudo, buffer), norm * _norm(buffer))
    if hasattr(outer, "alpha") and not rule.needs_gradient:
        found["alpha"] = ALPHA.at(outer.alpha, state.syncs)
    return found


def plain_numbers(found: Mapping[str, Any]) -> dict[str, int | float]:
    """What `metrics` has found as Python's numbers; waits for the device."""
    return {name: int(v) if name == "syncs" else float(v) for name, v in found.items()}


def _difference(slow: Leaves, fast: Leaves) -> Leaves:
    """`slow - fast`, in the dtype and on the device of the slow weights."""
    pairs = zip(slow, fast, strict=True)
    return [s - copied(to_device(f, device(s)), s.dtype) for s, f in pairs]


def _norm(leaves: Leaves) -> Any:
    """Over all leaves, in float32 or wider; 0.0 of none."""
    return inner_product(leaves, leaves) ** 0.5


def _ratio(product: Any, norms: Any) -> Any:
    """`product / norms`, 0 where one of two vectors is 0."""
    if not is_array(norms):
        return 0.0
    xp = namespace(norms)
    return xp.where(norms > 0, product / xp.where(norms > 0, norms, xp.ones_like(norms)), norms)
