"""The planner: what a setting of Lookahead amounts to, before anything is trained.

    python -m lookahead_core.analysis --sync-period 5 --alpha 0.5 --momentum 0.9 --lr 0.1

Effective learning rate, variance factor, stability limit, extra memory and traffic, and a warning
where the settings lie in an unstable band. The formulas hold for SGD on a quadratic: a guide.
"""

import argparse
from collections.abc import Sequence
from textwrap import fill

from lookahead_core.inner_state import POLICIES
from lookahead_core.outer import Interpolate, Momentum, OuterRule
from lookahead_core.outer_rules.gradient_point import EmaNesterov, PrimalAveraging
from lookahead_core.rule import SyncRule

from .plan import Settings, plan, warnings

__all__ = ["main"]

COLUMNS = 80


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the plan that the command line asks for; exit with 2 if an argument is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = _settings(options)
        rows, warned = plan(settings), warnings(settings)
    except ValueError as error:
        parser.error(str(error))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
    for warning in warned:
        print(f"\n{fill(f'WARNING: {warning}', COLUMNS)}")


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        rule=SyncRule(options.sync_period, _outer(options), options.inner_state),
        learning_rate=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        curvature=options.curvature,
        parameters=options.parameters,
        workers=options.workers,
        bits=options.bits,
    )


def _outer(options: argparse.Namespace) -> OuterRule:
    if options.mu_x is not None:
        return PrimalAveraging(options.mu_x, options.mu_y)
    if options.step_size is not None:
        return EmaNesterov(options.step_size)
    if options.outer_lr is None and options.outer_momentum is None:
        return Interpolate(0.5 if options.alpha is None else options.alpha)
    if options.alpha is not None:
        raise ValueError(f"alpha must be left out with --outer-lr, got {options.alpha}")
    if options.outer_lr is None or options.outer_momentum is None:
        raise ValueError("outer-lr and outer-momentum must be given together, got one of them")
    return Momentum(options.outer_lr, options.outer_momentum, not options.outer_heavy_ball)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lookahead_core.analysis",
        description="What a setting of Lookahead around SGD amounts to, on a quadratic.",
    )
    rule = parser.add_argument_group("slow weights")
    rule.add_argument("--sync-period", type=int, default=5, metavar="K", help="inner steps; 5")
    rule.add_argument("--alpha", type=float, help="fraction of the way; 0.5 if nothing is said")
    rule.add_argument("--outer-lr", type=float, help="of a momentum rule, in the place of alpha")
    rule.add_argument("--outer-momentum", type=float, help="of that rule")
    rule.add_argument("--outer-heavy-ball", action="store_true", help="not Nesterov's form")
    rule.add_argument("--mu-x", type=float, help="of primal averaging (GPA), with --sync-period 1")
    rule.add_argument("--mu-y", type=float, default=0.7, help="of that rule; 0.7")
    rule.add_argument("--step-size", type=float, help="of EMA-Nesterov, with --sync-period 1")
    rule.add_argument("--inner-state", choices=tuple(POLICIES), default="maintain", help="maintain")
    inner = parser.add_argument_group("inner optimizer: SGD")
    inner.add_argument("--lr", type=float, required=True, help="learning rate")
    inner.add_argument("--momentum", type=float, default=0.0, help="in [0, 1); 0")
    inner.add_argument("--nesterov", action="store_true", help="Nesterov's momentum")
    model = parser.add_argument_group("model and workers")
    model.add_argument(
        "--curvature", type=float, help="largest eigenvalue of the Hessian, where you know it"
    )
    model.add_argument("--parameters", type=float, default=1e6, metavar="N", help="weights; 1e6")
    model.add_argument("--workers", type=int, default=1, metavar="W", help="that average; 1")
    model.add_argument("--bits", type=float, default=16, help="sent for each weight; 16")
    return parser


if __name__ == "__main__":
    main()
