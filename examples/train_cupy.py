"""A linear model on the GPU in CuPy with Lookahead around SGD: the NumPy loop, unchanged.

python -m pip install ".[cupy]"    (in a clone)
"""

import cupy as cp

from lookahead_core.adapters.cupy import SGD, Lookahead

rng = cp.random.default_rng(0)
inputs = rng.standard_normal((256, 8))
targets = inputs @ rng.standard_normal(8) + 0.1 * rng.standard_normal(256)


def loss(params):
    return float(cp.mean((inputs @ params["w"] + params["b"] - targets) ** 2))


def gradients(params, rows):
    error = inputs[rows] @ params["w"] + params["b"] - targets[rows]
    return {"w": 2 * inputs[rows].T @ error / len(rows), "b": 2 * error.mean()}


params = {"w": cp.zeros(8), "b": cp.zeros(())}
optimizer = Lookahead(SGD(params, lr=0.1, momentum=0.9), sync_period=5, alpha=0.5)

print(f"loss before training: {loss(params):.4f}")
for _ in range(100):
    rows = rng.integers(0, 256, size=32)
    optimizer.step(gradients(params, rows))
print(f"loss of the slow weights: {loss(optimizer.slow_weights()):.4f}")
