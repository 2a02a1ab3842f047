"""The digits inside scikit-learn's wheel: 1797 real scans of 8 x 8 pixels. No download."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

__all__ = ["BATCH_SIZE", "TRAIN_SIZE", "Data", "load_data"]

# 1280 / 32 = 40 steps an epoch, a whole number of cycles of 5: every run ends at a sync, and the
# step before the end of each epoch is the last one before a sync.
TRAIN_SIZE = 1280
BATCH_SIZE = 32


class Data(NamedTuple):
    """Pixels as float64, shape (n, 64); digits as int64, shape (n,)."""

    train_x: NDArray[np.float64]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float64]
    test_y: NDArray[np.int64]


@cache
def load_data() -> Data:
    """The one split that all runs share: 1280 scans to train on, 517 to test.

    Pixels are centred one by one and scaled by one number: the corners are blank in nearly all
    scans, so dividing each pixel by its own deviation would blow up a stray one.
    """
    scans: Any = load_digits()
    train_x, test_x, train_y, test_y = train_test_split(
        scans.data, scans.target, train_size=TRAIN_SIZE, stratify=scans.target, random_state=0
    )
    centre, scale = train_x.mean(axis=0), train_x.std()
    return Data(
        (train_x - centre) / scale,
        train_y.astype(np.int64),
        (test_x - centre) / scale,
        test_y.astype(np.int64),
    )
