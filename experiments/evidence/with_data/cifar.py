"""ResNet-18 on CIFAR-10 or CIFAR-100 with the paper's schedule: 200 epochs, lr / 5 at 60, 120, 160.

python -m experiments.evidence.with_data.cifar --data DIR --classes 10 --method lookahead
python -m experiments.evidence.with_data.cifar --synthetic --steps 5 --tiny

DIR holds cifar-10-batches-py or cifar-100-python as they come from https://www.cs.toronto.edu/~kriz/cifar.html;
they are pickles, so take them from there alone. The paper's text has batches of 128, the schedule,
and 3 seeds. Rate and weight decay below, and k = 5 with alpha = 0.8, are what a reproduction
(https://github.com/Connah-rs/lookahead) found best; the paper's own choice is in its appendix.
"""

import argparse
import pickle
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.evidence.with_data.shipped import Training, device, options_of, report

DESCRIPTION = "ResNet-18 on CIFAR with the paper's schedule."
SIDE = 32


class Images(NamedTuple):
    """Images, shape (n, 3, 32, 32), and their classes."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, doi:10.1109/CVPR.2016.90)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            convolution = nn.Conv2d(width_in, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


def resnet18(classes: int, width: int = 64) -> nn.Module:
    """ResNet-18 for images of 32 x 32: a 3 x 3 stem and no pooling at first."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)]
    layers.append(nn.ReLU(inplace=True))
    last = width
    for stage in range(4):
        for stride in (1 if stage == 0 else 2, 1):
            layers.append(Block(last, width << stage, stride))
            last = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes))


def load(options: argparse.Namespace) -> Images:
    """All images; random ones of the same shape with --synthetic."""
    if options.synthetic:
        return Images(*random_images(512, options.classes), *random_images(256, options.classes))
    if options.data is None:
        raise SystemExit("cifar.py: --data must be the folder of the data, or --synthetic given")
    if options.classes == 10:
        folder = options.data / "cifar-10-batches-py"
        train = [f"data_batch_{number}" for number in range(1, 6)]
        return Images(*read(folder, train), *read(folder, ["test_batch"]))
    folder = options.data / "cifar-100-python"
    return Images(*read(folder, ["train"]), *read(folder, ["test"]))


def random_images(n: int, classes: int) -> tuple[Tensor, Tensor]:
    shape = (n, 3, SIDE, SIDE)
    return torch.randint(256, shape, dtype=torch.uint8), torch.randint(classes, (n,))


def normalised(data: Images, place: torch.device) -> Images:
    """float32 images on `place`, each channel by the mean and deviation of the training set."""
    train_x = data.train_x.float()
    mean, scale = (f(train_x, dim=(0, 2, 3), keepdim=True) for f in (torch.mean, torch.std))
    parts = [(train_x - mean) / scale, data.train_y, (data.test_x - mean) / scale, data.test_y]
    return Images(*(part.to(place) for part in parts))


def read(folder: Path, names: list[str]) -> tuple[Tensor, Tensor]:
    """Images and classes of some of the files."""
    images, labels = [], []
    for name in names:
        content = pickle.loads((folder / name).read_bytes(), encoding="bytes")
        images.append(torch.from_numpy(content[b"data"]).reshape(-1, 3, SIDE, SIDE))
        labels.append(torch.tensor(content.get(b"labels", content.get(b"fine_labels"))))
    return torch.cat(images), torch.cat(labels)


def augmented(images: Tensor) -> Tensor:
    """Four pixels of zeros around, a random crop of each image, half of them mirrored."""
    n, place = len(images), images.device
    padded = functional.pad(images, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    corners = torch.randint(9, (2, n, 1), device=place)
    rows, columns = corners + torch.arange(SIDE, device=place)
    which = torch.arange(n, device=place)[:, None, None]
    cropped = padded[which, rows[:, :, None], columns[:, None, :]]
    mirrored = torch.rand(n, 1, 1, 1, device=place) < 0.5
    return torch.where(mirrored, cropped.flip(2), cropped).permute(0, 3, 1, 2)


def accuracy(training: Training, x: Tensor, y: Tensor) -> float:
    """Of the weights that would be shipped."""
    with training.shipped() as model:
        parts = zip(x.split(500), y.split(500), strict=True)
        hits = sum(int((model(part).argmax(dim=1) == label).sum()) for part, label in parts)
    return hits / len(y)


def inner_optimizer(model: nn.Module, options: argparse.Namespace) -> torch.optim.Optimizer:
    settings = {"lr": options.lr, "weight_decay": options.weight_decay}
    if options.inner == "adamw":
        return torch.optim.AdamW(model.parameters(), **settings)
    return torch.optim.SGD(model.parameters(), momentum=0.9, **settings)


def train_epoch(training: Training, model: nn.Module, x: Tensor, y: Tensor, size: int) -> float:
    """One pass over the data in random order; the loss of the last batch."""
    loss = torch.tensor(float("nan"))
    for rows in torch.randperm(len(y), device=y.device).split(size):
        if training.finished:
            break
        training.optimizer.zero_grad()
        loss = functional.cross_entropy(model(augmented(x[rows])), y[rows])
        loss.backward()
        training.step()
    return loss.item()


def main(arguments: list[str] | None = None) -> None:
    parser = options_of(DESCRIPTION, lr=0.1, weight_decay=1e-3, batch=128, epochs=200, alpha=0.8)
    parser.add_argument("--classes", type=int, choices=[10, 100], default=10)
    parser.add_argument("--inner", choices=["sgd", "adamw"], default="sgd")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    data = normalised(load(options), device())
    model = resnet18(options.classes, width=8 if options.tiny else 64).to(device())
    training = Training(model, inner_optimizer(model, options), options)
    schedule = torch.optim.lr_scheduler.MultiStepLR(training.optimizer, [60, 120, 160], gamma=0.2)
    for epoch in range(1, options.epochs + 1):
        loss = train_epoch(training, model, data.train_x, data.train_y, options.batch)
        schedule.step()
        score = accuracy(training, data.test_x, data.test_y)
        report(epoch=epoch, step=training.taken, train_loss=loss, test_accuracy=score)
        if training.finished:
            break


if __name__ == "__main__":
    main()
