"""What the tests of the family on optax share: noisy runs, compiled or not, and runs by hand.

`by_hand` is a loop on the host around a bare transformation. What a sync does there is a function
of the test, written as the method's own text writes it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lookahead_core.adapters.optax import slow_params
from optax_runs import gradients, start

STEPS = 23
MODES = ("eager", "jit", "scan")


def noise(steps=STEPS):
    """For each step a tree of noise, stacked."""
    draw = np.random.default_rng(7)
    return jax.tree.map(lambda p: jnp.asarray(draw.normal(size=(steps, *p.shape))), start())


def each(trees):
    """The trees that are stacked in one."""
    steps = len(jax.tree.leaves(trees)[0])
    return [jax.tree.map(lambda leaf, i=i: leaf[i], trees) for i in range(steps)]


def noisy(params, of_step):
    return jax.tree.map(jnp.add, gradients(params), of_step)


def inner():
    return optax.sgd(0.1, momentum=0.5)


def run(optimizer, mode="jit", params=None, steps=STEPS, read=slow_params):
    """Parameters and what is read of slow weights after each step, and the last state."""
    params = start() if params is None else params

    def step(carry, of_step):
        params, state = carry
        updates, state = optimizer.update(noisy(params, of_step), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, read(state, params))

    carry = (params, optimizer.init(params))
    if mode == "scan":
        (_, state), (fast, slow) = jax.jit(lambda c: jax.lax.scan(step, c, noise(steps)))(carry)
        return each(fast), each(slow), state
    step, trace = jax.jit(step) if mode == "jit" else step, []
    for of_step in each(noise(steps)):
        carry, seen = step(carry, of_step)
        trace.append(seen)
    return [fast for fast, _ in trace], [slow for _, slow in trace], carry[1]


def by_hand(sync, params=None, steps=STEPS, transformation=None):
    """As `run`: `sync(step, fast)` gives fast and slow weights after each step, from 1."""
    transformation = inner() if transformation is None else transformation
    params = start() if params is None else params
    state, trace = transformation.init(params), []
    for step, of_step in enumerate(each(noise(steps)), 1):
        updates, state = transformation.update(noisy(params, of_step), state, params)
        params, slow = sync(step, optax.apply_updates(params, updates))
        trace.append((params, slow))
    return [fast for fast, _ in trace], [slow for _, slow in trace]


def mixed(function, *trees):
    return jax.tree.map(function, *trees)
