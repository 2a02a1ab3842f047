"""Averages for evaluation, as presets.

Training does not see them. Each is a setting of `SyncRule`, and no outer rule of its own.
"""

from dataclasses import replace

from lookahead_core.outer import Interpolate
from lookahead_core.outer_rules.ramp import HalfLife, PowerWeights
from lookahead_core.rule import SyncRule
from lookahead_core.typing import Period
from lookahead_core.validation import fraction, non_negative

__all__ = ["anytime_ema", "ema", "polyak", "power_ema", "swa", "switch_ema", "wsm"]


def ema(decay: float = 0.999, sync_period: Period = 1, start: int = 0) -> SyncRule:
    """Exponential moving average of the weights, to evaluate: training does not see it.

    slow' = decay * slow + (1 - decay) * fast; fast' = fast

    Parameters
    ----------
    decay : float
        In [0, 1]. About 1 / (1 - decay) syncs are remembered; 0.999 is usual, Keras has 0.99.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1; 1 is usual.
    start : int
        Inner steps before the average begins.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Polyak and Juditsky 1992, doi:10.1137/0330046; Tarvainen and Valpola 2017, arXiv:1703.01780.

    Examples
    --------
    >>> rule = ema(0.99)
    >>> rule.restart, round(rule.outer.alpha, 12)
    (0.0, 0.01)
    """
    alpha = 1 - fraction("decay", decay, "weight of the old average")
    return SyncRule(sync_period, Interpolate(alpha), restart=0.0, start=start)


def polyak(start: int = 0) -> SyncRule:
    """Polyak-Ruppert average: the mean of the weights after each step.

    slow' = slow + (fast - slow) / n at the n-th step; fast' = fast

    Parameters
    ----------
    start : int
        Inner steps before the average begins.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Ruppert 1988; Polyak and Juditsky 1992, doi:10.1137/0330046.

    Examples
    --------
    >>> rule = polyak(start=1000)
    >>> rule.outer.alpha(0), rule.outer.alpha(3)
    (1.0, 0.25)
    """
    return SyncRule(1, Interpolate(PowerWeights()), restart=0.0, start=start)


def swa(sync_period: Period, start: int = 0) -> SyncRule:
    """Stochastic weight averaging: the mean of the weights at the start and of every k-th after it.

    slow' = (n * slow + fast) / (n + 1), n = 1, 2, ...; fast' = fast

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1: an epoch, or a period of the
        learning-rate schedule.
    start : int
        Inner steps before the first weights that count, 75 % of the budget in the paper's runs.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    Statistics of batch normalisation belong to the weights that they were taken with: take them
    anew for the average (`torch.optim.swa_utils.update_bn`).

    References
    ----------
    Izmailov et al. 2018, Algorithm 1, arXiv:1803.05407.

    Examples
    --------
    >>> rule = swa(sync_period=100, start=7500)
    >>> rule.outer.alpha(0), rule.outer.alpha(2)
    (0.5, 0.25)
    """
    return SyncRule(sync_period, Interpolate(PowerWeights(before=1)), restart=0.0, start=start)


def switch_ema(
    restart_period: int, decay: float = 0.999, inner_state: str = "maintain"
) -> SyncRule:
    """An average that training goes on from now and then: Switch EMA, Hare and Tortoise.

    slow' = decay * slow + (1 - decay) * fast; fast' = slow' at every restart_period-th step

    Parameters
    ----------
    restart_period : int
        Inner steps between two that put the weights onto the average: an epoch.
    decay : float
        In [0, 1].
    inner_state : {"maintain", "reset"}
        What a step that puts the weights back does to the inner state.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Li et al. 2024, arXiv:2402.09240; Lee et al. 2024, arXiv:2406.02596. Keras has it as
    `ema_overwrite_frequency`.

    Examples
    --------
    >>> rule = switch_ema(restart_period=500)
    >>> rule.sync_period, rule.restart_period
    (1, 500)
    """
    return replace(ema(decay), restart=1.0, restart_period=restart_period, inner_state=inner_state)


def power_ema(gamma: float = 6.94, sync_period: Period = 1, start: int = 0) -> SyncRule:
    """Power-function EMA: the n-th weights count as n**gamma; the average grows with the run.

    slow' = b * slow + (1 - b) * fast, b = (1 - 1 / n)**(gamma + 1) at the n-th sync; fast' = fast

    Parameters
    ----------
    gamma : float
        At least 0. The paper's 6.94 and 16.97 have standard deviations of 0.10 and 0.05 of the run;
        `post_hoc_weights` makes an average of another gamma from stored ones of these two.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    start : int
        Inner steps before the average begins.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Karras et al. 2024, eq. 2, arXiv:2312.02696.

    Examples
    --------
    >>> rule = power_ema(gamma=1.0)
    >>> rule.outer.alpha(0), rule.outer.alpha(1)
    (1.0, 0.75)
    """
    power = non_negative("gamma", gamma, "power of the number of the sync") + 1
    return SyncRule(sync_period, Interpolate(PowerWeights(power)), restart=0.0, start=start)


def anytime_ema(half_life: float = 0.05, sync_period: Period = 1, start: int = 0) -> SyncRule:
    """An average whose half-life is a fraction of the run so far: it needs no known end.

    slow' = d * slow + (1 - d) * fast, d = 2**(-1 / (half_life * n)) at the n-th sync; fast' = fast

    Parameters
    ----------
    half_life : float
        Fraction of the syncs so far, above 0.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    start : int
        Inner steps before the average begins.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    In the long run it is `power_ema` with gamma + 1 = log(2) / half_life.

    References
    ----------
    Anytime EMA 2026, arXiv:2602.03702; formula and default of torchtitan's, pull request 3985.

    Examples
    --------
    >>> rule = anytime_ema(half_life=0.25)
    >>> rule.outer.alpha(3)
    0.5
    """
    return SyncRule(sync_period, Interpolate(HalfLife(half_life)), restart=0.0, start=start)


def wsm(sync_period: Period, start: int = 0, power: float = 1.0) -> SyncRule:
    """Merged weights in the place of learning-rate decay: warm-up, stable, merge.

    slow' = slow + alpha * (fast - slow), alpha = 1 - (j / (j + 1))**power at the j-th sync;
    fast' = fast. After n syncs the slow weights are those of the start, and of each cycle's move
    the part 1 - (j / (n + 1))**power: as if the moves of a constant rate had been made at a rate
    that decays so.

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int
        Inner steps between the weights that are merged, k >= 1.
    start : int
        Inner steps before the first of them, where the decay would begin.
    power : float
        Above 0. 1 stands for linear decay, and is `swa`; 0.5 for 1 - sqrt.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    The equality is one for moves that are given. A run with decay would take other gradients.

    References
    ----------
    WSM 2025, arXiv:2507.17634.

    Examples
    --------
    >>> rule = wsm(sync_period=100, start=7500)
    >>> rule.outer.alpha(0), rule.outer.alpha(2)
    (0.5, 0.25)
    """
    weights = PowerWeights(power, before=1)
    return SyncRule(sync_period, Interpolate(weights), restart=0.0, start=start)
