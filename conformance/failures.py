"""Clauses of what a failure leaves, as checks: a step that raises, a state that is refused.

As in clauses.py. What an adapter raises is its own affair here, and what is left is not.
"""

from copy import deepcopy
from typing import Any

from .assertions import require, require_equal, require_within
from .oracle import Oracle
from .registry import clause
from .runs import ADAM, LEAVES, MOMENTUM, SGD_EPS, K, gradients, policies
from .setup import Gradients, Inner, Setup
from .worked import Worked

__all__: list[str] = []


class Failing:
    """A schedule of alpha that raises while it has an `error`."""

    error: type[BaseException] | None = None

    def __call__(self, syncs: Any) -> float:
        if self.error is not None:
            raise self.error("this schedule fails for a while")
        return 0.25


@clause("C88", "a step that fails is as not taken or not counted, and its sync comes", "schedule")
def c88_failing_steps(driver: Worked) -> None:
    inner = MOMENTUM if "momentum" in driver.capabilities else Inner()
    setup = Setup(LEAVES, 3, Failing(), inner=inner)
    failing_steps(driver, setup, KeyboardInterrupt)
    for policy in policies(driver) if inner is MOMENTUM else ("maintain",):
        failing_steps(driver, setup._replace(inner_state=policy), ArithmeticError)


def failing_steps(driver: Worked, setup: Setup, error: type[BaseException]) -> None:
    """Steps of which some fail: where it begins, as programs that are traced do, or at its sync."""
    schedule: Any = setup.alpha
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, 13):
        given, case = gradients(setup, step), f"{error.__name__}, {setup.inner_state}, step {step}"
        schedule.error = error if step in (1, 3, 4) else None
        try:
            driver.step(run, given)
        except error:
            schedule.error = None
            oracle = left(driver, run, oracle, given, case)
            if step != 3:
                run = driver.load(setup, driver.save(run))
        else:
            schedule.error = None
            oracle.step(given)
        for name, got, exact in (
            ("fast", driver.fast(run), oracle.fast),
            ("slow", driver.slow(run), oracle.slow),
        ):
            require_within(got, exact, oracle.setup.leaves, SGD_EPS, f"{name}: {case}")


def left(driver: Worked, run: Any, before: Oracle, given: Gradients, case: str) -> Oracle:
    """What a step that failed has left: nothing new, or the inner step, which was not counted."""
    stepped = deepcopy(before)
    stepped.step(given, counted=False)
    got, leaves = driver.fast(run), before.setup.leaves
    try:
        require_within(got, before.fast, leaves, SGD_EPS, case)
    except AssertionError:
        require_within(got, stepped.fast, leaves, SGD_EPS, f"after the inner step alone: {case}")
        return stepped
    return before


@clause("C89", "a state that is refused changes nothing", "reload")
def c89_refused_states(driver: Worked) -> None:
    own = [Setup(LEAVES, K, 0.25)]
    for policy in policies(driver) if "momentum" in driver.capabilities else ():
        own.append(Setup(LEAVES, K, 0.25, policy, MOMENTUM))
    if "adam" in driver.capabilities:
        own.append(Setup(LEAVES, K, 0.25, inner=ADAM))
    shorter = (LEAVES[0]._replace(values=(1.0, 2.0)), LEAVES[1])
    others = [own[-1]._replace(sync_period=period) for period in (2, K + 1)]
    others += [own[-1]._replace(leaves=leaves) for leaves in (shorter, LEAVES[:1])]
    # With another count than that of the run that they are loaded into.
    saved = {setup: driver.save(advanced(driver, setup, K + 3)) for setup in own + others}
    refused = [refusals(driver, setup, saved) for setup in own[-3:]]
    require(any(refused), "a state of another rule, model or inner optimizer must be refused")


def refusals(driver: Worked, setup: Setup, saved: dict[Setup, Any]) -> int:
    """Load states of others in mid-cycle, and go on; how many were refused."""
    run, undisturbed = advanced(driver, setup, K + 2), advanced(driver, setup, K + 2)
    refused = 0
    for other, state in saved.items():
        if other == setup:
            continue
        try:
            driver.reload(run, state)
        except Exception as error:
            refused += 1
            case = f"{setup.inner_state}, after {type(error).__name__} for a state of {other}"
            require_equal(driver.fast(run), driver.fast(undisturbed), f"fast: {case}")
            require_equal(driver.slow(run), driver.slow(undisturbed), f"slow: {case}")
        else:
            run = advanced(driver, setup, K + 2)
    for step in range(K + 3, 3 * K):
        driver.step(run, gradients(setup, step))
        driver.step(undisturbed, gradients(setup, step))
        case = f"{setup.inner_state}, step {step} after {refused} states were refused"
        require_equal(driver.fast(run), driver.fast(undisturbed), case)
    return refused


def advanced(driver: Worked, setup: Setup, steps: int) -> Any:
    """A run after so many steps."""
    run = driver.make(setup)
    for step in range(1, steps + 1):
        driver.step(run, gradients(setup, step))
    return run
