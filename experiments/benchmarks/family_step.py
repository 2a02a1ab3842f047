"""Whole steps of averages and outer optimizers, beside what a user would take instead.

`ema` and `swa` beside torch's `AveragedModel` and timm's `ModelEmaV3`, `snoo` and `diloco` of one
worker beside a loop with torch's SGD outside, and Lookahead with either policy for the inner state
beside pytorch_optimizer's. Schedule-Free and GPA, and an EMA in JAX, are
gradient_point.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from experiments.benchmarks.contenders import ALPHA, contenders, timm_ema
from experiments.benchmarks.paired import Make, interleaved, ratio
from experiments.benchmarks.report import NOT_INSTALLED, Tables
from experiments.benchmarks.torch_step import INNERS, arrays, cycles
from experiments.benchmarks.workloads import Shapes, workloads
from lookahead_core import SyncRule, diloco, ema, lookahead, snoo, swa
from lookahead_core.adapters.torch import MetaOptimizer

__all__ = ["measure"]

TITLE = "Averages and outer optimizers, whole steps"
KOZISTR, TIMM = "pytorch_optimizer", "ModelEmaV3"
DECAY, PERIOD, OUTER_LR, MOMENTUM = 0.999, 5, 0.7, 0.9
# Of each set of shapes, around which inner optimizers.
SETS = {
    "400 tiny": ("SGD momentum, foreach", "AdamW, foreach"),
    "ResNet-18": ("SGD momentum, foreach", "AdamW, foreach"),
    "GPT-2 124M": ("SGD momentum, foreach",),
}
Peer: TypeAlias = Callable[[Any, list[Parameter]], Any]


class Beside(NamedTuple):
    """An inner optimizer, and what the user's loop calls after each of its steps."""

    inner: Any
    after: Callable[[], None]

    def step(self) -> None:
        self.inner.step()
        self.after()


def averaged_model(inner: Any, params: list[Parameter], average: Any) -> Beside:
    model = nn.ParameterList(params)
    mean = AveragedModel(model, multi_avg_fn=average)
    return Beside(inner, lambda: mean.update_parameters(model))


def model_ema_v3(inner: Any, params: list[Parameter]) -> Beside:
    model = nn.ParameterList(params)
    mean = timm_ema()(model, decay=DECAY, foreach=True)
    return Beside(inner, lambda: mean.update(model))


def loop(inner: Any, params: list[Parameter]) -> Beside:
    """Nesterov's momentum on the pseudo-gradient, with torch's SGD on a copy of the weights."""
    slow = [Parameter(p.detach().clone()) for p in params]
    outer = SGD(slow, lr=OUTER_LR, momentum=MOMENTUM, nesterov=True, foreach=True)
    steps = 0

    @torch.no_grad()
    def after() -> None:
        nonlocal steps
        steps += 1
        if steps % PERIOD == 0:
            for own, moved in zip(slow, torch._foreach_sub(slow, params), strict=True):
                own.grad = moved
            outer.step()
            torch._foreach_copy_(params, slow)

    return Beside(inner, after)


def pulled_back(how: str) -> Peer:
    """pytorch_optimizer's Lookahead, with its name for what a sync does to momentum."""

    def made(inner: Any, params: list[Parameter]) -> Any:
        from pytorch_optimizer import Lookahead

        return Lookahead(inner, k=PERIOD, alpha=ALPHA, pullback_momentum=how)

    return made


# By method: our rule, and what a user would take instead.
FAMILY: dict[str, tuple[SyncRule, dict[str, Peer]]] = {
    "ema": (
        ema(DECAY),
        {
            "AveragedModel": lambda i, p: averaged_model(i, p, get_ema_multi_avg_fn(DECAY)),
            TIMM: model_ema_v3,
        },
    ),
    "swa": (
        swa(1),
        {"AveragedModel": lambda i, p: averaged_model(i, p, get_swa_multi_avg_fn())},
    ),
    "snoo, k=5": (snoo(PERIOD, OUTER_LR, MOMENTUM), {"a loop with SGD outside": loop}),
    "diloco, k=5": (diloco(PERIOD, OUTER_LR, MOMENTUM), {"a loop with SGD outside": loop}),
    "lookahead, k=5, interpolate": (
        lookahead(PERIOD, ALPHA, "interpolate"),
        {KOZISTR: pulled_back("pullback")},
    ),
    "lookahead, k=5, reset": (lookahead(PERIOD, ALPHA, "reset"), {KOZISTR: pulled_back("reset")}),
}


def measure(rounds: dict[str, int], quick: bool, report: Tables) -> None:
    """The rows of torch."""
    shapes = workloads(quick)
    installed = {TIMM: timm_ema(), KOZISTR: contenders()[KOZISTR]}
    missing = {name for name, found in installed.items() if found is None}
    for name, inners in SETS.items():
        for inner in inners:
            for method, (rule, peers) in FAMILY.items():
                row = f"{name}, {inner.removesuffix(', foreach')}, {method}"
                there = {name: peer for name, peer in peers.items() if name not in missing}
                times = interleaved(
                    torch_ways(shapes[name], INNERS[inner], rule, there),
                    rounds[name],
                    renewals=1 if name == "GPT-2 124M" else 3,
                )
                for peer in peers:
                    record(report, f"{row}, {peer}", times, peer)


def torch_ways(
    shapes: Shapes, inner: Callable[[Any], Any], rule: SyncRule, peers: dict[str, Peer]
) -> dict[str, Make]:
    """Five steps of the bare optimizer, twice, of ours and of each peer."""

    def beside(peer: Peer) -> Callable[[list[Parameter]], Any]:
        return lambda params: peer(inner(params), params)

    made: dict[str, Callable[[list[Parameter]], Any]] = {
        "bare": inner,
        "bare again": inner,
        "ours": lambda params: MetaOptimizer(inner(params), rule),
        **{name: beside(peer) for name, peer in peers.items()},
    }
    values, gradients = arrays(shapes, 0), arrays(shapes, 1)
    return {name: cycles(make, values, gradients, PERIOD) for name, make in made.items()}


def record(report: Tables, row: str, times: Any, peer: str) -> None:
    """Ours and the peer's over the bare optimizer, and the one over the other."""
    report.put(TITLE, row, "bare again / bare", ratio(times, "bare again", "bare"))
    report.put(TITLE, row, "ours / bare", ratio(times, "ours", "bare"))
    there = peer in times
    report.put(TITLE, row, "peer / bare", ratio(times, peer, "bare") if there else NOT_INSTALLED)
    report.put(TITLE, row, "ours / peer", ratio(times, "ours", peer) if there else NOT_INSTALLED)
