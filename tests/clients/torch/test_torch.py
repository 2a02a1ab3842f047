"""torch's own learning-rate schedulers, chained, with torch.amp.GradScaler, through a restart."""

import pytest
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    SequentialLR,
)

from lookahead_core.adapters.torch import Lookahead
from torch_runs import assert_same, flat

OVERFLOWS = {4, 9}
SCHEDULES = {
    "chained": lambda opt: ChainedScheduler([ConstantLR(opt, 0.5, 4), ExponentialLR(opt, 0.9)]),
    "in sequence": lambda opt: SequentialLR(
        opt, [LinearLR(opt, 0.1, total_iters=5), CosineAnnealingLR(opt, 10)], milestones=[5]
    ),
}


class Training:
    """A model, Lookahead around AdamW, a schedule and a scaler, and their checkpoint."""

    def __init__(self, schedule, **options):
        torch.manual_seed(0)
        self.model = torch.nn.Linear(3, 2)
        inner = torch.optim.AdamW(self.model.parameters(), lr=0.1, **options)
        self.optimizer = Lookahead(inner, 3, 0.5)
        self.schedule = SCHEDULES[schedule](self.optimizer)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)

    def parts(self):
        return [self.model, self.optimizer, self.schedule, self.scaler]

    def run(self, steps):
        for step in steps:
            self.optimizer.zero_grad()
            loss = self.model(torch.full((2, 3), step % 3 + 1.0)).square().mean()
            self.scaler.scale(loss * (float("inf") if step in OVERFLOWS else 1.0)).backward()
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.schedule.step()

    def save(self):
        return flat([part.state_dict() for part in self.parts()])

    def load(self, saved):
        for part, state in zip(self.parts(), saved, strict=True):
            part.load_state_dict(state)


@pytest.mark.clause("C03", "C06", "C30")
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_with_schedule_and_scaler_resumes_bitwise(schedule, fused):
    whole, first, second = (Training(schedule, fused=fused) for _ in range(3))
    whole.run(range(14))
    first.run(range(7))
    second.load(first.save())
    second.run(range(7, 14))
    assert_same(second.save(), whole.save())
    assert whole.optimizer.state_dict()["param_groups"][0]["lookahead_syncs"] == 4
