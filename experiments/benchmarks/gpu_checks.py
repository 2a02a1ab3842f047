"""What must be right on a GPU before its times mean anything.

Tests of the suite, each framework's in a process of its own and within a limit of time; and what
nothing but a GPU has: graphs, several streams, slow weights in the host's memory. Everything is
written to the log as it goes, so that a run that is cut off still tells.
"""

import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TextIO

__all__ = ["CHECKS", "SUITES", "check", "say", "tested"]

ROOT = Path(__file__).resolve().parents[2]
# For each framework: the backend with its arrays on a GPU, the one that is tried without, and
# tests: first the kernels, then everything that an adapter promises.
SUITES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "torch": (
        "torch-cuda",
        "torch",
        ("core/test_kernel.py", "adapters/torch/test_kernels.py", "adapters/torch/test_capture.py"),
    ),
    "torch, conformance": ("torch-cuda", "torch", ("adapters/torch/test_conformance.py",)),
    "JAX": ("jax-gpu", "jax", ("core/test_kernel.py", "adapters/optax/test_conformance.py")),
    "CuPy": ("cupy", "numpy", ("core/test_kernel.py", "core/test_rule.py", "adapters/cupy")),
}
STEPS = 12


def say(log: TextIO, line: str) -> None:
    """To the log, which is on the disk when this returns, and to the screen."""
    for file in (log, sys.stdout):
        print(line, file=file, flush=True)


def tested(name: str, log: TextIO, seconds: float, dry: bool) -> bool:
    """Whether the suite `name` passed in this time; with `dry` its tests are collected alone."""
    on_gpu, without, paths = SUITES[name]
    backend = without if dry else on_gpu
    arguments = ["-q", "--backend", backend, *(["--collect-only"] if dry else [])]
    files = [str(ROOT / "tests" / path) for path in paths]
    config = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    start = perf_counter()
    say(log, f"\n## tests of {name}, backend {backend}\n")
    try:
        with TemporaryDirectory() as empty:
            command = [sys.executable, "-m", "pytest", *config, *arguments, *files]
            done = subprocess.run(
                command, cwd=empty, stdout=log, stderr=subprocess.STDOUT, timeout=seconds
            )
    except subprocess.TimeoutExpired:
        say(log, f"CUT OFF after {seconds:.0f} s: the dots above are what passed until then")
        return False
    word = "passed" if done.returncode == 0 else f"FAILED, exit status {done.returncode}"
    say(log, f"{name}: {word}, {perf_counter() - start:.0f} s")
    return done.returncode == 0


def check(name: str, log: TextIO, dry: bool) -> bool:
    """Whether one of `CHECKS` holds."""
    try:
        CHECKS[name](dry)
    except Exception:  # of any kind: the next check is to run
        say(log, f"FAILED: {name}\n{traceback.format_exc()}")
        return False
    say(log, f"{'tried without a GPU' if dry else 'ok'}: {name}")
    return True


def stepped(device: str, context: Any = nullcontext, **options: Any) -> Any:
    """Weights after some steps of our optimizer, each of them within `context()`."""
    import torch

    weights, step = stepping(device, **options)
    for _ in range(STEPS):
        with context():
            step()
    if device == "cuda":
        torch.cuda.synchronize()
    return weights


def stepping(device: str, **options: Any) -> tuple[list[Any], Callable[[], None]]:
    """Weights, and what takes a step with them; their gradients are what they are themselves."""
    import torch

    from lookahead_core.adapters.torch import Lookahead

    weights = [torch.nn.Parameter(torch.linspace(-1, 1, n, device=device)) for n in (7, 70_000)]
    inner = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    optimizer = Lookahead(inner, sync_period=3, alpha=0.3, **options)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)

    def step() -> None:
        for weight in weights:
            weight.grad.copy_(weight.detach())
        optimizer.step()

    return weights, step


def same(ours: list[Any], theirs: list[Any]) -> None:
    import torch

    for mine, yours in zip(ours, theirs, strict=True):
        if not torch.equal(mine, yours):
            raise AssertionError(f"they differ by up to {(mine - yours).abs().max().item()}")


def a_graph_replays_the_steps(dry: bool) -> None:
    """The same bits as steps that are not captured; the first steps warm it up."""
    import torch

    device, warmup = ("cpu" if dry else "cuda"), 3
    weights, step = stepping(device, capturable=True)
    if dry:
        replay = step
    else:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warmup):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay = graph.replay
    for _ in range(STEPS - (0 if dry else warmup)):
        replay()
    same(weights, stepped(device, capturable=True))


def slow_weights_in_host_memory_are_the_same_bits(dry: bool) -> None:
    device = "cpu" if dry else "cuda"
    same(stepped(device, slow_device="cpu"), stepped(device))


def steps_on_another_stream_are_the_same_bits(dry: bool) -> None:
    import torch

    if dry:
        same(stepped("cpu"), stepped("cpu"))
        return
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    same(stepped("cuda", lambda: torch.cuda.stream(side)), stepped("cuda"))


def each_kernel_of_torch_is_near_the_plain_one(dry: bool) -> None:
    import torch

    device = "cpu" if dry else "cuda"
    plain = stepped(device, kernel="plain")
    for kernel in ("foreach",) if dry else ("foreach", "compiled"):
        for mine, yours in zip(stepped(device, kernel=kernel), plain, strict=True):
            torch.testing.assert_close(mine, yours, rtol=1e-5, atol=1e-6)


CHECKS: dict[str, Callable[[bool], None]] = {
    "torch: each kernel is near the plain one": each_kernel_of_torch_is_near_the_plain_one,
    "torch: a CUDA graph replays the steps, bit for bit": a_graph_replays_the_steps,
    "torch: slow weights in pinned host memory, bit for bit": (
        slow_weights_in_host_memory_are_the_same_bits
    ),
    "torch: steps on another stream, bit for bit": steps_on_another_stream_are_the_same_bits,
}
