"""Whole steps of Schedule-Free and GPA beside `schedulefree`, optax' own and the bare optimizer.

    python -m experiments.benchmarks.gradient_point             ResNet-18 shapes, 30 rounds
    python -m experiments.benchmarks.gradient_point --quick     small tensors, to see that it runs

With k = 1, on one thread, in pairs as everywhere: medians of ratios within a round. Needs torch,
jax, optax and schedulefree. Copies of the weights beside the inner optimizer's: two for ours (the
point where gradients are taken, and the difference), one for `schedulefree`.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import schedulefree
import torch

from experiments.benchmarks.paired import Make, interleaved, ratio, timed
from experiments.benchmarks.workloads import Shapes, workloads
from lookahead_core import SyncRule, gpa, schedule_free
from lookahead_core.adapters.optax import meta_optimizer
from lookahead_core.adapters.torch import MetaOptimizer

__all__ = ["main"]

BARE, PACKAGE = "bare", "the package"
RULES: dict[str, SyncRule] = {"schedule_free": schedule_free(), "gpa": gpa()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print ratios over the bare inner optimizer and over the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small tensors, few rounds")
    parser.add_argument("--rounds", type=int, help="default 30, and 3 with --quick")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rounds = options.rounds or (3 if options.quick else 30)
    name = "ResNet-18"
    shapes = workloads(options.quick)[name]
    print(f"{name}, {rounds} rounds; ratios over {BARE} and over {PACKAGE}, medians")
    for title, ways in {**torch_ways(shapes), **optax_ways(shapes)}.items():
        times = interleaved(ways, rounds)
        for way in [way for way in ways if way != BARE]:
            over = [ratio(times, way, other).median for other in (BARE, PACKAGE)]
            print(f"{title:<14}{way:<28}{over[0]:.2f}  {over[1]:.2f}")


def torch_ways(shapes: Shapes) -> dict[str, dict[str, Make]]:
    """By inner optimizer: the ways to step."""
    inner: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "torch, SGD": (
            lambda leaves: torch.optim.SGD(leaves, lr=0.01, foreach=True),
            lambda leaves: schedulefree.SGDScheduleFree(leaves, lr=0.01),
        ),
        "torch, AdamW": (
            lambda leaves: torch.optim.AdamW(leaves, lr=0.01, betas=(0.0, 0.999), foreach=True),
            lambda leaves: schedulefree.AdamWScheduleFree(leaves, lr=0.01),
        ),
    }
    found: dict[str, dict[str, Make]] = {}
    for title, (bare, package) in inner.items():
        ways = {BARE: torch_step(shapes, bare), PACKAGE: torch_step(shapes, package)}
        for rule in RULES:
            for kernel in ("foreach", "compiled"):
                ways[f"{rule}, {kernel}"] = torch_step(shapes, ours(bare, rule, kernel))
        found[title] = ways
    return found


def ours(bare: Callable[..., Any], rule: str, kernel: Any) -> Callable[..., Any]:
    return lambda leaves: MetaOptimizer(bare(leaves), RULES[rule], kernel=kernel)


def torch_step(shapes: Shapes, make: Callable[..., Any]) -> Make:
    """Parameters with gradients, and a step of what `make` makes of them."""

    def made() -> Callable[[], Sequence[float]]:
        numbers = torch.Generator().manual_seed(0)
        leaves = [torch.nn.Parameter(torch.randn(shape, generator=numbers)) for shape in shapes]
        for leaf in leaves:
            leaf.grad = 1e-3 * torch.randn(leaf.shape, generator=numbers)
        optimizer = make(leaves)
        if hasattr(optimizer, "train"):
            optimizer.train()
        return lambda: [timed(optimizer.step)]

    return made


def optax_ways(shapes: Shapes) -> dict[str, dict[str, Make]]:
    """Likewise; `optax.contrib.schedule_free` is the package."""
    inner = {"optax, SGD": optax.sgd, "optax, AdamW": partial(optax.adamw, b1=0.0)}
    found: dict[str, dict[str, Make]] = {}
    for title, make in inner.items():
        bare, injected = make(0.01), optax.inject_hyperparams(make)(learning_rate=0.01)
        ways = {
            BARE: bare,
            PACKAGE: optax.contrib.schedule_free(bare, 0.01),
            "schedule_free": meta_optimizer(injected, RULES["schedule_free"]),
            "gpa": meta_optimizer(bare, RULES["gpa"]),
        }
        found[title] = {way: optax_step(shapes, optimizer) for way, optimizer in ways.items()}
    return found


def optax_step(shapes: Shapes, optimizer: Any) -> Make:
    """The compiled step, with parameters and state donated."""

    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1))

    def made() -> Callable[[], Sequence[float]]:
        carry = [jnp.ones(shape) for shape in shapes], None
        carry = carry[0], jax.jit(optimizer.init)(carry[0])
        gradient = [jnp.full(shape, 1e-3) for shape in shapes]

        def run() -> None:
            nonlocal carry
            carry = jax.block_until_ready(compiled(*carry, gradient))

        return lambda: [timed(run)]

    return made


if __name__ == "__main__":
    main()
