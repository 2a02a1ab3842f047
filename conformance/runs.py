"""What the checks are made of: gradients, leaves and settings, and runs beside the oracle.

Gradients and settings are dyadic numbers, so that low-precision runs stay exact where a clause is
about equality.
"""

from collections.abc import Sequence
from decimal import Decimal
from itertools import product
from typing import Any

from .assertions import require_equal, require_within
from .oracle import Oracle
from .setup import Gradients, Inner, Leaf, Setup, Values
from .worked import Worked

__all__ = [
    "ADAM",
    "ADAM_EPS",
    "LEAVES",
    "MOMENTUM",
    "SGD_EPS",
    "STEPS",
    "K",
    "advance",
    "describe",
    "follow",
    "follow_inner",
    "gradients",
    "policies",
    "resume",
    "same",
    "starts",
    "variants",
]

K = 5
STEPS = 4 * K + 3
# A step rounds a few times; what it leaves over adds up over STEPS of them.
SGD_EPS, ADAM_EPS = 64, 512
# No leaf's values are a rounded version of another's, and none is zero.
LEAVES = (Leaf((1.0, -2.0, 3.0)), Leaf((0.5, 4.0)))
MOMENTUM, ADAM = Inner(momentum=0.5), Inner("adam", lr=0.0625)


def gradients(setup: Setup, step: int) -> Gradients:
    """Gradients of a step: dyadic, of both signs, different for each element and step."""
    return [
        [(-1.0) ** (i + j) * ((step * (j + 3)) % 8 + 1) / 8 for j in range(len(leaf.values))]
        for i, leaf in enumerate(setup.leaves)
    ]


def advance(driver: Worked, run: Any, oracle: Oracle, step: int) -> None:
    """The same step for both."""
    given = gradients(oracle.setup, step)
    driver.step(run, given)
    oracle.step(given)


def follow(driver: Worked, setup: Setup, case: str, steps: int = STEPS, eps: int = SGD_EPS) -> None:
    """Compare fast weights and the read-out with the oracle's after each step."""
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, steps + 1):
        advance(driver, run, oracle, step)
        where = f"{case}, step {step}"
        require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, eps, f"fast: {where}")
        if oracle.begun:  # what an adapter keeps before that is its own affair
            require_within(
                driver.slow(run), oracle.slow, oracle.setup.leaves, eps, f"slow: {where}"
            )


def follow_inner(driver: Worked, policy: str) -> None:
    """Follow the oracle under `policy` with momentum, and with Adam where there is one."""
    follow(driver, Setup(LEAVES, K, 0.25, policy, MOMENTUM), f"{policy}, momentum")
    if "adam" in driver.capabilities:
        follow(driver, Setup(LEAVES, K, 0.25, policy, ADAM), f"{policy}, Adam", eps=ADAM_EPS)


def resume(driver: Worked, setup: Setup, when: Sequence[int], steps: int, case: str) -> None:
    """Save after each step of `when` and go on from that: bit for bit as a run left alone."""
    undisturbed, expected = driver.make(setup), []
    for step in range(1, steps):
        driver.step(undisturbed, gradients(setup, step))
        expected.append(driver.fast(undisturbed))
    for saving in when:
        resume_once(driver, setup, saving, expected, f"{case}, saved after {saving}")


def resume_once(
    driver: Worked, setup: Setup, saving: int, expected: Sequence[Values], case: str
) -> None:
    run = driver.make(setup)
    for step, fast in enumerate(expected, start=1):
        driver.step(run, gradients(setup, step))
        if step == saving:
            saved = driver.save(run)
            driver.step(run, gradients(setup, 99))  # what was saved must not follow
            run = driver.load(setup, saved)
        elif step == saving + 1:
            driver.save(run)  # and this run goes on itself
        require_equal(driver.fast(run), fast, f"{case}, step {step}")


def policies(driver: Worked) -> tuple[str, ...]:
    """The inner-state policies that the adapter has."""
    return ("maintain", *(p for p in ("reset", "interpolate") if p in driver.capabilities))


def variants(driver: Worked, alpha: float = 0.3, acted_on: tuple[str, ...] = ()) -> list[Setup]:
    """Settings with every inner optimizer, and every policy or those in `acted_on`."""
    inners = [Inner()]
    inners += [MOMENTUM] if "momentum" in driver.capabilities else []
    inners += [ADAM] if "adam" in driver.capabilities else []
    return [
        Setup(LEAVES, K, alpha, policy, inner)
        for inner, policy in product(inners, acted_on or policies(driver))
    ]


def same(driver: Worked, got: Values, expected: Values, setup: Setup, case: str) -> None:
    """Equal bit for bit where arithmetic runs as written, else within rounding."""
    if driver.eager:
        require_equal(got, expected, case)
    else:
        exact = [[Decimal(value) for value in leaf] for leaf in expected]
        require_within(got, exact, driver.based(setup).leaves, SGD_EPS, case)


def starts(setup: Setup) -> Values:
    return [list(leaf.values) for leaf in setup.leaves]


def describe(setup: Setup) -> str:
    return f"{setup.inner.kind}, momentum {setup.inner.momentum}, {setup.inner_state}"
