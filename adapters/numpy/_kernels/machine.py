"""What the machine has for a sync: a cache for its blocks, and threads for large leaves."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

__all__ = ["level_2_cache", "side_by_side", "threads_for"]

# Smaller leaves are moved before a thread has started; more threads wait for memory.
LARGE, MOST = 1 << 23, 4
SIZE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")


def level_2_cache() -> int:
    """Bytes of the level-2 cache of a core, within reason; 1 MiB where the system does not say."""
    try:
        kilobytes = int(SIZE.read_text().strip().removesuffix("K"))
    except (OSError, ValueError):
        return 1 << 20
    return min(max(kilobytes << 10, 1 << 18), 1 << 22)


def threads_for(size: int) -> int:
    """How many threads a leaf of so many bytes takes: one, where the user's process has one."""
    if size < LARGE:
        return 1
    affinity = getattr(os, "sched_getaffinity", None)
    processors = len(affinity(0)) if affinity else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(MOST, processors, int(asked) if asked.isdecimal() and int(asked) else MOST)


def side_by_side(work: Callable[..., None], parts: Sequence[Sequence[Any]]) -> None:
    """Call `work` with the arguments of each part, each in a thread of its own.

    No thread outlives the call: a process may fork between two syncs.
    """
    if len(parts) == 1:
        work(*parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        # In the caller's context, which has what NumPy does about overflows (`errstate`).
        done = [pool.submit(copy_context().run, work, *part) for part in parts]
    for future in done:
        future.result()
