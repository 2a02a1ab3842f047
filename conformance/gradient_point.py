"""Clauses of the outer rules that decide where gradients are taken, as checks.

As in family.py. The oracle has the papers' two sets of weights, an adapter one and a difference.
"""

from itertools import product
from typing import Any

from .assertions import require_equal, require_within
from .family import evaluate_all
from .registry import clause
from .runs import (
    LEAVES,
    MOMENTUM,
    SGD_EPS,
    STEPS,
    advance,
    follow,
    gradients,
    policies,
    resume,
    same,
)
from .setup import Ahead, Averaging, Inner, Second, Setup, Values
from .worked import Worked

__all__: list[str] = []

RULES: tuple[Averaging | Ahead, ...] = (Averaging(), Ahead())
# What a setting does at its ends, or with the other sign, it does at each period.
ENDS: tuple[Averaging | Ahead, ...] = (Averaging(mu_y=1.0), Averaging(mu_y=0.0), Ahead(-0.25))
CASES = (*product(RULES, (1, 3)), *product(ENDS, (1,)))


def rising(syncs: Any) -> Any:
    """A step size that is off at first."""
    return 0.25 * (syncs % 4)


@clause("C85", "averages where gradients are taken are their papers' lines", "gradient_point")
def c85_gradient_point(driver: Worked) -> None:
    setups = [Setup(LEAVES, k, outer=outer) for outer, k in CASES]
    if "schedule" in driver.capabilities:
        setups.append(Setup(LEAVES, 1, outer=Ahead(rising)))
    for policy in ("maintain", "reset") if "momentum" in driver.capabilities else ():
        if policy in policies(driver):
            setups.append(Setup(LEAVES, 2, 0.5, policy, MOMENTUM, outer=Averaging()))
    if {"restart", "start"} <= driver.capabilities:
        setups += [Setup(LEAVES, 2, outer=outer, restart=0.5, start=3) for outer in RULES]
    if "nested" in driver.capabilities:
        setups.append(Setup(LEAVES, 1, outer=Averaging(), second=Second(3, 0.5)))
    for setup in setups:
        follow(driver, setup, f"{setup.outer}, k={setup.sync_period}, restart={setup.restart}")
    nothing_averaged(driver)


def nothing_averaged(driver: Worked) -> None:
    """With mu_x = 0 the average is the newest iterate: that is the inner optimizer."""
    for outer in (Averaging(mu_x=0.0), Ahead(0.0)):
        setup = Setup(LEAVES, 1, outer=outer, inner=Inner(lr=0.1))
        run, alone = driver.make(setup), driver.make(setup._replace(sync_period=10**6))
        for step in range(1, STEPS):
            driver.step(run, gradients(setup, step))
            driver.step(alone, gradients(setup, step))
            same(driver, driver.fast(run), driver.fast(alone), setup, f"{outer}, step {step}")


@clause("C86", "what these rules ship is read out at every phase", "evaluate", "gradient_point")
def c86_readout(driver: Worked) -> None:
    scheduled = ((Ahead(rising), 1),) if "schedule" in driver.capabilities else ()
    for outer, k in (*CASES, *scheduled):
        setup = Setup(LEAVES, k, outer=outer)
        evaluate_all(driver, setup, f"{outer}, k={k}")
        if (outer, k) not in ((RULES[0], 1), (RULES[0], 3), *scheduled):
            continue
        undisturbed, run = driver.make(setup), driver.make(setup)
        for step in range(1, 8):
            driver.step(undisturbed, gradients(setup, step))
            driver.step(run, gradients(setup, step))
            driver.evaluate(run)
            case = f"{outer}, k={k}, read at every step, step {step}"
            require_equal(driver.fast(run), driver.fast(undisturbed), case)
        resume(driver, setup, range(1, k + 2), 2 * k + 4, f"{outer}, k={k}")
        if "edit" in driver.capabilities:
            edited(driver, setup, 2)


def edited(driver: Worked, setup: Setup, when: int) -> None:
    """Weights that are loaded between two cycles take along what is shipped."""
    k = setup.sync_period
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, 4 * k + 1):
        advance(driver, run, oracle, step)
        if step == when * k:
            moved: Values = [[value + 8.0 for value in leaf] for leaf in driver.fast(run)]
            driver.edit(run, moved)
            oracle.fast = [[value + 8 for value in leaf] for leaf in oracle.fast]
        case = f"{setup.outer}, k={k}, moved by 8 after step {when * k}, step {step}"
        require_within(driver.evaluate(run), oracle.slow, oracle.setup.leaves, 8 * SGD_EPS, case)


@clause(
    *("C87", "weights may go by the largest inner learning rate so far"),
    *("gradient_point", "inner_lr", "learning_rate"),
)
def c87_inner_learning_rate(driver: Worked) -> None:
    # A warm-up from zero, a decay, and a rate above all that were before.
    rates = (0.0, 0.03125, 0.0625, 0.125, 0.0625, 0.03125, 0.25, 0.125)
    for weights, k in (((2.0, 0.0), 1), ((1.0, 1.0), 2), ((0.0, 1.0), 1)):
        setup = Setup(LEAVES, k, outer=Averaging(None, 0.5, *weights))
        run, oracle = driver.make(setup), driver.oracle(setup)
        for step, rate in enumerate(rates, 1):
            driver.set_learning_rate(run, rate)
            oracle.lr = rate
            advance(driver, run, oracle, step)
            case = f"{setup.outer}, k={k}, rate {rate}, step {step}"
            require_within(
                driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, f"fast: {case}"
            )
            require_within(
                driver.slow(run), oracle.slow, oracle.setup.leaves, SGD_EPS, f"slow: {case}"
            )
        resume(driver, setup, range(1, k + 2), k + 5, f"{setup.outer}, k={k}")
