"""Two small models to train: a ResNet for pictures of 32 x 32, and a transformer."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

__all__ = ["Training", "trainings"]


class Training(NamedTuple):
    """A model, and the loss of it on a batch that is always the same.

    Attributes
    ----------
    model : torch.nn.Module
    loss : callable, () -> 0-d Tensor
    """

    model: nn.Module
    loss: Callable[[], Tensor]


class Block(nn.Module):
    """Two convolutions and what goes round them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        same = inputs == outputs
        self.around = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inside = relu(self.norms[0](self.first(x)))
        return relu(self.norms[1](self.second(inside)) + self.around(x))


def resnet() -> Training:
    """ResNet-20 for CIFAR (He et al. 2015, section 4.2), 0.27 million weights, batch 32."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for width in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(inputs, width, 1 if width == inputs else 2))
            inputs = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    pictures, labels = torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    return Training(model, lambda: cross_entropy(model(pictures), labels))


def transformer() -> Training:
    """Four layers of width 256, 5.2 million weights with the embeddings; batch 8, 64 tokens."""
    layer = nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(4096, 256), encoder, nn.Linear(256, 4096))
    tokens = torch.randint(4096, (8, 65))
    return Training(
        model,
        lambda: cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()),
    )


def trainings() -> dict[str, Callable[[], Training]]:
    return {"small ResNet, batch 32": resnet, "small transformer, batch 8": transformer}
