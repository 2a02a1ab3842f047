"""The fused kernel of the CuPy loop, compiled as CuPy compiles it, for GPUs that need not be here.

CuPy writes the kernel's source around our formula, and NVIDIA's compiler (NVRTC) makes assembly of
it (PTX) and machine code; neither asks for a GPU or its driver. What is private in CuPy is used
here, because its public functions compile for the GPU that they find.
"""

import re
from collections import Counter

import cupy
import numpy as np
import pytest
from cupy._core import _carray, _kernel, _scalar, core
from cupy.cuda import compiler

from lookahead_core.adapters.cupy._kernels.fused import FUSED_DTYPES, fused

# Ampere, Hopper, Blackwell.
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# The kinds of arguments as CuPy numbers them.
ARRAY, INDEXER, SCALAR = 1, 2, 3
# CuPy adds these itself, whatever a kernel asks for.
ALWAYS = ("-ftz=true", "--device-as-default-execution-space")


def source(kernel, dtype):
    """The text that CuPy gives to the compiler for contiguous leaves of this dtype."""
    real = dtype.type(0).real.dtype
    *_, types = kernel._decide_params_type((real,), (dtype, dtype))
    leaf = _kernel._ArgInfo(ARRAY, cupy.ndarray, dtype, 1, True, True)
    factor = _kernel._ArgInfo(SCALAR, _scalar.CScalar, real, 0, True, True)
    index = _kernel._ArgInfo(INDEXER, _carray.Indexer, None, 1, True, True)
    code = _kernel._get_elementwise_kernel_code(
        (factor, leaf, leaf, index), types, kernel.params, kernel.operation, kernel.name, ""
    )
    return "".join(f"#include <{header}>\n" for header in core._cupy_header_list) + code


def assembly(text, options, architecture):
    program = compiler._NVRTCProgram(text, "kernel.cu", method="ptx")
    options = (*core.assemble_cupy_compiler_options(options), f"-arch={architecture}", *ALWAYS)
    ptx, _ = program.compile(options)
    return ptx.decode() if isinstance(ptx, bytes) else ptx


def memory(ptx):
    """How many loads and stores of global memory there are, of however many bytes."""
    return Counter(re.findall(r"^\s+(ld|st)\.global\.", ptx, re.MULTILINE))


def arithmetic(ptx):
    """How many instructions of each kind calculate with floats."""
    return Counter(re.findall(r"^\s+(add|sub|mul|fma|mad|div)[\w.]*\.f\d+ ", ptx, re.MULTILINE))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.mark.parametrize("near_slow", [True, False])
@pytest.mark.parametrize("name", sorted(FUSED_DTYPES))
def test_a_sync_reads_and_writes_each_array_once_and_rounds_each_operation(
    name, near_slow, architecture
):
    kernel, dtype = fused(near_slow), np.dtype(name)
    ptx = assembly(source(kernel, dtype), kernel.kwargs["options"], architecture)
    parts = 2 if dtype.kind == "c" else 1
    assert memory(ptx) == {"ld": 2, "st": 2}
    added = 1 if near_slow else 0
    expected = Counter(add=added * parts, sub=(2 - added) * parts, mul=parts)
    assert arithmetic(ptx) == +expected


def test_without_our_option_the_compiler_would_fuse_and_round_once():
    text = source(fused(True), np.dtype("float32"))
    assert arithmetic(assembly(text, (), "sm_90")) == Counter(sub=1, fma=1)
