"""The adapter clauses of docs/spec.md as checks: plain functions of a driver, one a clause.

A check raises AssertionError with what it saw. `needs` names capabilities without which a clause
cannot be asked of an adapter. What the checks are made of is runs.py.
"""

import math
from itertools import product
from typing import Any

from .assertions import require, require_equal, require_within
from .driver import INNER_EDITS
from .registry import clause
from .runs import (
    ADAM,
    ADAM_EPS,
    LEAVES,
    MOMENTUM,
    SGD_EPS,
    STEPS,
    K,
    advance,
    describe,
    follow,
    follow_inner,
    gradients,
    policies,
    resume,
    same,
    starts,
    variants,
)
from .setup import Inner, Leaf, Setup
from .worked import Worked

__all__: list[str] = []

# --- when ---


@clause("C01", "the anchor is theta_0")
def c01_anchor(driver: Worked) -> None:
    setup = Setup(LEAVES)
    run = driver.make(setup)
    require_equal(driver.slow(run), starts(setup), "slow weights before any step")
    for step in range(1, K):
        driver.step(run, gradients(setup, step))
        require_equal(driver.slow(run), starts(setup), f"slow weights after step {step}")


@clause("C02", "a sync comes on step k, 2k, 3k and on no other")
def c02_cadence(driver: Worked) -> None:
    for k in (2, 3, K):
        follow(driver, Setup(LEAVES, k, 0.5), f"k={k}")


@clause("C03", "a step that is thrown away does not count", "skip")
def c03_skipped_steps(driver: Worked) -> None:
    setup = Setup(LEAVES, 3)
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, 8):
        driver.skip(run)
        require_within(
            driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, f"skip before {step}"
        )
        advance(driver, run, oracle, step)
        require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, f"step {step}")


@clause("C04", "k = 1 is SGD at alpha times the rate")
def c04_period_of_one(driver: Worked) -> None:
    for alpha in (0.25, 0.5, 0.75):
        follow(driver, Setup(LEAVES, 1, alpha), f"k=1, alpha={alpha}")


@clause("C05", "a forced sync restarts the counter", "forced_sync")
def c05_forced_sync(driver: Worked) -> None:
    setup = Setup(LEAVES, K)
    for when in range(1, K):
        run, oracle = driver.make(setup), driver.oracle(setup)
        for step in range(1, 2 * K + 3):
            advance(driver, run, oracle, step)
            if step == when:
                driver.sync(run)
                oracle.sync()
            case = f"sync forced after step {when}, step {step}"
            require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, case)


@clause("C06", "a saved state resumes exactly at every phase, and saving changes nothing")
def c06_resume(driver: Worked) -> None:
    settings = variants(driver)
    if {"bfloat16", "slow_dtype"} <= driver.capabilities:
        narrow = tuple(leaf._replace(dtype="bfloat16") for leaf in LEAVES)
        settings.append(Setup(narrow, alpha=0.3, slow_dtype="float32", inner=Inner(lr=0.1)))
    for index, setup in enumerate(settings):
        # Each setting at each phase takes as long as half of all the other clauses.
        phases = range(K) if driver.thorough or index == 0 else (0, K - 2)
        resume(driver, setup, [K + phase for phase in phases], STEPS, describe(setup))


# --- how the slow weights move ---


@clause("C09", "alpha = 1 is the inner optimizer")
def c09_alpha_one(driver: Worked) -> None:
    for setup in variants(driver, alpha=1.0, acted_on=("maintain",)):
        bare = setup._replace(sync_period=10**6)  # never syncs
        run, alone = driver.make(setup), driver.make(bare)
        for step in range(1, STEPS):
            driver.step(run, gradients(setup, step))
            driver.step(alone, gradients(setup, step))
            case = f"{describe(setup)}, step {step}"
            same(driver, driver.fast(run), driver.fast(alone), setup, case)


@clause("C10", "fast equals slow after a sync")
def c10_fast_is_slow(driver: Worked) -> None:
    for alpha in (0.1, 0.3, 0.5, 0.8):
        # Moves large enough that p + (slow - p) is not slow in floating point.
        setup = Setup(LEAVES, 3, alpha, inner=Inner(lr=1.3))
        run = driver.make(setup)
        for step in range(1, 31):
            driver.step(run, gradients(setup, step))
            if step % 3 == 0:
                case = f"alpha={alpha}, step {step}"
                require_equal(driver.fast(run), driver.slow(run), case)


@clause("C11", "a leaf without a gradient is still synced", "missing_gradient")
def c11_leaf_without_gradient(driver: Worked) -> None:
    setup = Setup(LEAVES, K)
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, 2 * K + 1):
        given = list(gradients(setup, step))
        given[1] = None if step % K == 0 else given[1]
        driver.step(run, given)
        oracle.step(given)
        require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, f"step {step}")


@clause("C12", "a non-finite step that does not sync never reaches the slow weights")
def c12_non_finite(driver: Worked) -> None:
    for poison, policy in product((math.nan, math.inf), policies(driver)):
        setup = Setup(LEAVES, 3, inner_state=policy)
        run = driver.make(setup)
        driver.step(run, [[poison] * len(leaf.values) for leaf in LEAVES])
        case = f"a gradient of {poison} at step 1 of 3, {policy}"
        require_equal(driver.slow(run), starts(setup), case)


@clause("C13", "with alpha = 0 the slow weights never move")
def c13_alpha_zero(driver: Worked) -> None:
    setup = Setup(LEAVES, K, 0.0)
    run = driver.make(setup)
    for step in range(1, 2 * K + 1):
        driver.step(run, gradients(setup, step))
        if step % K == 0:
            same(driver, driver.fast(run), starts(setup), setup, f"step {step}")


@clause("C14", "integer leaves keep their live value", "int32", "edit", "missing_gradient")
def c14_integers(driver: Worked) -> None:
    setup = Setup((Leaf((1.0, 2.0)), Leaf((4.0, 7.0), "int32", trained=False)), 2)
    run = driver.make(setup)
    driver.step(run, [[0.5, 0.5], None])
    (weights, _) = driver.fast(run)
    driver.edit(run, [weights, [9.0, 12.0]])
    driver.step(run, [[0.5, 0.5], None])
    require_equal(driver.fast(run)[1:], [[9.0, 12.0]], "an int32 leaf after a sync")


@clause("C15", "slow weights may live in a wider dtype", "bfloat16", "slow_dtype")
def c15_wide_slow_weights(driver: Worked) -> None:
    setup = Setup((Leaf((1.0,), "bfloat16"),), 1, 0.25, slow_dtype="float32")
    run = driver.make(setup._replace(inner=Inner(lr=2.0**-7)))
    for _ in range(8):
        driver.step(run, [[-1.0]])
    (moved,) = driver.slow(run)
    # Each sync moves a quarter of bfloat16's step at 1, which is rounded away without float32.
    require(moved[0] > 1.0078125, f"8 moves of 2**-9 from 1 must add up, got {moved[0]}")


# --- what happens to the inner state ---


@clause("C16", "maintain leaves the inner state alone", "momentum")
def c16_maintain(driver: Worked) -> None:
    follow_inner(driver, "maintain")


@clause(
    "C17",
    "reset starts the inner state again, its step count included",
    "edit",
    "momentum",
    "reset",
)
def c17_reset(driver: Worked) -> None:
    follow_inner(driver, "reset")
    for inner in (MOMENTUM, ADAM) if "adam" in driver.capabilities else (MOMENTUM,):
        reset_from_nan(driver, Setup(LEAVES, 3, 0.5, "reset", inner))


def reset_from_nan(driver: Worked, setup: Setup) -> None:
    """Weights that diverged are loaded anew after a sync: the moments must be new as well."""
    run, oracle = driver.make(setup), driver.oracle(setup)
    for _ in range(setup.sync_period):
        driver.step(run, [[math.nan] * len(leaf.values) for leaf in LEAVES])
    driver.edit(run, starts(setup))
    for step in range(1, setup.sync_period):
        advance(driver, run, oracle, step)
        case = f"{describe(setup)}, step {step} after a NaN in the moments was reset"
        require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, ADAM_EPS, case)


@clause("C18", "interpolate blends the inner state with a slow copy", "momentum", "interpolate")
def c18_interpolate(driver: Worked) -> None:
    follow_inner(driver, "interpolate")
    setup = Setup(LEAVES, K, 0.25, "interpolate", MOMENTUM)
    edits = INNER_EDITS if "edit_inner" in driver.capabilities else ()
    # Between two cycles the next slow copy is of what there is then; in mid-cycle it stays.
    for edit, when in product(edits, (K - 2, K, K + 2)):
        edited_moments(driver, setup, edit, when)
    if "freeze" in driver.capabilities:
        rejoining(driver, setup)


def edited_moments(driver: Worked, setup: Setup, edit: str, when: int) -> None:
    """The moments of one leaf are edited after step `when`."""
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, 3 * K + 1):
        advance(driver, run, oracle, step)
        if step == when:
            driver.edit_inner(run, 1, edit)
            oracle.edit_inner(1, INNER_EDITS[edit])
        case = f"{edit} the moments after step {when}, step {step}"
        require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, case)


def rejoining(driver: Worked, setup: Setup) -> None:
    """A leaf is frozen when a cycle begins, thaws in the middle of it, and is in the next one."""
    run, oracle, k = driver.make(setup), driver.oracle(setup), setup.sync_period
    for step in range(1, 4 * k + 1):
        if step in (k + 1, k + 2):
            driver.train(run, 1, step > k + 1)
            oracle.train(1, step > k + 1)
        given = list(gradients(setup, step))
        given[1] = given[1] if oracle.trained[1] else None
        driver.step(run, given)
        oracle.step(given)
        case = f"frozen after step {k}, thawed after step {k + 1}, {setup.inner_state}, step {step}"
        require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, case)


# --- how it runs ---


@clause("C22", "evaluating the read-out changes nothing", "evaluate")
def c22_evaluation(driver: Worked) -> None:
    for setup in variants(driver):
        undisturbed, run = driver.make(setup), driver.make(setup)
        for step in range(1, STEPS):
            driver.step(undisturbed, gradients(setup, step))
            driver.step(run, gradients(setup, step))
            case = f"{describe(setup)}, step {step}"
            require_equal(driver.evaluate(run), driver.slow(undisturbed), f"evaluate: {case}")
            require_equal(driver.fast(run), driver.fast(undisturbed), f"fast: {case}")
            require_equal(driver.slow(run), driver.slow(undisturbed), f"slow: {case}")


# --- what is refused ---


@clause("C24", "settings out of range are refused when the optimizer is made")
def c24_refused_settings(driver: Worked) -> None:
    good = Setup(LEAVES)
    # Wrong types are the point, so not for a type checker.
    wrong: list[tuple[str, Any]] = [("sync_period", value) for value in (0, -1, 2.5, True)]
    wrong += [("alpha", value) for value in (-0.1, 1.5, math.nan)]
    for name, value in wrong:
        try:
            driver.make(good._replace(**{name: value}))
        except (ValueError, TypeError):
            continue
        raise AssertionError(f"{name} = {value!r} must be refused with ValueError, it was taken")


# --- what adapters add ---


@clause("C26", "a cycle starts from the weights as they are", "edit")
def c26_loaded_weights(driver: Worked) -> None:
    loaded = [[10.0, 20.0, 30.0], [40.0, 50.0]]
    for before in (0, K, 2 * K):
        setup = Setup(LEAVES, K)
        run = driver.make(setup)
        for step in range(1, before + 1):
            driver.step(run, gradients(setup, step))
        driver.edit(run, loaded)
        fresh = setup._replace(leaves=tuple(Leaf(tuple(values)) for values in loaded))
        oracle = driver.oracle(fresh)
        for step in range(1, K + 1):
            advance(driver, run, oracle, step)
            case = f"loaded after {before} steps, step {step} of the cycle"
            require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, case)
    setup = Setup(LEAVES, K)
    run = driver.make(setup)
    for step in range(1, K):
        driver.step(run, gradients(setup, step))
        if step == 2:
            driver.edit(run, loaded)
        case = f"loaded after 2 of {K} steps, slow weights after step {step}"
        require_equal(driver.slow(run), starts(setup), case)


@clause("C27", "leaves that are not trained are left alone", "frozen", "edit", "missing_gradient")
def c27_frozen(driver: Worked) -> None:
    setup = Setup((LEAVES[0], LEAVES[1]._replace(trained=False)), 3)
    run = driver.make(setup)
    for step in range(1, 7):
        driver.step(run, [gradients(setup, step)[0], None])
        if step == 1:
            driver.edit(run, [driver.fast(run)[0], [9.0, 9.5]])
    require_equal(driver.fast(run)[1:], [[9.0, 9.5]], "a frozen leaf, edited after step 1")
    if "freeze" in driver.capabilities:
        rejoining(driver, Setup(LEAVES, 3))


@clause("C28", "every floating dtype follows the oracle and keeps its dtype")
def c28_dtypes(driver: Worked) -> None:
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        if dtype == driver.dtype or dtype in driver.capabilities:
            leaves = tuple(leaf._replace(dtype=dtype) for leaf in LEAVES)
            follow(driver, Setup(leaves, 3, 0.25), dtype, steps=7)
    if driver.dtype == "float64" and "float32" in driver.capabilities:
        for first, second in (("float64", "float32"), ("float32", "float64")):
            mixed = (LEAVES[0]._replace(dtype=first), LEAVES[1]._replace(dtype=second))
            follow(driver, Setup(mixed, 3, 0.3, inner=Inner(lr=0.1)), f"{first} beside {second}")


@clause("C29", "leaves of any shape: scalars, empty ones, several dimensions")
def c29_shapes(driver: Worked) -> None:
    leaves = (
        Leaf((2.0,), shape=()),
        Leaf((), shape=(0, 3)),
        Leaf((1.0, 2.0, 3.0, 4.0, 5.0, 6.0), shape=(2, 3)),
    )
    follow(driver, Setup(leaves, 3, 0.3), "shapes (), (0, 3) and (2, 3)")


@clause("C30", "a schedule on the inner learning rate is followed", "learning_rate")
def c30_learning_rate(driver: Worked) -> None:
    setup = Setup(LEAVES, 3)
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, 10):
        rate = 2.0**-step
        driver.set_learning_rate(run, rate)
        oracle.lr = rate
        advance(driver, run, oracle, step)
        case = f"rate {rate}, step {step}"
        require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, case)


@clause("C31", "tied leaves are synced once", "tied")
def c31_tied_leaves(driver: Worked) -> None:
    for policy in policies(driver):
        inner = MOMENTUM if "momentum" in driver.capabilities else Inner()
        setup = Setup((*LEAVES, LEAVES[0]._replace(same_as=0)), 3, 0.3, policy, inner)
        follow(driver, setup, f"a leaf listed twice, {policy}")


@clause("C32", "complex leaves are synced like pairs of real ones", "complex128|complex64")
def c32_complex(driver: Worked) -> None:
    values = (1.0, -2.0, 3.0, 0.5)
    for dtype in ("complex128", "complex64"):
        if dtype in driver.capabilities:
            leaves = (Leaf(values, dtype), LEAVES[0], Leaf(values[:2], dtype, shape=()))
            for alpha in (0.25, 0.75):
                follow(driver, Setup(leaves, 3, alpha), f"{dtype}, alpha={alpha}")


@clause("C33", "an optimizer without leaves does nothing, or is refused")
def c33_no_leaves(driver: Worked) -> None:
    setup = Setup((), 2)
    try:
        run = driver.make(setup)
    except ValueError:
        return  # as torch's own optimizers refuse it
    for _ in range(5):
        driver.step(run, [])
    require_equal(driver.fast(run), [], "weights of an optimizer without leaves")


@clause("C34", "parameter groups sync together", "groups")
def c34_groups(driver: Worked) -> None:
    leaves = (LEAVES[0], LEAVES[1]._replace(rate=0.5), Leaf((7.0,), rate=0.5))
    for setup in variants(driver, acted_on=("maintain",)):
        eps = ADAM_EPS if setup.inner.kind == "adam" else SGD_EPS
        follow(driver, setup._replace(leaves=leaves), describe(setup), eps=eps)
