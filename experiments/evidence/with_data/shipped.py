"""What the scripts here share: the command line, the optimizer that it asks for, and its report.

The method is `inner`, `lookahead`, or `ema`: a moving average that training never sees. The control
at alpha times the rate is `--method inner` with that `--lr`. Data and models are the scripts'.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lookahead_core.adapters.torch import Lookahead

__all__ = ["Training", "device", "options_of", "report"]


def options_of(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """The options of every script; `defaults` are those of its task."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="where the data is")
    parser.add_argument("--synthetic", action="store_true", help="random data of the same shape")
    parser.add_argument("--steps", type=int, metavar="N", help="stop after N steps")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script")
    parser.add_argument("--method", choices=["inner", "lookahead", "ema"], default="lookahead")
    parser.add_argument("--sync-period", type=int, default=5, metavar="K")
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument(
        "--inner-state", choices=["maintain", "reset", "interpolate"], default="maintain"
    )
    parser.add_argument("--decay", type=float, default=0.999, help="of --method ema")
    parser.add_argument("--lr", type=float, help="learning rate of the inner optimizer")
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(**defaults)
    return parser


class Training:
    """An inner optimizer and what is around it.

    Parameters
    ----------
    model : nn.Module
    inner : torch.optim.Optimizer
        Over the parameters of `model`.
    options : argparse.Namespace
        From `options_of`.

    Attributes
    ----------
    optimizer : torch.optim.Optimizer
        To be stepped by `step`, and by nobody else; schedulers take it.
    taken : int
        Steps so far.
    """

    def __init__(
        self, model: nn.Module, inner: torch.optim.Optimizer, options: argparse.Namespace
    ) -> None:
        self._model = model
        self._limit: int | None = options.steps
        self._average: AveragedModel | None = None
        self.optimizer, self.taken = inner, 0
        if options.method == "lookahead":
            self.optimizer = Lookahead(
                inner, options.sync_period, options.alpha, options.inner_state
            )
        if options.method == "ema":
            average = get_ema_multi_avg_fn(options.decay)
            self._average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)

    def step(self) -> None:
        """One inner step, after the gradients are there."""
        self.optimizer.step()
        self.taken += 1
        if self._average is not None:
            self._average.update_parameters(self._model)

    @property
    def finished(self) -> bool:
        """Whether `--steps` have been taken."""
        return self.taken == self._limit

    @contextmanager
    def shipped(self) -> Iterator[nn.Module]:
        """The model to evaluate: slow weights under Lookahead, the average under `ema`.

        Running statistics of batch normalisation are those of the fast weights under Lookahead:
        no optimizer owns them.
        """
        model = self._model if self._average is None else self._average.module
        model.eval()
        with torch.no_grad():
            if isinstance(self.optimizer, Lookahead):
                with self.optimizer.slow_weights():
                    yield model
            else:
                yield model
        self._model.train()


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def report(**record: Any) -> None:
    """One line of JSON on stdout; a number that is not finite is printed as null."""
    numbers = {
        name: None if isinstance(x, float) and not abs(x) < float("inf") else x
        for name, x in record.items()
    }
    print(json.dumps(numbers), flush=True)
