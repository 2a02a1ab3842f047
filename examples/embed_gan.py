"""A game of two players, one rule: both are synced jointly, after the last player's step.

min over x, max over y of x * y (+ noise): alternating descent and ascent go round and round.
"""

import numpy as np

from lookahead_core import lookahead

rng = np.random.default_rng(0)


def play(rule):
    fast = [np.ones(4), np.ones(4)]  # generator, discriminator
    state = rule.init(fast)
    for _ in range(500):
        state = rule.begin(fast, (), state)
        x, y = fast
        x = x - 0.3 * (y + 0.01 * rng.normal(size=4))
        y = y + 0.3 * (x + 0.01 * rng.normal(size=4))  # answers to the x that has moved
        fast, _, state = rule.step([x, y], (), state)  # never between the two players
    return float(sum(np.sum(leaf**2) for leaf in rule.slow(fast, state)))


print(f"loss, distance from the equilibrium, alternating: {play(lookahead(5, 1.0)):.4f}")
print(f"loss, the same with both players synced: {play(lookahead(5, 0.5)):.4f}")
