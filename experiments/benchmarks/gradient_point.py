"""Whole steps of Schedule-Free and GPA beside `schedulefree`, optax' own and the bare optimizer.

With k = 1, on one thread, ResNet-18 shapes, in pairs as everywhere. In JAX an EMA too, beside
`optax.incremental_update` (`optax.ema` is a mean of updates, and not of weights). Copies of the
weights beside the inner optimizer's: two for ours (the point where gradients are taken, and the
difference), one for `schedulefree`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import schedulefree
import torch

from experiments.benchmarks.paired import Make, interleaved, ratio, timed
from experiments.benchmarks.report import Tables
from experiments.benchmarks.workloads import Shapes, workloads
from lookahead_core import SyncRule, ema, gpa, schedule_free
from lookahead_core.adapters.optax import meta_optimizer
from lookahead_core.adapters.torch import MetaOptimizer

__all__ = ["measure"]

TITLE = "Schedule-Free, GPA and an EMA in JAX: whole steps, ResNet-18 shapes, k=1, one thread"
BARE, PACKAGE = "bare", "the package"
RULES: dict[str, SyncRule] = {"schedule_free": schedule_free(), "gpa": gpa(), "ema": ema(0.999)}


def measure(rounds: int, quick: bool, report: Tables) -> None:
    """Ratios over the bare inner optimizer and over the package."""
    shapes = workloads(quick)["ResNet-18"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for title, ways in {**torch_ways(shapes), **optax_ways(shapes)}.items():
        times = interleaved({**ways, "bare again": ways[BARE]}, rounds)
        for way in [way for way in times if way != BARE]:
            report.put(TITLE, f"{title}: {way}", "over bare", ratio(times, way, BARE))
            if way in ways and way != PACKAGE:
                over = ratio(times, way, PACKAGE)
                report.put(TITLE, f"{title}: {way}", "over the package", over)
    torch.set_num_threads(threads)


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
        for rule in ("schedule_free", "gpa"):
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
        ways = {BARE: bare, PACKAGE: incremental(bare), "ema": meta_optimizer(bare, RULES["ema"])}
        found[f"{title}, an average"] = {
            way: optax_step(shapes, optimizer) for way, optimizer in ways.items()
        }
    return found


def incremental(inner: Any) -> Any:
    """An EMA as optax' users keep it: `incremental_update` after each step."""

    def init(params: Any) -> Any:
        return inner.init(params), jax.tree.map(jnp.copy, params)

    def update(gradient: Any, state: Any, params: Any) -> Any:
        updates, own = inner.update(gradient, state[0], params)
        moved = optax.apply_updates(params, updates)
        return updates, (own, optax.incremental_update(moved, state[1], 1e-3))

    return optax.GradientTransformation(init, update)


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
