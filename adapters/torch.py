"""Lookahead and its relatives for torch: a `torch.optim.Optimizer` around any other.

`Lookahead` and `ranger` by name, and `MetaOptimizer` for any rule of the family; that one has the
work, in _torch_meta.py. `StreamingOptimizer` is the same for many workers on a slow network.
"""

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer, RAdam

from lookahead_core import AdaptiveAlpha, lookahead
from lookahead_core.scheduled import Scheduled

from ._torch_codecs import Codec
from ._torch_meta import MetaOptimizer
from ._torch_streaming import StreamingOptimizer

__all__ = ["Codec", "Lookahead", "MetaOptimizer", "StreamingOptimizer", "ranger"]


class Lookahead(MetaOptimizer):
    """Lookahead around any torch optimizer: k steps forward, one step back.

    Parameters
    ----------
    inner : torch.optim.Optimizer
        Moves the fast weights, which are the model's parameters.
    sync_period : int
        Inner steps between syncs, k >= 1.
    alpha : float, 0-d Tensor, callable (syncs) -> float or 0-d Tensor, or AdaptiveAlpha
        How far the slow weights move at a sync, in [0, 1]. A tensor is not checked; a callable is
        a schedule of the number of syncs so far; `AdaptiveAlpha()` estimates it.
    inner_state : {"maintain", "reset", "interpolate"}
        What a sync does to the inner optimizer's own state.
    **options
        `slow_dtype`, `slow_device`, `kernel`, `capturable` and `state_kinds` of `MetaOptimizer`.

    Raises
    ------
    ValueError
        If an argument is out of range; the message names it.

    References
    ----------
    Zhang et al. 2019, Algorithm 1, arXiv:1907.08610.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1), sync_period=5)
    >>> for _ in range(10):
    ...     optimizer.zero_grad()
    ...     loss = model(torch.ones(1, 2)).square().sum()
    ...     loss.backward()
    ...     optimizer.step()
    >>> with optimizer.slow_weights():
    ...     weights = {name: value.clone() for name, value in model.state_dict().items()}
    """

    def __init__(
        self,
        inner: Optimizer,
        sync_period: int = 5,
        alpha: Scheduled | AdaptiveAlpha = 0.5,
        inner_state: str = "maintain",
        **options: Any,
    ) -> None:
        super().__init__(inner, lookahead(sync_period, alpha, inner_state), **options)


def ranger(
    params: Iterable[Any],
    lr: float = 1e-3,
    sync_period: int = 6,
    alpha: float = 0.5,
    betas: tuple[float, float] = (0.95, 0.999),
    eps: float = 1e-5,
    weight_decay: float = 0.0,
    **options: Any,
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
    sync_period : int
        Inner steps between syncs, k >= 1.
    alpha : float
        How far the slow weights move at a sync, in [0, 1].
    betas : tuple of float
        Decay of RAdam's moments.
    eps : float
        RAdam's, added to the root of the second moment.
    weight_decay : float
        Decoupled from the gradient, as in the repository.
    **options
        `slow_dtype`, `slow_device`, `kernel` and `capturable` of `MetaOptimizer`.

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
    >>> optimizer = ranger(torch.nn.Linear(2, 1).parameters())
    >>> optimizer.rule.sync_period, optimizer.defaults["betas"]
    (6, (0.95, 0.999))
    """
    radam = RAdam(params, lr, betas, eps, weight_decay, decoupled_weight_decay=True)
    return Lookahead(radam, sync_period, alpha, **options)
