"""What the drivers of the JAX peers share: arrays in and out, and the inner optimizer."""

import jax.numpy as jnp
import numpy as np
import optax

__all__ = ["arrays", "fast_optimizer", "make_leaf", "values"]


def make_leaf(leaf):
    """The array of a `Leaf`."""
    shape = (len(leaf.values),) if leaf.shape is None else leaf.shape
    return jnp.asarray(leaf.values, leaf.dtype).reshape(shape)


def arrays(new, like):
    """`new` values in the dtypes and shapes of the arrays `like`."""
    return [jnp.asarray(v, a.dtype).reshape(a.shape) for v, a in zip(new, like, strict=True)]


def values(leaves):
    return [np.asarray(leaf, float).ravel().tolist() for leaf in leaves]


def fast_optimizer(inner, learning_rate=None):
    """optax's SGD or Adam with the settings of `inner`, and another learning rate if given."""
    rate = inner.lr if learning_rate is None else learning_rate
    if inner.kind == "adam":
        return optax.adam(rate)
    return optax.sgd(rate, inner.momentum or None)
