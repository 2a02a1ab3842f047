"""The core inside jax.lax.scan: an array as the counter makes a step select, and not branch."""

import jax
import jax.numpy as jnp

from lookahead_core import lookahead

inputs = jax.random.normal(jax.random.key(0), (256, 8))
targets = inputs @ jax.random.normal(jax.random.key(1), (8,))
rule = lookahead(sync_period=5, alpha=0.5)


def loss(weights):
    return jnp.mean((inputs @ weights - targets) ** 2)


def step(carry, _):
    (weights,), state = carry
    state = rule.begin((weights,), (), state)
    fast, _, state = rule.step((weights - 0.1 * jax.grad(loss)(weights),), (), state)
    return (fast, state), None


start = (jnp.zeros(8),)
carry = start, rule.init(start, count=jnp.asarray(0))
print(f"loss before training: {loss(start[0]):.4f}")
(fast, state), _ = jax.lax.scan(step, carry, length=100)
print(f"loss of the slow weights: {loss(rule.slow(fast, state)[0]):.4f}")
