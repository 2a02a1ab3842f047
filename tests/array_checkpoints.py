"""What the checkpoint tests of every namespace share."""

from lookahead_core.adapters.numpy import Adam, Lookahead, load, save
from lookahead_core.leaves import copied

K, STEPS = 5, 13
POLICIES = ("maintain", "reset", "interpolate")


def make(leaves, policy="interpolate", **settings):
    return Lookahead(Adam({"w": leaves[0], "b": [leaves[1]]}, 0.1), K, 0.3, policy, **settings)


def train(optimizer, steps, first=0):
    for step in range(first, first + steps):
        params = optimizer.params
        grads = {"w": params["w"] * 0.5, "b": [params["b"][0] * (0.25 * step)]}
        optimizer.step(grads)


def everything(optimizer, plain):
    """Weights and state as plain values."""
    state = optimizer.state_dict()
    arrays = {n: plain(v) for n, v in state.items() if hasattr(v, "shape")}
    weights = (plain(optimizer.params["w"]), plain(optimizer.params["b"][0]))
    return weights, {**state, **arrays}


def assert_resumes(path, leaves, plain, phase, policy="interpolate", **settings):
    """Saved at `phase`, loaded into a new optimizer, the run goes on bitwise."""
    whole, first, second = (
        make([copied(leaf) for leaf in leaves], policy, **settings) for _ in range(3)
    )
    train(whole, STEPS)
    train(first, K + phase)
    save(path, first)
    train(first, 1)  # what was saved must not follow the live state
    train(second, 2)
    load(path, second)
    train(second, STEPS - K - phase, K + phase)
    assert everything(second, plain) == everything(whole, plain)
