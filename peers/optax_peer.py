"""What the drivers of the JAX peers share: arrays in and out, and the inner optimizer."""

import optax

from optax_driver import array, plain

__all__ = ["arrays", "fast_optimizer", "make_leaf", "values"]


def make_leaf(leaf):
    """The array of a `Leaf`."""
    return array(leaf.values, leaf.dtype, leaf.shape)


def arrays(new, like):
    """`new` values in the dtypes and shapes of the arrays `like`."""
    return [array(v, a.dtype, a.shape) for v, a in zip(new, like, strict=True)]


def values(leaves):
    return [plain(leaf) for leaf in leaves]


def fast_optimizer(inner, learning_rate=None):
    """optax's SGD or Adam with the settings of `inner`, and another learning rate if given."""
    rate = inner.lr if learning_rate is None else learning_rate
    if inner.kind == "adam":
        return optax.adam(rate)
    return optax.sgd(rate, inner.momentum or None)
