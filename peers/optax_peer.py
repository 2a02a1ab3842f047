"""What the drivers of the JAX peers share: arrays in and out, and the inner optimizer."""

import jax
import optax

from optax_driver import array, plain

__all__ = ["arrays", "fast_optimizer", "grouped", "make_leaf", "values"]


def make_leaf(leaf):
    """The array of a `Leaf`."""
    return array(leaf.values, leaf.dtype, leaf.shape)


def arrays(new, like):
    """`new` values in the dtypes and shapes of the arrays `like`; zeros where one is missing.

    JAX has no missing gradient for one leaf: our own driver gives zeros as well.
    """
    pairs = zip(new, like, strict=True)
    return [array([0.0] * len(plain(a)) if v is None else v, a.dtype, a.shape) for v, a in pairs]


def values(leaves):
    return [plain(leaf) for leaf in leaves]


def grouped(setup):
    """The inner optimizer, with a group for each rate if there are several; else None."""
    rates = [leaf.rate for leaf in setup.leaves]
    if len(set(rates)) < 2:
        return None
    groups = {rate: fast_optimizer(setup.inner, setup.inner.lr * rate) for rate in rates}
    return optax.multi_transform(
        groups, lambda params: jax.tree.unflatten(jax.tree.structure(params), rates)
    )


def fast_optimizer(inner, learning_rate=None):
    """optax's SGD or Adam with the settings of `inner`, and another learning rate if given."""
    rate = inner.lr if learning_rate is None else learning_rate
    if inner.kind == "adam":
        return optax.adam(rate)
    return optax.sgd(rate, inner.momentum or None)
