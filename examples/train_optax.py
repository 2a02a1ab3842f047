"""A linear model in JAX with Lookahead around Adam, clipping in front of it: plain parameter trees.

python -m pip install ".[jax]"    (in a clone)
"""

import jax
import jax.numpy as jnp
import optax

from lookahead_core.adapters.optax import lookahead, slow_params

keys = jax.random.split(jax.random.key(0), 3)
inputs = jax.random.normal(keys[0], (256, 8))
noise = 0.1 * jax.random.normal(keys[2], (256,))
targets = inputs @ jax.random.normal(keys[1], (8,)) + noise


def loss(params, rows):
    return jnp.mean((inputs[rows] @ params["w"] + params["b"] - targets[rows]) ** 2)


inner = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(0.1))
optimizer = lookahead(inner, sync_period=5, alpha=0.5)
params = {"w": jnp.zeros(8), "b": jnp.zeros(())}
state = optimizer.init(params)


@jax.jit
def step(params, state, rows):
    updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
    return optax.apply_updates(params, updates), state


everything = jnp.arange(256)
print(f"loss before training: {loss(params, everything):.4f}")
for i in range(100):
    rows = jax.random.randint(jax.random.key(i), (32,), 0, 256)
    params, state = step(params, state, rows)
print(f"loss of the slow weights: {loss(slow_params(state, params), everything):.4f}")
