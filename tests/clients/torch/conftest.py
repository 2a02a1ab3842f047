"""Client libraries warn of their own affairs; what they say of ours is an error."""

import os
import runpy
from pathlib import Path

import pytest

# Nothing is downloaded, and nothing is reported.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", WANDB_DISABLED="true")

OURS = (
    "error:the checkpoint has no lookahead",
    "error:Detected call of .lr_scheduler.step",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore", *OURS))


@pytest.fixture(scope="session")
def example():
    """What one of the files to copy defines, by name."""
    folder = Path(__file__).parents[3] / "examples/callbacks"
    return lambda name: runpy.run_path(str(folder / f"{name}_slow_weights.py"))


@pytest.fixture(autouse=True)
def one_network_less(monkeypatch):
    """A connection to anywhere but this machine is a failure of the test."""
    import socket

    connect = socket.socket.connect

    def local_only(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a client test must not use the network, got {address!r}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
