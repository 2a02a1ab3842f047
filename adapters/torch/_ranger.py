"""Ranger by name: Lookahead around RAdam."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch.optim import RAdam

from lookahead_core.typing import Period
from lookahead_core.words import translated

from ._optimizer import Lookahead

__all__ = ["ranger"]


@translated
def ranger(
    params: Iterable[Any],
    lr: float = 1e-3,
    sync_period: Period = 6,
    alpha: float = 0.5,
    betas: tuple[float, float] = (0.95, 0.999),
    eps: float = 1e-5,
    weight_decay: float = 0.0,
    *,
    slow_dtype: torch.dtype | None = None,
    slow_device: torch.device | str | None = None,
    kernel: Literal["foreach", "plain", "compiled"] = "foreach",
    capturable: bool = False,
) -> Lookahead:
    """Ranger, its two optimizers: Lookahead around RAdam with the defaults of that name.

    Gradient centralization, which the repository's later versions switch on, and what was stacked
    upon that since are left out: they are no meta-optimizers. Centralize gradients before `step`.

    Parameters
    ----------
    params : iterable of Tensor, or of dict
        Parameters or parameter groups, as of any torch optimizer.
    lr : float
        Learning rate of RAdam.
    sync_period : int, or callable, (syncs) -> int
        Inner steps between syncs, k >= 1.
    alpha : float
        How far the slow weights move at a sync, in [0, 1].
    betas : tuple of float
        Decay of RAdam's moments.
    eps : float
        RAdam's, added to the root of the second moment.
    weight_decay : float
        Decoupled from the gradient, as in the repository.
    slow_dtype, slow_device, kernel, capturable : as of `MetaOptimizer`
        Where slow weights live, and how a sync computes.

    Returns
    -------
    Lookahead

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Defaults: github.com/lessw2020/Ranger-Deep-Learning-Optimizer, ranger/ranger.py at 73811db.
    RAdam: Liu et al. 2020, arXiv:1908.03265. Lookahead: Zhang et al. 2019, arXiv:1907.08610.

    Examples
    --------
    >>> import torch
    >>> from lookahead_core.adapters.torch import ranger
    >>> optimizer = ranger(torch.nn.Linear(2, 1).parameters())
    >>> optimizer.rule.sync_period, optimizer.defaults["betas"]
    (6, (0.95, 0.999))
    """
    radam = RAdam(params, lr, betas, eps, weight_decay, decoupled_weight_decay=True)
    return Lookahead(
        radam,
        sync_period,
        alpha,
        slow_dtype=slow_dtype,
        slow_device=slow_device,
        kernel=kernel,
        capturable=capturable,
    )
