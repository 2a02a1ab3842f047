"""Drives lookahead_core.adapters.numpy on arrays of any namespace, for the conformance suite."""

import math
from importlib import import_module

from lookahead_core.adapters.numpy import SGD, Adam, MetaOptimizer, global_norm, load, save
from lookahead_core.conformance import INNER_EDITS, sync_rule
from lookahead_core.leaves import copied
from lookahead_core.namespace import is_writeable

# In the standard, and what namespaces have beyond it.
STANDARD = frozenset({"float32", "int32", "complex128", "complex64"})
MLX = "lookahead_core.adapters.mlx._namespace"
BEYOND = {
    "array_api_compat.numpy": {"float16", "bfloat16"},
    "array_api_compat.torch": {"float16", "bfloat16"},
    "array_api_compat.cupy": {"float16"},
    "jax.numpy": {"float16", "bfloat16"},
    "array_api_strict": set(),
    MLX: {"float16", "bfloat16"},
}


class ArrayDriver:
    """The loop on arrays of the namespace `module`, which are `read_only` or not (NumPy's).

    `loop` are the classes of another adapter with the same names.
    """

    eager = True
    file_endings = (".npz", ".safetensors")

    def __init__(
        self, module="array_api_compat.numpy", read_only=False, loop=(SGD, Adam, MetaOptimizer)
    ):
        self.sgd, self.adam, self.meta_optimizer = loop
        loaded = import_module(module)
        self.xp, self.read_only = getattr(loaded, "NAMESPACE", loaded), read_only
        # ml_dtypes brings it to NumPy.
        numpys = module.endswith(".numpy") and not module.startswith("jax")
        self.bfloat16 = import_module("ml_dtypes").bfloat16 if numpys else None
        self.capabilities = frozenset(
            {
                *(
                    "adam",
                    "edit",
                    "edit_inner",
                    "evaluate",
                    "files",
                    "forced_sync",
                    "gradient_point",
                ),
                *(
                    "groups",
                    "inner_lr",
                    "interpolate",
                    "learning_rate",
                    "metrics",
                    "missing_gradient",
                    "momentum",
                    "nested",
                    "outer_momentum",
                    "period_schedule",
                ),
                *("reload", "reset", "restart", "schedule", "skip", "slow_dtype", "start", "tied"),
            }
            | (STANDARD - {"complex128"} if module == MLX else STANDARD)
            | BEYOND[module]
        )

    def dtype_of(self, name):
        if name == "bfloat16" and self.bfloat16:
            return self.bfloat16
        return None if name is None else getattr(self.xp, name)

    def array(self, values, dtype, shape=None):
        """`values` as the suite writes them: the parts of complex numbers in turn."""
        xp = self.xp
        new = xp.asarray([float(value) for value in values], dtype=xp.float64)
        if "complex" in str(dtype):
            parts = [xp.astype(new[part::2], dtype) for part in (0, 1)]
            new = parts[0] + 1j * parts[1]
        new = xp.astype(new, dtype)
        return self.marked(new if shape is None else xp.reshape(new, shape))

    def marked(self, array):
        """`array` itself, made read-only if that is what is driven."""
        if self.read_only:
            array.setflags(write=False)
        return array

    def plain(self, leaf):
        """The values of an array, as the suite reads them."""
        xp, flat = self.xp, self.xp.reshape(leaf, (-1,))
        if "complex" in str(leaf.dtype):
            flat = xp.reshape(xp.stack([xp.real(flat), xp.imag(flat)], axis=1), (-1,))
        flat = xp.astype(flat, xp.float64)
        return flat.tolist() if hasattr(flat, "tolist") else list(map(float, flat))

    def make(self, setup):
        params, groups, inner = [], {}, setup.inner
        for index, leaf in enumerate(setup.leaves):
            if leaf.same_as is not None:
                params.append(params[leaf.same_as])
                continue
            params.append(self.array(leaf.values, self.dtype_of(leaf.dtype), leaf.shape))
            if leaf.rate != 1:
                groups[str(index)] = {"lr": inner.lr * leaf.rate}
        return self.meta_optimizer(
            self.adam(params, inner.lr, groups=groups)
            if inner.kind == "adam"
            else self.sgd(params, inner.lr, inner.momentum, groups=groups),
            sync_rule(setup),
            slow_dtype=self.dtype_of(setup.slow_dtype),
        )

    def step(self, run, gradients):
        leaves = run.inner.params
        run.step(
            [
                None if g is None else self.array(g, leaf.dtype, leaf.shape)
                for g, leaf in zip(gradients, leaves, strict=True)
            ]
        )

    def fast(self, run):
        return [self.plain(leaf) for leaf in run.inner.params]

    def slow(self, run):
        # From the state by the core, and not slow_weights(): that is what C22 compares with it.
        distinct = {id(leaf): leaf for leaf in run.params}
        read = run.rule.slow([*distinct.values()], run._state)
        slow = dict(zip(distinct, read, strict=True))
        return [self.plain(slow[id(leaf)]) for leaf in run.params]

    def evaluate(self, run):
        return [self.plain(leaf) for leaf in run.slow_weights()]

    def metrics(self, run):
        return run.metrics()

    def save(self, run):
        return [copied(leaf) for leaf in run.params], run.state_dict()

    def load(self, setup, saved):
        return self.put_back(self.make(setup), saved)

    def put_back(self, run, saved):
        params, state = saved
        self.put(run, [copied(leaf) for leaf in params])
        run.load_state_dict(state)
        return run

    def reload(self, run, saved):
        _, state = saved
        run.load_state_dict(state)

    def save_file(self, run, path):
        save(path, run)

    def load_file(self, run, path):
        load(path, run)

    def sync(self, run):
        run.sync()

    def edit(self, run, values):
        leaves = zip(run.params, values, strict=True)
        self.put(run, [self.array(new, leaf.dtype, leaf.shape) for leaf, new in leaves])

    def edit_inner(self, run, index, edit):
        # Nothing can be taken away: new zeros are what the optimizer starts with.
        state, factor = dict(run.inner.state), INNER_EDITS[edit]
        for name in ("velocity", "first", "second"):
            if (old := state.get(f"{name}/{index}")) is None:
                continue
            if edit in ("scale", "zero") and is_writeable(old):
                old[...] = old * factor
            else:
                state[f"{name}/{index}"] = self.marked(old * factor)
        run.inner.state = state

    def put(self, run, arrays):
        """Exchange the weights, as loading a model does; tied ones stay tied."""
        new = {}
        for leaf, array in zip(run.params, arrays, strict=True):
            new.setdefault(id(leaf), self.marked(array))
        run.params = [new[id(leaf)] for leaf in run.params]

    def skip(self, run):
        """As a loop of one's own does it: the norm is not finite, so no step is taken."""
        gradients = [self.marked(copied(leaf) * float("inf")) for leaf in run.params]
        if math.isfinite(float(global_norm(gradients))):
            run.step(gradients)

    def set_learning_rate(self, run, lr):
        run.inner.lr = lr
