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
# Rounding of a run of 25 actions with up to four steps each, momentum included.
ROUNDING = 4096
NUMBERS = [n / 8 for n in range(-64, 65)]
# Few, because JAX compiles every operation for each of them.
SHAPES = st.sampled_from([(), (2,), (0, 2)])
FRACTIONS = st.sampled_from([0.0, 0.3, 0.5, 0.75, 1.0])
RATES = st.sampled_from([2.0**-5, 0.1, 0.5])
PERIODS = st.integers(1, 5)
YES, ONE = st.just(True), st.just(1.0)
SEEDS, INDICES = st.integers(0, 2**31 - 1), st.integers(0, 5)


class Alternating(NamedTuple):
    """A schedule of alpha, exact in every dtype: `first`, halfway, `last`, and again."""

    first: float
    last: float

    def __call__(self, syncs):
        return self.first + (self.last - self.first) * (syncs % 3) / 2


ALPHAS = st.one_of(FRACTIONS, st.builds(Alternating, *[st.sampled_from([0.0, 0.25, 0.5, 1.0])] * 2))
OWN = st.fixed_dictionaries({}, optional={"alpha": ALPHAS, "period": PERIODS})


def drawn_numbers(leaf, draw):
    """Values for a leaf, or a gradient of it."""
    return tuple(draw.choice(NUMBERS) for _ in leaf.values)


@st.composite
def leaves(draw, dtypes, rates, trained=YES):
    """A leaf of zero to two dimensions, maybe empty, complex or frozen."""
    shape, dtype = draw(SHAPES), draw(dtypes)
    size = math.prod(shape) * (2 if dtype.startswith("complex") else 1)
    leaf = Leaf((0.0,) * size, dtype, shape, draw(trained), draw(rates))
    return leaf._replace(values=drawn_numbers(leaf, random.Random(draw(SEEDS))))


def inners(has):
    """The inner optimizers that a driver has."""
    found = [st.builds(Inner, st.just("sgd"), RATES, st.just(0.0))]
    if "momentum" in has:
        found.append(st.builds(Inner, st.just("sgd"), st.just(0.1), st.sampled_from([0.5, 0.9])))
    if "adam" in has:
        found.append(st.builds(Inner, st.just("adam"), st.just(0.01), st.just(0.0)))
    return st.one_of(found)


def dtypes_of(inner, has):
    """Adam is not linear: frameworks differ on complex numbers."""
    narrow = [d for d in ("float32", "complex128", "complex64") if d in has]
    return st.sampled_from(["float64", *(narrow if inner.kind == "sgd" else narrow[:1])])


@st.composite
def setups(draw, has):
    """Any setting of an adapter that can do what is named in `has`."""
    inner = draw(inners(has))
    rates = st.sampled_from([1.0, 0.5]) if "groups" in has else ONE
    first, other = ((dtypes_of(inner, has), rates), (st.booleans(),) if "frozen" in has else ())
    drawn = [draw(leaves(*first)), *draw(st.lists(leaves(*first, *other), max_size=2))]
    if inner.kind == "sgd" and "tied" in has and draw(st.booleans()):
        drawn.append(drawn[0]._replace(same_as=0))
    policy = draw(st.sampled_from(["maintain", *({"interpolate", "reset"} & has)]))
    alpha = draw(ALPHAS if "schedule" in has else FRACTIONS)
    period = draw(st.one_of(PERIODS, st.just(growing)) if "period_schedule" in has else PERIODS)
    setup = Setup(tuple(drawn), period, alpha, policy, inner)
    return draw(relatives(setup, has)) if draw(st.integers(0, 2)) == 2 else setup


@st.composite
def presets(draw, has):
    """A preset that the adapter has, on any leaves of its own dtype."""
    known = [setup for setup in PRESETS.values() if needed(setup) <= has]
    drawn = draw(st.lists(leaves(st.just("float64"), ONE), min_size=1, max_size=3))
    return draw(st.sampled_from(known))._replace(leaves=tuple(drawn))


@st.composite
def relatives(draw, setup, has):
    """`setup` with another rule of the family, as far as the driver has it."""
    averages = draw(st.booleans()) and setup.inner_state != "interpolate"
    if "gradient_point" in has and averages:
        setup = setup._replace(outer=draw(gradient_points("inner_lr" in has)))
    elif "outer_momentum" in has and draw(st.booleans()):
        outer = st.builds(Outer, FRACTIONS, st.sampled_from([0.0, 0.25, 0.5]), st.booleans())
        setup = setup._replace(outer=draw(outer))
    blends = setup.inner_state == "interpolate"  # by a fraction, which nested rules have not
    divides = not callable(setup.sync_period)  # as one period of nested rules does the other
    if "nested" in has and divides and not blends and draw(st.booleans()):
        restart = st.sampled_from([0.0, 0.25, 1.0])
        setup = setup._replace(
            second=draw(st.builds(Second, st.integers(1, 3), FRACTIONS, restart))
        )
    elif "restart" in has and draw(st.booleans()):
        restart, period = draw(st.sampled_from([0.0, 0.25, 1.0])), draw(st.integers(1, 3))
        setup = setup._replace(restart=restart, restart_period=period, inner_state="maintain")
    if "start" in has:
        setup = setup._replace(start=draw(st.integers(0, 4)))
    return setup


def gradient_points(with_rates):
    """Rules that decide where gradients are taken."""
    mu_x = st.one_of(FRACTIONS, st.none()) if with_rates else FRACTIONS
    powers = st.sampled_from([0.0, 2.0]), st.sampled_from([0.0, 1.0])
    averaging = st.builds(Averaging, mu_x, FRACTIONS, *powers)
    ahead = st.builds(Ahead, st.sampled_from([-0.5, 0.0, 0.9]), st.sampled_from([0.0, 0.5, 0.99]))
    return st.one_of(averaging, ahead)


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

        @rule(seeds=st.lists(SEEDS, min_size=1, max_size=4), missing=st.integers(0, 15))
        def step(self, seeds, missing):
            for own in seeds:
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
        @rule(index=INDICES, edit=st.sampled_from([*INNER_EDITS]))
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
        @rule(lr=RATES)
        def set_learning_rate(self, lr):
            driver.set_learning_rate(self.run, lr)
            self.model.lr = lr

        @can("add_group")
        @precondition(lambda self: len(self.leaves) < 6)
        @rule(data=st.data(), own=OWN)
        def add_group(self, data, own):
            rates = st.sampled_from([1.0, 0.25])
            leaf = data.draw(leaves(dtypes_of(self.setup.inner, self.has), rates))
            own = self.settings(own)
            self.leaves.append(leaf)
            self.largest.append(1.0)
            self.model.add_group(leaf.values, leaf.rate, **own)
            self.build("add_group", leaf, own)
            self.compare()

        @can("set_in_group")
        @rule(index=INDICES, own=OWN)
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

        @rule(evaluating=st.booleans())
        def save(self, evaluating):
            evaluating = evaluating and "evaluating" in self.has
            with driver.evaluating(self.run) if evaluating else nullcontext():
                saved = driver.save(self.run)
            kept = self.model, self.leaves, self.largest
            self.saved = (saved, *copy.deepcopy(kept), [*self.built])
            self.compare()

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
            assert_alike(machine(driver, has, setups(has)), piece, EXAMPLES)


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
            drawn = machine(driver, has, presets(has))
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
    drawn = setups(has).map(change) if change else setups(has)
    # Found is enough: a small example is for people.
    search = settings(max_examples=300, database=None, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(broken, has, drawn), settings=search)
