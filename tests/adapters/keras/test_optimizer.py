"""What Keras and its users expect of an optimizer, of the wrapper, through `fit`."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from lookahead_core import AdaptiveAlpha, SyncRule, ema, lookahead, nested, schedule_free, snoo
from lookahead_core.adapters.keras import Lookahead, MetaOptimizer, SlowWeights
from lookahead_core.adapters.keras._inner_state import moments

BACKEND = keras.backend.backend()
POLICIES = ("maintain", "reset", "interpolate")
INNER = {
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
}
K, ALPHA = 5, 0.5


def data(batches=23, dtype="float32"):
    x = np.random.default_rng(0).normal(size=(2 * batches, 3)).astype(dtype)
    return x, x.sum(1, keepdims=True)


def network(optimizer, **compiled):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((3,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(optimizer, "mse", **compiled)
    return model


def fit(model, batches, start=0, epochs=1, **options):
    """Train on the batches from `start` on, in order."""
    x, y = (array[2 * start : 2 * (start + batches)] for array in data(60, model.dtype))
    model.fit(x, y, batch_size=2, shuffle=False, epochs=epochs, verbose=0, **options)
    return model


def values(model):
    """All that a run goes on with."""
    return [*model.get_weights(), *(v.numpy() for v in model.optimizer.variables)]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(values(first), values(second), strict=True))


def by_hand(inner, policy):
    """The bare optimizer through `fit`, and a sync after each k-th step."""
    model = network(inner)
    inner.build(model.trainable_variables)
    slow, slow_moments = model.get_weights(), [m.numpy() for m in moments(inner)]
    for begin in range(0, 23, K):
        fit(model, min(K, 23 - begin), begin)
        if begin + K > 23:
            break
        slow = [p + ALPHA * (w - p) for p, w in zip(slow, model.get_weights(), strict=True)]
        model.set_weights(slow)
        for index, moment in enumerate(moments(inner)):
            if policy == "reset":
                moment.assign(np.zeros_like(moment.numpy()))
            if policy == "interpolate":
                before = slow_moments[index]
                slow_moments[index] = before + ALPHA * (moment.numpy() - before)
                moment.assign(slow_moments[index])
        if policy == "reset":
            inner.iterations.assign(0)
    return model.get_weights()


@pytest.mark.clause("C02", "C16", "C17", "C18")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", INNER)
def test_fit_is_the_bare_optimizer_with_the_sync_by_hand(kind, policy):
    wrapped = fit(network(Lookahead(INNER[kind](), K, ALPHA, policy)), 23)
    expected = by_hand(INNER[kind](), policy)
    for own, other in zip(wrapped.get_weights(), expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-5)
    assert not np.allclose(expected[0], fit(network(INNER[kind]()), 23).get_weights()[0])


@pytest.mark.skipif(BACKEND != "jax", reason="the others pass Python floats through float32")
@pytest.mark.clause("C02", "C16", "C17", "C18", "C28")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", INNER)
def test_fit_in_double_precision_is_the_sync_by_hand_to_its_digits(kind, policy):
    import jax

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        with jax.enable_x64(True):
            wrapped = fit(network(Lookahead(INNER[kind](), K, ALPHA, policy)), 23)
            expected = by_hand(INNER[kind](), policy)
            assert wrapped.get_weights()[0].dtype == "float64"
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    for own, other in zip(wrapped.get_weights(), expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=0, atol=1e-12)


def test_a_step_is_traced_and_not_run_as_python(monkeypatch):
    calls, takes = [], SyncRule.takes
    monkeypatch.setattr(SyncRule, "takes", lambda *args: calls.append(1) or takes(*args))
    fit(network(Lookahead(INNER["sgd"]())), 23)
    assert len(calls) <= {"tensorflow": 2, "jax": 1, "torch": 23}[BACKEND]


@pytest.mark.clause("C06")
@pytest.mark.parametrize("policy", POLICIES)
def test_files_resume_bit_for_bit_at_every_phase(policy, tmp_path):
    model = network(Lookahead(INNER["adam"](), K, ALPHA, policy))
    for step in range(10):
        fit(model, 1, step)
        if step >= K:
            model.save(tmp_path / f"{step}.keras")
            model.save_weights(tmp_path / f"{step}.weights.h5")
    into = network(Lookahead(INNER["adam"](), K, ALPHA, policy))
    into.optimizer.build(into.trainable_variables)
    for step in range(K, 10):
        into.load_weights(tmp_path / f"{step}.weights.h5")
        loaded = keras.saving.load_model(tmp_path / f"{step}.keras")
        assert same(into, loaded)
        assert same(fit(into, 9 - step, step + 1) if step < 9 else into, model), step
    assert same(fit(loaded, 2, 10), fit(model, 2, 10))


@pytest.mark.clause("C06")
def test_backup_and_restore_resumes_bit_for_bit_at_every_phase(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    whole, interrupted, resumed = (network(Lookahead(INNER["adam"](), K)) for _ in range(3))
    whole.optimizer.build(whole.trainable_variables)
    whole.save_weights(tmp_path / "start.weights.h5")
    for phase in range(K):
        for model in (whole, interrupted):
            model.optimizer.build(model.trainable_variables)
            model.load_weights(tmp_path / "start.weights.h5")

        def backup(folder=tmp_path / str(phase)):
            return keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)

        run = {"batches": K + phase, "epochs": 2}
        with pytest.raises(KeyboardInterrupt):
            fit(interrupted, **run, callbacks=[SlowWeights(), backup(), Stop()])
        fit(resumed, **run, callbacks=[SlowWeights(), backup()])
        assert same(resumed, fit(whole, **run)), phase


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others make variables before a trace")
def test_the_variables_may_be_made_in_the_first_trace():
    import tensorflow as tf

    own = Lookahead(keras.optimizers.SGD(0.5, momentum=0.5), 2, inner_state="reset")
    weights, gradients = [keras.Variable([1.0])], [keras.ops.ones((1,))]
    step = tf.function(lambda: own.apply(gradients, weights), autograph=False)
    for _ in range(3):
        step()
    state = own._part.state
    assert (int(state.count), int(state.syncs)) == (1, 1)
    assert (state.slow[0].numpy().tolist(), weights[0].numpy().tolist()) == ([0.375], [-0.125])


@pytest.mark.clause("C05", "C22")
def test_a_sync_and_an_evaluation_between_two_fits_leave_all_buffers_to_their_owners():
    # JAX gives away the buffers of a model that it trains or evaluates: none may have two owners.
    model = fit(network(Lookahead(INNER["adam"](), K, inner_state="interpolate")), 2)
    model.optimizer.sync()
    for own, slow in zip(model.trainable_variables, model.optimizer._part.state.slow, strict=True):
        assert np.array_equal(own.numpy(), slow.numpy())
    fit(model, 2, 2)
    before = values(model)
    with model.optimizer.slow_weights():
        model.evaluate(*data(4), verbose=0)
    assert all(map(np.array_equal, values(model), before))
    fit(model, 3, 4)
    state = model.optimizer._part.state
    assert (int(state.count), int(state.syncs)) == (0, 2)


def test_two_fits_are_one_fit():
    for policy in ("maintain", "reset"):
        once = fit(network(Lookahead(INNER["adam"](), inner_state=policy)), 13)
        twice = fit(fit(network(Lookahead(INNER["adam"](), inner_state=policy)), 7), 6, 7)
        assert same(once, twice)


@pytest.mark.clause("C03")
def test_steps_that_loss_scaling_skips_do_not_count():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        own = Lookahead(keras.optimizers.SGD(0.01), 3)
        model = network(keras.optimizers.LossScaleOptimizer(own, initial_scale=2.0**20))
        fit(model, 12)
    finally:
        keras.config.set_dtype_policy("float32")
    applied = int(own.iterations)
    assert 3 < applied < 12
    state = own._part.state
    assert (int(state.count), int(state.syncs)) == (applied % 3, applied // 3)


@pytest.mark.clause("C03")
def test_gradients_that_are_accumulated_are_one_step():
    own = Lookahead(keras.optimizers.SGD(0.01, gradient_accumulation_steps=4))
    fit(network(own), 30)
    state = own._part.state
    assert (int(own.iterations), int(state.count), int(state.syncs)) == (7, 2, 1)


@pytest.mark.clause("C17")
def test_reset_leaves_the_schedule_of_the_learning_rate_alone(tmp_path):
    def decaying(policy):
        schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)
        return network(Lookahead(keras.optimizers.Adam(schedule), inner_state=policy))

    reset, maintain = (fit(decaying(policy), 12) for policy in ("reset", "maintain"))
    rates = [float(model.optimizer.learning_rate) for model in (reset, maintain)]
    assert rates[0] == rates[1] < 0.01
    assert int(reset.optimizer.iterations) == int(maintain.optimizer.iterations) == 12
    assert int(reset.optimizer.inner.iterations) == 2
    reset.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.optimizer.learning_rate) == rates[0]
    assert same(fit(loaded, 4, 12), fit(reset, 4, 12))


@pytest.mark.clause("C49")
def test_a_call_without_with_says_that_it_does_nothing():
    optimizer = Lookahead(keras.optimizers.SGD(0.1))
    with pytest.warns(UserWarning, match=r"slow_weights\(\) did nothing"):
        optimizer.slow_weights()


@pytest.mark.clause("C22")
def test_the_callback_validates_and_saves_on_the_slow_weights(tmp_path):
    best = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss")
    model, plain = (network(Lookahead(INNER["sgd"]())) for _ in range(2))
    x, y = data(4)
    early = keras.callbacks.EarlyStopping(restore_best_weights=False)
    shown = [SlowWeights(best, early)]
    fit(model, 7, validation_data=(x, y), callbacks=shown)
    fit(plain, 7)
    assert same(model, plain)  # training goes on as if nobody had looked
    with model.optimizer.slow_weights():
        slow = model.get_weights()
        loss = model.evaluate(x, y, verbose=0)
    assert not np.array_equal(slow[0], model.get_weights()[0])
    assert np.isclose(model.history.history["val_loss"][-1], loss, rtol=1e-6)
    loaded = keras.saving.load_model(tmp_path / "best.keras")
    assert all(map(np.array_equal, loaded.get_weights(), slow))


def test_early_stopping_puts_the_best_slow_weights_in():
    seen = []

    class Seen(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((logs["val_loss"], self.model.get_weights()))

    model = network(Lookahead(INNER["sgd"]()))
    early = keras.callbacks.EarlyStopping(restore_best_weights=True, start_from_epoch=0)
    shown = [SlowWeights(early, Seen())]
    fit(model, 7, epochs=3, validation_data=data(4), callbacks=shown)
    best = min(seen, key=lambda pair: pair[0])[1]
    assert all(map(np.array_equal, model.get_weights(), best))


@pytest.mark.clause("C41")
def test_a_model_saved_with_the_slow_weights_resumes_from_the_fast_ones(tmp_path):
    model = fit(network(Lookahead(INNER["adam"]())), 7)
    with model.optimizer.slow_weights():
        slow = model.get_weights()
        model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert all(map(np.array_equal, loaded.get_weights(), slow))
    with pytest.raises(
        RuntimeError, match="the parameters hold the slow weights; leave the context"
    ):
        fit(loaded, 1)
    # On JAX Keras loses the weights of a model with any error of a step.
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert same(fit(loaded, 4, 7, callbacks=[SlowWeights()]), fit(model, 4, 7))


def test_loading_into_an_optimizer_that_is_not_built_warns_as_keras_does(tmp_path):
    fit(network(Lookahead(INNER["adam"]())), 2).save_weights(tmp_path / "a.weights.h5")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        network(Lookahead(INNER["adam"]())).load_weights(tmp_path / "a.weights.h5")


@pytest.mark.clause("C06", "C43")
@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda: Lookahead(INNER["adam"](), 6), "sync_period"),
        (lambda: INNER["adam"](), "no state of Lookahead"),
        (lambda: MetaOptimizer(INNER["adam"](), snoo(5)), "outer"),
    ],
)
def test_another_optimizers_file_is_refused_when_built(saved, message, tmp_path):
    fit(network(saved()), 2).save_weights(tmp_path / "a.weights.h5")
    model = network(Lookahead(INNER["adam"]()))
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=message):
        model.load_weights(tmp_path / "a.weights.h5")


@pytest.mark.clause("C89")
@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("slow_1", lambda array: np.full(array.shape, "x"), "real numbers as slow_1"),
        ("slow_1", lambda array: array[:-1], "slow_1 of shape"),
        ("fast_0", lambda array: np.zeros(7), "fast_0 of shape"),
    ],
)
def test_a_state_of_which_one_array_is_wrong_changes_nothing(name, wrong, message):
    model = fit(network(Lookahead(INNER["adam"](), 3)), 4)
    optimizer, good = model.optimizer, {}
    optimizer.save_own_variables(good)
    fit(model, 1)
    before = [keras.ops.convert_to_numpy(own) for own in optimizer.variables]
    good[name] = wrong(good.get(name))
    with pytest.raises(ValueError, match=message):
        optimizer.load_own_variables(good)
    for own, value in zip(optimizer.variables, before, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(own), value)


@pytest.mark.parametrize(
    "rule", [snoo(3), ema(0.5), schedule_free(), nested(lookahead(2), lookahead(4))], ids=str
)
def test_other_rules_run_and_come_back_from_a_file(rule, tmp_path):
    model = fit(network(MetaOptimizer(INNER["adam"](), rule)), 7)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.rule == rule
    assert same(fit(loaded, 2, 7), fit(model, 2, 7))
    with model.optimizer.slow_weights():
        assert all(np.isfinite(leaf).all() for leaf in model.get_weights())


def test_freezing_a_layer_and_compiling_again_leaves_it_alone():
    model = fit(network(Lookahead(INNER["sgd"](), 2)), 3)
    model.layers[0].trainable = False
    model.compile(Lookahead(INNER["sgd"](), 2), "mse")
    before = model.get_weights()
    fit(model, 4)
    assert np.array_equal(model.get_weights()[0], before[0])
    assert not np.array_equal(model.get_weights()[2], before[2])


def test_the_learning_rate_and_the_loss_scale_are_the_inner_optimizers():
    own = Lookahead(keras.optimizers.SGD(0.5, loss_scale_factor=8.0))
    own.learning_rate = 0.25
    assert float(own.inner.learning_rate) == float(own.learning_rate) == 0.25
    assert float(own.scale_loss(keras.ops.ones(()))) == 8
    keras.optimizers.LossScaleOptimizer(own)
    assert own.inner.loss_scale_factor is None


@pytest.mark.clause("C25")
def test_what_cannot_be_right_is_refused_with_the_right_order():
    sgd = keras.optimizers.SGD
    with pytest.raises(ValueError, match=r"inner must not be wrapped already .*nested\(first, "):
        Lookahead(Lookahead(sgd()))
    with pytest.raises(ValueError, match=r"LossScaleOptimizer\(Lookahead\(inner\)\)"):
        Lookahead(keras.optimizers.LossScaleOptimizer(sgd()))
    with pytest.raises(ValueError, match=r"use_ema=True.*MetaOptimizer\(inner, ema"):
        Lookahead(sgd(use_ema=True))
    with pytest.raises(ValueError, match=r"not be a MultiOptimizer: give it .* Lookahead\(inner"):
        Lookahead(keras.optimizers.MultiOptimizer(lambda variable: sgd()))
    with pytest.raises(ValueError, match=r"clipnorm belongs to .* Lookahead\(.*SGD\(clipnorm="):
        Lookahead(sgd(), clipnorm=1.0)
    with pytest.raises(TypeError, match="has no argument k: write sync_period=6"):
        Lookahead(sgd(), k=6)
    with pytest.raises(ValueError, match="inner must be a keras"):
        Lookahead("sgd")
    with pytest.raises(ValueError, match=r"sync_period must be at most .* 2147483648"):
        Lookahead(sgd(), sync_period=2**31)
    with pytest.raises(ValueError, match="rule must be a SyncRule, got 5"):
        MetaOptimizer(sgd(), 5)
    with pytest.raises(ValueError, match="rule must not ask for the gradient"):
        Lookahead(sgd(), alpha=AdaptiveAlpha())
    with pytest.raises(
        ValueError, match="save_freq of ModelCheckpoint must be 'epoch' here, got 5"
    ):
        SlowWeights(keras.callbacks.ModelCheckpoint("a.keras", save_freq=5))
    with pytest.raises(RuntimeError, match="call build"):
        Lookahead(sgd()).sync()


@pytest.mark.clause("C24")
@pytest.mark.parametrize("name", ["inner", "rule", "alpha", "k", "sync_period", "slow_dtype"])
def test_what_would_be_without_effect_cannot_be_set(name):
    with pytest.raises(AttributeError, match=f"{name} of Lookahead cannot be set: make a new"):
        setattr(Lookahead(keras.optimizers.SGD()), name, 3)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.distribute")
@pytest.mark.parametrize("around", [False, True], ids=["alone", "in LossScaleOptimizer"])
def test_replicas_of_a_mirrored_strategy_stay_identical(around):
    program = Path(__file__).parents[2] / "drivers" / "mirrored.py"
    command = [sys.executable, str(program), *(["--loss-scale"] if around else [])]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["replicas differ"] == 0
    assert (told["count"], told["syncs"]) == (3, 2)
    assert told["off one device"] < 1e-5


def test_a_multi_optimizer_takes_wrapped_ones():
    def split():
        own = {path: Lookahead(INNER["sgd"](), 3) for path in ("kernel", "bias")}
        return keras.optimizers.MultiOptimizer(lambda variable: own[variable.name])

    several, alone = network(split()), network(Lookahead(INNER["sgd"](), 3))
    for one, other in zip(fit(several, 7).weights, fit(alone, 7).weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-6)
