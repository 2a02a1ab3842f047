"""Many workers in NumPy and plain loops, with nothing of this package: what the mesh is to give.

Each worker trains a linear model on data of its own; after every K-th step the slow weights move
by the weighted mean of slow - fast, and every worker starts again from them.
"""

import numpy as np

K, STEPS, BATCH, INPUTS, OUTPUTS = 3, 8, 4, 5, 8
NAMES = ("w", "b")


def start():
    return {
        "w": np.linspace(-1, 1, INPUTS * OUTPUTS).reshape(INPUTS, OUTPUTS),
        "b": np.zeros(OUTPUTS),
    }


def data(workers):
    """Inputs and targets, of shape (STEPS, workers, BATCH, ...)."""
    random = np.random.default_rng(0)
    x = random.normal(size=(STEPS, workers, BATCH, INPUTS))
    return x, random.normal(size=(STEPS, workers, BATCH, OUTPUTS))


def gradient(params, x, y):
    """Of half the mean squared error, in NumPy or JAX."""
    error = x @ params["w"] + params["b"] - y
    return {"w": x.T @ error / BATCH, "b": error.sum(0) / BATCH}


def sgd(p, g, memory, step):
    memory["m"] = 0.9 * memory.get("m", 0.0) + g
    return p - 0.05 * memory["m"]


def adamw(p, g, memory, step):
    memory["m"] = 0.9 * memory.get("m", 0.0) + 0.1 * g
    memory["v"] = 0.999 * memory.get("v", 0.0) + 0.001 * g * g
    m, v = memory["m"] / (1 - 0.9**step), memory["v"] / (1 - 0.999**step)
    return p - 0.05 * (m / (np.sqrt(v) + 1e-8) + 0.01 * p)


def mean(slow, difference, buffer):
    return slow - difference, buffer


def halfway(slow, difference, buffer):
    return slow - 0.5 * difference, buffer


def heavy_ball(slow, difference, buffer):
    buffer = 0.9 * buffer + difference
    return slow - 0.7 * buffer, buffer


def nesterov(slow, difference, buffer):
    buffer = 0.9 * buffer + difference
    return slow - 0.7 * (difference + 0.9 * buffer), buffer


def trained_by_hand(inner, outer, weights):
    """(fast weights of each worker, slow weights, outer momentum) after STEPS steps."""
    workers = len(weights)
    x, y = data(workers)
    slow, buffer = start(), dict.fromkeys(NAMES, 0.0)
    fast = [start() for _ in range(workers)]
    memory = [{name: {} for name in NAMES} for _ in range(workers)]
    for step in range(STEPS):
        for r in range(workers):
            slope = gradient(fast[r], x[step, r], y[step, r])
            for name in NAMES:
                fast[r][name] = inner(fast[r][name], slope[name], memory[r][name], step + 1)
        if (step + 1) % K:
            continue
        for name in NAMES:
            total = sum(weights[r] * (slow[name] - fast[r][name]) for r in range(workers))
            slow[name], buffer[name] = outer(slow[name], total / sum(weights), buffer[name])
            for r in range(workers):
                fast[r][name] = slow[name]
    return fast, slow, buffer
