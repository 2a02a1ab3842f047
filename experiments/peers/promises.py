"""What each implementation promises, and what its users see where it fails.

Written by hand, from documentation, source and small reproductions; `judging.py` holds it against
what the checks find, in both directions: a failure that is not described here, and a description
of a failure that is no longer there, are errors.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["IMPLEMENTATIONS", "OURS", "PEERS", "Implementation"]


class Implementation(NamedTuple):
    """One column of the scoreboard.

    Attributes
    ----------
    name : str
        Head of the column.
    distribution : str
        What is installed, for its version.
    driver : callable, () -> AdapterDriver
        Imports and makes the driver: whatever is wrong with that stops the command.
    lacks : mapping of str to str
        Why the driver has not a capability.
    not_promised : mapping of str to str
        Clauses that fail and were never promised, each with what happens instead.
    seen : mapping of str to str
        Clauses that fail, each with what a user sees.
    repaired : callable, () -> AdapterDriver, or None
        The same implementation with the defect in `roots` worked around from outside. A clause
        that holds there fails only because of that defect, and is marked so.
    roots : tuple of str
        Clauses that state the defect which `repaired` works around.
    """

    name: str
    distribution: str
    driver: Callable[[], Any]
    lacks: Mapping[str, str] = {}
    not_promised: Mapping[str, str] = {}
    seen: Mapping[str, str] = {}
    repaired: Callable[[], Any] | None = None
    roots: tuple[str, ...] = ()


def driver(module: str, name: str, *arguments: Any) -> Callable[[], Any]:
    """Import the driver when it is asked for."""
    return lambda: getattr(import_module(module), name)(*arguments)


# Reasons that are the same for several columns.
NO_FORCED_SYNC = "there is no sync on demand"
NO_SLOW_DTYPE = "slow weights have the dtype of the fast ones"
NO_POLICY = dict.fromkeys(("reset", "interpolate"), "the inner state is always maintained")
NO_EVALUATION = "there is no accessor for the slow weights"
LOOKAHEAD_ALONE = {
    **dict.fromkeys(
        ("gradient_point", "inner_lr", "nested", "outer_momentum", "restart", "start"),
        "it is Lookahead alone",
    ),
    **dict.fromkeys(("period_schedule", "schedule"), "alpha and the period are fixed"),
    "files": "it writes no files of its own",
    "metrics": "it has no numbers to plot",
    "reload": "its driver loads into an optimizer that is new, and into no other",
}
FRAMEWORKS_FILES = {"files": "its state goes into its framework's own files"}
TIED = {"tied": "JAX trees hold values: the same array twice is two leaves"}
ANCHORED_ONCE = (
    "The anchor is taken once. Weights loaded between cycles are pulled back at the next sync, the "
    "fraction 1 - alpha of the way to the slow weights from before"
)

OURS = (
    Implementation(
        "lookahead-core (torch)",
        "lookahead-core",
        driver("drivers.torch_driver", "TorchDriver"),
        lacks=FRAMEWORKS_FILES,
    ),
    Implementation(
        "lookahead-core (optax)",
        "lookahead-core",
        driver("drivers.optax_driver", "OptaxDriver", "eager"),
        lacks={
            **FRAMEWORKS_FILES,
            **TIED,
            "reload": "nothing is loaded into anything: a state is a value",
        },
    ),
    Implementation(
        "lookahead-core (NumPy)",
        "lookahead-core",
        driver("drivers.array_driver", "ArrayDriver"),
        lacks={"frozen": "arrays have no flag for it: frozen ones are not given to the optimizer"},
    ),
    Implementation(
        "lookahead-core (Keras)",
        "lookahead-core",
        driver("drivers.keras_driver", "KerasDriver"),
        lacks={
            **FRAMEWORKS_FILES,
            **dict.fromkeys(("complex64", "complex128"), "Keras has no complex weights"),
            "groups": "Keras has no groups: rates of their own are optimizers of their own",
            "tied": "Keras lists a variable that two layers share once",
        },
    ),
    Implementation(
        "lookahead-core (MLX)",
        "lookahead-core",
        driver("drivers.mlx_driver", "MlxDriver"),
        lacks={
            **FRAMEWORKS_FILES,
            "reload": "a state is assigned as it is; the next update refuses what cannot be",
            "tied": "MLX trees hold values: the same array twice is two leaves",
        },
    ),
)

PEERS = (
    Implementation(
        "pytorch_optimizer",
        "pytorch_optimizer",
        driver("experiments.peers.pytorch_optimizer_driver", "PytorchOptimizerDriver"),
        lacks={"forced_sync": NO_FORCED_SYNC, "slow_dtype": NO_SLOW_DTYPE, **LOOKAHEAD_ALONE},
        not_promised={
            "C09": "alpha = 1 is refused when the optimizer is made: its range is [0, 1).",
            "C24": "Out of range, `k` and `alpha` are refused. A `k` that is no whole number is "
            "taken: 2.5 syncs every 3 steps.",
            "C26": f"{ANCHORED_ONCE}.",
        },
        seen={
            "C11": "A parameter that has no gradient at the k-th step is left out of the sync: its "
            "fast weights keep the whole cycle's move and its slow weights stay behind.",
            "C17": "With SGD's momentum it holds. With Adam `pullback_momentum='reset'` is taken "
            "without a word and resets nothing: moments and step count go on.",
            "C18": "With SGD's momentum it holds. With Adam `pullback_momentum='pullback'` is "
            "taken without a word and moves nothing: the moments go on as they were.",
        },
    ),
    Implementation(
        "torch-optimizer",
        "torch-optimizer",
        driver("experiments.peers.torch_optimizer_driver", "TorchOptimizerDriver"),
        lacks={
            "evaluate": NO_EVALUATION,
            "forced_sync": NO_FORCED_SYNC,
            **NO_POLICY,
            "slow_dtype": NO_SLOW_DTYPE,
            **LOOKAHEAD_ALONE,
        },
        not_promised={
            "C14": "An integer tensor among the parameters raises RuntimeError at the first sync.",
            "C26": f"{ANCHORED_ONCE}.",
        },
        seen={
            "C01": "The anchor is the weights after the first step, so every cycle's average is "
            "one step off the paper's.",
            "C02": "Syncs come after steps 1, k + 1, 2k + 1, ...: with k = 5 after 1, 6, 11, and "
            "the first of them changes nothing.",
            "C06": "`state_dict()` raises AttributeError with torch 2: the optimizer cannot be "
            "saved (jettify/pytorch-optimizer#349 has the same cause).",
            "C24": "The check of `k` lets 0 pass, which is a ZeroDivisionError at the first step, "
            "and 2.5, which syncs every 5. An `alpha` above 1 or NaN is taken as well.",
            "C27": "A frozen parameter in the optimizer that is edited, as a teacher's weights "
            "are, is pulled back at the next sync, the fraction 1 - alpha of the way.",
        },
        repaired=driver("experiments.peers.torch_optimizer_driver", "RepairedTorchOptimizerDriver"),
        roots=("C01", "C02"),
    ),
    Implementation(
        "timm",
        "timm",
        driver("experiments.peers.timm_driver", "TimmDriver"),
        lacks={
            "evaluate": NO_EVALUATION,
            **NO_POLICY,
            "slow_dtype": NO_SLOW_DTYPE,
            **LOOKAHEAD_ALONE,
        },
        not_promised={
            "C24": "Out of range, `k` and `alpha` are refused. A `k` that is no whole number is "
            "taken: 2.5 syncs every 5 steps.",
            "C05": "`sync_lookahead()`, which timm calls at the end of an epoch, syncs beside the "
            "counter: the next sync comes when it would have come anyway.",
            "C26": f"{ANCHORED_ONCE}.",
        },
        seen={
            "C01": "The anchor is taken at the first sync, from the fast weights: the first k "
            "steps are the inner optimizer alone, and the first sync changes nothing.",
            "C11": "A parameter that has no gradient at the k-th step is left out of the sync: its "
            "fast weights keep the whole cycle's move and its slow weights stay behind.",
        },
        repaired=driver("experiments.peers.timm_driver", "AnchoredTimmDriver"),
        roots=("C01",),
    ),
    Implementation(
        "optax.lookahead",
        "optax",
        driver("experiments.peers.optax_lookahead_driver", "OptaxLookaheadDriver"),
        lacks={
            **TIED,
            "forced_sync": NO_FORCED_SYNC,
            "interpolate": "`reset_state` resets or maintains; there is no interpolation",
            "slow_dtype": NO_SLOW_DTYPE,
            **LOOKAHEAD_ALONE,
        },
        not_promised={
            "C10": "It emits one update for the fast weights and another for the slow ones, which "
            "end equal within rounding. Documented is that they are synchronized, not bit for bit.",
            "C24": "A period below 1 is refused. 2.5 is taken and syncs every 5 steps, and "
            "`slow_step_size` is not checked.",
            "C26": "Between cycles it holds. In mid-cycle too the documented way to make "
            "parameters from weights, `init_synced`, takes them for the anchor.",
            "C27": "`optax.masked` around it raises ValueError: its parameters are a pair of "
            "trees, and gradients are one.",
        },
        seen={
            "C03": "`optax.apply_if_finite` around it raises TypeError at the first step. The "
            "other way round runs, and counts the steps that were thrown away.",
            "C12": "One NaN or infinite gradient at any step makes the slow weights NaN at once: "
            "the step without a sync multiplies by 0 instead of selecting.",
            "C17": "Finite moments are reset. NaN or infinite ones survive `reset_state=True`, "
            "which multiplies them by 0.",
        },
    ),
    Implementation(
        "braintools",
        "braintools",
        driver("experiments.peers.braintools_driver", "BraintoolsDriver"),
        lacks={
            **TIED,
            "evaluate": NO_EVALUATION,
            "frozen": "it moves all weights that it is given: frozen ones are not registered",
            "forced_sync": NO_FORCED_SYNC,
            **NO_POLICY,
            "slow_dtype": NO_SLOW_DTYPE,
            **LOOKAHEAD_ALONE,
        },
        not_promised={
            "C10": "What it emits is an update: fast and slow weights end equal within rounding.",
            "C14": "An integer leaf that was edited is pulled back like the others.",
            "C24": "A period below 1 is refused. 2.5 is taken and syncs every 5 steps, and `alpha` "
            "is not checked.",
            "C26": f"{ANCHORED_ONCE}.",
        },
        seen={
            "C30": "`lr=` (a number or a scheduler) and `current_lr` are taken, and reported back, "
            "but never used: the inner optimizer goes on at the rate that it was made with. A "
            "schedule that is given to the inner optax optimizer itself is followed.",
        },
    ),
)

IMPLEMENTATIONS = OURS + PEERS
