"""Checks of many workers on eight devices, of one process or two; tests/distributed/jax runs them.

JAX reads the number of devices when it is imported, so this is a program of its own:
python workers_on_devices.py CHECK FOLDER [PROCESSES NUMBER PORT]

The eight devices are a mesh of workers by shards: parameters have a first axis for the workers,
and each worker's are sharded by the outputs of its model.
"""

import json
import re
import sys
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from drivers import workers_by_hand as by_hand
from drivers.compiled_collectives import collectives
from drivers.workers_by_hand import STEPS, K, data, start, trained_by_hand
from lookahead_core import Interpolate, Momentum, SyncRule, diloco, ema, lookahead
from lookahead_core.adapters.optax import (
    find_state,
    meta_optimizer,
    slow_params,
    split,
    weighted_mean,
    worker_axes,
)

DEVICES = 8
SPECS = {"w": P(None, "shards"), "b": P("shards")}
OWN_SPECS = {name: P("workers", *spec) for name, spec in SPECS.items()}
DATA_SPECS = (P("workers"), P("workers", None, "shards"))
MEAN = partial(jax.lax.pmean, axis_name="workers")
INNER = {
    "sgd": lambda: optax.sgd(0.05, momentum=0.9),
    "adamw": lambda: optax.adamw(0.05, weight_decay=0.01),
}
OUTER = {
    "mean": Interpolate(1.0),
    "halfway": Interpolate(0.5),
    "heavy_ball": Momentum(0.7, 0.9, nesterov=False),
    "nesterov": Momentum(0.7, 0.9),
}
# Beside those: a slow copy of the inner state, an average, and weights that go back in part.
OTHERS = {
    "interpolate": lookahead(K, 0.3, "interpolate"),
    "average": ema(0.9, K),
    "in part": SyncRule(K, Momentum(), restart=0.5),
}


def mesh_of(workers, kind=AxisType.Auto):
    shape = (workers, DEVICES // workers)
    return jax.make_mesh(shape, ("workers", "shards"), axis_types=(kind, kind))


def make(rule, inner="adamw", average=MEAN):
    return meta_optimizer(INNER[inner](), rule, average=average)


def stepper(update, after=None):
    def step(params, state, x, y):
        updates, state = update(by_hand.gradient(params, x, y), state, params)
        params = optax.apply_updates(params, updates)
        return (after(state, params) if after else params), state

    return step


def shapes(optimizer):
    return jax.eval_shape(optimizer.init, start())


def each_leaf(optimizer, shared, own):
    """A tree like a state, of one function or the other at the spec of the parameter or P()."""
    kinds = jax.tree.leaves(
        jax.tree.broadcast(worker_axes(shapes(optimizer), own, shared), shapes(optimizer))
    )
    paths, tree = jax.tree_util.tree_flatten_with_path(shapes(optimizer))
    names = [{str(getattr(key, "key", "")) for key in path} & {*SPECS} for path, _ in paths]
    specs = [SPECS[found.pop()] if found else P() for found in names]
    return jax.tree.unflatten(tree, [kind(spec) for kind, spec in zip(kinds, specs, strict=True)])


def state_specs(optimizer):
    """A state is sharded like its parameters, and over workers where it is their own."""
    return each_leaf(optimizer, lambda spec: spec, lambda spec: P("workers", *spec))


def shardings(specs, mesh):
    return jax.tree.map(partial(NamedSharding, mesh), specs)


def placed(tree, specs, mesh):
    """Global arrays from values that every process has."""

    def place(value, sharding):
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(place, tree, shardings(specs, mesh))


def begun(optimizer, mesh, workers, dtype="float64"):
    """Parameters and state of all workers, at the start."""
    axes = worker_axes(shapes(optimizer), 0, None)
    many = jax.vmap(
        lambda params: (params, optimizer.init(params)),
        in_axes=None,
        out_axes=(0, axes),
        axis_size=workers,
    )
    where = shardings((OWN_SPECS, state_specs(optimizer)), mesh)
    params = {name: jnp.asarray(value, dtype) for name, value in start().items()}
    return jax.jit(many, out_shardings=where)(params)


def by_vmap(optimizer, mesh, step):
    axes = worker_axes(shapes(optimizer), 0, None)
    return jax.vmap(
        step,
        in_axes=(0, axes, 0, 0),
        out_axes=(0, axes),
        axis_name="workers",
        spmd_axis_name="workers",
    )


def by_shard_map(optimizer, mesh, step, specs=None, **manual):
    state_is_own = each_leaf(optimizer, lambda _: False, lambda _: True)
    is_own = ({"w": True, "b": True}, state_is_own)

    def on_a_worker(params, state, x, y):
        # A worker's part of what is its own has a first axis of one.
        take, give = (lambda a: a[0]), (lambda a: a[None])
        alone = jax.tree.map(lambda a, own: take(a) if own else a, (params, state), is_own)
        after = step(*alone, x[0], y[0])
        return jax.tree.map(lambda a, own: give(a) if own else a, after, is_own)

    specs = specs or (OWN_SPECS, state_specs(optimizer), *DATA_SPECS)
    return jax.shard_map(on_a_worker, mesh=mesh, in_specs=specs, out_specs=specs[:2], **manual)


def by_shard_map_of_workers(optimizer, mesh, step):
    """The shards of a worker are left to the compiler."""
    own, shared = P("workers"), P()
    specs = (own, worker_axes(shapes(optimizer), own, shared), own, own)
    return by_shard_map(optimizer, mesh, step, specs, axis_names={"workers"})


FORMS = {"vmap": by_vmap, "shard_map": by_shard_map, "in part": by_shard_map_of_workers}


def compiled(form, optimizer, mesh, update, after=None, **options):
    step = FORMS[form](optimizer, mesh, stepper(update, after))
    return jax.jit(step, donate_argnums=(0, 1), **options)


def cycles(form, optimizer, mesh):
    """Programs for the K steps of a cycle: those of the drop-in form, and those of the split."""
    program, halves = partial(compiled, form, optimizer, mesh), split(optimizer)
    yield "drop-in", [program(optimizer.update)] * K
    yield "split", [*[program(halves.update)] * (K - 1), program(halves.update_and_sync)]


def batch(step, carry, mesh):
    """Of all workers, in the dtype of their parameters."""
    workers, dtype = carry[0]["b"].shape[0], carry[0]["b"].dtype
    both = tuple(part[step].astype(dtype) for part in data(workers))
    return placed(both, DATA_SPECS, mesh)


def trained(cycle, carry, mesh, steps=range(STEPS)):
    for step in steps:
        carry = cycle[step % K](*carry, *batch(step, carry, mesh))
    return carry


def require_close(array, expected, case):
    """The shards that are here are those of `expected`."""
    assert array.dtype == np.float64, case
    assert array.shape == expected.shape, case
    for shard in array.addressable_shards:
        part = expected[shard.index]
        np.testing.assert_allclose(shard.data, part, rtol=1e-12, atol=1e-12, err_msg=str(case))


def require_by_hand(carry, inner, outer, weights, case):
    params, state = carry
    fast, slow, buffer = trained_by_hand(getattr(by_hand, inner), getattr(by_hand, outer), weights)
    for name in SPECS:
        require_close(params[name], np.stack([worker[name] for worker in fast]), case)
        require_close(find_state(state).slow[name], slow[name], case)
        for slot in find_state(state).outer:
            require_close(slot[name], buffer[name], case)


def each_method_is_the_plain_loop(_):
    for workers, inner, outer in product((2, 4), INNER, OUTER):
        mesh, optimizer = mesh_of(workers), make(SyncRule(K, OUTER[outer]), inner)
        _, cycle = next(cycles("vmap", optimizer, mesh))
        carry = trained(cycle, begun(optimizer, mesh, workers), mesh)
        require_by_hand(carry, inner, outer, np.ones(workers), (workers, inner, outer))


def each_form_is_the_plain_loop(_):
    for workers, form in product((2, 4) if jax.process_count() == 1 else (2,), FORMS):
        mesh, optimizer = mesh_of(workers), make(diloco(K))
        for name, cycle in cycles(form, optimizer, mesh):
            carry = trained(cycle, begun(optimizer, mesh, workers), mesh)
            case = workers, form, name
            require_by_hand(carry, "adamw", "nesterov", np.ones(workers), case)


def unequal_work_is_a_mean_of_your_own(_):
    mesh, weights = mesh_of(4), np.asarray([1.0, 2.0, 5.0, 0.0])

    def weighted(differences):
        weight = jnp.asarray(weights)[jax.lax.axis_index("workers")]
        return weighted_mean(differences, weight=weight)

    optimizer = make(diloco(K), average=weighted)
    for form in FORMS:
        for name, cycle in cycles(form, optimizer, mesh):
            carry = trained(cycle, begun(optimizer, mesh, 4), mesh)
            require_by_hand(carry, "adamw", "nesterov", weights, (form, name))


def digests(case, tree, skip=0):
    """Hashes of the shards of a tree; AssertionError if copies of one on two devices differ.

    The first `skip` axes do not tell one shard from another.
    """
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        for shard in leaf.addressable_shards:
            key = f"{case}{jax.tree_util.keystr(path)}{shard.index[skip:]}"
            digest = sha256(np.asarray(shard.data).tobytes()).hexdigest()
            assert found.setdefault(key, digest) == digest, key
    return found


def written(found, folder):
    """For the processes to be compared."""
    (folder / f"{jax.process_index()}.json").write_text(json.dumps(found))


def all_workers_have_the_same_bits(folder):
    found, mesh = {}, mesh_of(4)
    wide = product((diloco(K), OTHERS["average"], OTHERS["in part"]), ["float32"])
    narrow = product((diloco(K), OTHERS["interpolate"]), ["bfloat16"])
    for number, (rule, dtype) in enumerate([*wide, *narrow]):
        optimizer = make(rule)
        for name, cycle in [*cycles("vmap", optimizer, mesh)][: 1 if number else 2]:
            carry = begun(optimizer, mesh, 4, dtype)
            for step in range(K + 1):
                carry = trained(cycle, carry, mesh, [step])
                ours = find_state(carry[1])
                shared = ours.step, ours.syncs, ours.slow, ours.outer
                found |= digests((number, name, step), shared)
    written(found, folder)


def parameters_can_be_put_back_to_the_bit(folder):
    """`apply_updates` rounds them; the slow weights after the step that syncs are exact."""
    found, mesh, optimizer = {}, mesh_of(4), make(diloco(K))
    for form in FORMS:
        # Else what vmap copies to all workers would be on each device once for every worker.
        where = shardings((OWN_SPECS, state_specs(optimizer)), mesh)
        program, halves = (
            partial(compiled, form, optimizer, mesh, out_shardings=where),
            split(optimizer),
        )
        syncing = program(halves.update_and_sync, slow_params)
        cycle = [*[program(halves.update)] * (K - 1), syncing]
        params, state = trained(cycle, begun(optimizer, mesh, 4, "float32"), mesh, range(K))
        own = digests(form, params, skip=1)
        assert own == digests(form, find_state(state).slow)
        found |= own
    written(found, folder)


def states_are_sharded_like_their_parameters(_):
    mesh, workers = mesh_of(4), 4
    for form, rule in [*product(FORMS, [diloco(K)]), ("vmap", OTHERS["interpolate"])]:
        optimizer = make(rule)
        expected = shardings((OWN_SPECS, state_specs(optimizer)), mesh)
        for name, cycle in cycles(form, optimizer, mesh):
            carry = trained(cycle, begun(optimizer, mesh, workers), mesh, range(K + 1))
            for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
                where = dict(jax.tree_util.tree_leaves_with_path(expected))[path]
                case = form, name, jax.tree_util.keystr(path), leaf.sharding
                assert leaf.sharding.is_equivalent_to(where, leaf.ndim), case


def only_syncs_communicate(_):
    mesh = mesh_of(4)
    rules = {**OTHERS, "diloco": diloco(K), "mean": SyncRule(K, Interpolate(1.0))}
    cases = {*product(FORMS, ["diloco"]), *product(["vmap"], ["interpolate", "average", "mean"])}
    for form, label in cases:
        optimizer = make(rules[label])
        carry = begun(optimizer, mesh, 4)
        found = {}
        for name, cycle in cycles(form, optimizer, mesh):
            for program in {cycle[0], cycle[-1]}:
                compiled = program.lower(*carry, *batch(0, carry, mesh)).compile()
                place = name, program is cycle[-1]
                found[place] = collectives(compiled.as_text())
        case = form, label, found
        always, in_branches = found["drop-in", True]
        assert (always, {*in_branches}) == ([], {"all-reduce"}), case
        assert found["split", False] == ([], []), case
        always, in_branches = found["split", True]
        assert ({*always}, in_branches) == ({"all-reduce"}, []), case


def a_counter_for_each_worker_communicates_at_every_step(_):
    """The branch is a select then; `worker_axes` keeps one counter."""
    optimizer, mesh = make(diloco(K)), mesh_of(4)
    params, _ = begun(optimizer, mesh, 4)
    carry = params, jax.vmap(optimizer.init)(params)
    each = jax.jit(jax.vmap(stepper(optimizer.update), axis_name="workers"))
    always, _ = collectives(each.lower(*carry, *batch(0, carry, mesh)).compile().as_text())
    assert "all-reduce" in always


def a_run_is_saved(folder):
    mesh, optimizer = mesh_of(4), make(diloco(K))
    _, cycle = next(cycles("vmap", optimizer, mesh))
    params, state = trained(cycle, begun(optimizer, mesh, 4), mesh, range(K + 1))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "run", {"params": params, "state": state})


def a_saved_run_goes_on_on_other_meshes(folder):
    for workers in (1, 2, 4):
        mesh, optimizer = mesh_of(workers), make(diloco(K))
        params, state = jax.eval_shape(partial(begun, optimizer, mesh, 4))
        where = shardings({"params": OWN_SPECS, "state": state_specs(optimizer)}, mesh)
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            {"params": params, "state": state},
            where,
        )
        with ocp.StandardCheckpointer() as checkpointer:
            run = checkpointer.restore(folder / "run", abstract)
        _, cycle = next(cycles("vmap", optimizer, mesh))
        carry = trained(cycle, (run["params"], run["state"]), mesh, range(K + 1, STEPS))
        require_by_hand(carry, "adamw", "nesterov", np.ones(4), workers)


def refused(form, optimizer, mesh):
    _, cycle = next(cycles(form, optimizer, mesh))
    carry = begun(optimizer, mesh, 4)
    try:
        cycle[0].lower(*carry, *batch(0, carry, mesh))
    except (TypeError, ValueError) as error:
        return re.search("out_axes is None|equal output types", str(error))
    return None


def slow_weights_that_might_differ_are_refused(_):
    mesh = mesh_of(4)
    for form in FORMS:
        assert refused(form, make(diloco(K), average=list), mesh), form
    # A step that one worker does not count. shard_map does not see what a `cond` decides.
    assert refused("vmap", optax.apply_if_finite(make(diloco(K)), 5), mesh)


def types_are_kept_on_an_explicit_mesh(_):
    mesh, optimizer = mesh_of(4, AxisType.Explicit), make(diloco(K))
    # jax 0.10.2 cannot lower the mean over a vmapped axis that is sharded explicitly.
    for form in ("shard_map", "in part"):
        for name, cycle in cycles(form, optimizer, mesh):
            carry = begun(optimizer, mesh, 4)
            before = [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(carry)]
            carry = trained(cycle, carry, mesh, range(K))
            after = [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(carry)]
            assert after == before, (form, name, before, after)


CHECKS = {
    check.__name__: check
    for check in (
        each_method_is_the_plain_loop,
        each_form_is_the_plain_loop,
        unequal_work_is_a_mean_of_your_own,
        all_workers_have_the_same_bits,
        parameters_can_be_put_back_to_the_bit,
        states_are_sharded_like_their_parameters,
        only_syncs_communicate,
        a_counter_for_each_worker_communicates_at_every_step,
        a_run_is_saved,
        a_saved_run_goes_on_on_other_meshes,
        slow_weights_that_might_differ_are_refused,
        types_are_kept_on_an_explicit_mesh,
    )
}

if __name__ == "__main__":
    name, folder, *several = sys.argv[1:]
    if several:
        processes, number, port = map(int, several)
        jax.distributed.initialize(f"localhost:{port}", processes, number)
    assert len(jax.devices()) == DEVICES
    jax.config.update("jax_enable_x64", True)
    CHECKS[name](Path(folder))
    print("held")
