"""The state of the optax adapter: found inside of any other optax state, read, started again.

When a cycle begins and what is read out is the core's to say. What moves weights is _optimizer.py.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lookahead_core import SyncRule, SyncState
from lookahead_core.workers import Average

from ._slots import flat
from ._trees import arrays, by_path, described, filled, like, owned, shapes

__all__ = [
    "PARKED",
    "LookaheadState",
    "PersistentState",
    "SharedState",
    "begun",
    "counters",
    "find_state",
    "is_parked",
    "name_of",
    "ours_in",
    "own_params",
    "read_out",
    "readable",
    "refuse_parked",
    "replaced",
    "resync",
    "slow_params",
    "state_kind",
    "states_in",
    "sync_state",
]

# A state does not know its rule. Where one is read or started again by itself, these stand for it:
# all rules that put the parameters back at every sync answer alike, and so do all others.
CARRIED, PERSISTENT = SyncRule(inner_state="interpolate"), SyncRule(restart=0.0)

# For errors: how the parameters are given where the optimizer sees them in another shape.
FLATTENED = (
    "; inside of optax.flatten: flat, back = jax.flatten_util.ravel_pytree(params), and then "
    "back(slow_params(state, flat))"
)
OF_NNX = "; of a flax model it is nnx.state(model, nnx.Param)"


class LookaheadState(NamedTuple):
    """State of `meta_optimizer`. Read the slow weights with `slow_params`, not from here.

    Attributes
    ----------
    step : int32 array, shape ()
        Inner steps applied since the last sync, 0 .. sync_period - 1; it begins at -start, if the
        rule has a start.
    syncs : int32 array, shape ()
        Syncs so far; a schedule of alpha reads it.
    slow : tree like the parameters
        Parameters at the first step of this cycle; stale while `step` is not above 0. In the wider
        dtype where `slow_dtype` was given.
    inner : optax state
        The inner transformation's own.
    inner_slow : optax state, or ()
        The inner state at the first step of this cycle, for `inner_state="interpolate"` alone.
    outer : tuple of trees like the parameters
        Slots of the outer rule (its momentum), with MaskedNode for a parameter that is not
        averaged; () for a rule that keeps nothing.
    """

    step: jax.Array
    syncs: jax.Array
    slow: optax.Params
    inner: optax.OptState
    inner_slow: optax.OptState
    outer: tuple[optax.Params, ...] = ()


class PersistentState(LookaheadState):
    """State of a rule that does not put the parameters back whole at every sync.

    The parameters do not carry the slow weights then, and the class is what tells `slow_params` so.

    Attributes
    ----------
    step : int32 array, shape ()
        As in `LookaheadState`, like all that is not said here.
    syncs : int32 array, shape ()
        Syncs so far.
    slow : tree like the parameters
        What the last sync left; never stale once the first cycle has begun.
    inner : optax state
        The inner transformation's own.
    inner_slow : optax state
        Always ().
    outer : tuple of trees like the parameters
        Slots of the outer rule.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core import ema
    >>> from lookahead_core.adapters.optax import meta_optimizer
    >>> type(meta_optimizer(optax.sgd(0.1), ema()).init(jnp.ones(2))).__name__
    'PersistentState'
    """

    __slots__ = ()


class SharedState(PersistentState):
    """State of a rule for many workers: `slow` and `outer` are the same bits on all of them.

    `slow` is what `init` was given and syncs made of it, and is never taken from the parameters,
    which are each worker's own; but `resync` takes it from those that it is given.

    Attributes
    ----------
    step : int32 array, shape ()
        As in `LookaheadState`, like all that is not said here; the same on all workers.
    syncs : int32 array, shape ()
        Syncs so far; the same on all workers.
    slow : tree like the parameters
        What the last sync left; never stale. The same on all workers.
    inner : optax state
        Each worker's own.
    inner_slow : optax state, or ()
        Each worker's own.
    outer : tuple of trees like the parameters
        Slots of the outer rule; the same on all workers.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core import local_sgd
    >>> from lookahead_core.adapters.optax import meta_optimizer
    >>> alone = meta_optimizer(optax.sgd(0.1), local_sgd(), average=lambda differences: differences)
    >>> type(alone.init(jnp.ones(2))).__name__
    'SharedState'
    """

    __slots__ = ()


class _HasReadOut:
    """Marks a state whose slow weights are not what to evaluate; the rule knows what is."""

    __slots__ = ()


class ReadOutState(_HasReadOut, LookaheadState):
    """`LookaheadState` of a rule with a read-out of its own."""

    __slots__ = ()


class PersistentReadOutState(_HasReadOut, PersistentState):
    """`PersistentState` of a rule with a read-out of its own."""

    __slots__ = ()


class SharedReadOutState(_HasReadOut, SharedState):
    """`SharedState` of a rule with a read-out of its own."""

    __slots__ = ()


# A pickled state names its class by this, and not by a room that may move.
for _public in (LookaheadState, PersistentState, SharedState):
    _public.__module__ = __package__

READ_OUT: dict[type[LookaheadState], type[LookaheadState]] = {
    LookaheadState: ReadOutState,
    PersistentState: PersistentReadOutState,
    SharedState: SharedReadOutState,
}


def state_kind(rule: SyncRule, average: Average | None) -> type[LookaheadState]:
    """The class of the state, which tells what can be read from it without its rule."""
    kind: type[LookaheadState] = LookaheadState if rule.fast_carries_slow else PersistentState
    kind = kind if average is None else SharedState
    return READ_OUT[kind] if rule.has_readout else kind


class _Parked(NamedTuple):
    """Stands for what `park` took out: a tree without leaves."""


PARKED = _Parked()


def slow_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """Slow weights: the parameters to evaluate or ship (clause C22).

    Under a rule that evaluates other weights than the slow ones, as `nested` does, call
    `MetaTransformation.slow_params`: a state does not know its rule.

    Parameters
    ----------
    state : optax state
        A `LookaheadState`, or any optax state that holds one, or several for different parameters
        (`optax.partition`).
    params : tree
        The current parameters, which are the fast weights.

    Returns
    -------
    tree like `params`
        New arrays, in `slow_dtype` where that is wider. Parameters that no Lookahead moves are
        returned as they are.

    Raises
    ------
    ValueError
        If `state` holds no `LookaheadState`, several for one parameter, or one of a rule that
        evaluates other weights.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import lookahead, slow_params
    >>> optimizer, params = lookahead(optax.sgd(0.5)), {"w": jnp.ones(2)}
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> slow_params(state, optax.apply_updates(params, updates))
    {'w': Array([1., 1.], dtype=float32)}
    """
    found = states_in(state)
    for ours in found:
        refuse_parked(ours)
        if isinstance(ours, _HasReadOut):
            raise ValueError(
                "state must be that of a rule that evaluates its slow weights; this one reads out "
                "others: call optimizer.slow_params(state, params), with the optimizer that "
                "meta_optimizer returned"
            )
    times = Counter(path for ours in found for path in by_path(ours.slow))
    if twice := [path for path, number in times.items() if number > 1]:
        raise ValueError(
            "state must hold one LookaheadState for each parameter, got several for "
            f"params{twice[0]}"
        )
    for ours in found:
        rule = PERSISTENT if isinstance(ours, PersistentState) else CARRIED
        params = read_out(rule, ours, params)
    return params


def find_state(state: optax.OptState) -> LookaheadState:
    """The `LookaheadState` inside any optax state: of `chain`, `masked`, `MultiSteps` and so on.

    Parameters
    ----------
    state : optax state
        What `init` or `update` of the whole optimizer returned.

    Returns
    -------
    LookaheadState

    Raises
    ------
    ValueError
        If `state` does not hold exactly one.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import find_state, lookahead
    >>> optimizer = optax.chain(optax.clip(1.0), lookahead(optax.sgd(0.1)))
    >>> find_state(optimizer.init(jnp.ones(2))).step
    Array(0, dtype=int32)
    """
    found = states_in(state)
    if len(found) != 1:
        raise ValueError(f"state must hold exactly one LookaheadState, got {len(found)}")
    return found[0]


def resync(state: optax.OptState, params: optax.Params | None = None) -> optax.OptState:
    """Start a cycle here: the parameters as they are become the slow weights.

    For weights that are loaded or edited in mid-cycle. Between cycles it is not needed (clause
    C26), but for the split form (`split`), which must be given `params`. An average that training
    does not feed on (restart below 1) begins again at `params`, which must be given too; so must
    they for many workers, the same to each. A rule's start is over then.

    Parameters
    ----------
    state : optax state
        Any that holds a `LookaheadState`, or several.
    params : tree, optional
        The parameters, copied at once; without them the next `update` takes them.

    Returns
    -------
    optax state
        As `state`, with the counter at 0.

    Raises
    ------
    ValueError
        If `state` holds no `LookaheadState`, or `params` is needed and None.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from lookahead_core.adapters.optax import lookahead, resync
    >>> optimizer, params = lookahead(optax.sgd(0.1)), jnp.ones(2)
    >>> _, state = optimizer.update(params, optimizer.init(params), params)
    >>> state.step, resync(state).step
    (Array(1, dtype=int32), Array(0, dtype=int32))
    """
    states_in(state)

    def restarted(ours: LookaheadState) -> LookaheadState:
        refuse_parked(ours)
        if params is None and isinstance(ours, PersistentState):
            raise ValueError(
                "params must be given to resync under a rule for many workers, or one that does "
                "not put them back at every sync: its next update does not take slow weights from "
                "them; got None"
            )
        ours = ours._replace(step=jnp.zeros_like(ours.step))
        if params is None:
            return ours
        # Of any state: at a count of 0 such a rule takes all that there is.
        return begun(CARRIED, ours, own_params(ours, params), count=0)

    return replaced(state, restarted)


def is_parked(state: LookaheadState) -> bool:
    """Whether the slow weights are elsewhere."""
    return isinstance(state.slow, _Parked)


def refuse_parked(state: LookaheadState) -> None:
    """ValueError if the slow weights are elsewhere."""
    if is_parked(state):
        raise ValueError(
            "state must hold its slow weights here, got one that `park` made: unpark it"
        )


def counters(ours: LookaheadState) -> SyncState:
    """What the core carries from step to step, without the arrays: for questions about time."""
    step, syncs = arrays((ours.step, ours.syncs))  # flax's nnx.Optimizer has variables there
    return SyncState((), step, syncs, (), ())


def sync_state(ours: LookaheadState) -> SyncState:
    """All that the core carries, in the coordinates of weights."""
    refuse_parked(ours)
    return counters(ours)._replace(
        slow=arrays(ours.slow), outer=flat(ours.outer), inner_slow=arrays(ours.inner_slow)
    )


def begun(rule: SyncRule, ours: LookaheadState, params: Any, **known: Any) -> LookaheadState:
    """What `SyncRule.begin` makes of a state, with the parameters that are its own.

    Parameters of many workers are each one's own, so `update` gives none: their slow weights are
    never taken, and the slow copy of the inner state alone begins. `known` are counters that are
    known while the program is traced; they need no select.
    """
    before = sync_state(ours)._replace(**known)
    inner = arrays(ours.inner) if before.inner_slow else ()
    if params is None:
        after = rule.begin((), inner, before._replace(slow=()))._replace(slow=before.slow)
    else:
        after = rule.begin(arrays(params), inner, before)
    return ours._replace(
        slow=like(ours.slow, after.slow), inner_slow=like(ours.inner_slow, after.inner_slow)
    )


def read_out(rule: SyncRule, ours: LookaheadState, params: optax.Params) -> optax.Params:
    """`params`, with what `rule` evaluates in the place of those that `ours` has."""
    slow = rule.slow(arrays(own_params(ours, params)), readable(ours))
    return filled(like(ours.slow, slow), params)


def readable(ours: LookaheadState) -> SyncState:
    """All that the core carries, to compare it with the parameters."""
    state = sync_state(ours)
    if not isinstance(ours, SharedState):
        return state
    # As in mid-cycle: they are never those of the parameters, which are each worker's own. No
    # select, so that the states of all workers can be read at once.
    return state._replace(count=1, slow=list(map(jnp.copy, state.slow)))


def own_params(ours: LookaheadState, params: optax.Params, name: str = "params") -> optax.Params:
    """The parameters that a state has, or what else is in a tree like them, by the name `name`."""
    refuse_parked(ours)
    given = shapes(params)
    for path, shape in shapes(ours.slow).items():
        got = given.get(path)
        # The parameters of many workers may be given at once, which their slow weights are not.
        if got is None or (got != shape and not isinstance(ours, SharedState)):
            way_out = (OF_NNX if path else FLATTENED) if given and got is None else ""
            raise ValueError(
                f"{name} must be a tree like the one given to init, {name}{path} "
                f"{described(shape)}, got {described(got)}{way_out}"
            )
    return owned(params, ours.slow)


def replaced(
    state: optax.OptState, change: Callable[[LookaheadState], LookaheadState]
) -> optax.OptState:
    """`state`, with `change` made to every `LookaheadState` in it."""
    return jax.tree.map(
        lambda node: change(node) if _is_ours(node) else node, state, is_leaf=_is_ours
    )


def states_in(state: optax.OptState) -> list[LookaheadState]:
    """Every `LookaheadState` in an optax state; ValueError if there is none."""
    found = ours_in(state)
    if not found:
        raise ValueError(
            f"state must hold a LookaheadState, got none in {name_of(type(state))}: give what the "
            "optimizer's init and update return (in flax's nnx.Optimizer it is opt_state)"
        )
    return found


def ours_in(tree: Any) -> list[LookaheadState]:
    """Every `LookaheadState` in any tree."""
    return [node for node in jax.tree.leaves(tree, is_leaf=_is_ours) if _is_ours(node)]


def name_of(kind: type) -> str:
    """A class by its module too: optax has a `LookaheadState` of its own."""
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _is_ours(node: Any) -> bool:
    return isinstance(node, LookaheadState)
