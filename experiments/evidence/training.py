"""Training runs in JAX, through lookahead_core.adapters.optax: all rates and seeds in one program.

One seed fixes the initial weights and the mini-batches, whatever the method, so a difference
between two runs of a seed is a difference between methods. Learning rates are a vmap, seeds a loop
around it. What is compared is compared.py.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from experiments.evidence.compared import Method
from experiments.evidence.tasks import WINDOWS, Split, Task, load_split
from lookahead_core import SyncRule, presets
from lookahead_core.adapters.optax import lookahead, meta_optimizer

__all__ = ["Measures", "initial_weights", "inner_optimizer", "read_out", "rule_of", "train"]

Weights = Mapping[str, Any]
MOMENTUM = 0.9
WEIGHT_DECAY = 0.01


class Measures(NamedTuple):
    """Of the weights that a run would ship; each of shape (learning rates, seeds).

    Attributes
    ----------
    train_loss, val_loss, test_loss : float array
        Mean cross-entropy in nats; NaN or infinite where the run diverged.
    val_correct, test_correct : int array
        How many were classified correctly; none where the outputs are not finite.
    """

    train_loss: Any
    val_loss: Any
    test_loss: Any
    val_correct: Any
    test_correct: Any


def initial_weights(task: Task, split: Split, rng: np.random.Generator) -> Weights:
    """He's normal initialisation, biases at zero; an embedding of standard normal vectors."""
    weights, width = {}, split.train_x.shape[1]
    if task.is_text:
        weights["embedding"] = rng.normal(0.0, 1.0, (split.classes, task.embedding))
        width *= task.embedding
    for layer, out in enumerate((*task.hidden, split.classes)):
        weights[f"w{layer}"] = rng.normal(0.0, np.sqrt(2 / width), (width, out))
        weights[f"b{layer}"] = np.zeros(out)
        width = out
    return {name: leaf.astype(np.float32) for name, leaf in weights.items()}


def train(
    task: Task,
    inner: str,
    schedule: str,
    method: Method,
    lrs: Sequence[float],
    seeds: Sequence[int],
) -> Measures:
    """Train at every rate from every seed, and measure at the end.

    Parameters
    ----------
    task : Task
    inner : {"sgd", "adamw", "muon"}
        SGD with momentum 0.9, AdamW with weight decay 0.01, or Muon with momentum 0.95 for the
        matrices and AdamW for the rest, both with weight decay 0.01.
    schedule : {"constant", "cosine"}
        Of the learning rate; "cosine" goes to zero at the last step.
    method : Method
    lrs : sequence of float
        Nominal learning rates.
    seeds : sequence of int

    Returns
    -------
    Measures
    """
    split = load_split(task.name)
    starts = [_start(task, split, seed) for seed in seeds]
    weights = {name: np.stack([start[0][name] for start in starts]) for name in starts[0][0]}
    batches = np.stack([start[1] for start in starts])
    run = _program(task, inner, method.program)
    strength = method.alpha if method.sync_period else method.decay
    rates = np.asarray(lrs, np.float32) * np.float32(method.lr_factor)
    measures = run(rates, np.float32(strength), _factors(schedule, task.steps), weights, batches)
    return Measures(*(np.asarray(measure).T for measure in measures))


def _start(task: Task, split: Split, seed: int) -> tuple[Weights, NDArray[np.int32]]:
    """Initial weights, and the rows of each mini-batch: whole shuffled epochs, cut at the end."""
    rng = np.random.default_rng(seed)
    weights, rows = initial_weights(task, split, rng), len(split.train_y)
    needed = task.steps * task.batch
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-needed // rows))])[:needed]
    return weights, order.reshape(task.steps, task.batch).astype(np.int32)


def _factors(schedule: str, steps: int) -> NDArray[np.float32]:
    """What the learning rate is multiplied by at each step."""
    if schedule == "constant":
        return np.ones(steps, np.float32)
    return (0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))).astype(np.float32)


@cache
def _program(task: Task, inner: str, method: Method) -> Callable[..., Any]:
    """Compiled once for all rates, seeds, schedules, and values of alpha or decay."""
    split = load_split(task.name)

    def run(lr: Any, strength: Any, factors: Any, weights: Weights, batches: Any) -> Measures:
        optimizer = inner_optimizer(inner, lambda count: lr * factors[count], method)
        if method.preset:
            optimizer = meta_optimizer(optimizer, rule_of(method))
            shipped = _train_wrapped(task, split, optimizer, weights, batches)
        elif method.sync_period:
            policy = method.inner_state.removesuffix(" moments")
            optimizer = lookahead(optimizer, method.sync_period, strength, policy)
            shipped = _train_wrapped(task, split, optimizer, weights, batches)
        else:
            shipped = _train_inner(task, split, optimizer, strength, weights, batches)
        return _measure(task, split, shipped)

    def all_seeds(lrs: Any, strength: Any, factors: Any, weights: Any, batches: Any) -> Measures:
        def one_seed(start: Any) -> Measures:
            return jax.vmap(lambda lr: run(lr, strength, factors, *start))(lrs)

        measures: Measures = jax.lax.map(one_seed, (weights, batches))
        return measures

    return jax.jit(all_seeds)


def rule_of(method: Method) -> SyncRule:
    """The preset that the method names."""
    rule: SyncRule = getattr(presets, method.preset)(**dict(method.arguments))
    return rule


def _train_wrapped(task: Task, split: Split, optimizer: Any, weights: Any, batches: Any) -> Any:
    """The slow weights at the end."""

    def step(carry: Any, rows: Any) -> Any:
        weights, state = carry
        updates, state = optimizer.update(_gradient(task, split, weights, rows), state, weights)
        return (optax.apply_updates(weights, updates), state), None

    (weights, state), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), batches)
    return optimizer.slow_params(state, weights)


def _train_inner(
    task: Task, split: Split, optimizer: Any, decay: Any, weights: Any, batches: Any
) -> Any:
    """What is read out of the inner optimizer's run at the end."""

    def step(carry: Any, rows: Any) -> Any:
        weights, state, average = carry
        updates, state = optimizer.update(_gradient(task, split, weights, rows), state, weights)
        weights = optax.apply_updates(weights, updates)
        return (weights, state, read_out(average, weights, decay)), None

    carry = (weights, optimizer.init(weights), weights)
    (_, _, average), _ = jax.lax.scan(step, carry, batches)
    return average


def read_out(average: Any, weights: Any, decay: Any) -> Any:
    """One step of an exponential moving average that training never sees.

    With a decay of 0 it is the weights themselves.
    """
    return jax.tree.map(lambda a, w: decay * a + (1 - decay) * w, average, weights)


def inner_optimizer(
    name: str, lr: Callable[[Any], Any], method: Method
) -> optax.GradientTransformationExtraArgs:
    """The inner optimizer that a method has; its rate is a schedule of the step.

    With `inner_state="reset moments"` Adam's count is a state of its own, which a reset of the
    moments leaves alone.
    """
    b1 = MOMENTUM if method.inner_momentum else 0.0
    if name == "sgd":
        return optax.sgd(lr, momentum=b1 or None)
    if name == "muon":
        return optax.contrib.muon(
            lr,
            beta=0.95 if method.inner_momentum else 0.0,
            weight_decay=WEIGHT_DECAY,
            adam_b1=b1,
            adam_weight_decay=WEIGHT_DECAY,
            muon_weight_dimension_numbers=_matrices,
        )
    if method.inner_state == "reset moments":
        adam = _adam_with_a_count_apart()
    else:
        adam = optax.scale_by_adam(b1=b1)
    decay = optax.add_decayed_weights(WEIGHT_DECAY)
    return optax.chain(adam, decay, optax.scale_by_learning_rate(lr))


def _matrices(weights: Weights) -> Any:
    """What is Muon's: the weights of the layers, and neither biases nor the embedding."""
    return {
        name: optax.contrib.MuonDimensionNumbers() if name.startswith("w") else None
        for name in weights
    }


class _Count(NamedTuple):
    count: Any


class _Moments(NamedTuple):
    mu: Any
    nu: Any


def _adam_with_a_count_apart() -> Any:
    """optax.scale_by_adam, with its state in two."""
    adam = optax.scale_by_adam()

    def apart(state: Any) -> Any:
        return _Count(state.count), _Moments(state.mu, state.nu)

    def init(params: Any) -> Any:
        return apart(adam.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        (count,), (mu, nu) = state
        updates, together = adam.update(updates, optax.ScaleByAdamState(count, mu, nu), params)
        return updates, apart(together)

    return optax.GradientTransformation(init, update)


def _gradient(task: Task, split: Split, weights: Weights, rows: Any) -> Any:
    x, y = jnp.asarray(split.train_x)[rows], jnp.asarray(split.train_y)[rows]
    return jax.grad(partial(_loss, task))(weights, x, y)


def _logits(task: Task, weights: Weights, x: Any) -> Any:
    if task.is_text:
        x = weights["embedding"][x].reshape(len(x), -1)
    for layer in range(len(task.hidden)):
        x = jax.nn.relu(x @ weights[f"w{layer}"] + weights[f"b{layer}"])
    last = len(task.hidden)
    return x @ weights[f"w{last}"] + weights[f"b{last}"]


def _loss(task: Task, weights: Weights, x: Any, y: Any) -> Any:
    return _cross_entropy(_logits(task, weights, x), y)


def _cross_entropy(logits: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def _measure(task: Task, split: Split, weights: Weights) -> Measures:
    # Of text a sample: the first rows of the shuffled windows.
    train = _loss(task, weights, split.train_x[:WINDOWS], split.train_y[:WINDOWS])
    losses, correct = [], []
    for x, y in ((split.val_x, split.val_y), (split.test_x, split.test_y)):
        logits = _logits(task, weights, x)
        finite = jnp.isfinite(logits).all(axis=1)
        losses.append(_cross_entropy(logits, y))
        correct.append(((logits.argmax(axis=1) == y) & finite).sum())
    return Measures(train, *losses, *correct)
