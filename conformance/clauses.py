"""The adapter clauses of docs/spec.md as checks: plain functions of a driver, one a clause.

A check raises AssertionError with what it saw. `needs` names capabilities without which a clause
cannot be asked of an adapter. Gradients and settings are dyadic numbers, so that low-precision
runs stay exact where a clause is about equality.
"""

import math
from collections.abc import Callable
from decimal import Decimal
from itertools import product
from typing import Any, NamedTuple

from .assertions import require, require_equal, require_within
from .driver import AdapterDriver
from .oracle import Oracle
from .setup import EPS, Gradients, Inner, Leaf, Setup, Values

__all__ = ["CLAUSES", "Clause"]

K = 5
STEPS = 4 * K + 3
# A step rounds a few times; what it leaves over adds up over STEPS of them.
SGD_EPS, ADAM_EPS = 64, 512
# No leaf's values are a rounded version of another's, and none is zero.
LEAVES = (Leaf((1.0, -2.0, 3.0)), Leaf((0.5, 4.0)))
MOMENTUM, ADAM = Inner(momentum=0.5), Inner("adam", lr=0.0625)


class Clause(NamedTuple):
    """A clause that is checked on adapters.

    Attributes
    ----------
    name : str
        Its number in docs/spec.md.
    title : str
        What it says, in a few words.
    check : callable, (driver) -> None
        Raises AssertionError if the adapter does not hold it.
    needs : frozenset of str
        Capabilities of the driver that it uses.
    """

    name: str
    title: str
    check: Callable[[AdapterDriver], None]
    needs: frozenset[str]


CLAUSES: dict[str, Clause] = {}


def clause(name: str, title: str, *needs: str) -> Callable[[Any], Any]:
    """Register a check under the number of its clause."""

    def register(check: Callable[[AdapterDriver], None]) -> Callable[[AdapterDriver], None]:
        CLAUSES[name] = Clause(name, title, check, frozenset(needs))
        return check

    return register


# --- when ---


@clause("C01", "the anchor is theta_0")
def c01_anchor(driver: AdapterDriver) -> None:
    setup = Setup(LEAVES)
    run = driver.make(setup)
    require_equal(driver.slow(run), starts(setup), "slow weights before any step")
    for step in range(1, K):
        driver.step(run, gradients(setup, step))
        require_equal(driver.slow(run), starts(setup), f"slow weights after step {step}")


@clause("C02", "a sync comes on step k, 2k, 3k and on no other")
def c02_cadence(driver: AdapterDriver) -> None:
    for k in (2, 3, K):
        follow(driver, Setup(LEAVES, k, 0.5), f"k={k}")


@clause("C03", "a step that is thrown away does not count", "skip")
def c03_skipped_steps(driver: AdapterDriver) -> None:
    setup = Setup(LEAVES, 3)
    run, oracle = driver.make(setup), Oracle(setup)
    for step in range(1, 8):
        driver.skip(run)
        require_within(driver.fast(run), oracle.fast, LEAVES, SGD_EPS, f"skip before {step}")
        advance(driver, run, oracle, step)
        require_within(driver.fast(run), oracle.fast, LEAVES, SGD_EPS, f"step {step}")


@clause("C04", "k = 1 is SGD at alpha times the rate")
def c04_period_of_one(driver: AdapterDriver) -> None:
    for alpha in (0.25, 0.5, 0.75):
        follow(driver, Setup(LEAVES, 1, alpha), f"k=1, alpha={alpha}")


@clause("C05", "a forced sync restarts the counter", "forced_sync")
def c05_forced_sync(driver: AdapterDriver) -> None:
    setup = Setup(LEAVES, K)
    for when in range(1, K):
        run, oracle = driver.make(setup), Oracle(setup)
        for step in range(1, 2 * K + 3):
            advance(driver, run, oracle, step)
            if step == when:
                driver.sync(run)
                oracle.sync()
            case = f"sync forced after step {when}, step {step}"
            require_within(driver.fast(run), oracle.fast, LEAVES, SGD_EPS, case)


@clause("C06", "a saved state resumes exactly at every phase")
def c06_resume(driver: AdapterDriver) -> None:
    for phase, setup in product(range(K), variants(driver)):
        undisturbed, run = driver.make(setup), driver.make(setup)
        for step in range(1, STEPS):
            driver.step(undisturbed, gradients(setup, step))
            driver.step(run, gradients(setup, step))
            if step == K + phase:
                saved = driver.save(run)
                driver.step(run, gradients(setup, 99))  # what was saved must not follow
                run = driver.load(setup, saved)
            case = f"{describe(setup)}, saved at phase {phase}, step {step}"
            require_equal(driver.fast(run), driver.fast(undisturbed), case)


# --- how the slow weights move ---


@clause("C09", "alpha = 1 is the inner optimizer")
def c09_alpha_one(driver: AdapterDriver) -> None:
    for setup in variants(driver, alpha=1.0, acted_on=("maintain",)):
        bare = setup._replace(sync_period=10**6)  # never syncs
        run, alone = driver.make(setup), driver.make(bare)
        for step in range(1, STEPS):
            driver.step(run, gradients(setup, step))
            driver.step(alone, gradients(setup, step))
            case = f"{describe(setup)}, step {step}"
            same(driver, driver.fast(run), driver.fast(alone), setup, case)


@clause("C10", "fast equals slow after a sync")
def c10_fast_is_slow(driver: AdapterDriver) -> None:
    for alpha in (0.1, 0.3, 0.5, 0.8):
        setup = Setup(LEAVES, 3, alpha, inner=Inner(lr=0.1))
        run = driver.make(setup)
        for step in range(1, 10):
            driver.step(run, gradients(setup, step))
            if step % 3 == 0:
                case = f"alpha={alpha}, step {step}"
                require_equal(driver.fast(run), driver.slow(run), case)


@clause("C11", "a leaf without a gradient is still synced", "missing_gradient")
def c11_leaf_without_gradient(driver: AdapterDriver) -> None:
    setup = Setup(LEAVES, K)
    run, oracle = driver.make(setup), Oracle(setup)
    for step in range(1, 2 * K + 1):
        given = list(gradients(setup, step))
        given[1] = None if step % K == 0 else given[1]
        driver.step(run, given)
        oracle.step(given)
        require_within(driver.fast(run), oracle.fast, LEAVES, SGD_EPS, f"step {step}")


@clause("C12", "a non-finite step that does not sync never reaches the slow weights")
def c12_non_finite(driver: AdapterDriver) -> None:
    for poison, policy in product((math.nan, math.inf), policies(driver)):
        setup = Setup(LEAVES, 3, inner_state=policy)
        run = driver.make(setup)
        driver.step(run, [[poison] * len(leaf.values) for leaf in LEAVES])
        case = f"a gradient of {poison} at step 1 of 3, {policy}"
        require_equal(driver.slow(run), starts(setup), case)


@clause("C13", "with alpha = 0 the slow weights never move")
def c13_alpha_zero(driver: AdapterDriver) -> None:
    setup = Setup(LEAVES, K, 0.0)
    run = driver.make(setup)
    for step in range(1, 2 * K + 1):
        driver.step(run, gradients(setup, step))
        if step % K == 0:
            same(driver, driver.fast(run), starts(setup), setup, f"step {step}")


@clause("C14", "integer leaves keep their live value", "int32", "edit", "missing_gradient")
def c14_integers(driver: AdapterDriver) -> None:
    setup = Setup((Leaf((1.0, 2.0)), Leaf((4.0, 7.0), "int32", trained=False)), 2)
    run = driver.make(setup)
    driver.step(run, [[0.5, 0.5], None])
    (weights, _) = driver.fast(run)
    driver.edit(run, [weights, [9.0, 12.0]])
    driver.step(run, [[0.5, 0.5], None])
    require_equal(driver.fast(run)[1:], [[9.0, 12.0]], "an int32 leaf after a sync")


@clause("C15", "slow weights may live in a wider dtype", "bfloat16", "slow_dtype")
def c15_wide_slow_weights(driver: AdapterDriver) -> None:
    setup = Setup((Leaf((1.0,), "bfloat16"),), 1, 0.25, slow_dtype="float32")
    run = driver.make(setup._replace(inner=Inner(lr=2.0**-7)))
    for _ in range(8):
        driver.step(run, [[-1.0]])
    (moved,) = driver.slow(run)
    # Each sync moves a quarter of bfloat16's step at 1, which is rounded away without float32.
    require(moved[0] > 1.0078125, f"8 moves of 2**-9 from 1 must add up, got {moved[0]}")


# --- what happens to the inner state ---


@clause("C16", "maintain leaves the inner state alone", "momentum")
def c16_maintain(driver: AdapterDriver) -> None:
    follow_inner(driver, "maintain")


@clause(
    "C17", "reset starts the inner state again, its step count included", "momentum", "inner_state"
)
def c17_reset(driver: AdapterDriver) -> None:
    follow_inner(driver, "reset")


@clause("C18", "interpolate blends the inner state with a slow copy", "momentum", "inner_state")
def c18_interpolate(driver: AdapterDriver) -> None:
    follow_inner(driver, "interpolate")


# --- how it runs ---


@clause("C22", "evaluating on the slow weights changes nothing", "evaluate")
def c22_evaluation(driver: AdapterDriver) -> None:
    for setup in variants(driver):
        undisturbed, run = driver.make(setup), driver.make(setup)
        for step in range(1, STEPS):
            driver.step(undisturbed, gradients(setup, step))
            driver.step(run, gradients(setup, step))
            case = f"{describe(setup)}, step {step}"
            require_equal(driver.evaluate(run), driver.slow(undisturbed), f"evaluate: {case}")
            require_equal(driver.fast(run), driver.fast(undisturbed), f"fast: {case}")
            require_equal(driver.slow(run), driver.slow(undisturbed), f"slow: {case}")


# --- what adapters add ---


@clause("C26", "a cycle starts from the weights as they are", "edit")
def c26_loaded_weights(driver: AdapterDriver) -> None:
    loaded = [[10.0, 20.0, 30.0], [40.0, 50.0]]
    for before in (0, K, 2 * K):
        setup = Setup(LEAVES, K)
        run = driver.make(setup)
        for step in range(1, before + 1):
            driver.step(run, gradients(setup, step))
        driver.edit(run, loaded)
        fresh = setup._replace(leaves=tuple(Leaf(tuple(values)) for values in loaded))
        oracle = Oracle(fresh)
        for step in range(1, K + 1):
            advance(driver, run, oracle, step)
            case = f"loaded after {before} steps, step {step} of the cycle"
            require_within(driver.fast(run), oracle.fast, fresh.leaves, SGD_EPS, case)


@clause("C27", "leaves that are not trained are left alone", "frozen", "edit", "missing_gradient")
def c27_frozen(driver: AdapterDriver) -> None:
    setup = Setup((LEAVES[0], LEAVES[1]._replace(trained=False)), 3)
    run = driver.make(setup)
    for step in range(1, 7):
        driver.step(run, [gradients(setup, step)[0], None])
        if step == 1:
            driver.edit(run, [driver.fast(run)[0], [9.0, 9.5]])
    require_equal(driver.fast(run)[1:], [[9.0, 9.5]], "a frozen leaf, edited after step 1")


@clause("C28", "every floating dtype follows the oracle and keeps its dtype")
def c28_dtypes(driver: AdapterDriver) -> None:
    for dtype in EPS:
        if dtype == "float64" or dtype in driver.capabilities:
            leaves = tuple(leaf._replace(dtype=dtype) for leaf in LEAVES)
            follow(driver, Setup(leaves, 3, 0.25), dtype, steps=7)
    if "float32" in driver.capabilities:
        for first, second in (("float64", "float32"), ("float32", "float64")):
            mixed = (LEAVES[0]._replace(dtype=first), LEAVES[1]._replace(dtype=second))
            follow(driver, Setup(mixed, 3, 0.3, inner=Inner(lr=0.1)), f"{first} beside {second}")


@clause("C29", "leaves of any shape: scalars, empty ones, several dimensions")
def c29_shapes(driver: AdapterDriver) -> None:
    leaves = (
        Leaf((2.0,), shape=()),
        Leaf((), shape=(0, 3)),
        Leaf((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), shape=(2, 3)),
    )
    follow(driver, Setup(leaves, 3, 0.3), "shapes (), (0, 3) and (2, 3)")


@clause("C30", "a schedule on the inner learning rate is followed", "learning_rate")
def c30_learning_rate(driver: AdapterDriver) -> None:
    setup = Setup(LEAVES, 3)
    run, oracle = driver.make(setup), Oracle(setup)
    for step in range(1, 10):
        rate = 2.0**-step
        driver.set_learning_rate(run, rate)
        oracle.lr = rate
        advance(driver, run, oracle, step)
        case = f"rate {rate}, step {step}"
        require_within(driver.fast(run), oracle.fast, LEAVES, SGD_EPS, case)


# --- what checks are made of ---


def gradients(setup: Setup, step: int) -> Gradients:
    """Gradients of a step: dyadic, of both signs, different for each element and step."""
    return [
        [(-1.0) ** (i + j) * ((step * (j + 3)) % 8 + 1) / 8 for j in range(len(leaf.values))]
        for i, leaf in enumerate(setup.leaves)
    ]


def advance(driver: AdapterDriver, run: Any, oracle: Oracle, step: int) -> None:
    """The same step for both."""
    given = gradients(oracle.setup, step)
    driver.step(run, given)
    oracle.step(given)


def follow(
    driver: AdapterDriver, setup: Setup, case: str, steps: int = STEPS, eps: int = SGD_EPS
) -> None:
    """Compare fast and slow weights with the oracle's after each step."""
    run, oracle = driver.make(setup), Oracle(setup)
    for step in range(1, steps + 1):
        advance(driver, run, oracle, step)
        where = f"{case}, step {step}"
        require_within(driver.fast(run), oracle.fast, setup.leaves, eps, f"fast: {where}")
        require_within(driver.slow(run), oracle.slow, setup.leaves, eps, f"slow: {where}")


def follow_inner(driver: AdapterDriver, policy: str) -> None:
    """Follow the oracle under `policy` with momentum, and with Adam where there is one."""
    follow(driver, Setup(LEAVES, K, 0.25, policy, MOMENTUM), f"{policy}, momentum")
    if "adam" in driver.capabilities:
        follow(driver, Setup(LEAVES, K, 0.25, policy, ADAM), f"{policy}, Adam", eps=ADAM_EPS)


def policies(driver: AdapterDriver) -> tuple[str, ...]:
    """The inner-state policies that the adapter has."""
    others = ("reset", "interpolate") if "inner_state" in driver.capabilities else ()
    return ("maintain", *others)


def variants(
    driver: AdapterDriver, alpha: float = 0.3, acted_on: tuple[str, ...] = ()
) -> list[Setup]:
    """Settings with every inner optimizer, and every policy or those in `acted_on`."""
    inners = [Inner()]
    inners += [MOMENTUM] if "momentum" in driver.capabilities else []
    inners += [ADAM] if "adam" in driver.capabilities else []
    return [
        Setup(LEAVES, K, alpha, policy, inner)
        for inner, policy in product(inners, acted_on or policies(driver))
    ]


def same(driver: AdapterDriver, got: Values, expected: Values, setup: Setup, case: str) -> None:
    """Equal bit for bit where arithmetic runs as written, else within rounding."""
    if driver.eager:
        require_equal(got, expected, case)
    else:
        exact = [[Decimal(value) for value in leaf] for leaf in expected]
        require_within(got, exact, setup.leaves, SGD_EPS, case)


def starts(setup: Setup) -> Values:
    return [list(leaf.values) for leaf in setup.leaves]


def describe(setup: Setup) -> str:
    return f"{setup.inner.kind}, momentum {setup.inner.momentum}, {setup.inner_state}"
