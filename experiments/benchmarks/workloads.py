"""The sets of shapes that are measured: many tiny arrays, two models, and one large array."""

__all__ = ["Shapes", "elements", "gpt2", "resnet18", "workloads"]

Shapes = list[tuple[int, ...]]


def resnet18() -> Shapes:
    """The 62 parameters of ResNet-18 (He et al. 2015, arXiv:1512.03385), 11.7 million numbers."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
    inputs = 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            shapes += [(width, inputs, 3, 3), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            if inputs != width:
                shapes += [(width, inputs, 1, 1), (width,), (width,)]
            inputs = width
    return [*shapes, (1000, 512), (1000,)]


def gpt2() -> Shapes:
    """The 148 parameters of the smallest GPT-2 (Radford et al. 2019), 124.4 million numbers."""
    width = 768
    block: Shapes = [(width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,)]
    block += [(width,), (width,), (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [(50257, width), (1024, width), *block * 12, (width,), (width,)]


def elements(shapes: Shapes) -> int:
    """How many numbers there are in all."""
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def workloads(quick: bool = False) -> dict[str, Shapes]:
    """The sets by name; with `quick` a small part of each, whose times say nothing."""
    sets = {
        "400 tiny": [(16, 16)] * 400,
        "ResNet-18": resnet18(),
        "GPT-2 124M": gpt2(),
        "32M in one": [(32_000_000,)],
    }
    if not quick:
        return sets
    return {name: [smaller(s) for s in shapes[:20]] for name, shapes in sets.items()}


def smaller(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (max(shape[0] // 64, 1), *shape[1:])
