"""Files as a check: what an adapter that saves to files of its own does with one that is not good.

Files are known by their endings alone, so each is damaged byte by byte, whatever it is laid out
like. As in clauses.py, which is Lookahead itself.
"""

import os
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .assertions import require, require_equal
from .registry import clause
from .runs import LEAVES, STEPS, K, gradients, variants
from .setup import Leaf, Setup
from .worked import Worked

__all__: list[str] = []

MIB = 2**20
DAMAGED = 12  # files of each ending that are cut, and as many with a byte that is another
HOLE = 128 * MIB  # a file that is so much longer than a good one takes no room on most disks
PATIENCE = 5.0  # seconds


@clause("C62", "a file that is not good is one error with its name, and costs no more", "files")
def c62_files(driver: Worked) -> None:
    for ending in driver.file_endings:
        with TemporaryDirectory() as folder:
            good, path = Path(folder) / f"good{ending}", Path(folder) / f"run{ending}"
            setup = variants(driver)[-1]
            expected = saved_in_mid_cycle(driver, setup, good)
            run = driver.make(setup)
            driver.load_file(run, good)
            for case, write in damages(good):
                write(path)
                if not refused(driver, run, path, f"{ending}, {case}"):
                    taken = f"{ending}, {case}: must be refused, it was taken"
                    require(case.startswith("byte"), taken)  # a number may be another one
                    driver.load_file(run, good)
            for case, other in others(driver, setup):
                driver.save_file(driver.make(other), path)
                taken = f"{ending}, {case}: must be refused, it was taken"
                require(refused(driver, run, path, f"{ending}, {case}"), taken)
            not_waited_for(driver, run, path)
            for step in range(K + 3, STEPS):
                driver.step(run, gradients(setup, step))
                where = f"{ending}, after files that were refused, step {step}"
                require_equal(driver.fast(run), expected[step], where)


def saved_in_mid_cycle(driver: Worked, setup: Setup, path: Path) -> dict[int, Any]:
    """The weights after each step of a run that was saved to `path` after K + 2 of them."""
    run, weights = driver.make(setup), {}
    for step in range(1, STEPS):
        driver.step(run, gradients(setup, step))
        weights[step] = driver.fast(run)
        if step == K + 2:
            driver.save_file(run, path)
    return weights


def damages(good: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Ways to write a file that is not the good one, each with what it is."""
    content, draw = good.read_bytes(), random.Random(0)
    for _ in range(DAMAGED):
        end, place = draw.randrange(len(content)), draw.randrange(len(content))
        yield f"cut after {end} bytes", writing(content[:end])
        other = bytes([content[place] ^ 1 << draw.randrange(8)])
        yield f"byte {place} is {other!r}", writing(content[:place] + other + content[place + 1 :])
    yield "a text", writing(b"weights")
    yield f"{HOLE} bytes follow it", writing(content, HOLE)
    yield f"{HOLE} zeros", writing(b"", HOLE)


def writing(content: bytes, hole: int = 0) -> Callable[[Path], object]:
    """What writes `content`, and after it a hole, which is read as zeros."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(content)
            file.truncate(len(content) + hole)

    return write


def others(driver: Worked, setup: Setup) -> Iterator[tuple[str, Setup]]:
    """Models whose files are none of `setup`'s."""
    first, second = LEAVES
    if driver.dtype == "float64" and "float32" in driver.capabilities:
        yield "another dtype", setup._replace(leaves=(first, second._replace(dtype="float32")))
    yield "a leaf more", setup._replace(leaves=(first, second, Leaf((1.0,))))
    yield "a leaf less", setup._replace(leaves=(first,))
    yield "a longer leaf", setup._replace(leaves=(first, Leaf((0.5, 4.0, 1.0))))
    yield (
        "leaves of one size and other shapes",
        setup._replace(leaves=(first, second._replace(shape=(2, 1)))),
    )


def refused(driver: Worked, run: Any, path: Path, case: str) -> bool:
    """Whether the file is refused: with an error that names it, nothing changed, little memory."""
    before = [*driver.fast(run), *driver.slow(run)]
    error: Exception | None = None
    traced = tracemalloc.is_tracing()
    tracemalloc.start()
    begin, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    try:
        driver.load_file(run, path)
    except Exception as raised:
        error = raised
    peak = tracemalloc.get_traced_memory()[1] - begin
    if not traced:
        tracemalloc.stop()
    require(peak < 64 * MIB, f"{case}: must take less than 64 MiB to load, took {peak / MIB:.0f}")
    if error is not None:
        proper = isinstance(error, ValueError | OSError) and path.name in str(error)
        wanted = "a ValueError or OSError with the file's name"
        require(proper, f"{case}: must raise {wanted}, raised {error!r}")
        require_equal([*driver.fast(run), *driver.slow(run)], before, f"{case}: refused")
    return error is not None


def not_waited_for(driver: Worked, run: Any, path: Path) -> None:
    """A pipe, where there are any, is refused at once; to open one is to wait for a writer."""
    if not hasattr(os, "mkfifo"):
        return
    path.unlink()
    os.mkfifo(path)
    waited: list[bool] = []

    def release() -> None:
        with suppress(OSError):  # which there is where nobody waits
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            waited.append(True)

    # A load in another thread would miss settings that frameworks keep for each thread.
    timer = threading.Timer(PATIENCE, release)
    timer.start()
    try:
        taken = not refused(driver, run, path, "a pipe")
    finally:
        timer.cancel()
        timer.join()  # it may be between its opening of the pipe and its word of it
    require(not waited, f"a pipe must be refused and not waited for, {PATIENCE} s passed")
    require(not taken, "a pipe must be refused, it was taken")
