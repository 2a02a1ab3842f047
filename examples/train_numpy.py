"""A linear model in NumPy with Lookahead around SGD: the loop is yours, the arrays change in place.

python -m pip install ".[numpy]"    (in a clone)
"""

import numpy as np

from lookahead_core.adapters.numpy import SGD, Lookahead

rng = np.random.default_rng(0)
inputs = rng.normal(size=(256, 8))
targets = inputs @ rng.normal(size=8) + 0.1 * rng.normal(size=256)


def loss(params):
    return float(np.mean((inputs @ params["w"] + params["b"] - targets) ** 2))


def gradients(params, rows):
    error = inputs[rows] @ params["w"] + params["b"] - targets[rows]
    return {"w": 2 * inputs[rows].T @ error / len(rows), "b": 2 * error.mean()}


params = {"w": np.zeros(8), "b": np.zeros(())}
optimizer = Lookahead(SGD(params, lr=0.1, momentum=0.9), sync_period=5, alpha=0.5)

print(f"loss before training: {loss(params):.4f}")
for _ in range(100):
    rows = rng.integers(256, size=32)
    optimizer.step(gradients(params, rows))
print(f"loss of the slow weights: {loss(optimizer.slow_weights()):.4f}")
