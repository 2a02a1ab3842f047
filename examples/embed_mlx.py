"""The core in an MLX loop. Its arrays are not in the array-API standard: a sync goes by NumPy."""

import mlx.core as mx
import numpy as np

from lookahead_core import lookahead

inputs = mx.random.normal((256, 8), key=mx.random.key(0))
targets = inputs @ mx.random.normal((8,), key=mx.random.key(1))


def loss(weights):
    return mx.mean((inputs @ weights - targets) ** 2)


fast, rule = [mx.zeros(8)], lookahead(sync_period=5, alpha=0.5)
state = rule.init([np.array(w) for w in fast])
print(f"loss before training: {loss(fast[0]).item():.4f}")
for _ in range(100):
    fast = [w - 0.1 * mx.grad(loss)(w) for w in fast]
    if rule.due(state):  # the other four steps touch no array
        fast = [np.array(w) for w in fast]
    fast, _, state = rule.step(fast, (), state)
    fast = [mx.array(w) for w in fast]
print(f"loss of the slow weights: {loss(mx.array(state.slow[0])).item():.4f}")
