"""Clauses of the family as checks: momentum, restart, start, schedules, and the presets.

As in clauses.py, which is Lookahead alone. What an adapter lacks of this it does not declare.
"""

import math
from typing import Any

from lookahead_core.settings import as_real

from .assertions import require_equal, require_within
from .registry import clause
from .runs import LEAVES, MOMENTUM, SGD_EPS, STEPS, K, advance, follow, gradients, policies, resume
from .setup import Ahead, Averaging, Inner, Outer, Second, Setup
from .worked import Worked

__all__ = ["PRESETS", "evaluate_all"]


def one_in_next(syncs: Any) -> Any:
    """1, 1/2, 1/3, ...: the average of all."""
    return 1 / (as_real(syncs) + 1)


def one_in_next_but_one(syncs: Any) -> Any:
    """1/2, 1/3, ...: the same, with the start in it."""
    return 1 / (as_real(syncs) + 2)


def half_life_of_a_quarter(syncs: Any) -> Any:
    """Of the run so far."""
    return 1 - 2 ** (-4 / (as_real(syncs) + 1))


def squares(syncs: Any) -> Any:
    """The n-th weights count as n**2 - (n - 1)**2."""
    return 1 - (as_real(syncs) / (as_real(syncs) + 1)) ** 2


def root_decay(syncs: Any) -> Any:
    """What stands for a rate that decays as 1 - sqrt, with the start in it."""
    return 1 - ((as_real(syncs) + 1) / (as_real(syncs) + 2)) ** 0.5


def falling(syncs: Any) -> Any:
    """A meta step that is annealed."""
    return 1 / as_real(syncs + 4)


def growing(syncs: Any) -> Any:
    """Cycles of 1, 2, 3 and 4 steps, and again."""
    return 1 + syncs % 4


def shrinking(syncs: Any) -> Any:
    """Cycles of 5, 3 and 1 steps, and again."""
    return 5 - 2 * (syncs % 3)


# Presets by name, in the numbers of their own texts; 0.875 is exact, and 1 - 0.875 too.
PRESETS: dict[str, Setup] = {
    "lookahead": Setup(LEAVES, K, 0.5),
    "ema": Setup(LEAVES, 1, 1 - 0.875, restart=0.0),
    "polyak": Setup(LEAVES, 1, one_in_next, restart=0.0, start=3),
    "swa": Setup(LEAVES, 3, one_in_next_but_one, restart=0.0, start=4),
    "anytime_ema": Setup(LEAVES, 1, half_life_of_a_quarter, restart=0.0),
    "power_ema": Setup(LEAVES, 1, squares, restart=0.0),
    "wsm": Setup(LEAVES, 3, root_decay, restart=0.0, start=4),
    "reptile": Setup(LEAVES, 3, falling, "reset", MOMENTUM),
    "local_sgd": Setup(LEAVES, K, 1.0),  # of one worker
    "slowmo": Setup(LEAVES, 3, outer=Outer(1.0, 0.5, nesterov=False)),
    "bmuf": Setup(LEAVES, 3, outer=Outer(1.0, 0.875, nesterov=False)),
    "snoo": Setup(LEAVES, 2, outer=Outer(0.68, 0.37)),
    "diloco": Setup(LEAVES, K, outer=Outer(0.7, 0.9)),
    "nested": Setup(LEAVES, 2, 0.5, second=Second(3, 0.25)),
    "switch_ema": Setup(LEAVES, 1, 1 - 0.875, restart=1.0, restart_period=4),
    "schedule_free": Setup(LEAVES, 1, outer=Averaging(None, 0.9)),
    "gpa": Setup(LEAVES, 1, outer=Averaging(0.9967, 0.7)),
    "ema_nesterov": Setup(LEAVES, 1, outer=Ahead(0.3, 0.99)),
}


@clause("C71", "momentum on the pseudo-gradient, heavy ball and Nesterov", "outer_momentum")
def c71_momentum(driver: Worked) -> None:
    for nesterov in (True, False):
        outer = Outer(0.75, 0.5, nesterov)
        follow(driver, Setup(LEAVES, 3, outer=outer), f"nesterov={nesterov}")
        for policy in policies(driver) if "momentum" in driver.capabilities else ():
            setup = Setup(LEAVES, 3, 0.5, policy, MOMENTUM, outer=outer._replace(lr=0.375))
            follow(driver, setup, f"nesterov={nesterov}, {policy}")
    none = Setup(LEAVES, 3, outer=Outer(0.25, 0.0))
    follow(driver, none, "momentum 0")
    poisoned(driver, Setup(LEAVES, 3, outer=Outer()))


def poisoned(driver: Worked, setup: Setup) -> None:
    """Weights that are NaN for one step between two syncs must not be in the buffer."""
    if "edit" not in driver.capabilities:
        return
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, 7):
        if step == 5:
            good = driver.fast(run)
            driver.edit(run, [[math.nan] * len(leaf.values) for leaf in LEAVES])
            driver.step(run, gradients(setup, step))
            driver.edit(run, good)
            oracle.steps += 1
            continue
        advance(driver, run, oracle, step)
    case = "after a sync whose cycle had a NaN that was thrown away"
    require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, case)


@clause("C72", "fast weights go back in part, now and then, or never", "restart")
def c72_restart(driver: Worked) -> None:
    for restart, period in ((0.0, 1), (0.5, 1), (1.0, 3), (0.25, 2)):
        setup = Setup(LEAVES, 2, 0.25, restart=restart, restart_period=period)
        follow(driver, setup, f"restart={restart}, restart_period={period}")
        if "evaluate" in driver.capabilities:
            evaluate_all(driver, setup, f"restart={restart}, restart_period={period}")
    if {"momentum", "reset"} <= driver.capabilities:
        setup = Setup(LEAVES, 2, 0.25, "reset", MOMENTUM, restart_period=3)
        follow(driver, setup, "reset where the weights go back")
    if "outer_momentum" in driver.capabilities:
        follow(driver, Setup(LEAVES, 2, outer=Outer(), restart=0.5), "momentum, restart=0.5")
    setup = Setup(LEAVES, 1, 0.25, restart=0.0)
    run, alone = driver.make(setup), driver.make(setup._replace(sync_period=10**6))
    for step in range(1, STEPS):
        driver.step(run, gradients(setup, step))
        driver.step(alone, gradients(setup, step))
        require_equal(driver.fast(run), driver.fast(alone), f"restart=0, fast after step {step}")


def evaluate_all(driver: Worked, setup: Setup, case: str) -> None:
    """The weights to evaluate are the read-out at every step."""
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, 10):
        advance(driver, run, oracle, step)
        where = f"evaluate: {case}, step {step}"
        require_within(driver.evaluate(run), oracle.slow, oracle.setup.leaves, SGD_EPS, where)


@clause("C73", "the first cycle begins after `start` steps", "start")
def c73_start(driver: Worked) -> None:
    for start in (1, 4, 7):
        started(driver, Setup(LEAVES, 3, 0.25, start=start))
    forced = (1, 3) if "forced_sync" in driver.capabilities else ()
    for policy in policies(driver) if "momentum" in driver.capabilities else ():
        setup = Setup(LEAVES, 3, 0.25, policy, MOMENTUM, start=4)
        for when in (None, *forced):
            started(driver, setup, when)
        resume(driver, setup, range(1, 5), 16, f"{policy}, start={setup.start}")


def started(driver: Worked, setup: Setup, forced: int | None = None) -> None:
    """Compare weights with the oracle's, from before the start; with a sync after step `forced`."""
    run, oracle = driver.make(setup), driver.oracle(setup)
    for step in range(1, STEPS):
        advance(driver, run, oracle, step)
        if step == forced:
            driver.sync(run)
            oracle.sync()
        case = f"start={setup.start}, {setup.inner_state}, sync after {forced}, step {step}"
        require_within(driver.fast(run), oracle.fast, oracle.setup.leaves, SGD_EPS, f"fast: {case}")
        if "evaluate" in driver.capabilities:
            got = driver.evaluate(run)
            require_within(got, oracle.slow, oracle.setup.leaves, SGD_EPS, f"evaluate: {case}")


@clause("C74", "the state of the outer rule is saved, and resumes exactly", "outer_momentum")
def c74_resume(driver: Worked) -> None:
    setups = [Setup(LEAVES, 3, outer=Outer(), inner=Inner(lr=0.1))]
    if {"restart", "start"} <= driver.capabilities:
        setups.append(Setup(LEAVES, 3, outer=Outer(), restart=0.5, restart_period=2, start=2))
    for setup in setups:
        resume(driver, setup, range(1, 9), 16, f"{setup.outer}, start={setup.start}")


@clause("C75", "alpha may be a schedule of the syncs so far", "schedule")
def c75_schedule(driver: Worked) -> None:
    for schedule in (one_in_next, one_in_next_but_one, falling):
        follow(driver, Setup(LEAVES, 2, schedule), f"alpha {schedule.__name__}")


@clause("C78", "a second rule syncs with the slow weights of the first, and is read out", "nested")
def c78_nested(driver: Worked) -> None:
    seconds = (Second(1, 0.5), Second(2, 0.5, restart=0.0), Second(2, 0.5, restart=0.5))
    for setup in (
        *(Setup(LEAVES, 2, 0.5, second=second) for second in seconds),
        Setup(LEAVES, 2, outer=Outer(), second=Second(2, 0.5)),
        Setup(LEAVES, 2, 0.5, "reset", MOMENTUM, start=3, second=Second(2, 0.5)),
    ):
        if needed(setup) <= driver.capabilities:
            case = f"{setup.second}, outer {setup.outer}, start {setup.start}"
            follow(driver, setup, case)
            if "evaluate" in driver.capabilities:
                evaluate_all(driver, setup, case)
    setup = Setup(LEAVES, 2, second=Second(3, 0.25))
    resume(driver, setup, range(1, 8), 16, "nested")


@clause("C79", "the presets are their texts' methods", "outer_momentum")
def c79_presets(driver: Worked) -> None:
    for name, setup in PRESETS.items():
        if needed(setup) <= driver.capabilities:
            follow(driver, setup, name)


@clause("C90", "the period may be a schedule of the syncs so far", "period_schedule")
def c90_period_schedule(driver: Worked) -> None:
    for period in (growing, shrinking):
        follow(driver, Setup(LEAVES, period, 0.25), f"period {period.__name__}")
    for policy in policies(driver) if "momentum" in driver.capabilities else ():
        setup = Setup(LEAVES, growing, 0.25, policy, MOMENTUM)
        follow(driver, setup, f"period growing, {policy}")
    resume(driver, Setup(LEAVES, growing, 0.25), (1, 2, 4, 5), 12, "period growing")
    if {"restart", "start"} <= driver.capabilities:
        started(driver, Setup(LEAVES, shrinking, 0.25, restart=0.5, restart_period=2, start=2))
    if "forced_sync" in driver.capabilities:
        started(driver, Setup(LEAVES, growing, 0.25), forced=2)


def needed(setup: Setup) -> set[str]:
    """Capabilities without which a setup cannot be made."""
    asked = {
        "outer_momentum": isinstance(setup.outer, Outer),
        "gradient_point": isinstance(setup.outer, Averaging | Ahead),
        "inner_lr": isinstance(setup.outer, Averaging) and setup.outer.mu_x is None,
        "period_schedule": callable(setup.sync_period),
        "restart": (setup.restart, setup.restart_period) != (1.0, 1),
        "schedule": callable(setup.alpha),
        "start": setup.start > 0,
        "nested": setup.second is not None,
        setup.inner_state: setup.inner_state != "maintain",
        "momentum": setup.inner.momentum != 0,
    }
    return {name for name, is_asked in asked.items() if is_asked}
