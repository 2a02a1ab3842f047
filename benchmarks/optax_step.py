"""What a step costs in JAX: Lookahead in its three forms and optax's own, against the bare inner.

    python benchmarks/optax_step.py [--rounds 25]        (in a clone, with the extra "jax")

Each round times one cycle of k steps of every form, one after the other, so that a slow moment of
the machine meets all of them; what is reported is the median over rounds of the ratio to the bare
inner optimizer in the same round, with quartiles. Parameters and state are donated, the gradient is
fixed. No test asserts a time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lookahead_core.adapters.optax import lookahead, split

K, ALPHA, RATE = 5, 0.5, 1e-4
INNERS = {
    "SGD momentum": lambda: optax.sgd(RATE, momentum=0.9),
    "Adam": lambda: optax.adam(RATE),
}


def resnet18() -> dict[str, tuple[int, ...]]:
    """Shapes of the 62 parameters of ResNet-18, 11.7 million in all."""
    shapes = {"conv": (7, 7, 3, 64), "norm": (2, 64), "fc": (512, 1000), "fc_bias": (1000,)}
    inputs = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            name = f"stage{stage}.block{block}"
            shapes[f"{name}.conv0"] = (3, 3, inputs, width)
            shapes[f"{name}.conv1"] = (3, 3, width, width)
            names = ["norm0", "norm1"]
            if inputs != width:
                shapes[f"{name}.shortcut"] = (inputs, width)
                names.append("norm2")
            shapes |= {f"{name}.{norm}": (2, width) for norm in names}
            inputs = width
    # Scale and shift of a norm are two parameters.
    norms = {f"{name}.{i}": (s[1],) for name, s in shapes.items() if "norm" in name for i in (0, 1)}
    return {name: shape for name, shape in shapes.items() if "norm" not in name} | norms


SHAPES = {
    "ResNet-18": resnet18(),
    "8 x 4M": {f"w{i}": (4_000_000,) for i in range(8)},
}


def arrays(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, jax.Array]:
    draw = np.random.default_rng(seed)
    return {
        name: jnp.asarray(1e-2 * draw.standard_normal(shape, np.float32))
        for name, shape in shapes.items()
    }


class Form:
    """One way to run a cycle: compiled programs, and the parameters and state that they donate."""

    def __init__(self, programs: list[Callable[..., Any]], params: Any, state: Any) -> None:
        self.programs, self.carry = programs, (params, state)

    def cycle(self, gradient: Any) -> list[float]:
        """Seconds that each program of the cycle took."""
        times = []
        for program in self.programs:
            start = time.perf_counter()
            self.carry = jax.block_until_ready(program(*self.carry, gradient))
            times.append(time.perf_counter() - start)
        return times


def compiled(update: Callable[..., Any]) -> Callable[..., Any]:
    """One step as a program of its own."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step


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
    pair = optax.LookaheadParams(arrays(shapes, 0), arrays(shapes, 0))

    def fresh(init: Callable[..., Any]) -> Any:
        params = arrays(shapes, 0)
        return params, init(params)

    plain, syncing = compiled(halves.update), compiled(halves.update_and_sync)
    return {
        "bare": Form([compiled(inner.update)] * K, *fresh(inner.init)),
        "drop-in": Form([compiled(ours.update)] * K, *fresh(ours.init)),
        "split": Form([plain] * (K - 1) + [syncing], *fresh(halves.init)),
        "scan": Form([scanned(halves.update, halves.update_and_sync)], *fresh(halves.init)),
        "bare scan": Form([scanned(inner.update, inner.update)], *fresh(inner.init)),
        "optax": Form([compiled(theirs.update)] * K, pair, theirs.init(pair)),
    }


def measure(inner: optax.GradientTransformation, shapes: Any, rounds: int) -> dict[str, list[Any]]:
    """Times of every program of every form, by round."""
    gradient, running = arrays(shapes, 1), forms(inner, shapes)
    for form in running.values():
        form.cycle(gradient)
        form.cycle(gradient)
    times: dict[str, list[Any]] = {name: [] for name in running}
    for number in range(rounds):
        # Every round begins with another one: what comes after what is not always the same.
        names = [*running][number % len(running) :] + [*running][: number % len(running)]
        for name in names:
            times[name].append(running[name].cycle(gradient))
    return times


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Median and quartiles of paired ratios."""
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(ours, theirs, strict=True)], n=4, method="inclusive"
    )
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def report(times: dict[str, list[Any]]) -> list[tuple[str, str]]:
    step = {name: [sum(cycle) / K for cycle in cycles] for name, cycles in times.items()}
    plain = [sum(cycle[:-1]) / (K - 1) for cycle in times["split"]]
    bare_plain = [sum(cycle[:-1]) / (K - 1) for cycle in times["bare"]]
    return [
        ("bare, ms a step", f"{1e3 * statistics.median(step['bare']):.1f}"),
        ("drop-in / bare", ratio(step["drop-in"], step["bare"])),
        ("drop-in / optax.lookahead", ratio(step["drop-in"], step["optax"])),
        ("split, k - 1 plain steps / bare", ratio(plain, bare_plain)),
        ("split, cycle / bare", ratio(step["split"], step["bare"])),
        ("split, cycle / drop-in", ratio(step["split"], step["drop-in"])),
        ("scan, cycle / bare, scanned too", ratio(step["scan"], step["bare scan"])),
        ("scan, cycle / drop-in", ratio(step["scan"], step["drop-in"])),
        ("optax.lookahead / bare", ratio(step["optax"], step["bare"])),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    columns = {}
    for size, shapes in SHAPES.items():
        for name, make in INNERS.items():
            columns[f"{name}, {size}"] = dict(report(measure(make(), shapes, rounds)))
    print(f"jax {jax.__version__}, optax {optax.__version__}, k = {K}, {rounds} rounds: medians")
    print("of paired ratios (quartiles)\n")
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for row in next(iter(columns.values())):
        print(f"| {row} | {' | '.join(column[row] for column in columns.values())} |")


if __name__ == "__main__":
    main()
