r"""Each test runs on all ranks at once, started by torchrun: a rank that is missing is a timeout.

torchrun --standalone --nproc-per-node=2 -m pytest tests/distributed/torch \
    --distributed --backend torch
"""

import atexit
import os
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from process_end import end_process


def pytest_configure(config):
    config.addinivalue_line("markers", "world(size): only with so many processes")
    if "RANK" not in os.environ:
        raise pytest.UsageError("tests/distributed/torch must be started by torchrun")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))


def pytest_sessionstart(session):
    # What is registered first is done last: pytest removes its old folders before.
    atexit.register(lambda: end_process(session.exitstatus))


def pytest_report_header():
    return f"rank {dist.get_rank()} of {dist.get_world_size()}"


def pytest_collection_modifyitems(config, items):
    marks = {item: item.get_closest_marker("world") for item in items}
    others = [i for i, mark in marks.items() if mark and dist.get_world_size() not in mark.args]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]


def pytest_unconfigure():
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def rank():
    return dist.get_rank()


@pytest.fixture
def size():
    return dist.get_world_size()


@pytest.fixture
def messages(monkeypatch):
    """(name, bytes given) of each collective since the list was last emptied."""
    found = []

    def watch(name, sent):
        original = getattr(dist, name)

        def collective(*arguments, **options):
            found.append((name, arguments[sent].nbytes))
            return original(*arguments, **options)

        monkeypatch.setattr(dist, name, collective)

    watch("all_reduce", 0)
    watch("all_gather", 1)
    watch("all_to_all_single", 1)
    return found
