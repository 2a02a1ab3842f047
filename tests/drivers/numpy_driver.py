"""Drives lookahead_core.adapters.numpy for the conformance suite."""

import copy

import ml_dtypes
import numpy as np

from lookahead_core.adapters.numpy import SGD, Lookahead

DTYPES = {"bfloat16": ml_dtypes.bfloat16}


def dtype_of(name):
    return None if name is None else np.dtype(DTYPES.get(name, name))


class NumpyDriver:
    eager = True
    capabilities = frozenset(
        {
            *("edit", "evaluate", "forced_sync", "inner_state", "learning_rate", "momentum"),
            *("missing_gradient", "slow_dtype", "float32", "float16", "bfloat16", "int32"),
        }
    )

    def make(self, setup):
        params = [
            np.asarray(leaf.values, dtype_of(leaf.dtype)).reshape(
                (len(leaf.values),) if leaf.shape is None else leaf.shape
            )
            for leaf in setup.leaves
        ]
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
                None if g is None else np.asarray(g, leaf.dtype).reshape(leaf.shape)
                for g, leaf in zip(gradients, leaves, strict=True)
            ]
        )

    def fast(self, run):
        return [leaf.astype(float).ravel().tolist() for leaf in run.inner.params]

    def slow(self, run):
        # The arrays of the state, and not slow_weights(): that is what C22 compares with them.
        return [leaf.astype(float).ravel().tolist() for leaf in run._state.slow]

    def evaluate(self, run):
        return [leaf.astype(float).ravel().tolist() for leaf in run.slow_weights()]

    def save(self, run):
        return copy.deepcopy((run.inner.params, run.state_dict()))

    def load(self, setup, saved):
        params, state = saved
        run = self.make(setup)
        self.edit(run, params)
        run.load_state_dict(state)
        return run

    def sync(self, run):
        run.sync()

    def edit(self, run, values):
        for leaf, new in zip(run.inner.params, values, strict=True):
            leaf[...] = np.asarray(new, leaf.dtype).reshape(leaf.shape)

    def set_learning_rate(self, run, lr):
        run.inner.lr = lr
