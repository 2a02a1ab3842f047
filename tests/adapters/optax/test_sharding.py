"""Sharded parameters on eight devices: the checks are in tests/drivers/on_eight_devices.py."""

import os
import subprocess
import sys

import pytest

from drivers import on_eight_devices


@pytest.mark.clause("C55")
@pytest.mark.parametrize("check", on_eight_devices.CHECKS)
def test_on_eight_devices(check):
    # First: XLA reads none after a word that is no flag, such as intra_op_parallelism_threads=1.
    flags = f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-W", "error", on_eight_devices.__file__, check],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "held\n"), result.stderr
