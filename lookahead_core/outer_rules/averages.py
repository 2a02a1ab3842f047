"""Averages for evaluation, and what to do with stored ones.

Training does not see them. Each is a setting of `SyncRule`, and no outer rule of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lookahead_core.interpolation import interpolate
from lookahead_core.outer import Interpolate
from lookahead_core.outer_rules.ramp import HalfLife, PowerWeights
from lookahead_core.rule import SyncRule
from lookahead_core.typing import Array
from lookahead_core.validation import fraction, non_negative, positive

__all__ = [
    "anytime_ema",
    "blended",
    "ema",
    "polyak",
    "post_hoc_weights",
    "power_ema",
    "swa",
    "switch_ema",
    "wsm",
]


def ema(decay: float = 0.999, sync_period: int = 1, start: int = 0) -> SyncRule:
    """Exponential moving average of the weights, to evaluate: training does not see it.

    slow' = decay * slow + (1 - decay) * fast; fast' = fast

    Parameters
    ----------
    decay : float
        In [0, 1]. About 1 / (1 - decay) syncs are remembered; 0.999 is usual, Keras has 0.99.
    sync_period : int
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


def swa(sync_period: int, start: int = 0) -> SyncRule:
    """Stochastic weight averaging: the mean of the weights at the start and of every k-th after it.

    slow' = (n * slow + fast) / (n + 1), n = 1, 2, ...; fast' = fast

    Parameters
    ----------
    sync_period : int
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


def power_ema(gamma: float = 6.94, sync_period: int = 1, start: int = 0) -> SyncRule:
    """Power-function EMA: the n-th weights count as n**gamma; the average grows with the run.

    slow' = b * slow + (1 - b) * fast, b = (1 - 1 / n)**(gamma + 1) at the n-th sync; fast' = fast

    Parameters
    ----------
    gamma : float
        At least 0. The paper's 6.94 and 16.97 have standard deviations of 0.10 and 0.05 of the run;
        `post_hoc_weights` makes an average of another gamma from stored ones of these two.
    sync_period : int
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


def anytime_ema(half_life: float = 0.05, sync_period: int = 1, start: int = 0) -> SyncRule:
    """An average whose half-life is a fraction of the run so far: it needs no known end.

    slow' = d * slow + (1 - d) * fast, d = 2**(-1 / (half_life * n)) at the n-th sync; fast' = fast

    Parameters
    ----------
    half_life : float
        Fraction of the syncs so far, above 0.
    sync_period : int
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


def wsm(sync_period: int, start: int = 0, power: float = 1.0) -> SyncRule:
    """Merged weights in the place of learning-rate decay: warm-up, stable, merge.

    slow' = slow + alpha * (fast - slow), alpha = 1 - (j / (j + 1))**power at the j-th sync;
    fast' = fast. After n syncs the slow weights are those of the start, and of each cycle's move
    the part 1 - (j / (n + 1))**power: as if the moves of a constant rate had been made at a rate
    that decays so.

    Parameters
    ----------
    sync_period : int
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


def post_hoc_weights(
    stored: Sequence[tuple[float, float]], syncs: float, gamma: float
) -> list[float]:
    """Weights of stored power-function averages whose sum is nearest to another such average.

    Least squares between the profiles of the averages, (gamma + 1) * t**gamma / syncs**(gamma + 1)
    for t from 0 to syncs. Multiply each stored average by its weight, and add them up.

    Parameters
    ----------
    stored : sequence of (syncs, gamma)
        Of each stored average of `power_ema`: after how many syncs, and its gamma. No two alike.
        Two gammas at some tens of points of the run reach all between, says the paper.
    syncs, gamma : float
        Of the average that is wanted: syncs above 0 and at most the latest stored, gamma >= 0.

    Returns
    -------
    list of float
        One for each of `stored`. Their sum is near 1, as the fit is good.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Karras et al. 2024, section 3.2 and algorithm 3, arXiv:2312.02696.

    Examples
    --------
    >>> stored = [(50, 6.94), (50, 16.97), (100, 6.94), (100, 16.97)]
    >>> [round(abs(weight), 6) for weight in post_hoc_weights(stored, 100, 6.94)]
    [0.0, 0.0, 1.0, 0.0]
    """
    averages = [_profile("stored", *one) for one in stored]
    wanted = _profile("wanted", syncs, gamma)
    if not averages or len({*averages}) < len(averages):
        raise ValueError(f"stored must hold (syncs, gamma), no two alike, got {stored!r}")
    if wanted[0] > max(averages)[0]:
        raise ValueError(f"syncs must be at most the latest stored, got {syncs!r} for {stored!r}")
    rows = [[_product(a, b) for b in (*averages, wanted)] for a in averages]
    return _solved(rows)


def blended(
    fast: Mapping[str, Array],
    average: Mapping[str, Array],
    part: float = 1.0,
    leave_out: Callable[[str], bool] | None = None,
) -> dict[str, Array]:
    """Weights to evaluate or ship: (1 - part) * fast + part * average, but for what is left out.

    Parameters
    ----------
    fast, average : mapping of str to array
        The weights by name, and what is read of an optimizer: `slow_weights()`, `slow_params`.
    part : float
        Of the average, in [0, 1].
    leave_out : callable, (name) -> bool, optional
        Which leaves are the fast ones, as embeddings often are.

    Returns
    -------
    dict of str to array
        New arrays, in the order and the dtypes of `average`.

    Raises
    ------
    ValueError
        If the names are not the same, or `part` is out of range.

    References
    ----------
    The tail averages of modded-nanogpt #325 and #328: a blend, without the embeddings.

    Examples
    --------
    >>> import numpy as np
    >>> fast = {"embed": np.ones(1), "w": np.ones(1)}
    >>> average = {"embed": np.zeros(1), "w": np.zeros(1)}
    >>> blended(fast, average, 0.75, leave_out=lambda name: "embed" in name)
    {'embed': array([1.]), 'w': array([0.25])}
    """
    part = fraction("part", part, "of the average")
    if fast.keys() != average.keys():
        odd = sorted(fast.keys() ^ average.keys())
        raise ValueError(f"fast and average must have the same names, got {odd} in one of them")
    return {
        name: interpolate(leaf, fast[name], 1.0 if leave_out and leave_out(name) else 1 - part)
        for name, leaf in average.items()
    }


def _profile(name: str, syncs: float, gamma: float) -> tuple[float, float]:
    """The length and the power of an average's profile, checked."""
    return (
        positive(f"syncs of {name}", syncs, "how long the average is"),
        non_negative(f"gamma of {name}", gamma, "power of the number of the sync"),
    )


def _product(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The integral of the product of two profiles, by the ratio of their lengths."""
    (shorter, a), (longer, b) = sorted((one, other))
    ratio: float = (shorter / longer) ** b
    return (a + 1) * (b + 1) / (a + b + 1) * ratio / longer


def _solved(rows: list[list[float]]) -> list[float]:
    """The solution of a linear system, each row with its right-hand side last; by elimination."""
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [number / rows[column][column] for number in rows[column]]
        for row in range(size):
            if row != column:
                times = rows[row][column]
                pairs = zip(rows[row], rows[column], strict=True)
                rows[row] = [number - times * above for number, above in pairs]
    return [row[-1] for row in rows]
