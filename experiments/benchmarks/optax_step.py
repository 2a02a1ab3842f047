"""What a step costs in JAX: Lookahead in its three forms and optax's own, against the bare inner.

    python -m experiments.benchmarks.optax_step [--rounds 28] [--drop-in]

Each round times one cycle of k steps of two forms, one directly after the other, so that a slow
moment of the machine meets both; what is reported is the median over rounds of the ratio of the
two, with quartiles. Every few rounds all arrays are made anew: where they happen to lie in memory
is worth up to 15 % to one and the same program. Parameters and state are donated, the gradient is
fixed. No test asserts a time.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.paired import Spread, environment, spread
from experiments.benchmarks.report import NOT_INSTALLED, Tables
from experiments.benchmarks.workloads import resnet18, smaller
from lookahead_core.adapters.optax import lookahead, park, split, unpark

TITLE = "JAX, a cycle of k=5 steps"
K, ALPHA, RATE = 5, 0.5, 1e-4
INNERS = {
    "SGD momentum": lambda: optax.sgd(RATE, momentum=0.9),
    "Adam": lambda: optax.adam(RATE),
}


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "ResNet-18": {f"w{i}": shape for i, shape in enumerate(resnet18())},
    "8 x 4M": {f"w{i}": (4_000_000,) for i in range(8)},
}


BRAINTOOLS = "braintools"
# With how often each is run in a round.
PAIRS = {
    ("drop-in", "bare"): 1,
    ("drop-in", "optax"): 1,
    ("drop-in", BRAINTOOLS): 1,
    ("split", "bare"): 1,
    ("split", "drop-in"): 1,
    ("scan", "bare scan"): 1,
    ("scan", "drop-in"): 1,
    # Single steps. Taking an anchor is a copy of the parameters: this is its cost in a cycle.
    ("copy of the parameters", "bare step"): K,
    # The difference is small, and needs more of them. The second is one program against itself,
    # which says how much the first one means.
    ("plain step of split", "bare step"): 2 * K,
    ("bare step again", "bare step"): 2 * K,
}

# What the drop-in form costs, and what of it is the copy.
DROP_IN = [("drop-in", "bare"), ("copy of the parameters", "bare step")]

# The drop-in form takes the anchor at the first step of a cycle and reads it at the last.
STEPS = {
    "first step": slice(0, 1),
    "steps between": slice(1, K - 1),
    "step that syncs": slice(K - 1, K),
}


def arrays(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, jax.Array]:
    draw = np.random.default_rng(seed)
    return {
        name: jnp.asarray(1e-2 * draw.standard_normal(shape, np.float32))
        for name, shape in shapes.items()
    }


class Form:
    """One way to run a cycle: compiled programs, and the parameters and state that they donate."""

    def __init__(self, programs: list[Callable[..., Any]], fresh: Callable[[], Any]) -> None:
        self.programs, self.fresh = programs, fresh
        self.carry = fresh()

    def cycle(self, gradient: Any) -> list[float]:
        """Seconds that each program of the cycle took."""
        times = []
        for program in self.programs:
            start = time.perf_counter()
            self.carry = jax.block_until_ready(program(*self.carry, gradient))
            times.append(time.perf_counter() - start)
        return times


class Braintools(Form):
    """braintools.optim.Lookahead, whose parameters and state are objects, in its own jit."""

    def __init__(self, inner: optax.GradientTransformation, shapes: Any) -> None:
        self.inner, self.shapes = inner, shapes
        super().__init__([], self.make)

    def make(self) -> Any:
        import brainstate
        from braintools.optim import Lookahead

        leaves = arrays(self.shapes, 0).items()
        params = {name: brainstate.ParamState(leaf) for name, leaf in leaves}
        optimizer = Lookahead(self.inner, sync_period=K, alpha=ALPHA, lr=RATE)
        optimizer.register_trainable_weights(params)
        return brainstate.transform.jit(optimizer.step), params

    def cycle(self, gradient: Any) -> list[float]:
        step, params = self.carry
        times = []
        for _ in range(K):
            start = time.perf_counter()
            step(gradient)
            jax.block_until_ready([leaf.value for leaf in params.values()])
            times.append(time.perf_counter() - start)
        return times


def compiled(update: Callable[..., Any]) -> Callable[..., Any]:
    """One step as a program of its own."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step


@partial(jax.jit, donate_argnums=(0, 1), keep_unused=True)
def copying(params: Any, slow: Any, gradient: Any) -> Any:
    """The parameters, and their copy in the buffers of `slow`."""
    return params, jax.tree.map(jnp.copy, params)


def parking(
    plain: Callable[..., Any], syncing: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two programs of the split form; the plain one is given no slow weights."""

    def without(params: Any, state: Any, gradient: Any) -> Any:
        live, parked = state
        params, live = plain(params, live, gradient)
        return params, (live, parked)

    def at_a_sync(params: Any, state: Any, gradient: Any) -> Any:
        params, whole = syncing(params, unpark(*state), gradient)
        return params, park(whole)

    return without, at_a_sync


def scanned(plain: Callable[..., Any], last: Callable[..., Any]) -> Callable[..., Any]:
    """A whole cycle as one program: a scan of k - 1 plain steps, and the last one."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def cycle(params: Any, state: Any, gradient: Any, scales: jax.Array) -> Any:
        def step(carry: Any, scale: jax.Array, update: Callable[..., Any]) -> Any:
            params, state = carry
            # Not the same gradient at every step, or XLA takes moments of it out of the loop.
            scaled = jax.tree.map(lambda leaf: scale * leaf, gradient)
            updates, state = update(scaled, state, params)
            return optax.apply_updates(params, updates), state

        carry, _ = jax.lax.scan(
            lambda carry, scale: (step(carry, scale, plain), None), (params, state), scales[1:]
        )
        return step(carry, scales[0], last)

    return lambda params, state, gradient: cycle(params, state, gradient, jnp.ones(K))


def forms(inner: optax.GradientTransformation, shapes: Any) -> dict[str, Form]:
    ours, theirs = lookahead(inner, K, ALPHA), optax.lookahead(inner, K, ALPHA)
    halves = split(ours)

    def plain_tree(init: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: (params := arrays(shapes, 0), init(params))

    def pair() -> Any:
        params = optax.LookaheadParams(arrays(shapes, 0), arrays(shapes, 0))
        return params, theirs.init(params)

    def parked() -> Any:
        params = arrays(shapes, 0)
        return params, park(halves.init(params))

    def twice() -> Any:
        return arrays(shapes, 0), arrays(shapes, 0)

    plain, syncing = parking(compiled(halves.update), compiled(halves.update_and_sync))
    peer = {BRAINTOOLS: Braintools(inner, shapes)} if find_spec(BRAINTOOLS) else {}
    return peer | {
        "bare": Form([compiled(inner.update)] * K, plain_tree(inner.init)),
        "drop-in": Form([compiled(ours.update)] * K, plain_tree(ours.init)),
        "split": Form([plain] * (K - 1) + [syncing], parked),
        "scan": Form([scanned(halves.update, halves.update_and_sync)], plain_tree(halves.init)),
        "bare scan": Form([scanned(inner.update, inner.update)], plain_tree(inner.init)),
        "copy of the parameters": Form([copying], twice),
        "plain step of split": Form([plain], parked),
        "bare step": Form([compiled(inner.update)], plain_tree(inner.init)),
        "bare step again": Form([compiled(inner.update)], plain_tree(inner.init)),
        "optax": Form([compiled(theirs.update)] * K, pair),
    }


def renewed(running: dict[str, Form], shapes: Any, number: int) -> Any:
    """A gradient, and every form with new arrays, in another order each time, and warm."""
    gradient = arrays(shapes, 1)
    names = [*running][number % len(running) :] + [*running][: number % len(running)]
    for name in names:
        running[name].carry = running[name].fresh()
        running[name].cycle(gradient)
    return gradient


Times = dict[tuple[str, str], list[tuple[list[float], list[float]]]]


def measure(inner: optax.GradientTransformation, shapes: Any, rounds: int, pairs: Any) -> Times:
    """For each pair of forms, the times of the programs of a cycle of either, by round."""
    used = {name for pair in pairs for name in pair}
    running = {name: form for name, form in forms(inner, shapes).items() if name in used}
    times: Times = {pair: [] for pair in pairs}
    for number in range(rounds):
        if number % 4 == 0:
            gradient = renewed(running, shapes, number)
        for pair in pairs:
            for repeat in range(PAIRS[pair]):
                # One directly after the other, and the other way round the next time.
                order = pair if (number + repeat) % 2 else pair[::-1]
                cycles = {name: running[name].cycle(gradient) for name in order}
                times[pair].append((cycles[pair[0]], cycles[pair[1]]))
    return times


def ratios(pairs: list[tuple[list[float], list[float]]]) -> Spread:
    return spread([sum(ours) / sum(theirs) for ours, theirs in pairs])


def rows(times: Times) -> dict[str, Spread]:
    """What is reported of one size and inner optimizer."""
    bare = [1e3 * sum(cycle) / K for _, cycle in times["drop-in", "bare"]]
    found = {"bare, ms a step": spread(bare)}
    for (ours, theirs), pairs in times.items():
        found[f"{ours} / {theirs}"] = ratios(pairs)
    for name, steps in STEPS.items():
        pairs = [(ours[steps], theirs[steps]) for ours, theirs in times["drop-in", "bare"]]
        found[f"{name} of drop-in / bare"] = ratios(pairs)
    return found


def tabulate(rounds: int, quick: bool, report: Tables, pairs: Any = PAIRS) -> None:
    """The table of JAX, a column for each size and inner optimizer."""
    for size, shapes in SHAPES.items():
        if quick:
            shapes = {name: smaller(shape) for name, shape in shapes.items()}
        for name, make in INNERS.items():
            there = [pair for pair in pairs if BRAINTOOLS not in pair or find_spec(BRAINTOOLS)]
            found = rows(measure(make(), shapes, rounds, there))
            for row, value in found.items():
                report.put(TITLE, row, f"{name}, {size}", value)
            for ours, theirs in pairs:
                if (ours, theirs) not in there:
                    report.put(TITLE, f"{ours} / {theirs}", f"{name}, {size}", NOT_INSTALLED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=28)
    parser.add_argument("--drop-in", action="store_true", help="measure this form alone")
    arguments = parser.parse_args()
    report = Tables(environment("jax", "optax", rounds=arguments.rounds))
    tabulate(arguments.rounds, False, report, DROP_IN if arguments.drop_in else PAIRS)
    print(report.markdown())


if __name__ == "__main__":
    main()
