"""Checks of the optax adapter on eight devices; test_sharding.py runs them, each in a process.

JAX reads the number of devices when it is imported, so this is a program of its own:
XLA_FLAGS=--xla_force_host_platform_device_count=8 python on_eight_devices.py CHECK
"""

import re
import sys
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lookahead_core import Momentum, SyncRule, diloco, ema, nested, switch_ema
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.adapters.optax import lookahead, meta_optimizer, resync, split

K, STEPS = 3, 8
POLICIES = ("maintain", "reset", "interpolate")
INNERS = {"sgd": lambda: optax.sgd(0.1, momentum=0.9), "adam": lambda: optax.adam(0.1)}


class Forgets:
    """A rule that keeps zeros which depend on no array."""

    def init(self, slow):
        return (tuple(map(jnp.zeros_like, slow)),)

    def update(self, slow, fast, state, context):
        return fast, self.init(slow)


RULES = {
    "forgets": SyncRule(K, Forgets()),
    "momentum": diloco(K),
    "ema": ema(0.9),
    "switch": switch_ema(K, 0.9),
    "in part": SyncRule(K, Momentum(), restart=0.5, start=1),
    "nested": nested(lookahead_rule(1, 0.5), diloco(K)),
}
SPECS = {"rows": P("x", None), "columns": P(None, "y"), "both": P(("x", "y")), "whole": P()}
COLLECTIVES = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"


def mesh(kind):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))


def arrays(scale=1.0):
    shapes = {"rows": (8, 4), "columns": (4, 8), "both": (16,), "whole": (3,)}
    return {
        name: scale * jnp.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
        for name, shape in shapes.items()
    }


def placed(tree, on):
    return {
        name: jax.device_put(leaf, NamedSharding(on, SPECS[name])) for name, leaf in tree.items()
    }


def cases():
    """Optimizers: every inner transformation and policy, and wide slow weights."""
    for name, policy in product(INNERS, POLICIES):
        yield f"{name}, {policy}", lookahead(INNERS[name](), K, 0.3, policy)
    yield "reset_all", lookahead(INNERS["adam"](), K, 0.3, "reset", reset_all=True)
    for name, rule in RULES.items():
        yield name, meta_optimizer(INNERS["sgd"](), rule)


def shaped_like_parameters(state):
    """Leaves of a state that belong to a parameter, with the parameter's name."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        names = {str(getattr(key, "key", "")) for key in path} & set(SPECS)
        if names:
            yield names.pop(), jax.tree_util.keystr(path), leaf


def require_sharded(case, state, on):
    found = list(shaped_like_parameters(state))
    assert len(found) >= len(SPECS), case
    for name, path, leaf in found:
        expected = NamedSharding(on, SPECS[name])
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), (case, path, leaf.sharding)


def stepper(update):
    def step(params, state):
        updates, state = update(jax.tree.map(jnp.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1))


def scanned(step, carry):
    return jax.jit(lambda c: jax.lax.scan(lambda c, _: (step(*c), None), c, length=K)[0])(carry)


def copies_are_sharded_like_the_parameters():
    on = mesh(AxisType.Auto)
    for case, optimizer in cases():
        params = placed(arrays(), on)
        state = optimizer.init(params)
        require_sharded(f"{case}, init", state, on)
        # The moments of the inner transformation are its own matter: jit loses their sharding.
        compiled = jax.jit(optimizer.init)(params)
        require_sharded(f"{case}, init in jit", (compiled.slow, compiled.outer), on)
        step = stepper(optimizer.update)
        for _ in range(K + 1):
            params, state = step(params, state)
            require_sharded(f"{case}, update", state, on)
        require_sharded(f"{case}, resync", resync(state, params), on)
        require_sharded(f"{case}, slow_params", optimizer.slow_params(state, params), on)
        require_sharded(f"{case}, sync", jax.jit(optimizer.sync)(state, params)[1], on)
        _, synced = stepper(split(optimizer).update_and_sync)(params, state)
        require_sharded(f"{case}, update_and_sync", synced, on)


def collectives(update, params, state):
    return re.findall(COLLECTIVES, stepper(update).lower(params, state).compile().as_text())


def no_step_communicates():
    on = mesh(AxisType.Auto)
    params = placed(arrays(), on)
    for case, optimizer in cases():
        halves, state = split(optimizer), optimizer.init(params)
        for update in (optimizer.update, halves.update, halves.update_and_sync):
            assert collectives(update, params, state) == [], case
    # A program that does would be seen, and ours adds nothing to it.
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
    bare = collectives(inner.update, params, inner.init(params))
    ours = lookahead(inner, K, 0.3)
    assert len(bare) > 0
    assert len(collectives(ours.update, params, ours.init(params))) == len(bare)


def the_numbers_are_those_of_one_device():
    on = mesh(AxisType.Auto)
    for case, optimizer in cases():
        ends = []
        for params in (placed(arrays(), on), arrays()):
            state, step = optimizer.init(params), stepper(optimizer.update)
            for _ in range(STEPS):
                params, state = step(params, state)
            ends.append(jax.tree.map(np.asarray, (params, state)))
        for eight, one in zip(*map(jax.tree.leaves, ends), strict=True):
            np.testing.assert_allclose(eight, one, rtol=1e-13, atol=1e-13, err_msg=case)


def types(tree):
    """Shape, dtype and sharding as JAX writes them: float64[8@x,4]."""
    return [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(tree)]


def types_are_kept_on_an_explicit_mesh():
    on = mesh(AxisType.Explicit)
    for case, optimizer in cases():
        params = placed(arrays(), on)
        state, halves = optimizer.init(params), split(optimizer)
        before = types((params, state))
        require_sharded(case, state, on)
        for update in (optimizer.update, halves.update, halves.update_and_sync):
            params, state = stepper(update)(params, state)
            after = types((params, state))
            assert after == before, f"{case}: {before} became {after}"
        # The carry of a scan may change no type at all.
        carry = scanned(stepper(optimizer.update), (params, state))
        assert types(carry) == before, f"{case}: {before} became {types(carry)}"


def wide_slow_weights_are_sharded_too():
    on = mesh(AxisType.Explicit)
    optimizer = lookahead(optax.adam(0.1), K, 0.3, slow_dtype=jnp.float32)
    params = placed(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), arrays()), on)
    state = optimizer.init(params)
    for _ in range(K + 1):
        params, state = stepper(optimizer.update)(params, state)
        require_sharded("slow_dtype", state, on)
        assert {leaf.dtype for leaf in state.slow.values()} == {jnp.dtype("float32")}


CHECKS = {
    check.__name__: check
    for check in (
        copies_are_sharded_like_the_parameters,
        no_step_communicates,
        the_numbers_are_those_of_one_device,
        types_are_kept_on_an_explicit_mesh,
        wide_slow_weights_are_sharded_too,
    )
}

if __name__ == "__main__":
    assert len(jax.devices()) == 8
    jax.config.update("jax_enable_x64", True)
    CHECKS[sys.argv[1]]()
    print("held")
