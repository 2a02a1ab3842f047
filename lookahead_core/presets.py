"""Presets: methods by name, each one setting of `SyncRule`. docs/family.md compares them.

Averages, and those of a rule on the shelf, stand there, in outer_rules/.
"""

from lookahead_core.adaptive import AdaptiveAlpha
from lookahead_core.outer import Interpolate, Momentum
from lookahead_core.outer_rules import averages
from lookahead_core.outer_rules.averages import *  # noqa: F403 (a new average touches one file)
from lookahead_core.outer_rules.gradient_point import ema_nesterov, gpa, schedule_free
from lookahead_core.outer_rules.nested import nested
from lookahead_core.rule import SyncRule
from lookahead_core.settings import Scheduled
from lookahead_core.typing import Period
from lookahead_core.words import translated

__all__ = ["bmuf", "diloco", "local_sgd", "lookahead", "reptile", "slowmo", "snoo"]
__all__ += ["ema_nesterov", "gpa", "nested", "schedule_free"]
__all__ += averages.__all__
__all__.sort()


@translated
def lookahead(
    sync_period: Period = 5,
    alpha: Scheduled | AdaptiveAlpha = 0.5,
    inner_state: str = "maintain",
) -> SyncRule:
    """Lookahead: k inner steps forward, then the fraction alpha of the way, and start there.

    slow' = slow + alpha * (fast - slow); fast' = slow'

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1; the paper uses 5 and 10.
    alpha : float, 0-d array, callable (syncs) -> float or 0-d array, or AdaptiveAlpha
        How far the slow weights move at a sync, in [0, 1]; the paper uses 0.5 and 0.8. An array is
        not checked; a callable is a schedule of the number of syncs so far. `AdaptiveAlpha()`
        estimates it.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner optimizer's own state; the paper maintains it.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> lookahead(sync_period=10, alpha=0.8)
    SyncRule(sync_period=10, outer=Interpolate(alpha=0.8), inner_state='maintain', restart=1.0, \
restart_period=1, start=0)
    """
    return SyncRule(sync_period, Interpolate(alpha), inner_state)


def reptile(
    sync_period: Period = 20, step_size: Scheduled = 0.1, inner_state: str = "maintain"
) -> SyncRule:
    """Reptile: k steps on one task, then a part of the way to where they led; then the next task.

    slow' = slow + step_size * (fast - slow); fast' = slow'

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1: the steps on a task.
    step_size : float, 0-d array or callable, (syncs) -> float or 0-d array
        The meta step, in [0, 1]; the authors anneal it to 0, as a schedule does.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner state; "reset" starts each task with a new one.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Nichol, Achiam, Schulman 2018, arXiv:1803.02999; defaults of openai/supervised-reptile.

    Examples
    --------
    >>> rule = reptile(step_size=lambda syncs: 1 - syncs / 1000)
    >>> rule.outer.alpha(500)
    0.5
    """
    return SyncRule(sync_period, Interpolate(step_size), inner_state)


def local_sgd(sync_period: Period = 24) -> SyncRule:
    """Local SGD, federated averaging: workers step alone, and start again at their mean.

    slow' = mean of fast over the workers; fast' = slow'

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    For many workers: one alone is the inner optimizer.

    References
    ----------
    McMahan et al. 2017, arXiv:1602.05629 (FedAvg); Stich 2019, arXiv:1805.09767.

    Examples
    --------
    >>> local_sgd(sync_period=100).outer
    Interpolate(alpha=1.0)
    """
    return SyncRule(sync_period, Interpolate(1.0))


def slowmo(sync_period: Period = 48, momentum: float = 0.5, slow_lr: Scheduled = 1.0) -> SyncRule:
    """SlowMo: the heavy ball on the pseudo-gradient.

    u' = momentum * u + (slow - fast) / lr; slow' = slow - slow_lr * lr * u'; fast' = slow'

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    momentum : float
        In [0, 1); the best grew with the number of workers, from 0 to 0.6.
    slow_lr : float, 0-d array or callable, (syncs) -> float or 0-d array
        Factor of the step, >= 0.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    Notes
    -----
    The inner learning rate `lr` cancels where it is constant; ours keeps lr * u. Where it changes,
    the paper's buffer changes its length with it, and ours does not.

    References
    ----------
    Wang et al. 2020, Algorithm 1, arXiv:1910.00643; defaults of fairscale.

    Examples
    --------
    >>> rule = slowmo()
    >>> rule.outer
    Momentum(lr=1.0, momentum=0.5, nesterov=False)
    """
    return SyncRule(sync_period, Momentum(slow_lr, momentum, nesterov=False))


def bmuf(
    sync_period: Period = 50,
    momentum: float = 0.875,
    block_lr: Scheduled = 1.0,
    nesterov: bool = False,
) -> SyncRule:
    """Blockwise model-update filtering: block momentum on the pseudo-gradient.

    b' = momentum * b + block_lr * (slow - fast); slow' = slow - b'; fast' = slow'

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    momentum : float
        Block momentum, in [0, 1); 1 - 1/W for W workers is the paper's rule.
    block_lr : float, 0-d array or callable, (syncs) -> float or 0-d array
        Block learning rate, >= 0.
    nesterov : bool
        The Nesterov form of block momentum.

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Chen and Huo 2016, eq. 6 to 9, doi:10.1109/ICASSP.2016.7472805; defaults of fairseq.

    Examples
    --------
    >>> rule = bmuf()
    >>> rule.outer
    Momentum(lr=1.0, momentum=0.875, nesterov=False)
    """
    return SyncRule(sync_period, Momentum(block_lr, momentum, nesterov))


def snoo(sync_period: Period = 28, lr: Scheduled = 0.68, momentum: float = 0.37) -> SyncRule:
    """SNOO: Nesterov momentum on the pseudo-gradient of one worker.

    b' = momentum * b + D, D = slow - fast; slow' = slow - lr * (D + momentum * b'); fast' = slow'

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    lr : float, 0-d array or callable, (syncs) -> float or 0-d array
        Outer learning rate, >= 0.
    momentum : float
        Outer momentum, in [0, 1).

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Kallusky et al. 2025, arXiv:2510.15830; defaults of the modded-nanogpt record that uses it.

    Examples
    --------
    >>> rule = snoo()
    >>> rule.outer
    Momentum(lr=0.68, momentum=0.37, nesterov=True)
    """
    return SyncRule(sync_period, Momentum(lr, momentum))


def diloco(sync_period: Period = 500, lr: Scheduled = 0.7, momentum: float = 0.9) -> SyncRule:
    """DiLoCo: Nesterov momentum on the pseudo-gradient, after many inner steps.

    As `snoo`, with the mean of slow - fast over the workers, where an adapter is told of others.

    Parameters
    ----------
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1; the inner optimizer is AdamW.
    lr : float, 0-d array or callable, (syncs) -> float or 0-d array
        Outer learning rate, >= 0.
    momentum : float
        Outer momentum, in [0, 1).

    Returns
    -------
    SyncRule

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Douillard et al. 2023, Algorithm 1 and section 3, arXiv:2311.08105.

    Examples
    --------
    >>> rule = diloco()
    >>> rule.outer
    Momentum(lr=0.7, momentum=0.9, nesterov=True)
    """
    return SyncRule(sync_period, Momentum(lr, momentum))
