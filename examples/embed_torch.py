"""The core in a raw torch loop, without torch.optim: autograd gives gradients, the loop moves."""

import torch

from lookahead_core import lookahead

torch.manual_seed(0)
inputs = torch.randn(256, 8)
targets = inputs @ torch.randn(8)


def loss(weights):
    return ((inputs @ weights - targets) ** 2).mean()


fast, rule = [torch.zeros(8)], lookahead(sync_period=5, alpha=0.5)
state = rule.init(fast)
print(f"loss before training: {loss(fast[0]):.4f}")
for _ in range(100):
    leaves = [w.requires_grad_() for w in fast]
    gradients = torch.autograd.grad(loss(*leaves), leaves)
    with torch.no_grad():  # the core must see no graph
        state = rule.begin(fast, (), state)
        fast = [w - 0.1 * g for w, g in zip(leaves, gradients, strict=True)]
        fast, _, state = rule.step(fast, (), state)
print(f"loss of the slow weights: {loss(*rule.slow(fast, state)):.4f}")
