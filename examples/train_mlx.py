"""A linear model in MLX with Lookahead around Adam, gradients clipped, the step compiled.

python -m pip install ".[mlx]"    (in a clone)
"""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from lookahead_core.adapters.mlx import Lookahead

mx.random.seed(0)
inputs = mx.random.normal((256, 8))
targets = inputs @ mx.random.normal((8, 1)) + 0.1 * mx.random.normal((256, 1))
model = nn.Linear(8, 1)
optimizer = Lookahead(optim.Adam(learning_rate=0.1), sync_period=5, alpha=0.5)
optimizer.init(model.trainable_parameters())
state = [model.state, optimizer.state, mx.random.state]


def loss(x, y):
    return nn.losses.mse_loss(model(x), y)


def step():
    rows = mx.random.randint(0, 256, (32,))
    _, gradients = nn.value_and_grad(model, loss)(inputs[rows], targets[rows])
    gradients, _ = optim.clip_grad_norm(gradients, 5.0)
    optimizer.update(model, gradients)


step = mx.compile(step, inputs=state, outputs=state)
print(f"loss before training: {loss(inputs, targets).item():.4f}")
for _ in range(100):
    step()
    mx.eval(state)
model.update(optimizer.slow_weights(model))
print(f"loss of the slow weights: {loss(inputs, targets).item():.4f}")
