"""The compiled kernels of the torch adapter, as torch compiles them for a GPU that is not here.

torch traces our graphs with tensors of the CPU, because its CPU build cannot trace a copy between
CUDA tensors. Then the traced tensors are declared to be on CUDA, and torch's compiler (inductor)
writes its Triton kernels. Triton compiles them for a target that it is told, which needs neither a
GPU nor its driver, and its interpreter runs the same text on the CPU. What is private in torch is
used here, because its public functions ask the GPU that they find.
"""

import copy
import importlib.util
import re
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
import triton
from functorch.compile import make_boxed_func
from torch._dynamo import device_interface
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lookahead_core.adapters.torch._kernels.interpolation import move_graph
from lookahead_core.adapters.torch._kernels.linear import _step_graph as linear_graph
from lookahead_core.adapters.torch._kernels.momentum import step_graph as momentum_graph

with warnings.catch_warnings():
    # torch's own, when its compiler is first imported.
    warnings.filterwarnings("ignore", ".torch.jit.script_method. is deprecated")
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.runtime import triton_helpers
    from torch._inductor.virtualized import V

# Hopper: the target of inductor's choices. Ampere and Blackwell are compiled for, too.
HOPPER, CAPABILITIES = 90, (80, 90, 100)
# Of an H100, as far as inductor asks.
PROPERTIES = SimpleNamespace(
    multi_processor_count=132,
    major=9,
    minor=0,
    warp_size=32,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
)
# A large leaf, a small one, and one whose size is no multiple of a block.
SHAPES = ((64, 64, 3, 3), (64,), (64, 3, 7, 7))
# Numbers of a leaf that one block of threads moves.
BLOCK = 1024


class Hopper(device_interface.CudaInterface):
    """What inductor asks a device for."""

    is_available = staticmethod(lambda: True)
    get_device_properties = staticmethod(lambda *device: PROPERTIES)
    get_compute_capability = staticmethod(lambda *device: HOPPER)

    class Worker(device_interface.CudaInterface.Worker):
        get_device_properties = staticmethod(lambda *device: PROPERTIES)


@dataclass
class Program:
    """What inductor writes: the text around the kernels, and the text of each by its name.

    `before` are the arguments of the program, and `after` what torch's own operations make of them.
    """

    text: str
    before: list = field(default_factory=list)
    after: list = field(default_factory=list)

    @property
    def kernels(self):
        return dict(re.findall(r"async_compile\.triton\('(\w+)', '''(.*?)'''", self.text, re.S))

    @property
    def launches(self):
        return re.findall(r"(triton_\w+)\.run\(", self.text)


@pytest.fixture(autouse=True, scope="module")
def no_driver():
    """Triton is told the target that it would ask a driver for."""
    target = GPUTarget("cuda", HOPPER, 32)
    triton.runtime.driver.set_active(SimpleNamespace(get_current_target=lambda: target))


def program(graph, rows, *numbers):
    """The program for CUDA of one of our graphs; the rows are moved, by torch's own operations."""
    device_interface.get_interface_for_device("cpu")  # the table is filled when it is first read
    written = []

    def inner(module, inputs, **_):
        text = lowered(module, torch._guards.detect_fake_mode(inputs))
        written.append(Program(text))

        def run(*arguments):
            written[0].before = [argument.clone() for argument in arguments]
            written[0].after = arguments
            return module.forward(*arguments)

        return make_boxed_func(run)

    def backend(module, inputs):
        return compile_fx(module, inputs, inner_compile=inner)

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(graph, backend=backend)(rows, *numbers)
    return written[0]


def lowered(module, mode):
    """The text that inductor writes if all but the 0-d tensors are on CUDA."""
    module = copy.deepcopy(module)
    for node in module.graph.nodes:
        for value in tree_leaves(node.meta.get("val")):
            if isinstance(value, FakeTensor) and value.dim() > 0:
                value.fake_device = torch.device("cuda:0")
    values = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    graph = GraphLowering(module, values, shape_env=mode.shape_env, is_inference=True)
    with ExitStack() as stack:
        stack.enter_context(patch.dict(device_interface.device_interfaces, {"cuda": Hopper}))
        stack.enter_context(patch.object(torch.cuda, "get_device_properties", lambda _: PROPERTIES))
        stack.enter_context(patch.object(torch.cuda, "get_device_capability", lambda *_: (9, 0)))
        stack.enter_context(patch("torch._inductor.scheduler.has_triton", lambda: True))
        stack.enter_context(V.set_fake_mode(mode))
        stack.enter_context(V.set_graph_handler(graph))
        stack.enter_context(DebugContext())
        graph.run(*values)
        return graph.codegen()[0].value


def loaded(program, folder, interpreted=False):
    """The one kernel of a program, decorated by inductor."""
    ((name, text),) = program.kernels.items()
    file = folder / f"{name}_{interpreted}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    with (
        patch.object(triton_helpers, "set_driver_to_gpu", lambda: None),
        patch.object(triton.knobs.runtime, "interpret", interpreted),
    ):
        spec.loader.exec_module(module)
    return getattr(module, name)


def assembly(kernel, capability):
    """PTX, and the threads that each program of the kernel has."""
    (settings,), meta = kernel.configs, kernel.triton_meta
    names = kernel.fn.arg_names
    constants = {(names.index(name),): value for name, value in meta["constants"].items()}
    source = ASTSource(kernel.fn, meta["signature"], constants, meta["configs"][0])
    options = {"num_warps": settings.num_warps, "enable_fp_fusion": meta["enable_fp_fusion"]}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return compiled.asm["ptx"], 32 * settings.num_warps


def bytes_of(ptx, operation):
    """How many bytes a thread loads or stores, in all branches together."""
    found = re.findall(rf"\b{operation}\.global(?:\.v(\d))?\.b(\d+)", ptx)
    return sum(int(parts or 1) * int(bits) // 8 for parts, bits in found)


def run_on_the_cpu(program, folder):
    """The arguments of the program after its kernel, by Triton's interpreter."""
    kernel = loaded(program, folder, interpreted=True)
    given = re.search(r"\.run\((.*), stream=", program.text).group(1).split(", ")
    places = [int(re.match(r"arg(\d+)_1", name).group(1)) for name in given]
    arguments = [argument.clone() for argument in program.before]
    sizes = [argument.numel() for argument in arguments if argument.dim() > 0]
    blocks = sum(-(-size // BLOCK) for size in sizes)  # more than are needed: those do nothing
    values = (arguments[place] for place in places)
    # Triton's own is for compiled kernels, unless all of Triton was imported to be interpreted.
    with patch.object(triton.language, "cdiv", lambda size, block: -(-size // block)):
        kernel.fn[(blocks,)](*(value if value.dim() else value.item() for value in values))
    return arguments


def pairs(dtype=torch.float32, shapes=SHAPES):
    """Slow weights, which are float32 always, beside fast ones."""
    generator = torch.Generator().manual_seed(0)
    both = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in "sf")
    return [(slow, fast.to(dtype)) for slow, fast in zip(*both, strict=True)]


def triples(shapes=SHAPES):
    return [(*row, torch.ones(row[0].shape)) for row in pairs(shapes=shapes)]


def number(value):
    return torch.tensor(value, dtype=torch.float64)


NEAR_SLOW, NEAR_FAST = (number(0.3), True, True), (number(0.6), False, True)
LINEAR = tuple(map(number, (0.9, 0.1, 0.5, 0.25)))


class Case(NamedTuple):
    """A graph, what it is given, and how often it may read and write each row's arrays."""

    graph: Callable
    rows: Callable
    numbers: tuple  # those that are tensors stay on the CPU
    loads: int
    stores: int


WIDER = partial(pairs, torch.bfloat16)
CASES = {
    "near slow": Case(move_graph, pairs, NEAR_SLOW, 2, 2),
    "near fast": Case(move_graph, pairs, NEAR_FAST, 2, 2),
    "wider slow": Case(move_graph, WIDER, NEAR_SLOW, 2, 2),
    "wider slow, near fast": Case(move_graph, WIDER, NEAR_FAST, 2, 2),
    "slow alone": Case(move_graph, pairs, (number(0.3), True, False), 2, 1),
    "heavy ball": Case(momentum_graph, triples, (number(0.7), number(0.9), False), 3, 2),
    "Nesterov": Case(momentum_graph, triples, (number(0.7), number(0.9), True), 3, 2),
    "at the gradient point": Case(linear_graph, triples, (*LINEAR, True), 3, 3),
    "at the gradient point, slow alone": Case(linear_graph, triples, (*LINEAR, False), 3, 2),
}


@cache
def written_for(name):
    graph, rows, numbers, *_ = CASES[name]
    return program(graph, rows(), *numbers)


@cache
def written_for_two_leaves(dtype):
    return program(move_graph, pairs(dtype, SHAPES[::2]), *NEAR_SLOW)


@pytest.mark.parametrize("name", CASES)
def test_a_sync_is_one_kernel_that_reads_and_writes_each_array_once(name):
    written = written_for(name)
    ((kernel, text),) = written.kernels.items()
    assert written.launches == [kernel]
    loads, stores = CASES[name][-2:]
    counted = text.count("tl.load("), text.count("tl.store(")
    assert counted == (loads * len(SHAPES), stores * len(SHAPES))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["same", "wider slow"])
def test_its_traffic_is_two_reads_and_two_writes_of_each_number(dtype, capability, tmp_path):
    """Of a whole number of blocks and of none: branches that do the same, Triton makes one of."""
    written = written_for_two_leaves(dtype)
    assert f"XBLOCK: tl.constexpr = {BLOCK}\n" in written.kernels[written.launches[0]]
    ptx, threads = assembly(loaded(written, tmp_path), capability)
    expected = 2 * BLOCK * (torch.float32.itemsize + dtype.itemsize)
    assert bytes_of(ptx, "ld") * threads == expected
    assert bytes_of(ptx, "st") * threads == expected


def test_without_lists_each_leaf_would_be_a_kernel():
    def leaf_by_leaf(rows, alpha):
        for slow, fast in rows:
            fast.copy_(slow.lerp_(fast, alpha))

    assert len(program(leaf_by_leaf, pairs(), 0.3).launches) == len(SHAPES)


def test_torch_gives_25_leaves_to_a_kernel():
    """So the 62 of a ResNet-18 are three."""
    written = program(move_graph, pairs(shapes=[(8,)] * 28), *NEAR_SLOW)
    assert [text.count("tl.load(") for text in written.kernels.values()] == [2 * 25, 2 * 3]
    assert written.launches == [*written.kernels]


@pytest.mark.parametrize("name", CASES)
def test_it_can_be_captured(name):
    """It makes no tensor, and the CPU reads none of the GPU's: the numbers are the CPU's own."""
    text = written_for(name).text.partition("def call(")[2].partition("return ()")[0]
    assert ".run(" in text
    assert "empty_strided" not in text
    read = {*re.findall(r"(\w+)\.item\(\)", text)}
    assert read == {*re.findall(r"assert_size_stride\((\w+), \(\), \(\)", text)}
    assert len(read) == sum(isinstance(value, torch.Tensor) for value in CASES[name].numbers)


@pytest.mark.parametrize("name", CASES)
def test_its_text_gives_what_torch_gives(name, tmp_path):
    written = written_for(name)
    arguments = run_on_the_cpu(written, tmp_path)
    changed = [not torch.equal(*both) for both in zip(written.before, arguments, strict=True)]
    assert sum(changed) == CASES[name].stores * len(SHAPES)
    for ours, theirs in zip(arguments, written.after, strict=True):
        few = 4 * torch.finfo(theirs.dtype).eps  # a fused multiply-add rounds once
        torch.testing.assert_close(ours, theirs, rtol=few, atol=few)
