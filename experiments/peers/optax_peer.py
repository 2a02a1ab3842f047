"""What the drivers of the JAX peers share: arrays in and out."""

from drivers.optax_driver import array, plain

__all__ = ["arrays", "make_leaf", "values"]


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
