"""The core in an MLX loop, on MLX's own arrays: nothing is bridged."""

import mlx.core as mx

import lookahead_core.adapters.mlx  # noqa: F401 (tells the core of MLX's arrays)
from lookahead_core import lookahead

inputs = mx.random.normal((256, 8), key=mx.random.key(0))
targets = inputs @ mx.random.normal((8,), key=mx.random.key(1))


def loss(weights):
    return mx.mean((inputs @ weights - targets) ** 2)


fast, rule = [mx.zeros(8)], lookahead(sync_period=5, alpha=0.5)
state = rule.init(fast)
print(f"loss before training: {loss(fast[0]).item():.4f}")
for _ in range(100):
    state = rule.begin(fast, (), state)
    fast = [w - 0.1 * mx.grad(loss)(w) for w in fast]
    fast, _, state = rule.step(fast, (), state)
    mx.eval(fast, state.slow)  # else the graph of all steps is kept
print(f"loss of the slow weights: {loss(rule.slow(fast, state)[0]).item():.4f}")
