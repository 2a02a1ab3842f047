"""Whatever is done to a torch model and its optimizer between steps, in any order.

What prepares and remembers from cycle to cycle stays with what does neither, to the bit; the step
for a graph stays with the one that branches, within rounding.
"""

import pickle
from copy import deepcopy
from functools import partial

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lookahead_core.adapters.torch import Lookahead
from lookahead_core.adapters.torch._kernels import prepared, witness
from torch_runs import assert_same, flat, generator

SEEDS, FRACTIONS = st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])
SHAPES = st.sampled_from([(), (0, 3), (3,), (2, 3), (3, 5), (5, 4)])
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.complex64])
LEAVES = st.tuples(SHAPES, DTYPES, SEEDS, st.booleans())
SETTINGS = st.fixed_dictionaries(
    {}, optional={"lookahead_alpha": FRACTIONS, "lookahead_sync_period": st.integers(1, 4)}
)
ANY = st.integers(0, 100)  # of the leaves, or of the groups, that there are by then


def made(shape, dtype, seed, transposed=False):
    own = shape[::-1] if transposed else shape
    tensor = torch.randn(own, dtype=dtype, generator=generator(seed))
    return tensor.mT if transposed and len(shape) == 2 else tensor.reshape(shape)


class Run:
    """A model of bare leaves, and Lookahead around SGD with momentum for it."""

    def __init__(self, leaves, settings, anchors=False, **options):
        self.anchors = anchors  # at each cycle, whatever was seen since the last one
        self.leaves = [torch.nn.Parameter(made(*leaf)) for leaf in leaves]
        groups = [{"params": self.leaves[:1]}, {"params": self.leaves[1:], **settings}]
        groups = [group for group in groups if group["params"]]
        inner = torch.optim.SGD(groups, lr=0.125, momentum=0.5, foreach=False)
        self.optimizer, self.saved = Lookahead(inner, **options), None

    def step(self, seed):
        for index, leaf in enumerate(self.leaves):
            has_one = leaf.requires_grad and (seed >> index) % 4
            leaf.grad = made(leaf.shape, leaf.dtype, seed + index) if has_one else None
        if self.anchors:
            self.optimizer.anchor()
        if any(leaf.grad is not None for leaf in self.leaves):
            self.optimizer.step()

    def save(self):
        self.saved = flat([[leaf.detach() for leaf in self.leaves], self.optimizer.state_dict()])

    def load(self):
        leaves, state = flat(self.saved)  # it may be loaded again
        for leaf, value in zip(self.leaves, leaves, strict=True):
            leaf.data.copy_(value)
        self.optimizer.load_state_dict(state)

    def slow(self):
        with self.optimizer.slow_weights():
            return [leaf.detach().clone() for leaf in self.leaves]


class Surgery(RuleBasedStateMachine):
    """Two runs of one model: by what is kept from cycle to cycle, and by nothing of it."""

    ways = ({"kernel": "foreach"}, {"kernel": "plain", "anchors": True})
    same = staticmethod(assert_same)

    @initialize(
        leaves=st.lists(LEAVES, min_size=1, max_size=4),
        settings=SETTINGS,
        sync_period=st.integers(1, 4),
        alpha=FRACTIONS,
        slow_dtype=st.sampled_from([None, torch.float64]),
    )
    def start(self, leaves, settings, **options):
        self.runs = [Run(leaves, settings, **options, **way) for way in self.ways]
        self.can_load = False

    def leaf(self, run, index):
        return run.leaves[index % len(run.leaves)]

    def group(self, run, index):
        return run.optimizer.param_groups[index % len(run.optimizer.param_groups)]

    @rule(seeds=st.lists(SEEDS, min_size=1, max_size=3))
    def steps(self, seeds):
        for seed in seeds:
            for run in self.runs:
                run.step(seed)
            self.compare()

    @rule()
    def sync(self):
        for run in self.runs:
            run.optimizer.sync()
        self.compare()

    @rule(index=ANY, trained=st.booleans())
    def freeze_or_thaw(self, index, trained):
        for run in self.runs:
            self.leaf(run, index).requires_grad_(trained)

    @rule(index=ANY, seed=SEEDS, in_place=st.booleans())
    def edit(self, index, seed, in_place):
        for run in self.runs:
            leaf = self.leaf(run, index)
            value = made(leaf.shape, leaf.dtype, seed)
            if in_place:
                leaf.data.copy_(value)
            else:
                leaf.data = value

    @rule(leaf=LEAVES, settings=SETTINGS)
    def add_group(self, leaf, settings):
        for run in self.runs:
            run.leaves.append(torch.nn.Parameter(made(*leaf)))
            run.optimizer.add_param_group({"params": run.leaves[-1:], **settings})
        self.can_load = False

    @rule(index=ANY, settings=SETTINGS)
    def set_in_a_group(self, index, settings):
        for run in self.runs:
            self.group(run, index).update(settings)
        self.can_load = self.can_load and "lookahead_sync_period" not in settings

    @rule(by_pickle=st.booleans())
    def copy(self, by_pickle):
        self.runs = pickle.loads(pickle.dumps(self.runs)) if by_pickle else deepcopy(self.runs)

    @rule()
    def save(self):
        self.compare_states()
        for run in self.runs:
            run.save()
        self.can_load = True

    @precondition(lambda self: self.can_load)
    @rule()
    def load(self):
        for run in self.runs:
            run.load()
        self.compare()

    @rule()
    def evaluate(self):
        self.same(*(run.slow() for run in self.runs))

    def compare_states(self):
        self.same(*(run.optimizer.state_dict() for run in self.runs))

    def compare(self):
        self.same(*([leaf.detach() for leaf in run.leaves] for run in self.runs))


class CapturedSurgery(Surgery):
    """By the step that branches, and by the one for a graph: without what a graph cannot see."""

    ways = ({}, {"capturable": True})
    same = staticmethod(partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4))
    freeze_or_thaw = set_in_a_group = None

    @rule(index=ANY, seed=SEEDS)
    def edit(self, index, seed):
        super().edit(index, seed, in_place=True)

    def compare_states(self):
        """Nothing: an edit between cycles is in the slow weights of one, not yet of the other."""


@pytest.mark.clause("C05", "C06", "C19", "C22", "C26", "C27", "C34", "C42")
def test_what_is_kept_from_cycle_to_cycle_changes_nothing(monkeypatch):
    # Three ways in one model: laid end to end, in rooms of few leaves, and alone.
    for module in (prepared, witness):
        monkeypatch.setattr(module, "LARGE", 10)
    monkeypatch.setattr(prepared, "ROOM", 12)
    run_state_machine_as_test(Surgery)


@pytest.mark.clause("C05", "C06", "C22", "C26", "C45")
def test_the_step_for_a_graph_stays_with_the_one_that_branches():
    run_state_machine_as_test(CapturedSurgery)
