"""The bilinear game min_x max_y x y: plain gradient steps circle outwards, slow weights turn in.

Eigenvalues are complex here, which is the case that a quadratic never has.
"""

from typing import Any

from lookahead_core.rule import SyncRule
from lookahead_core.typing import Array

from .matrices import Matrix, add, power, product, spectral_radius
from .rules import fixed_alpha, fixed_period

__all__ = ["bilinear_game_rate"]


def bilinear_game_rate(rule: SyncRule, learning_rate: Array, coupling: Array = 1.0) -> Any:
    """Contraction per step of Lookahead around simultaneous gradient descent and ascent.

    rho = abs(1 - alpha + alpha (1 + i g s)^k)^(1/k), for each singular value s of the coupling;
    both players' weights are synced at the same time.

    Parameters
    ----------
    rule : SyncRule
        Sync period and alpha; alpha = 1 is the bare game, which diverges at every rate.
    learning_rate : float or array
        Rate g, the same for both players.
    coupling : float or array
        Singular values s of the matrix B in x' B y.

    Returns
    -------
    float or array
        Shape of `learning_rate * coupling`. 1 or more does not converge.

    Raises
    ------
    ValueError
        If the rule has no fixed alpha.

    References
    ----------
    Chavdarova et al. 2021, "Taming GANs with Lookahead-Minmax", arXiv:2006.14567; derived in
    docs/theory.md. Assumes exact gradients and no momentum.

    Examples
    --------
    >>> from lookahead_core import lookahead
    >>> from lookahead_core.analysis import bilinear_game_rate
    >>> print(f"{bilinear_game_rate(lookahead(sync_period=5, alpha=0.5), 0.1):.6f}")
    0.996237
    """
    alpha = fixed_alpha(rule)
    period, step = fixed_period(rule), learning_rate * coupling
    turned: Matrix = power(((1.0, -step), (step, 1.0)), period)
    cycle = add(((1 - alpha, 0), (0, 1 - alpha)), product(((alpha, 0), (0, alpha)), turned))
    return spectral_radius(cycle) ** (1 / period)
