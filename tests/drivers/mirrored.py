"""13 steps on two CPUs under MirroredStrategy, and on one; prints what came of them."""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from lookahead_core.adapters.keras import Lookahead

X = np.random.default_rng(0).normal(size=(52, 3)).astype("float32")
Y = X.sum(1, keepdims=True)


def trained(strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.Input((3,)), keras.layers.Dense(4, activation="tanh")]
        model = keras.Sequential([*layers, keras.layers.Dense(1)])
        own = Lookahead(keras.optimizers.Adam(0.01), 5, 0.5, "reset")
        scaled = "--loss-scale" in sys.argv
        model.compile(keras.optimizers.LossScaleOptimizer(own, 1.0) if scaled else own, "mse")
    model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    return model, own


cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
model, own = trained(strategy)
alone, _ = trained(tf.distribute.get_strategy())
differ = [
    float(np.abs(a.numpy() - b.numpy()).max())
    for variable in (*model.trainable_variables, *own.variables)
    for a, b in [strategy.experimental_local_results(variable.value)]
]
pairs = zip(model.get_weights(), alone.get_weights(), strict=True)
state = own._part.state
told = {
    "replicas differ": max(differ),
    "count": int(state.count.numpy()),
    "syncs": int(state.syncs.numpy()),
}
print(json.dumps(told | {"off one device": float(max(np.abs(a - b).max() for a, b in pairs))}))
