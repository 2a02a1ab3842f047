"""The CuPy adapter where there is no GPU: it imports, says so, and gives one clear error.

CuPy itself is stood in for, by what its wheels do on such a machine, so that the test does not
depend on what is installed; docs/gpu.md says which wheels were tried.
"""

import subprocess
import sys
from inspect import signature

import numpy as np
import pytest

from lookahead_core.adapters import cupy, numpy

# CuPy 13.6: `is_available` raises as well. A broken driver may raise anything.
CUPY = """
class CUDARuntimeError(RuntimeError): ...
class cuda:
    def is_available():
        raise CUDARuntimeError
    class runtime:
        def getDeviceCount():
            {outcome}
"""
OUTCOMES = {
    "no driver": "raise CUDARuntimeError('cudaErrorInsufficientDriver')",
    "no device": "return 0",
    "broken driver": "raise OSError('libcuda.so')",
    "not installed": None,
}
PROGRAM = """
import numpy as np
from lookahead_core.adapters import cupy as adapter
print(adapter.is_available())
for make in (
    lambda: adapter.SGD([np.zeros(1)], 0.1),
    lambda: adapter.Adam([np.zeros(1)]),
    lambda: adapter.AdamW([np.zeros(1)]),
    lambda: adapter.Lookahead(None),
    lambda: adapter.MetaOptimizer(None, None),
):
    try:
        make()
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_it_imports_the_probe_says_no_and_use_is_one_clear_error(outcome, tmp_path):
    body = OUTCOMES[outcome]
    stand_in = CUPY.format(outcome=body) if body else "raise ModuleNotFoundError('No CuPy')"
    (tmp_path / "cupy.py").write_text(stand_in)
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    environment = {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    available, *errors = result.stdout.splitlines()
    assert available == "False"
    assert len(errors) == 5
    assert all("needs CuPy and an NVIDIA GPU" in error for error in errors)


def test_the_fused_code_is_the_formula_of_the_core():
    from lookahead_core import interpolate
    from lookahead_core.adapters.cupy._kernels.fused import FORMULA

    for near_slow, alpha in ((True, 0.3), (False, 0.8)):
        slow, fast = np.float32(0.1), np.float32(0.7)
        names = {"slow": slow, "fast": fast, "factor": np.float32(alpha if near_slow else 0.2)}
        expected = interpolate(np.asarray(slow), np.asarray(fast), alpha)
        assert eval(FORMULA[near_slow], names) == expected


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Lookahead", "MetaOptimizer"])
def test_the_classes_have_the_signatures_of_the_array_loop(name):
    ours, theirs = (signature(getattr(module, name)) for module in (cupy, numpy))
    assert ours == theirs
