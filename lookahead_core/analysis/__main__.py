"""The planner: what a setting of Lookahead amounts to, before anything is trained.

    python -m lookahead_core.analysis --sync-period 5 --alpha 0.5 --momentum 0.9 --lr 0.1

Effective learning rate, variance factor, stability limit, extra memory and traffic, and a warning
where the settings lie in an unstable band. The formulas hold for SGD on a quadratic: a guide.
"""

import argparse
from collections.abc import Sequence

from lookahead_core.inner_state import POLICIES
from lookahead_core.presets import lookahead

from .plan import Settings, plan, warnings

__all__ = ["main"]


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
        print(f"\nWARNING: {warning}")


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        rule=lookahead(options.sync_period, options.alpha, options.inner_state),
        learning_rate=options.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        curvature=options.curvature,
        parameters=options.parameters,
        workers=options.workers,
        bits=options.bits,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lookahead_core.analysis",
        description="What a setting of Lookahead around SGD amounts to, on a quadratic.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    rule = parser.add_argument_group("slow weights")
    rule.add_argument("--sync-period", type=int, default=5, metavar="K", help="inner steps a sync")
    rule.add_argument("--alpha", type=float, default=0.5, help="fraction of the way")
    rule.add_argument("--inner-state", choices=tuple(POLICIES), default="maintain", help="policy")
    inner = parser.add_argument_group("inner optimizer: SGD")
    inner.add_argument("--lr", type=float, required=True, help="learning rate")
    inner.add_argument("--momentum", type=float, default=0.0, help="in [0, 1)")
    inner.add_argument("--nesterov", action="store_true", help="Nesterov's momentum")
    model = parser.add_argument_group("model and workers")
    model.add_argument(
        "--curvature", type=float, help="largest eigenvalue of the Hessian, where you know it"
    )
    model.add_argument("--parameters", type=float, default=1e6, metavar="N", help="weights")
    model.add_argument("--workers", type=int, default=1, metavar="W", help="replicas that average")
    model.add_argument("--bits", type=float, default=16, help="sent for each weight")
    return parser


if __name__ == "__main__":
    main()
