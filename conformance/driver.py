"""What the suite needs to know of an adapter: a driver, written by whoever wants it checked.

Reads go around the adapter's own accessors, to the arrays themselves: an accessor that hides a
defect would hide it from the suite as well.
"""

from pathlib import Path
from typing import Any, Protocol

from .setup import Gradients, Setup, Values

__all__ = ["CAPABILITIES", "INNER_EDITS", "AdapterDriver"]

# Beside the driver's own dtype, float64 unless it says another.
DTYPES = ("float32", "float16", "bfloat16", "int32", "complex128", "complex64")
# What an adapter may lack; a clause that needs it is then not applicable, and the report says so.
CAPABILITIES = {
    "adam": "an inner Adam (Inner.kind 'adam')",
    "edit": "driver.edit: weights changed from outside",
    "edit_inner": "driver.edit_inner: moments changed from outside",
    "evaluate": "driver.evaluate: the read-out through the adapter's public way",
    "files": "driver.save_file and .load_file: checkpoints in files of its own (file_endings)",
    "forced_sync": "driver.sync: a sync on demand",
    "freeze": "driver.train: a leaf that is frozen during the run, and trained again",
    "frozen": "leaves that are not trained (Leaf.trained)",
    "gradient_point": "averages where gradients are taken (Setup.outer, Averaging and Ahead)",
    "groups": "parameter groups with rates of their own (Leaf.rate)",
    "inner_lr": "weights that go by the inner learning rate (Averaging.mu_x None)",
    "interpolate": "the policy `interpolate` (Setup.inner_state)",
    "learning_rate": "driver.set_learning_rate: a schedule on the inner rate",
    "metrics": "driver.metrics: numbers to plot",
    "missing_gradient": "None in the place of a gradient",
    "momentum": "an inner SGD with momentum (Inner.momentum)",
    "nested": "a second rule around the first (Setup.second)",
    "reload": "driver.reload: a state that is loaded into a run that there is already",
    "outer_momentum": "momentum on the pseudo-gradient (Setup.outer)",
    "period_schedule": "a schedule of the period (Setup.sync_period)",
    "reset": "the policy `reset` (Setup.inner_state)",
    "restart": "weights that are not put back, or in part (Setup.restart, .restart_period)",
    "schedule": "a schedule of alpha (Setup.alpha)",
    "skip": "driver.skip: a step that a loss scaler or finite-check throws away",
    "slow_dtype": "wider slow weights (Setup.slow_dtype)",
    "start": "a later start (Setup.start)",
    "tied": "the same array listed twice (Leaf.same_as)",
    **{name: f"leaves of {name}" for name in DTYPES},
}
# What `driver.edit_inner` does, and what it multiplies the moments of the leaf by.
INNER_EDITS = {"scale": 0.5, "zero": 0.0, "replace": 2.0, "remove": 0.0}


class AdapterDriver(Protocol):
    """How the suite works an adapter. `run` is whatever `make` returns.

    Methods below `load` are needed only for the capabilities that are named with them.

    Attributes
    ----------
    capabilities : frozenset of str
        Names from `CAPABILITIES`.
    eager : bool
        Whether arithmetic runs as it is written. A compiler may contract multiply and add, or an
        adapter emit updates: clauses that say "bit for bit" then hold within rounding.
    dtype : str, optional
        Of leaves that the suite has no wish for, "float64" if there is no such attribute. A
        framework without float64 says "float32".
    inner_step : callable, optional
        What the inner optimizers do, in exact numbers, where that is not what torch's do (the eps
        of Adam in another place, no correction of its bias): `(inner, moments, gradient, count)` to
        `(direction, moments)`, as `torch_inner`: a function or a staticmethod.
    file_endings : tuple of str, optional
        Of the formats that `save_file` writes, such as `(".npz",)` ("files").
    """

    capabilities: frozenset[str]
    eager: bool

    def make(self, setup: Setup) -> Any:
        """A new model with the leaves of `setup`, and the adapter around its inner optimizer."""

    def step(self, run: Any, gradients: Gradients) -> None:
        """One step with these gradients."""

    def fast(self, run: Any) -> Values:
        """Fast weights, read from the model's own arrays."""

    def slow(self, run: Any) -> Values:
        """The read-out (clause C22), computed from the arrays that the adapter keeps.

        These are the slow weights, but where a second rule is nested around the first (C78), or the
        outer rule decides where gradients are taken (C86).
        """

    def save(self, run: Any) -> Any:
        """All that a user would save: the weights, and what the adapter says is its state."""

    def load(self, setup: Setup, saved: Any) -> Any:
        """A new run as after a restart of the program, with `saved` loaded into it."""

    def reload(self, run: Any, saved: Any) -> None:
        """Load what `save` gave into a run that there is, the adapter's state alone ("reload").

        The weights stay. It may be of another setting; the adapter refuses by what it raises.
        """

    def save_file(self, run: Any, path: Path) -> None:
        """Write all that a user would save to a file, in the format of its ending ("files")."""

    def load_file(self, run: Any, path: Path) -> None:
        """Load what `save_file` wrote into a run that is there already ("files")."""

    def sync(self, run: Any) -> None:
        """A sync on demand ("forced_sync")."""

    def evaluate(self, run: Any) -> Values:
        """The read-out in the way that users get it ("evaluate")."""

    def metrics(self, run: Any) -> dict[str, float]:
        """What the adapter has to plot, by the names of clause C91 ("metrics")."""

    def edit(self, run: Any, values: Values) -> None:
        """Overwrite the fast weights from outside, as loading a model does ("edit")."""

    def edit_inner(self, run: Any, index: int, edit: str) -> None:
        """Multiply the moments of leaf `index` from outside by `INNER_EDITS[edit]` ("edit_inner").

        `scale` and `zero` do it in place where that is possible. `replace` puts new arrays in their
        place, and a new container where the leaf has one. `remove` takes them away, so that the
        inner optimizer makes them anew; where it cannot, the driver puts what it starts with.
        """

    def train(self, run: Any, index: int, trained: bool) -> None:
        """Freeze leaf `index`, which then gets None for a gradient, or thaw it ("freeze")."""

    def skip(self, run: Any) -> None:
        """A step whose gradient is not finite, and which is thrown away for that ("skip")."""

    def set_learning_rate(self, run: Any, lr: float) -> None:
        """Change the inner learning rate, as a scheduler does ("learning_rate")."""
