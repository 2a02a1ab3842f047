"""What JAX makes of our step, beside the bare one: how often it traces, compile time, program size.

    python -m experiments.benchmarks.optax_compile [--leaves 400]

Seconds are one cold compilation each. Instructions are those of the optimized program, and its
kernels are its fusions, custom calls and copies. "Traced in 3 cycles" counts how often Python runs
the update of the inner optimizer, which is traced once for each program.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.benchmarks.paired import environment
from experiments.benchmarks.report import Tables
from lookahead_core.adapters.optax import lookahead, split

TITLE, K, CYCLES = "What JAX makes of a step", 5, 3
Update = Callable[..., Any]


def step(update: Update, params: Any, state: Any, gradient: Any) -> Any:
    updates, state = update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def scanned(plain: Update, last: Update, params: Any, state: Any, gradient: Any) -> Any:
    """A cycle as one program: a scan of k - 1 steps, and one more."""

    def one(carry: Any, scale: jax.Array) -> Any:
        return step(plain, *carry, jax.tree.map(lambda leaf: scale * leaf, gradient)), None

    carry, _ = jax.lax.scan(one, (params, state), jnp.ones(K - 1))
    return step(last, *carry, gradient)


def counting(inner: optax.GradientTransformation, traced: list[int]) -> Any:
    """The same optimizer, which notes each time that Python runs its update."""

    def update(*arguments: Any, **more: Any) -> Any:
        traced.append(1)
        return inner.update(*arguments, **more)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def forms(inner: Any) -> dict[str, tuple[Any, list[Callable[..., Any]]]]:
    """For each form: what makes its state, and the programs of a cycle."""
    ours = lookahead(inner, K, 0.5)
    halves = split(ours)
    return {
        "bare": (inner, [partial(step, inner.update)]),
        "drop-in": (ours, [partial(step, ours.update)]),
        "split": (halves, [partial(step, u) for u in (halves.update, halves.update_and_sync)]),
        "bare, scanned": (inner, [partial(scanned, inner.update, inner.update)]),
        "scan": (halves, [partial(scanned, halves.update, halves.update_and_sync)]),
    }


def measure(name: str, leaves: int) -> dict[str, float]:
    """The row of one form."""
    traced: list[int] = []
    owner, functions = forms(counting(optax.adam(1e-3), traced))[name]
    params = {f"{i:03}": jnp.ones((16, 16)) for i in range(leaves)}
    carry, gradient = (params, owner.init(params)), jax.tree.map(jnp.ones_like, params)
    programs = [jax.jit(function, donate_argnums=(0, 1)) for function in functions]
    start = time.perf_counter()
    lowered = [program.lower(*carry, gradient) for program in programs]
    middle = time.perf_counter()
    compiled = [one.compile() for one in lowered]
    end = time.perf_counter()
    text = "\n".join(program.as_text() for program in compiled)
    for _ in range(CYCLES):
        turns = K if len(programs) == 1 and "scan" not in name else 1
        order = programs if len(programs) == 1 else [programs[0]] * (K - 1) + programs[1:]
        for program in order * turns:
            carry = program(*carry, gradient)
    instructions = [line for line in text.splitlines() if " = " in line]
    kernels = ("fusion(", "custom-call(", " copy(", " call(")
    return {
        "programs": len(programs),
        f"traced in {CYCLES} cycles": len(traced),
        "trace and lower, s": middle - start,
        "compile, s": end - middle,
        "instructions": len(instructions),
        "kernels": sum(any(word in line for word in kernels) for line in instructions),
        "text, kB": len(text) / 1000,
        "temporary memory, kB": sum(p.memory_analysis().temp_size_in_bytes for p in compiled) / 1e3,
    }


def tabulate(leaves: int, report: Tables) -> None:
    """A row for each form."""
    measure("bare", 1)  # the first program of a process takes seconds more
    for name in forms(optax.adam(1e-3)):
        for column, value in measure(name, leaves).items():
            report.put(f"{TITLE}: Adam, {leaves} leaves of 16 x 16", name, column, f"{value:,.4g}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--leaves", type=int, default=400)
    report = Tables(environment("jax", "optax"))
    tabulate(parser.parse_args(arguments).leaves, report)
    print(report.markdown())


if __name__ == "__main__":
    main()
