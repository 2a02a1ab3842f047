"""Fragments of many workers in one program (clause C82), against plain loops in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lookahead_core import AdaptiveAlpha, Interpolate, Momentum, SyncRule, diloco, local_sgd
from lookahead_core import lookahead as lookahead_rule
from lookahead_core.adapters.optax import (
    meta_optimizer,
    slow_params,
    streaming_optimizer,
    worker_axes,
)

MEAN = partial(jax.lax.pmean, axis_name="workers")
WORKERS, K, LR = 3, 4, 0.1
SIZES = {"a": 3, "b": 2, "c": 1}
TARGETS = {n: np.random.default_rng(s).normal(size=(WORKERS, s)) for n, s in SIZES.items()}


def start():
    return {name: jnp.linspace(-1.0, 1.0, size) for name, size in SIZES.items()}


class Run:
    """All workers by vmap; each draws its parameters to targets of its own, with momentum."""

    def __init__(self, rule, make=streaming_optimizer, **options):
        self.optimizer = make(optax.sgd(LR, momentum=0.5), rule, average=MEAN, **options)
        axes = worker_axes(jax.eval_shape(self.optimizer.init, start()), 0, None)
        begin = jax.vmap(
            lambda p: (p, self.optimizer.init(p)),
            in_axes=None,
            out_axes=(0, axes),
            axis_size=WORKERS,
        )
        self.params, self.state = begin(start())

        def step(params, state, targets):
            gradient = jax.tree.map(jnp.subtract, params, targets)
            updates, state = self.optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        many = jax.vmap(step, in_axes=(0, axes, 0), out_axes=(0, axes), axis_name="workers")
        self.step = jax.jit(many)

    def __next__(self):
        self.params, self.state = self.step(self.params, self.state, TARGETS)
        return self.params, slow_params(self.state, self.params)


def plain(rule, fragment, parts, delay):
    """Parameters and slow weights of all workers after each step."""
    fast = {name: np.tile(np.asarray(p), (WORKERS, 1)) for name, p in start().items()}
    slow = {name: np.asarray(p) for name, p in start().items()}
    velocity = dict.fromkeys(SIZES, 0.0)
    buffer, mean = dict.fromkeys(SIZES, 0.0), {}
    for step in range(1, 100):
        for name in SIZES:
            velocity[name] = 0.5 * velocity[name] + fast[name] - TARGETS[name]
            fast[name] = fast[name] - LR * velocity[name]
            taken = K * (fragment[name] + 1) // parts
            if step >= taken and (step - taken) % K == 0:
                mean[name] = (slow[name] - fast[name]).mean(axis=0)
            if step >= taken + delay and (step - taken - delay) % K == 0:
                outer, difference = rule.outer, mean[name]
                if isinstance(outer, Momentum):
                    buffer[name] = 0.9 * buffer[name] + difference
                    slow[name] = slow[name] - 0.7 * (difference + 0.9 * buffer[name])
                else:
                    slow[name] = slow[name] - outer.alpha * difference
                fast[name] = fast[name] + rule.restart * (slow[name] - fast[name])
        yield fast, slow


@pytest.mark.clause("C82")
@pytest.mark.parametrize("delay", [0, 1, 3])
@pytest.mark.parametrize(
    "rule",
    [diloco(K), SyncRule(K, Interpolate(0.5), restart=0.5), local_sgd(K)],
    ids=["diloco", "in part", "mean"],
)
def test_fragments_sync_at_their_own_steps_by_means_that_are_late(rule, delay):
    with jax.enable_x64(True):
        fragment = {"a": 0, "b": 1, "c": 2}
        run = Run(rule, fragments=fragment, delay=delay)
        for _, (fast, slow) in zip(range(3 * K + 2), plain(rule, fragment, 3, delay), strict=False):
            params, kept = next(run)
            for name in SIZES:
                np.testing.assert_allclose(params[name], fast[name], rtol=0, atol=1e-12)
                np.testing.assert_allclose(kept[name], slow[name], rtol=0, atol=1e-12)
        assert run.step._cache_size() == 1


@pytest.mark.clause("C82")
def test_one_fragment_without_a_delay_is_the_ordinary_optimizer_to_the_bit():
    run, ordinary = Run(diloco(K)), Run(diloco(K), make=meta_optimizer)
    for _ in range(2 * K + 1):
        for found, expected in zip(next(run), next(ordinary), strict=True):
            assert all(np.array_equal(found[name], expected[name]) for name in SIZES)


def communications(jaxpr, inside=False):
    """Whether each mean over the workers is in a branch."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in (
            "psum",
            "psum_invariant",
            "all_gather",
            "reduce_sum_workers",
        ):
            found.append(inside)
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                if hasattr(part, "jaxpr") or hasattr(part, "eqns"):
                    inner = getattr(part, "jaxpr", part)
                    found += communications(inner, inside or equation.primitive.name == "cond")
    return found


@pytest.mark.parametrize("delay", [0, 2])
def test_nothing_is_sent_but_in_the_branch_of_a_fragment_that_is_taken(delay):
    optimizer = streaming_optimizer(
        optax.sgd(LR), diloco(K), average=MEAN, fragments=3, delay=delay
    )
    state = optimizer.init(start())
    program = jax.make_jaxpr(optimizer.update, axis_env=[("workers", WORKERS)])(
        start(), state, start()
    )
    found = communications(program.jaxpr)
    assert len(found) == 3
    assert all(found)


def test_fragments_are_of_sizes_as_equal_as_may_be():
    optimizer = streaming_optimizer(optax.sgd(LR), diloco(K), average=MEAN, fragments=2)
    state = optimizer.init(start())
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(own.inner_state.slow))
        for own in state.inner_states.values()
    ]
    assert sizes == [3, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fragments": 0}, "fragments must be an int >= 1"),
        ({"fragments": 5}, r"fragments must be no more than sync_period \(4\), got 5"),
        ({"fragments": 2.0}, "fragments must be an int or a tree of int"),
        ({"delay": 4}, "delay must be below sync_period=4"),
        ({"rule": lookahead_rule(K, 0.5, "reset")}, "rule must have inner_state='maintain'"),
        ({"rule": SyncRule(lambda syncs: 3)}, "sync_period must be a number with fragments"),
        ({"rule": SyncRule(K, start=2)}, "start"),
        ({"rule": SyncRule(K, Interpolate(AdaptiveAlpha()))}, "gradient"),
        ({"average": 3}, "average"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    given = {"rule": diloco(K), "average": MEAN, **options}
    with pytest.raises(ValueError, match=message):
        streaming_optimizer(optax.sgd(LR), **given)


def test_more_fragments_than_parameters_are_refused():
    optimizer = streaming_optimizer(optax.sgd(LR), diloco(8), average=MEAN, fragments=4)
    with pytest.raises(ValueError, match=r"no more than parameters \(3\), got 4"):
        optimizer.init(start())
