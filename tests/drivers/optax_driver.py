"""Drives lookahead_core.adapters.optax for the conformance suite: eager, jit, scan or vmap."""

import pickle
from copy import copy, deepcopy
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lookahead_core import SyncContext
from lookahead_core.adapters.optax import (
    PersistentState,
    find_state,
    lookahead,
    meta_optimizer,
)
from lookahead_core.conformance import INNER_EDITS, Setup, sync_rule

LONGEST = 32  # steps that a scan is compiled for


def array(values, dtype, shape=None):
    """`values` as the suite writes them: the parts of complex numbers in turn."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = np.asarray(values, float).view(complex)
    new = jnp.asarray(values, dtype)
    return new if shape is None else new.reshape(shape)


def plain(leaf):
    """The values of an array, as the suite reads them."""
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag], -1)
    return np.asarray(leaf, float).ravel().tolist()


def rate_dtype(setup):
    """Dtype for an injected learning rate, None for optax's own choice.

    That is the dtype of the first leaf or, since optax 0.2.8, the highest: a float32 one rounds
    the rate of a float64 leaf, and complex64 beside float64 is refused.
    """
    return jnp.float64 if len({leaf.dtype for leaf in setup.leaves}) > 1 else None


def at_rate(inner, learning_rate):
    """optax's SGD or Adam with the settings of `inner`."""
    if inner.kind == "adam":
        return optax.adam(learning_rate)
    return optax.sgd(learning_rate, inner.momentum or None)


def grouped(setup):
    """The inner optimizer with a group for each rate, None if there is but one."""
    rates = [leaf.rate for leaf in setup.leaves]
    if len(set(rates)) < 2:
        return None
    groups = {rate: at_rate(setup.inner, setup.inner.lr * rate) for rate in rates}
    return optax.multi_transform(
        groups, lambda params: jax.tree.unflatten(jax.tree.structure(params), rates)
    )


def injected(setup):
    """The inner optimizer with a learning rate that can be changed from outside."""
    # A function of its own: inject_hyperparams takes every number for a hyperparameter.
    inject = optax.inject_hyperparams(
        lambda learning_rate: at_rate(setup.inner, learning_rate),
        hyperparam_dtype=rate_dtype(setup),
    )
    return inject(learning_rate=setup.inner.lr)


def step(tx, carry, gradients):
    params, state = carry
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def scan(tx, carry, gradients, length):
    """The first `length` of the stacked gradients; one compilation for any length."""

    def body(carry, item):
        index, gradient = item
        after = step(tx, carry, gradient)
        return jax.tree.map(
            lambda new, old: jnp.where(index < length, new, old), after, carry
        ), None

    return jax.lax.scan(body, carry, (jnp.arange(LONGEST), gradients))[0]


def made(inner, setup):
    """By the name that users know where the setup is Lookahead."""
    rule, dtype = sync_rule(setup), setup.slow_dtype
    settings = (setup.sync_period, setup.alpha, setup.inner_state)
    if rule == sync_rule(Setup((), *settings)):
        return lookahead(inner, *settings, slow_dtype=dtype)
    return meta_optimizer(inner, rule, slow_dtype=dtype)


class Program:
    """A transformation, and its step as the mode compiles it."""

    def __init__(self, setup, mode):
        self.inner, self.rule = grouped(setup) or injected(setup), sync_rule(setup)
        self.optimizer = made(self.inner, setup)
        trained = [leaf.trained or leaf.dtype == "int32" for leaf in setup.leaves]
        self.tx = self.optimizer if all(trained) else optax.masked(self.optimizer, trained)
        self.step = partial(step, self.tx)
        if mode != "eager":
            self.step = jax.jit(self.step)
        self.scan = jax.jit(partial(scan, self.tx))
        self.pair = jax.jit(jax.vmap(partial(step, self.tx)))


# One compilation for all runs with the same settings. By name too: True == 1.
@cache
def program(setup, mode, name):
    return Program(setup, mode)


class Run:
    """Parameters and state, and how the mode moves them."""

    def __init__(self, setup, mode):
        params = [array(leaf.values, leaf.dtype, leaf.shape) for leaf in setup.leaves]
        setup = setup._replace(leaves=tuple(map(kind, setup.leaves)))
        self.program = program(setup, mode, repr(setup))
        self.mode = mode
        self.carry = (params, self.program.tx.init(params))

    @property
    def carry(self):
        return self.params, self.state

    @carry.setter
    def carry(self, carry):
        """Start from here: a scan runs from the last such place, all steps in one program."""
        self.params, self.state = self.origin = carry
        self.since = []
        if self.mode == "vmap":
            # Another member of the batch, one step ahead: they do not sync together.
            self.decoy = self.program.step(carry, jax.tree.map(jnp.ones_like, self.params))

    def __deepcopy__(self, memo):
        copied = copy(self)
        copied.carry = deepcopy(self.carry, memo)
        return copied

    def step(self, gradients):
        if self.mode == "scan" and len(self.since) < LONGEST:
            self.since.append(gradients)
            stacked = [*self.since, *[gradients] * (LONGEST - len(self.since))]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stacked)
            self.params, self.state = self.program.scan(self.origin, stacked, len(self.since))
        elif self.mode == "vmap":
            members = [(self.decoy, jax.tree.map(jnp.negative, gradients)), (self.carry, gradients)]
            both = self.program.pair(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *members))
            self.decoy, (self.params, self.state) = (
                jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in range(2)
            )
        else:
            self.carry = self.program.step(self.carry, gradients)


def kind(leaf):
    """All of a leaf that a transformation is made for."""
    return leaf._replace(values=(), shape=None)


class OptaxDriver:
    # Updates are emitted and not weights: p + (target - p) is the target within rounding.
    eager = False
    capabilities = frozenset(
        {
            *("adam", "edit", "edit_inner", "evaluate", "forced_sync", "frozen", "groups"),
            *("interpolate", "learning_rate", "missing_gradient", "momentum", "nested"),
            *("metrics", "outer_momentum", "period_schedule", "reset", "restart", "schedule"),
            *("skip", "slow_dtype", "start"),
            *("gradient_point", "inner_lr"),
            *("float32", "float16", "bfloat16", "int32", "complex128", "complex64"),
        }
    )

    def __init__(self, mode="eager"):
        self.mode = mode

    def make(self, setup):
        return Run(setup, self.mode)

    def step(self, run, gradients):
        # optax has no missing gradient for one leaf: there it is a zero.
        given = [
            [0.0] * len(plain(leaf)) if g is None else g
            for g, leaf in zip(gradients, run.params, strict=True)
        ]
        run.step(arrays(run, given))

    def fast(self, run):
        return [plain(leaf) for leaf in run.params]

    def slow(self, run):
        # At the start of a cycle the anchor is not taken yet: the parameters are what it will be,
        # but for the bits that only a wider dtype has. Where they are not put back whole, none is.
        ours = find_state(run.state)
        lazy = not isinstance(ours, PersistentState)
        leaves = jax.tree.leaves(ours.slow, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
        slow = [
            p
            if isinstance(s, optax.MaskedNode)
            else jnp.where(lazy & (ours.step == 0) & (s.astype(p.dtype) != p), p.astype(s.dtype), s)
            for s, p in zip(leaves, run.params, strict=True)
        ]
        rule = run.program.rule
        if rule.has_readout:
            outer = [jax.tree.leaves(slot) for slot in ours.outer]
            slow = rule.outer.readout(slow, outer, SyncContext(ours.syncs.astype(int)))
        return [plain(leaf) for leaf in slow]

    def evaluate(self, run):
        slow = run.program.optimizer.slow_params(run.state, run.params)
        return [plain(leaf) for leaf in slow]

    def metrics(self, run):
        return run.program.optimizer.metrics(run.state, run.params)

    def save(self, run):
        return pickle.dumps(jax.tree.map(np.asarray, run.carry))

    def load(self, setup, saved):
        return self.put_back(self.make(setup), saved)

    def put_back(self, run, saved):
        run.carry = jax.tree.map(jnp.asarray, pickle.loads(saved))
        return run

    def sync(self, run):
        updates, state = run.program.optimizer.sync(run.state, run.params)
        run.carry = optax.apply_updates(run.params, updates), state

    def edit(self, run, values):
        run.carry = arrays(run, values), run.state

    def edit_inner(self, run, index, edit):
        # Arrays and states are new after every edit, and none can be taken away: zeros are what
        # the transformation starts with.
        ours = find_state(run.state)
        factors = [1.0] * len(run.params)
        factors[index] = INNER_EDITS[edit]
        inner = optax.tree_utils.tree_map_params(
            run.program.inner, lambda moment, factor: moment * factor, ours.inner, factors
        )
        run.carry = run.params, with_inner(run.state, ours, inner)

    def skip(self, run):
        checked = optax.apply_if_finite(run.program.tx, max_consecutive_errors=10**6)
        state = checked.init(run.params)._replace(inner_state=run.state)
        infinite = [jnp.full_like(leaf, jnp.inf) for leaf in run.params]
        updates, state = checked.update(infinite, state, run.params)
        run.carry = optax.apply_updates(run.params, updates), state.inner_state

    def set_learning_rate(self, run, lr):
        ours = find_state(run.state)  # the slow copy of the inner state has one, too
        rate = jnp.asarray(lr, optax.tree_utils.tree_get(ours.inner, "learning_rate").dtype)
        inner = optax.tree_utils.tree_set(ours.inner, learning_rate=rate)
        run.carry = run.params, with_inner(run.state, ours, inner)


def with_inner(state, ours, inner):
    """`state` with `inner` in its LookaheadState `ours`, wherever that lies."""
    return jax.tree.map(
        lambda node: node._replace(inner=inner) if node is ours else node,
        state,
        is_leaf=lambda node: node is ours,
    )


def arrays(run, values):
    return [
        array(new, leaf.dtype, leaf.shape) for new, leaf in zip(values, run.params, strict=True)
    ]
