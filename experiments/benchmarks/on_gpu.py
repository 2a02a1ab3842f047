"""What a sync costs on one GPU, in torch, JAX and CuPy; no nox, no network, a few minutes.

    python -m experiments.benchmarks.on_gpu [--out FILE] [--device cpu]

Each framework's sync is put over copies of all weights, measured in the same rounds on the same
device, and in gigabytes a second: bytes are what an interpolation of both copies must read and
write (4Nb), so the rate of the copies is the memory bandwidth that can be had. What is not
installed, or sees no GPU, is printed as missing and makes the exit status 1. `--device cpu` is for
trying the script: its numbers say nothing of a GPU.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from experiments.benchmarks.paired import Make, Rounds, environment, interleaved, ratio, spread
from experiments.benchmarks.report import Tables, write
from experiments.benchmarks.workloads import Shapes, elements, smaller, workloads

ALPHA, ROUNDS, BYTES = 0.5, 20, 4
BETWEEN = "step between syncs"
WIDE = "anchor and sync, bfloat16 with float32 slow weights"
PACKAGES = ("torch", "jax", "jaxlib", "cupy-cuda12x", "numpy")
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
    for kernel in ("foreach", "compiled") if len(shapes) < 100 else ("foreach",):
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


def measure(name: str, device: str, report: Tables) -> bool:
    """One framework on all sets of shapes; False, and a line that says so, if it is missing."""
    for row, shapes in workloads().items():
        if device == "cpu":
            shapes = [smaller(shape) for shape in shapes]
        try:
            ways = FRAMEWORKS[name](shapes, device, REPEATS[row])
        except (ImportError, LookupError) as error:
            print(f"MISSING, not measured: {name}: {error}", flush=True)
            report.put(f"{name}, a sync", "missing", "why", str(error))
            return False
        tabulate(f"{name}, a sync", row, interleaved(ways, ROUNDS, 1), shapes, report)
    return True


def main() -> None:
    """Measure, print, write; exit with 1 if something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--out", type=Path, default=Path("on_gpu.json"))
    arguments = parser.parse_args()
    report = Tables(environment(*PACKAGES, device=name_of(arguments.device)))
    present = [measure(name, arguments.device, report) for name in FRAMEWORKS]
    write(report, arguments.out, None)
    print(report.markdown())
    sys.exit(0 if all(present) else 1)


def name_of(device: str) -> str:
    """The GPU's own name."""
    if device == "cpu":
        return "CPU, a trial: nothing here is about a GPU"
    try:
        import torch

        return torch.cuda.get_device_name()
    except Exception as error:  # no torch, no driver, no GPU: the tables say what is missing
        return f"unknown ({error})"


if __name__ == "__main__":
    main()
