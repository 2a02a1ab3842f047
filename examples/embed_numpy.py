"""The core in a NumPy loop of one's own: plain gradient descent, synced every fifth step."""

import numpy as np

from lookahead_core import lookahead

rng = np.random.default_rng(0)
inputs = rng.normal(size=(256, 8))
targets = inputs @ rng.normal(size=8)


def loss(weights):
    return float(np.mean((inputs @ weights - targets) ** 2))


fast, rule = [np.zeros(8)], lookahead(sync_period=5, alpha=0.5)
state = rule.init(fast)
print(f"loss before training: {loss(fast[0]):.4f}")
for _ in range(100):
    state = rule.begin(fast, (), state)
    fast = [w - 0.1 * 2 * inputs.T @ (inputs @ w - targets) / 256 for w in fast]
    fast, _, state = rule.step(fast, (), state)
print(f"loss of the slow weights: {loss(rule.slow(fast, state)[0]):.4f}")
