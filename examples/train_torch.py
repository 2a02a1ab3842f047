"""A linear model in torch with Lookahead around AdamW: one line more than without.

python -m pip install ".[torch]"    (in a clone)
"""

import torch

from lookahead_core.adapters.torch import Lookahead

torch.manual_seed(0)
inputs = torch.randn(256, 8)
targets = inputs @ torch.randn(8, 1) + 0.1 * torch.randn(256, 1)
model = torch.nn.Linear(8, 1)
loss = torch.nn.MSELoss()

optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
optimizer = Lookahead(optimizer, sync_period=5, alpha=0.5)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)

print(f"loss before training: {loss(model(inputs), targets):.4f}")
for _ in range(100):
    rows = torch.randint(256, (32,))
    optimizer.zero_grad()
    loss(model(inputs[rows]), targets[rows]).backward()
    optimizer.step()
    scheduler.step()
with optimizer.slow_weights():
    print(f"loss of the slow weights: {loss(model(inputs), targets):.4f}")
