"""A linear model in Keras 3 with Lookahead around Adam, validated on the slow weights.

python -m pip install ".[keras]"    (in a clone; and TensorFlow, JAX or torch)
"""

import keras
import numpy as np

from lookahead_core.adapters.keras import Lookahead, SlowWeights

keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
inputs = random.normal(size=(256, 8)).astype("float32")
targets = inputs @ random.normal(size=(8, 1)) + 0.1 * random.normal(size=(256, 1))
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
inner = keras.optimizers.Adam(learning_rate=0.1, clipnorm=5.0)
model.compile(Lookahead(inner, sync_period=5, alpha=0.5), loss="mse")
print(f"loss before training: {model.evaluate(inputs, targets, verbose=0):.4f}")
history = model.fit(
    inputs,
    targets,
    epochs=12,
    validation_data=(inputs, targets),
    callbacks=[SlowWeights()],
    verbose=0,
)
print(f"loss of the slow weights: {history.history['val_loss'][-1]:.4f}")
