"""The torch kernels' moves and momentum beside the reference's: values, ends, and what is kept."""

from itertools import chain, product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lookahead_core import REFERENCE_KERNEL
from lookahead_core.adapters.torch._kernels import KERNELS, lists
from lookahead_core.adapters.torch._kernels import momentum as stepping
from lookahead_core.adapters.torch._kernels.interpolation import move_row
from lookahead_core.adapters.torch._kernels.momentum import step_row
from torch_runs import generator

# torch's own, when its compiler is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")
DTYPES = [
    (torch.float64, torch.float64),
    (torch.float32, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.float64, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.complex64, torch.complex64),
]
SHAPES = [(5,), (), (0, 3), (4, 2)]


class Operations(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=KERNELS)
def kernel(request):
    return KERNELS[request.param]


def leaves(dtype, seed):
    own = generator(seed)
    numbers = [torch.randn(shape, generator=own, dtype=torch.float64) for shape in SHAPES]
    columns = torch.randn((3, 4), generator=own, dtype=torch.float64).to(dtype).t()
    # Of a complex one what lies in memory is not what is read.
    return [number.to(dtype) for number in numbers] + [columns.conj()]


def copies(tensors):
    return [tensor.clone() for tensor in tensors]


def assert_near(ours, theirs, eps_of, roundings=8):
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.dtype == yours.dtype
        bound = roundings * torch.finfo(eps_of).eps
        torch.testing.assert_close(mine, yours, rtol=bound, atol=bound)


@pytest.mark.clause("C08", "C23")
@pytest.mark.parametrize(("first", "second"), [*DTYPES, (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_a_move_is_the_references_and_only_its_first_argument_changes(first, second, alpha, kernel):
    slow, fast = leaves(first, 1), leaves(second, 2)
    expected = REFERENCE_KERNEL.move(copies(slow), copies(fast), alpha)
    before = copies(fast)
    moved = kernel.move(slow, fast, alpha)
    assert all(mine is given for mine, given in zip(moved, slow, strict=True))
    assert all(map(torch.equal, fast, before))
    assert_near(moved, expected, first)


@pytest.mark.clause("C07")
@pytest.mark.parametrize(("first", "second"), DTYPES)
def test_the_ends_of_a_move_are_exact(first, second, kernel):
    slow, fast = leaves(first, 1), leaves(second, 2)
    fast[0][0] = float("inf")
    before = copies(slow)
    assert all(map(torch.equal, kernel.move(slow, fast, 0.0), before))
    moved = kernel.move(slow, fast, 1.0)
    assert all(torch.equal(m, f.to(first)) for m, f in zip(moved, fast, strict=True))


@pytest.mark.clause("C23", "C71")
@pytest.mark.parametrize(("first", "second"), DTYPES)
@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_is_the_references_and_fast_weights_do_not_change(nesterov, first, second, kernel):
    for lr, momentum in product((0.3, 1.0, 1.7), (0.0, 0.9)):
        slow, fast, buffer = leaves(first, 1), leaves(second, 2), leaves(first, 3)
        arguments = (lr, momentum, nesterov)
        expected = REFERENCE_KERNEL.momentum(copies(slow), copies(fast), copies(buffer), *arguments)
        before = copies(fast)
        moved, stepped = kernel.momentum(slow, fast, buffer, *arguments)
        given = [*slow, *buffer]
        assert all(mine is own for mine, own in zip([*moved, *stepped], given, strict=True))
        assert all(map(torch.equal, fast, before))
        assert_near(moved, expected[0], first, roundings=16)
        assert_near(stepped, expected[1], first)


@pytest.mark.clause("C71")
@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_of_large_leaves_goes_in_pieces_and_is_the_same_to_the_bit(nesterov, monkeypatch):
    first, sizes = torch.float32, []
    whole = [leaves(first, 1), leaves(first, 2), leaves(first, 3)]
    cut = [copies(own) for own in whole]
    KERNELS["foreach"].momentum(*whole, 0.7, 0.9, nesterov)

    def step(leaves, *numbers, original=stepping.step_lists):
        sizes.append([slow.numel() for slow in leaves[0]])
        original(leaves, *numbers)

    monkeypatch.setattr(lists, "ROOM", 5)
    monkeypatch.setattr(stepping, "step_lists", step)
    KERNELS["foreach"].momentum(*cut, 0.7, 0.9, nesterov)
    assert all(all(map(torch.equal, *pair)) for pair in zip(cut, whole, strict=True))
    assert sizes == [[5, 1, 0], [4], [4], [6], [6]]  # of 8, and whole rows of 4 columns


@pytest.mark.clause("C71")
@pytest.mark.parametrize("nesterov", [True, False])
def test_with_a_rate_of_zero_the_slow_weights_are_bitwise_what_they_were(nesterov, kernel):
    slow, fast = [torch.tensor([1.0, 3e7])], [torch.tensor([1e8, 1.0])]
    before, buffer = copies(slow), [torch.zeros(2)]
    (moved,), (stepped,) = kernel.momentum(slow, fast, buffer, 0.0, 0.9, nesterov)
    assert torch.equal(moved, before[0])
    assert torch.equal(stepped, before[0] - fast[0])


@pytest.mark.clause("C23", "C85")
@pytest.mark.parametrize(("first", "second"), DTYPES)
@pytest.mark.parametrize("others", [(0.7, 0.7), (0.3, 0.0)])
def test_a_linear_move_is_the_references_and_fast_weights_do_not_change(
    others, first, second, kernel
):
    number = len(leaves(first, 1))
    each = [torch.tensor(1 - 0.25 / (index + 1)) for index in range(number)]
    for numbers in ((0.9967, 0.9967), (0.993, -0.01), (0.0, 0.0), (each, each)):
        slow, fast, slot = leaves(first, 1), leaves(second, 2), leaves(first, 3)
        before, given = [*map(copies, (slow, fast, slot))], [*slow, *slot]
        expected = REFERENCE_KERNEL.linear(*before, *numbers, *others)
        moved, after = kernel.linear(slow, fast, slot, *numbers, *others)
        assert all(mine is own for mine, own in zip([*moved, *after], given, strict=True))
        assert all(map(torch.equal, fast, before[1]))
        assert_near(moved, expected[0], first, roundings=16)
        assert_near(after, expected[1], first, roundings=16)


@pytest.mark.clause("C10", "C85")
@pytest.mark.parametrize("dtype", [first for first, second in DTYPES if first == second])
def test_a_linear_move_of_both_is_the_references_in_every_layout(dtype, kernel):
    number = len(leaves(dtype, 1))
    each = [1 - 0.25 / (index + 1) for index in range(number)]
    # GPA's, EMA-Nesterov's, the heavy ball's, and Schedule-Free's with a rate for each leaf.
    averaging, heavy_ball = (0.9967, 0.9967, 0.7, 0.7), (0.9, 0.9, 1.0, 1.0)
    for numbers in (averaging, (0.993, -0.01, 0.3, 0.0), heavy_ball, (each, each, 0.7, 0.7)):
        slow, fast, slot = (leaves(dtype, seed) for seed in (1, 2, 3))
        slot[-1] = slot[-1].contiguous()
        expected = REFERENCE_KERNEL.linear(*map(copies, (slow, fast, slot)), *numbers)
        moved, after, back = kernel.linear_both(slow, fast, slot, *numbers)
        assert_near(moved, expected[0], dtype, roundings=16)
        assert_near(after, expected[1], dtype, roundings=16)
        assert all(map(torch.equal, back, moved))


@pytest.mark.clause("C10", "C85")
@pytest.mark.parametrize("size", [5, 40_000])
def test_a_linear_move_of_both_reads_all_fast_weights_before_it_writes_one(size, kernel):
    storage = torch.randn(2 * size)
    fast = [storage[:size], storage[size // 2 : size // 2 + size]]  # they overlap
    slow, slot = [torch.randn(size) for _ in fast], [torch.randn(size) for _ in fast]
    before, numbers = [*map(copies, (slow, fast, slot))], (0.9, 0.9, 0.7, 0.7)
    expected = REFERENCE_KERNEL.linear(*before, *numbers)
    moved, after, back = kernel.linear_both(slow, fast, slot, *numbers)
    assert_near(moved, expected[0], torch.float32, roundings=16)
    assert_near(after, expected[1], torch.float32, roundings=16)
    assert torch.equal(back[1], moved[1])


class Far(torch.Tensor):
    """As on another device: to bring it here makes a copy."""

    def to(self, *args, **kwargs):
        return self.as_subclass(torch.Tensor).clone()


@pytest.mark.clause("C23")
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("interpolate", (0.3,)),
        ("interpolate", (0.8,)),
        ("momentum", (0.7, 0.9, True)),
        ("momentum", (0.7, 0.9, False)),
        ("linear", (0.9, 0.1, 0.7, 0.3)),
        ("linear_both", (0.9, 0.1, 0.7, 0.3)),
    ],
)
def test_what_torch_does_not_compile_any_more_goes_leaf_by_leaf(name, numbers):
    """As beyond its limit of graphs: the lists of a graph would need copies of the model."""
    count = 2 if name == "interpolate" else 3
    given, expected = ([leaves(torch.float32, seed) for seed in range(count)] for _ in "ab")
    with torch.compiler.set_stance("force_eager"), Operations() as operations:
        getattr(KERNELS["compiled"], name)(*given, *numbers)
    getattr(KERNELS["plain"], name)(*expected, *numbers)
    assert all(map(torch.equal, chain(*given), chain(*expected)))
    assert "_foreach_sub" not in operations.names


@pytest.mark.clause("C72")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fast_weights_go_back_to_slow_ones_on_another_device(dtype):
    fast, slow = torch.full((5,), 4.0, dtype=dtype), torch.zeros(5).as_subclass(Far)
    move_row((fast, slow), 0.25, both=False)
    assert fast.tolist() == [3.0] * 5
    assert slow.tolist() == [0.0] * 5
    move_row((slow, fast), 0.5, both=False)
    assert slow.tolist() == [1.5] * 5
    assert fast.tolist() == [3.0] * 5


@pytest.mark.clause("C71")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slow_weights_and_buffers_on_another_device_are_written_back_there(dtype):
    slow, buffer = torch.zeros(5).as_subclass(Far), torch.ones(5).as_subclass(Far)
    fast = torch.full((5,), 4.0, dtype=dtype)
    step_row((slow, fast, buffer), 0.5, 0.5, nesterov=False)
    assert buffer.tolist() == [-3.5] * 5
    assert slow.tolist() == [1.75] * 5
    assert fast.tolist() == [4.0] * 5
