"""Drives lookahead_core.adapters.numpy for the conformance suite."""

import copy

import ml_dtypes
import numpy as np

from lookahead_core.adapters.numpy import SGD, Lookahead

DTYPES = {"bfloat16": ml_dtypes.bfloat16}


def dtype_of(name):
    return None if name is None else np.dtype(DTYPES.get(name, name))


def array(values, dtype, shape=None):
    """`values` as the suite writes them: the parts of complex numbers in turn."""
    if dtype.kind == "c":
        values = np.asarray(values, float).view(complex)
    new = np.asarray(values, dtype)
    return new if shape is None else new.reshape(shape)


def plain(leaf):
    """The values of an array, as the suite reads them."""
    flat = leaf.ravel()
    return (flat.view(leaf.real.dtype) if leaf.dtype.kind == "c" else flat).astype(float).tolist()


class NumpyDriver:
    eager = True
    capabilities = frozenset(
        {
            *("edit", "evaluate", "forced_sync", "interpolate", "learning_rate", "momentum"),
            *("missing_gradient", "reset", "slow_dtype", "tied"),
            *("float32", "float16", "bfloat16", "int32", "complex128", "complex64"),
        }
    )

    def make(self, setup):
        params = []
        for leaf in setup.leaves:
            tied = leaf.same_as is not None
            new = array(leaf.values, dtype_of(leaf.dtype), leaf.shape)
            params.append(params[leaf.same_as] if tied else new)
        inner = SGD(params, setup.inner.lr, setup.inner.momentum)
        return Lookahead(
            inner,
            setup.sync_period,
            setup.alpha,
            setup.inner_state,
            slow_dtype=dtype_of(setup.slow_dtype),
        )

    def step(self, run, gradients):
        leaves = run.inner.params
        run.step(
            [
                None if g is None else array(g, leaf.dtype, leaf.shape)
                for g, leaf in zip(gradients, leaves, strict=True)
            ]
        )

    def fast(self, run):
        return [plain(leaf) for leaf in run.inner.params]

    def slow(self, run):
        # The arrays of the state, and not slow_weights(): that is what C22 compares with them.
        distinct = {id(leaf): leaf for leaf in run.inner.params}
        slow = dict(zip(distinct, run._state.slow, strict=True))
        return [plain(slow[id(leaf)]) for leaf in run.inner.params]

    def evaluate(self, run):
        return [plain(leaf) for leaf in run.slow_weights()]

    def save(self, run):
        return copy.deepcopy(run.inner.params), run.state_dict()

    def load(self, setup, saved):
        params, state = saved
        run = self.make(setup)
        for leaf, value in zip(run.inner.params, params, strict=True):
            leaf[...] = value
        run.load_state_dict(state)
        return run

    def sync(self, run):
        run.sync()

    def edit(self, run, values):
        for leaf, new in zip(run.inner.params, values, strict=True):
            leaf[...] = array(new, leaf.dtype, leaf.shape)

    def set_learning_rate(self, run, lr):
        run.inner.lr = lr
