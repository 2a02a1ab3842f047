"""Drives braintools.optim.Lookahead, eagerly, as the examples in its docstring do."""

import pickle

import brainstate
from braintools.optim import Lookahead

from drivers.optax_driver import at_rate, grouped
from experiments.peers.optax_peer import arrays, make_leaf, values


class Run:
    """Parameters as braintools has them, and the optimizer that they are registered with."""

    def __init__(self, setup):
        self.names = [f"leaf{i:02d}" for i in range(len(setup.leaves))]
        leaves = map(make_leaf, setup.leaves)
        pairs = zip(self.names, leaves, strict=True)
        self.params = {name: brainstate.ParamState(leaf) for name, leaf in pairs}
        self.optimizer = Lookahead(
            base_optimizer=grouped(setup) or at_rate(setup.inner, setup.inner.lr),
            sync_period=setup.sync_period,
            alpha=setup.alpha,
            # Documented as the learning rate of the base optimizer: the same one for both.
            lr=setup.inner.lr,
        )
        self.optimizer.register_trainable_weights(self.params)

    @property
    def leaves(self):
        return [self.params[name].value for name in self.names]

    @leaves.setter
    def leaves(self, new):
        for name, leaf in zip(self.names, new, strict=True):
            self.params[name].value = leaf


class BraintoolsDriver:
    # It emits updates and not weights: p + (target - p) is the target within rounding.
    eager = False
    capabilities = frozenset(
        {
            *("adam", "edit", "groups", "learning_rate", "missing_gradient", "momentum"),
            "skip",
            *("float32", "float16", "bfloat16", "int32", "complex128", "complex64"),
        }
    )

    def make(self, setup):
        return Run(setup)

    def step(self, run, gradients):
        given = arrays(gradients, run.leaves)
        run.optimizer.step(dict(zip(run.names, given, strict=True)))

    def fast(self, run):
        return values(run.leaves)

    def slow(self, run):
        # It has no accessor. Lookahead is the last transformation of the chain that it builds.
        slow = run.optimizer.opt_state.value[-1].slow
        return values(slow[name] for name in run.names)

    def save(self, run):
        return pickle.dumps((run.leaves, run.optimizer.state_dict()))

    def load(self, setup, saved):
        run = self.make(setup)
        run.leaves, state = pickle.loads(saved)
        run.optimizer.load_state_dict(state)
        return run

    def edit(self, run, values):
        run.leaves = arrays(values, run.leaves)

    def set_learning_rate(self, run, lr):
        # The setter says that "a manual change actually takes effect".
        run.optimizer.current_lr = lr

    def skip(self, run):
        """Nothing is called, as with our array loop: no more can a loop around it do."""
