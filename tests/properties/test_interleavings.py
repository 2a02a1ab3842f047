"""Random leaves and settings, and anything that may happen to an optimizer in any order: every
adapter stays with the model of docs/spec.md (tests/spec_model.py).

A few runs here. On demand 2,000 of each adapter, and of torch's captured form, in eight pieces:

    pytest --backend torch --hypothesis-profile full tests/properties/test_interleavings.py -k seed3

is one of them, with 250; without `-k` it is all. A failure names its seed, and the shortest program
that fails. What an adapter does not have is not drawn: freezing, settings of a group and
groups that are added are torch's alone (its captured form does not freeze), and so is a rate for
several groups; only torch evaluates in the parameters themselves, so that an error inside matters;
in optax a missing gradient is a zero, and groups and frozen leaves are transformations of
their own.
"""

import copy
import math
import random
from contextlib import nullcontext
from importlib import import_module
from typing import NamedTuple

import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from drivers.plain import PlainDriver, PlainLookahead
from lookahead_core.conformance import (
    INNER_EDITS,
    Ahead,
    Averaging,
    Inner,
    Leaf,
    Outer,
    Second,
    Setup,
)
from lookahead_core.conformance.assertions import require_equal
from lookahead_core.conformance.family import PRESETS, growing, needed
from lookahead_core.conformance.setup import EPS
from spec_model import Model

FULL = settings.get_current_profile_name() == "full"
PIECES, EXAMPLES = (8, 250) if FULL else (1, 25)
PIECE = pytest.mark.parametrize("piece", range(PIECES), ids="seed{}".format)
WARNINGS = pytest.mark.filterwarnings("ignore:step.. without a gradient", "ignore:invalid value")
# Rounding of a run of 25 actions with up to eight steps each, momentum included.
ROUNDING = 4096
NUMBERS = [n / 8 for n in range(-64, 65)]
# Few, because JAX compiles every operation for each of them.
SHAPES = [(), (2,), (0, 2)]
FRACTIONS = [0.0, 0.3, 0.5, 0.75, 1.0]
RATES = [2.0**-5, 0.1, 0.5]
SEEDS, INDICES = st.integers(0, 2**31 - 1), st.integers(0, 5)


@st.composite
def by_seed(draw, make, *arguments):
    """What `make` draws: all of it alike, where hypothesis likes the ends of what there is."""
    return make(*arguments, random.Random(draw(SEEDS)))


def one_of(values):
    return by_seed(lambda draw: draw.choice(values))


class Alternating(NamedTuple):
    """A schedule of alpha, exact in every dtype: `first`, halfway, `last`, and again."""

    first: float
    last: float

    def __call__(self, syncs):
        return self.first + (self.last - self.first) * (syncs % 3) / 2


def alpha_of(draw):
    return draw.choice([draw.choice(FRACTIONS), Alternating(*draw.choices(NUMBERS[64:73], k=2))])


def own_settings(draw):
    """What a group has of its own."""
    both = {"alpha": alpha_of(draw), "period": draw.randint(1, 5)}
    return {name: value for name, value in both.items() if draw.random() < 0.6}


def drawn_numbers(leaf, draw):
    """Values for a leaf, or a gradient of it."""
    return tuple(draw.choice(NUMBERS) for _ in leaf.values)


def leaf_of(has, inner, draw, rates=(1.0, 0.5)):
    """A leaf of zero to two dimensions, maybe empty or complex."""
    # Adam is not linear: frameworks differ on complex numbers.
    narrow = [d for d in ("float32", "complex128", "complex64") if d in has]
    dtype = draw.choice(["float64", *(narrow if inner.kind == "sgd" else narrow[:1])])
    shape = draw.choice(SHAPES)
    size = math.prod(shape) * (2 if dtype.startswith("complex") else 1)
    leaf = Leaf((0.0,) * size, dtype, shape, rate=draw.choice(rates) if "groups" in has else 1.0)
    return leaf._replace(values=drawn_numbers(leaf, draw))


def setup_of(has, draw):
    """Any setting of an adapter that can do what is named in `has`."""
    inners = [Inner("sgd", draw.choice(RATES), 0.0)]
    inners += [Inner("sgd", 0.1, draw.choice([0.5, 0.9]))] if "momentum" in has else []
    inners += [Inner("adam", 0.01, 0.0)] if "adam" in has else []
    inner = draw.choice(inners)
    drawn = [leaf_of(has, inner, draw) for _ in range(draw.randint(1, 3))]
    if "frozen" in has:  # but the first, so that there is one to train
        drawn[1:] = [leaf._replace(trained=draw.random() < 0.7) for leaf in drawn[1:]]
    if inner.kind == "sgd" and "tied" in has and draw.random() < 0.4:
        drawn.append(drawn[0]._replace(same_as=0))
    policies = [p for p in ("maintain", "reset", "interpolate") if p == "maintain" or p in has]
    period, alpha = draw.randint(1, 5), draw.choice(FRACTIONS)
    if "period_schedule" in has and draw.random() < 0.2:
        period = growing
    if "schedule" in has:
        alpha = alpha_of(draw)
    setup = Setup(tuple(drawn), period, alpha, draw.choice(policies), inner)
    return relative_of(setup, has, draw) if draw.random() < 0.4 else setup


def relative_of(setup, has, draw):
    """`setup` with another rule of the family, as far as the driver has it."""
    blends = setup.inner_state == "interpolate"  # by a fraction, which not all rules have
    if "gradient_point" in has and not blends and draw.random() < 0.5:
        setup = setup._replace(outer=gradient_point("inner_lr" in has, draw))
    elif "outer_momentum" in has and draw.random() < 0.5:
        momentum = draw.choice([0.0, 0.25, 0.5])
        setup = setup._replace(outer=Outer(draw.choice(FRACTIONS), momentum, draw.random() < 0.5))
    divides = not callable(setup.sync_period)  # as one period of nested rules does the other
    restart, period = draw.choice([0.0, 0.25, 1.0]), draw.randint(1, 3)
    if "nested" in has and divides and not blends and draw.random() < 0.4:
        setup = setup._replace(second=Second(period, draw.choice(FRACTIONS), restart))
    elif "restart" in has and draw.random() < 0.6:
        setup = setup._replace(restart=restart, restart_period=period, inner_state="maintain")
    return setup._replace(start=draw.choice([0, 0, 1, 4])) if "start" in has else setup


def gradient_point(with_rates, draw):
    """A rule that decides where gradients are taken."""
    if draw.random() < 0.5:
        return Ahead(draw.choice([-0.5, 0.0, 0.9]), draw.choice([0.0, 0.5, 0.99]))
    mu_x = draw.choice([*FRACTIONS, *([None] * 3 if with_rates else [])])
    return Averaging(mu_x, draw.choice(FRACTIONS), draw.choice([0.0, 2.0]), draw.choice([0.0, 1.0]))


def preset_of(has, draw):
    """A preset that the adapter has, on any leaves of its own dtype."""
    setup = draw.choice([setup for setup in PRESETS.values() if needed(setup) <= has])
    drawn = [leaf_of((), setup.inner, draw) for _ in range(draw.randint(1, 3))]
    return setup._replace(leaves=tuple(drawn))


def can(*words):
    """Only for an adapter that has these capabilities."""
    return precondition(lambda self: {*words} <= self.has)


def machine(driver, has, setups):
    """A state machine that works `driver`, which can do what is in `has`, and the model."""

    class Interleavings(RuleBasedStateMachine):
        @initialize(setup=setups)
        def start(self, setup):
            self.has, self.setup, self.leaves = has, setup, [*setup.leaves]
            self.run, self.model = driver.make(setup), Model(setup, self.has)
            self.largest = [1.0] * len(self.leaves)  # of each leaf, for its rounding
            self.built, self.saved = [], None  # what was done to the groups; what was saved
            self.has_alpha = setup.outer is setup.second is None

        @rule(own=SEEDS, count=one_of([1, 3, 5, 8]))
        def step(self, own, count):
            draw = random.Random(own)
            for _ in range(count):
                self.step_by(self.gradients(draw))

        @rule(own=SEEDS, missing=one_of(range(16)))
        def step_without_some(self, own, missing):
            self.step_by(self.gradients(random.Random(own), missing))

        @rule(own=SEEDS, index=INDICES)
        def step_by_nan(self, own, index):
            gradients = self.gradients(random.Random(own))
            index %= len(gradients)
            for place, _ in enumerate(gradients[index] or ()):
                # Of a complex number both parts: frameworks differ on one alone.
                if place == 0 or (place == 1 and "complex" in self.leaves[index].dtype):
                    gradients[index][place] = math.nan
            self.step_by(gradients)

        def gradients(self, draw, missing=0):
            """A gradient for each leaf that is trained and that no bit of `missing` names."""
            found = [[*drawn_numbers(leaf, draw)] for leaf in self.leaves]
            pairs = list(zip(found, self.model.listed, strict=True))
            found = [
                given if own.trained and not (missing >> index) % 2 else None
                for index, (given, own) in enumerate(pairs)
            ]
            if "no_gradient" not in self.has and all(given is None for given in found):
                return [given for given, _ in pairs]
            return found

        def step_by(self, gradients):
            driver.step(self.run, gradients)
            if "zero_for_missing" in self.has:
                pairs = zip(gradients, self.leaves, strict=True)
                gradients = [[0.0] * len(leaf.values) if g is None else g for g, leaf in pairs]
            self.model.step(gradients)
            self.compare()

        @can("skip")
        # torch's GradScaler takes no complex gradients, and nothing is infinite without a number.
        @precondition(lambda self: not any("complex" in leaf.dtype for leaf in self.leaves))
        @precondition(lambda self: any(leaf.values and leaf.trained for leaf in self.leaves))
        @rule()
        def skip(self):
            driver.skip(self.run)
            self.compare()

        @can("forced_sync")
        @rule()
        def sync(self):
            driver.sync(self.run)
            self.model.sync()
            self.compare()

        @can("edit")
        @rule(own=SEEDS)
        def edit(self, own):
            draw, first = random.Random(own), {}
            for leaf, edited in zip(self.leaves, self.model.listed, strict=True):
                first.setdefault(id(edited), [*drawn_numbers(leaf, draw)])
            values = [first[id(edited)] for edited in self.model.listed]
            driver.edit(self.run, values)
            self.model.edit(values)
            self.compare()

        @can("edit_inner")
        @rule(index=INDICES, edit=one_of([*INNER_EDITS]))
        def edit_inner(self, index, edit):
            index %= len(self.leaves)
            index = index if self.leaves[index].same_as is None else self.leaves[index].same_as
            driver.edit_inner(self.run, index, edit)
            removes = edit == "remove" and "removes" in self.has
            self.model.edit_inner(index, INNER_EDITS[edit], removes)

        @can("freeze")
        @rule(index=INDICES, trained=st.booleans())
        def freeze_or_thaw(self, index, trained):
            index %= len(self.leaves)
            driver.train(self.run, index, trained)
            self.model.listed[index].trained = trained

        @can("learning_rate")
        @precondition(lambda s: "rates" in s.has or all(leaf.rate == 1 for leaf in s.leaves))
        @rule(lr=one_of(RATES))
        def set_learning_rate(self, lr):
            driver.set_learning_rate(self.run, lr)
            self.model.lr = lr

        @can("add_group")
        @precondition(lambda self: len(self.leaves) < 6)
        @rule(drawn=SEEDS, own=by_seed(own_settings))
        def add_group(self, drawn, own):
            leaf = leaf_of(self.has, self.setup.inner, random.Random(drawn), rates=(1.0, 0.25))
            own = self.settings(own)
            self.leaves.append(leaf)
            self.largest.append(1.0)
            self.model.add_group(leaf.values, leaf.rate, **own)
            self.build("add_group", leaf, own)
            self.compare()

        @can("set_in_group")
        @rule(index=INDICES, own=by_seed(own_settings))
        def set_in_group(self, index, own):
            index %= len(self.model.groups)
            own = self.settings(own)
            vars(self.model.groups[index]).update(own)
            self.build("set_in_group", index, own)
            self.compare()

        def settings(self, own):
            """Settings of a group that the rule has, too."""
            return own if self.has_alpha else {k: v for k, v in own.items() if k == "period"}

        def build(self, action, *arguments):
            """Do it to the groups, and again whenever the program is started again."""
            getattr(driver, action)(self.run, *arguments)
            self.built.append((action, *arguments))

        @rule(evaluating=st.booleans(), restarts=st.booleans())
        def save(self, evaluating, restarts):
            evaluating = evaluating and "evaluating" in self.has
            with driver.evaluating(self.run) if evaluating else nullcontext():
                saved = driver.save(self.run)
            kept = self.model, self.leaves, self.largest
            self.saved = (saved, *copy.deepcopy(kept), [*self.built])
            self.compare()
            if restarts:
                self.load(restarted=True)

        @precondition(lambda self: self.saved is not None)
        @rule(restarted=st.booleans())
        def load(self, restarted):
            saved, model, known, largest, built = self.saved
            if restarted or built != self.built:
                self.run, self.built = driver.make(self.setup), []
                for action in built:
                    self.build(*action)
            self.model, self.leaves, self.largest = copy.deepcopy((model, known, largest))
            for index, leaf in enumerate(self.model.listed if "freeze" in self.has else ()):
                driver.train(self.run, index, leaf.trained)
            driver.put_back(self.run, saved)
            self.compare()

        @rule(own=SEEDS)
        def copy(self, own):
            """Go on with a copy, to which nothing happens that happens to the first one."""
            first, self.run = self.run, copy.deepcopy(self.run)
            driver.step(first, self.gradients(random.Random(own)))
            driver.sync(first)
            self.compare()

        @rule(way=st.sampled_from(["evaluate", "fails", "twice"]))
        def evaluate(self, way):
            before = driver.fast(self.run)
            if "evaluating" not in self.has or way == "evaluate":
                self.require_close(driver.evaluate(self.run), self.model.slow, "evaluated")
            else:
                with pytest.raises(RuntimeError, match="slow_weights"):
                    self.step_while_evaluating(way)
            require_equal(driver.fast(self.run), before, "fast weights after an evaluation")
            self.compare()

        def step_while_evaluating(self, way):
            """Evaluate, and leave it by the error of a step, which is refused there."""
            with driver.evaluating(self.run):
                if way == "twice":
                    with driver.evaluating(self.run):
                        pass
                self.require_close(driver.fast(self.run), self.model.slow, "evaluated")
                driver.step(self.run, self.gradients(random.Random(0)))

        def compare(self):
            for leaf, (slow, fast) in enumerate(zip(self.model.slow, self.model.fast, strict=True)):
                finite = [abs(n) for n in [*slow, *fast] if math.isfinite(n)]
                self.largest[leaf] = max([self.largest[leaf], *finite])
            self.require_close(driver.fast(self.run), self.model.fast, "fast weights")
            if self.model.has_begun:  # what an adapter keeps before that is its own affair
                self.require_close(driver.slow(self.run), self.model.slow, "slow weights")

        def require_close(self, got, expected, what):
            """Each number within the rounding of its leaf, and NaN where the model's is."""
            for index, (mine, yours) in enumerate(zip(got, expected, strict=True)):
                bound = ROUNDING * EPS[self.leaves[index].dtype] * self.largest[index]
                close = len(mine) == len(yours) and all(
                    abs(a - b) <= bound or a == b or (math.isnan(a) and math.isnan(b))
                    for a, b in zip(mine, yours, strict=True)
                )
                assert close, f"{what} of leaf {index}: expected {yours}, got {mine}"

    return Interleavings


# What an adapter can do beside its driver's capabilities, and what of these is not drawn.
MORE = {
    "torch": {"add_group", "evaluating", "no_gradient", "rates", "removes", "set_in_group"},
    "mlx": {"no_gradient", "one_count"},
    "jax": {"emits_updates", "zero_for_missing"},
    "plain": {"one_count", "removes"},
}
# Groups and frozen leaves are transformations of their own there, and `apply_if_finite` compiles
# at every call.
LESS = {"jax": {"frozen", "groups", "skip"}}


def can_do(backend, driver):
    return (driver.capabilities | MORE.get(backend, set())) - LESS.get(backend, set())


def drivers_of(backend):
    """The backend's drivers, and the settings of its framework that the tests need."""
    if backend == "jax":
        driver = import_module("drivers.optax_driver").OptaxDriver()
        return [driver], import_module("jax").enable_x64(True)
    if backend == "torch":
        driver = import_module("drivers.torch_driver").TorchDriver
        return [driver(), driver(capturable=True)], nullcontext()
    module, name = {
        "numpy": ("drivers.array_driver", "ArrayDriver"),
        "mlx": ("drivers.mlx_driver", "MlxDriver"),
    }[backend]
    return [getattr(import_module(module), name)()], nullcontext()


@pytest.mark.clause(
    *("C02", "C03", "C05", "C06", "C07", "C11", "C12", "C16", "C17", "C18", "C22", "C26", "C27"),
    *(
        "C29",
        "C30",
        "C34",
        "C42",
        "C51",
        "C71",
        "C72",
        "C73",
        "C74",
        "C78",
        "C85",
        "C86",
        "C87",
        "C90",
    ),
)
@PIECE
@WARNINGS
def test_the_adapter_stays_with_the_model_whatever_the_order(backend, piece):
    drivers, framework = drivers_of(backend)
    with framework:
        for driver in drivers:
            has = can_do(backend, driver)
            assert_alike(machine(driver, has, by_seed(setup_of, has)), piece, EXAMPLES)


@PIECE
@WARNINGS
@pytest.mark.clause("C02", "C05", "C06", "C22", "C79")
def test_every_preset_stays_with_the_model_whatever_the_order(backend, piece):
    """With NumPy also on strict arrays."""
    drivers, framework = drivers_of(backend)
    if backend == "numpy":
        drivers.append(import_module("drivers.array_driver").ArrayDriver("array_api_strict"))
    with framework:
        for driver in drivers:
            has = can_do(backend, driver)
            drawn = machine(driver, has, by_seed(preset_of, has))
            assert_alike(drawn, piece, EXAMPLES if FULL else EXAMPLES // 3)


def assert_alike(drawn, piece, examples):
    few = settings(
        max_examples=examples,
        derandomize=False,
        database=None,
        phases=[Phase.generate, Phase.shrink],
    )
    run_state_machine_as_test(seed(piece)(drawn), settings=few)


class ForgetsTheCounter(PlainLookahead):
    def saved_names(self):
        return ("weights", "slow", "slow_moments", "buffers", "syncs")


class KeepsTheCounterAtAForcedSync(PlainDriver):
    def sync(self, run):
        count = run.count
        run.sync()
        run.count = count


class KeepsTheSlowCopyOfTheInnerState(PlainLookahead):
    def take_moments(self):
        if self.syncs == 0:
            super().take_moments()


def blending(setup):
    """The same leaves, with moments that a sync blends."""
    own = setup.leaves, setup.sync_period, 0.3
    return Setup(*own, inner_state="interpolate", inner=Inner(momentum=0.5))


@pytest.mark.parametrize(
    ("broken", "change"),
    [
        (PlainDriver(ForgetsTheCounter), None),
        (KeepsTheCounterAtAForcedSync(), None),
        (PlainDriver(KeepsTheSlowCopyOfTheInnerState), blending),
    ],
)
def test_a_broken_adapter_is_found(broken, change):
    has = can_do("plain", broken)
    drawn = by_seed(setup_of, has).map(change or (lambda setup: setup))
    # Found is enough: a small example is for people.
    search = settings(max_examples=300, database=None, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(broken, has, drawn), settings=search)
