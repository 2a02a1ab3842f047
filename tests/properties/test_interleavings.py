"""Random leaves, settings and gradients, and any order of steps, syncs, restarts, evaluations and
edits of moments: every adapter stays with the oracle.
"""

import contextlib
import math
from importlib import import_module

import pytest
from hypothesis import Phase, settings
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
    Oracle,
    Outer,
    Second,
    Setup,
)
from lookahead_core.conformance.assertions import require_equal, require_within
from lookahead_core.conformance.family import PRESETS, growing, needed
from lookahead_core.conformance.runs import policies

# Rounding of a run of 25 steps, momentum included: 9e-13 in float64.
EPS = 4096
NUMBERS = st.integers(-64, 64).map(lambda n: n / 8)


@st.composite
def leaves(draw, dtypes):
    """Up to three leaves of zero to two dimensions, some of them empty or complex."""
    shape, dtype = draw(st.lists(st.integers(0, 3), max_size=2).map(tuple)), draw(dtypes)
    size = math.prod(shape) * (2 if dtype.startswith("complex") else 1)
    return Leaf(tuple(draw(st.lists(NUMBERS, min_size=size, max_size=size))), dtype, shape)


@st.composite
def setups(draw, driver):
    """Any setting that the driver can make."""
    has = driver.capabilities
    inners = [
        st.builds(
            Inner, st.just("sgd"), lr=st.sampled_from([2.0**-5, 0.1, 0.5]), momentum=st.just(0.0)
        )
    ]
    if "momentum" in has:
        inners.append(
            st.builds(Inner, st.just("sgd"), lr=st.just(0.1), momentum=st.sampled_from([0.5, 0.9]))
        )
    if "adam" in has:
        inners.append(st.builds(Inner, st.just("adam"), lr=st.just(0.01)))
    inner = draw(st.one_of(inners))
    # Adam is not linear: frameworks differ on complex numbers and on leaves that are listed twice.
    linear = inner.kind == "sgd"
    dtypes = [d for d in ("float32", *(["complex128", "complex64"] if linear else [])) if d in has]
    drawn = draw(st.lists(leaves(st.sampled_from(["float64", *dtypes])), min_size=1, max_size=3))
    if linear and "tied" in has and draw(st.booleans()):
        drawn.append(drawn[0]._replace(same_as=0))
    setup = Setup(
        leaves=tuple(drawn),
        sync_period=draw(periods(has)),
        alpha=draw(st.floats(0, 1)),
        inner_state=draw(st.sampled_from(policies(driver))),
        inner=inner,
    )
    return draw(relatives(setup, has)) if draw(st.booleans()) else setup


def periods(has):
    """A number, or a schedule of the syncs."""
    numbers = st.integers(1, 7)
    return st.one_of(numbers, st.just(growing)) if "period_schedule" in has else numbers


@st.composite
def presets(draw, driver):
    """A preset that the driver has, on any leaves of its own dtype."""
    has = [name for name, setup in PRESETS.items() if needed(setup) <= driver.capabilities]
    drawn = draw(st.lists(leaves(st.just("float64")), min_size=1, max_size=3))
    return PRESETS[draw(st.sampled_from(has))]._replace(leaves=tuple(drawn))


@st.composite
def relatives(draw, setup, has):
    """`setup` with another rule of the family, as far as the driver has it."""
    averages = draw(st.booleans()) and setup.inner_state != "interpolate"
    if "gradient_point" in has and averages:
        setup = setup._replace(outer=draw(gradient_points("inner_lr" in has)))
    elif "outer_momentum" in has and draw(st.booleans()):
        numbers = draw(st.floats(0, 1)), draw(st.floats(0, 0.5))
        setup = setup._replace(outer=Outer(*numbers, draw(st.booleans())))
    blends = setup.inner_state == "interpolate"  # by a fraction, which nested rules have not
    divides = not callable(setup.sync_period)  # as one period of nested rules does the other
    if "nested" in has and divides and not blends and draw(st.booleans()):
        restart = st.sampled_from([0.0, 0.25, 1.0])
        second = draw(st.builds(Second, st.integers(1, 3), st.floats(0, 1), restart))
        setup = setup._replace(second=second)
    elif "restart" in has and draw(st.booleans()):
        restart, period = draw(st.sampled_from([0.0, 0.25, 1.0])), draw(st.integers(1, 3))
        setup = setup._replace(restart=restart, restart_period=period, inner_state="maintain")
    if "start" in has:
        setup = setup._replace(start=draw(st.integers(0, 4)))
    return setup


def gradient_points(with_rates):
    """Rules that decide where gradients are taken."""
    mu_x = st.one_of([st.floats(0, 1), *([st.none()] if with_rates else [])])
    powers = st.sampled_from([0.0, 2.0]), st.sampled_from([0.0, 1.0])
    averaging = st.builds(Averaging, mu_x, st.floats(0, 1), *powers)
    return st.one_of(averaging, st.builds(Ahead, st.floats(-0.5, 0.9), st.floats(0, 0.99)))


def machine(driver, setups):
    """A state machine that works `driver` and the oracle side by side."""

    class Interleavings(RuleBasedStateMachine):
        @initialize(setup=setups)
        def start(self, setup):
            self.setup = setup
            self.run, self.oracle = driver.make(setup), Oracle(setup)
            # Adam's come with a count, and a tied leaf's are one for all of its listings.
            tied = any(leaf.same_as is not None for leaf in setup.leaves)
            has_momentum = setup.inner.kind != "adam" and setup.inner.momentum > 0
            self.has_moments = has_momentum and not tied

        @rule(data=st.data())
        def step(self, data):
            gradients = [
                data.draw(st.lists(NUMBERS, min_size=len(leaf.values), max_size=len(leaf.values)))
                for leaf in self.setup.leaves
            ]
            driver.step(self.run, gradients)
            self.oracle.step(gradients)
            self.compare("a step")

        @precondition(lambda self: "forced_sync" in driver.capabilities)
        @rule()
        def sync(self):
            driver.sync(self.run)
            self.oracle.sync()
            self.compare("a forced sync")

        @precondition(lambda self: self.has_moments and "edit_inner" in driver.capabilities)
        @rule(index=st.integers(0, 2), edit=st.sampled_from([*INNER_EDITS]))
        def edit_inner(self, index, edit):
            index %= len(self.setup.leaves)
            # What has been taken away is made anew by the next step, and not by a sync.
            edit = "zero" if edit == "remove" and self.oracle.steps > 0 else edit
            driver.edit_inner(self.run, index, edit)
            self.oracle.edit_inner(index, INNER_EDITS[edit])

        @rule()
        def restart(self):
            before = driver.fast(self.run), driver.slow(self.run)
            self.run = driver.load(self.setup, driver.save(self.run))
            require_equal(driver.fast(self.run), before[0], "fast weights after a restart")
            require_equal(driver.slow(self.run), before[1], "slow weights after a restart")

        @rule()
        def evaluate(self):
            before = driver.fast(self.run)
            slow = driver.evaluate(self.run)
            require_within(slow, self.oracle.slow, self.setup.leaves, EPS, "evaluated weights")
            require_equal(driver.fast(self.run), before, "fast weights after an evaluation")

        def compare(self, after):
            weights = [(driver.fast, self.oracle.fast)]
            weights += [(driver.slow, self.oracle.slow)] if self.oracle.begun else []
            for read, exact in weights:
                require_within(read(self.run), exact, self.setup.leaves, EPS, f"after {after}")

    return Interleavings


def driver_of(backend):
    """The backend's driver, and the settings of its framework that the tests need."""
    if backend == "jax":
        jax = import_module("jax")
        return import_module("drivers.optax_driver").OptaxDriver(), jax.enable_x64(True)
    module, name = {
        "numpy": ("drivers.array_driver", "ArrayDriver"),
        "torch": ("drivers.torch_driver", "TorchDriver"),
        "mlx": ("drivers.mlx_driver", "MlxDriver"),
    }[backend]
    return getattr(import_module(module), name)(), contextlib.nullcontext()


@pytest.mark.clause(
    *("C02", "C05", "C06", "C16", "C17", "C18", "C22", "C29", "C71", "C72", "C73", "C74", "C78"),
    *("C85", "C86", "C87", "C90"),
)
def test_the_adapter_stays_with_the_oracle_whatever_the_order(backend):
    driver, framework = driver_of(backend)
    with framework:
        run_state_machine_as_test(machine(driver, setups(driver)))


@pytest.mark.clause("C02", "C05", "C06", "C22", "C79")
def test_every_preset_stays_with_the_oracle_whatever_the_order(backend):
    """With NumPy also on strict arrays; `pytest --hypothesis-profile full` for 2,000 on each."""
    drivers = [driver_of(backend)]
    if backend == "numpy":
        strict = import_module("drivers.array_driver").ArrayDriver("array_api_strict")
        drivers.append((strict, contextlib.nullcontext()))
    examples = settings().max_examples
    search = settings(max_examples=examples if examples > 100 else examples // 3)
    for driver, framework in drivers:
        with framework:
            run_state_machine_as_test(machine(driver, presets(driver)), settings=search)


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
    own = setup.leaves, setup.sync_period, setup.alpha
    return Setup(*own, inner_state="interpolate", inner=Inner(momentum=0.5))


@pytest.mark.parametrize(
    ("broken", "drawn"),
    [
        (PlainDriver(ForgetsTheCounter), setups(PlainDriver())),
        (KeepsTheCounterAtAForcedSync(), setups(PlainDriver())),
        (PlainDriver(KeepsTheSlowCopyOfTheInnerState), setups(PlainDriver()).map(blending)),
    ],
)
def test_a_broken_adapter_is_found(broken, drawn):
    # Found is enough: a small example is for people.
    search = settings(max_examples=300, database=None, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(broken, drawn), settings=search)
