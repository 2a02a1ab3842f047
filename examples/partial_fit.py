"""Somebody else's model: scikit-learn's MLPClassifier, its weights synced every 5 mini-batches.

`coefs_` and `intercepts_` are lists of NumPy arrays, and `partial_fit` goes on from what is there.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

from lookahead_core import lookahead

images, digits = load_digits(return_X_y=True)
images = images / 16
model = MLPClassifier(solver="sgd", learning_rate_init=0.2, random_state=0)
model.partial_fit(images[:64], digits[:64], classes=np.arange(10))
print(f"loss before training: {log_loss(digits, model.predict_proba(images)):.4f}")

rule, rng = lookahead(sync_period=5, alpha=0.5), np.random.default_rng(0)
state = rule.init(model.coefs_ + model.intercepts_)
for _ in range(500):
    state = rule.begin(model.coefs_ + model.intercepts_, (), state)
    rows = rng.integers(len(images), size=64)
    model.partial_fit(images[rows], digits[rows])
    leaves, _, state = rule.step(model.coefs_ + model.intercepts_, (), state)
    model.coefs_, model.intercepts_ = list(leaves[:2]), list(leaves[2:])
print(f"loss of the slow weights: {log_loss(digits, model.predict_proba(images)):.4f}")
