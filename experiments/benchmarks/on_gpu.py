"""On a machine with a GPU: is it right, and what does a sync cost there? No nox, no network.

    python -m experiments.benchmarks.on_gpu [--out FILE] [--minutes 8]
    python -m experiments.benchmarks.on_gpu --dry      without a GPU: does the script run?

First what must be right (gpu_checks.py), then the table, in torch, JAX and CuPy. Each framework's
sync is put over copies of all weights, measured in the same rounds on the same device, and in
gigabytes a second: bytes are what an interpolation of both copies must read and write (4Nb), so the
rate of the copies is the memory bandwidth that can be had, and its inverse ratio the share of it
that a sync reaches. Everything goes to one file as it is found, so that a run that is cut off still
tells. What is not installed, sees no GPU, fails, or finds no time makes the exit status 1.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from experiments.benchmarks.gpu_checks import CHECKS, SUITES, check, say, tested
from experiments.benchmarks.paired import Make, Rounds, environment, interleaved, ratio, spread
from experiments.benchmarks.report import Tables
from experiments.benchmarks.workloads import Shapes, elements, workloads

ALPHA, ROUNDS, BYTES = 0.5, 20, 4
BETWEEN = "step between syncs"
WIDE = "anchor and sync, bfloat16 with float32 slow weights"
PACKAGES = ("torch", "triton", "jax", "jaxlib", "cupy-cuda12x", "cupy-cuda13x", "numpy")
# One run of each way is timed; as many at once as outweigh waiting for the device.
REPEATS = {"400 tiny": 20, "ResNet-18": 20, "GPT-2 124M": 5, "32M in one": 10}


def waiting(calls: Callable[[], object], wait: Callable[[], object], repeats: int) -> Make:
    """Seconds of one call, the device having finished before and after."""

    def make() -> Callable[[], Sequence[float]]:
        def run() -> list[float]:
            wait()
            start = perf_counter()
            for _ in range(repeats):
                calls()
            wait()
            return [(perf_counter() - start) / repeats]

        return run

    return make


def torch_ways(shapes: Shapes, device: str, repeats: int) -> dict[str, Make]:
    """Two bare calls, copies, and our syncs by each kernel; the step between syncs."""
    import torch

    from experiments.benchmarks.contenders import Still, ours
    from experiments.benchmarks.torch_step import arrays, parameters
    from experiments.benchmarks.torch_sync import copies, reference

    if not torch.cuda.is_available() and device == "gpu":
        raise LookupError("torch sees no GPU")
    values = [v.to("cuda" if device == "gpu" else "cpu") for v in arrays(shapes, 0)]
    wait = torch.cuda.synchronize if device == "gpu" else (lambda: None)
    slow, fast = [v.clone() for v in values], [v.clone() for v in values]
    spare = [torch.empty_like(v) for v in (*values, *values)]
    calls: dict[str, Callable[[], object]] = {
        "copies": partial(copies, slow, fast, spare),
        "two bare calls": partial(reference, slow, fast, spare),
    }
    # The compiler takes minutes for hundreds of leaves, and on a CPU it is not what is tried.
    small = device == "gpu" and len(shapes) < 100
    for kernel in ("foreach", "compiled") if small else ("foreach",):
        optimizer = ours(Still(parameters(values, values)), 1, kernel=kernel)
        # With k=1 each step takes the anchor and syncs: all that a cycle costs.
        calls[f"anchor and sync, {kernel}"] = optimizer.step
    narrow = parameters([v.bfloat16() for v in values], [v.bfloat16() for v in values])
    calls[WIDE] = ours(Still(narrow), 1, slow_dtype=torch.float32).step
    calls[BETWEEN] = ours(Still(parameters(values, values)), 10**9).step
    return {name: waiting(torch.no_grad()(call), wait, repeats) for name, call in calls.items()}


def jax_ways(shapes: Shapes, device: str, repeats: int) -> dict[str, Make]:
    """Copies, and the interpolation as one program, both with donated arrays."""
    import jax
    import jax.numpy as jnp

    if jax.default_backend() != "gpu" and device == "gpu":
        raise LookupError("JAX sees no GPU")
    from lookahead_core import lookahead

    rule = lookahead(1, ALPHA)
    state = rule.init([jnp.ones(shape) for shape in shapes])

    def sync(fast: Any, slow: Any) -> Any:
        after, _, new = rule.sync(fast, (), state._replace(slow=slow))
        return list(after), list(new.slow)

    def copy(fast: Any, slow: Any) -> Any:
        return jax.tree.map(jnp.copy, (fast, slow))

    def way(program: Any, keep: bool) -> Callable[[], object]:
        held = [[jnp.ones(s) for s in shapes], [jnp.zeros(s) for s in shapes]]

        def call() -> None:
            results = jax.block_until_ready(program(*held))
            held[:] = results if keep else held

        return call

    calls = {
        # Not donated: else the copy could be the array itself.
        "copies": way(jax.jit(copy), keep=False),
        "anchor and sync, one program": way(jax.jit(sync, donate_argnums=(0, 1)), keep=True),
    }
    return {name: waiting(call, lambda: None, repeats) for name, call in calls.items()}


def cupy_ways(shapes: Shapes, device: str, repeats: int) -> dict[str, Make]:
    """Copies, the straightforward lines, and our sync by its fused kernel."""
    import cupy

    from lookahead_core.adapters.cupy import SGD, Lookahead, is_available

    if not is_available():
        raise LookupError("CuPy sees no GPU")
    fast, slow = [cupy.ones(s, "f") for s in shapes], [cupy.zeros(s, "f") for s in shapes]
    spare = [cupy.empty_like(leaf) for leaf in (*fast, *slow)]
    optimizer = Lookahead(SGD(fast, 0.0), sync_period=1, alpha=ALPHA)

    def copies() -> None:
        for target, leaf in zip(spare, (*fast, *slow), strict=True):
            target[...] = leaf

    def straightforward() -> None:
        for s, f in zip(slow, fast, strict=True):
            s += ALPHA * (f - s)
            f[...] = s

    calls = {"copies": copies, "plain lines": straightforward, "sync": optimizer.sync}
    wait = cupy.cuda.get_current_stream().synchronize
    return {name: waiting(call, wait, repeats) for name, call in calls.items()}


FRAMEWORKS = {"torch": torch_ways, "JAX": jax_ways, "CuPy": cupy_ways}


def tabulate(title: str, sets: str, times: Rounds, shapes: Shapes, report: Tables) -> None:
    """Microseconds, gigabytes a second, and the ratio to the copies."""
    moved = 4 * BYTES * elements(shapes)
    for name, seconds in times.items():
        report.put(title, f"{name}, µs", sets, spread([1e6 * sum(s) for s in seconds]))
        if name in (BETWEEN, WIDE):  # nothing, or other bytes
            continue
        rate = spread([1e-9 * moved / sum(s) for s in seconds])
        report.put(title, f"{name}, GB/s by 4Nb", sets, rate)
        if name != "copies":
            report.put(title, f"{name} / copies", sets, ratio(times, name, "copies"))
            pairs = zip(seconds, times["copies"], strict=True)
            share = spread([100 * sum(copies) / sum(own) for own, copies in pairs])
            report.put(title, f"{name}, % of the copies' bandwidth", sets, share)


def measure(name: str, dry: bool, log: TextIO, until: float) -> bool:
    """One framework on all sets of shapes, a table for each; False if something is missing."""
    for row, shapes in workloads().items():
        if perf_counter() > until:
            say(log, f"NO TIME LEFT, not measured: {name}, {row} and what comes after it")
            return False
        if dry:
            shapes = [(4, 4)] * 3
        try:
            ways = FRAMEWORKS[name](shapes, "cpu" if dry else "gpu", 1 if dry else REPEATS[row])
            times = interleaved(ways, 2 if dry else ROUNDS, 1)
        except Exception as error:  # of any kind: the next framework is to run
            say(log, f"MISSING, not measured: {name}, {row}: {type(error).__name__}: {error}")
            return False
        report = Tables({})
        tabulate(f"{name}, a sync", row, times, shapes, report)
        say(log, report.markdown()[len(Tables({}).markdown()) :].strip() + "\n")
    return True


def main(arguments: Sequence[str] | None = None) -> bool:
    """Check, measure and write; whether all of it was there and right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="without a GPU, and small")
    parser.add_argument("--out", type=Path, default=Path("on_gpu.md"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", choices=FRAMEWORKS, help="one framework")
    given = parser.parse_args(arguments)
    until, good = perf_counter() + 60 * given.minutes, []
    chosen = [given.only] if given.only else [*FRAMEWORKS]
    with given.out.open("w", encoding="utf-8") as log:
        for item in environment(*PACKAGES, device=name_of(given.dry)).items():
            say(log, "- {}: {}".format(*item))
        for name in (n for n in CHECKS if n.partition(":")[0] in chosen):
            good.append(check(name, log, given.dry))
        for name in (n for n in SUITES if n.partition(",")[0] in chosen):
            # A quarter of what is left, so that the tables get the last third of the time.
            good.append(tested(name, log, (until - perf_counter()) / 4, given.dry))
        good += [measure(name, given.dry, log, until) for name in chosen]
        word = "all of it ran and was right" if all(good) else "NOT all of it ran, or was right"
        say(log, f"\n{word}; {60 * given.minutes - until + perf_counter():.0f} s")
    return all(good)


def name_of(dry: bool) -> str:
    """The GPU's own name."""
    if dry:
        return "CPU, a trial: nothing here is about a GPU"
    try:
        import torch

        return torch.cuda.get_device_name()
    except Exception as error:  # no torch, no driver, no GPU: the tables say what is missing
        return f"unknown ({error})"


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
