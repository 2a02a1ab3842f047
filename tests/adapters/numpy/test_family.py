"""The family in the array loop: what the suite does not ask of it."""

import numpy as np
import pytest

from lookahead_core import (
    AdaptiveAlpha,
    Interpolate,
    SyncRule,
    diloco,
    ema,
    lookahead,
    nested,
    snoo,
    swa,
)
from lookahead_core.adapters.numpy import SGD, Adam, Lookahead, MetaOptimizer, load, save
from lookahead_core.adapters.numpy._kernels.in_place import IN_PLACE

CURVATURE = np.asarray([1.0, 3.0, 10.0])


class OuterAdam:
    """A rule of a user's own, which makes new arrays."""

    def init(self, slow):
        return [np.zeros_like(s) for s in slow], [np.zeros_like(s) for s in slow]

    def update(self, slow, fast, state, context):
        gradient = [s - f for s, f in zip(slow, fast, strict=True)]
        first = [0.9 * m + 0.1 * g for m, g in zip(state[0], gradient, strict=True)]
        second = [0.99 * v + 0.01 * g * g for v, g in zip(state[1], gradient, strict=True)]
        pairs = zip(slow, first, second, strict=True)
        return [s - 0.1 * m / (np.sqrt(v) + 1e-8) for s, m, v in pairs], (first, second)


RULES = {
    "momentum": snoo(2, 0.7, 0.5),
    "average": swa(2, start=3),
    "part": SyncRule(2, Interpolate(0.5), restart=0.5, restart_period=2),
    "nested": nested(lookahead(2), diloco(4)),
    "adaptive": lookahead(2, AdaptiveAlpha()),
    "one's own": SyncRule(2, OuterAdam()),
}


def start():
    return {"w": np.asarray([1.0, -2.0, 3.0]), "b": np.asarray([[0.5]])}


def train(optimizer, steps):
    for _ in range(steps):
        params = optimizer.params
        optimizer.step({"w": CURVATURE * params["w"], "b": params["b"] + 1.0})


@pytest.mark.clause("C71", "C72", "C76", "C77", "C78")
@pytest.mark.parametrize("name", RULES)
def test_every_rule_writes_into_the_arrays_that_are_there(name):
    params = start()
    optimizer = MetaOptimizer(SGD(params, 0.01), RULES[name])
    arrays, slow, slots = dict(params), list(optimizer._state.slow), list(optimizer._state.outer)
    kept = [array for slot in slots for array in slot]
    train(optimizer, 9)
    assert all(params[key] is array for key, array in arrays.items())
    assert all(now is then for now, then in zip(optimizer._state.slow, slow, strict=True))
    state = [array for slot in optimizer._state.outer for array in slot]
    assert [id(array) for array in state] == [id(array) for array in kept]


@pytest.mark.clause("C19", "C73")
def test_a_counter_that_selects_keeps_what_a_kernel_in_place_would_overwrite():
    rule, fast = SyncRule(2, Interpolate(0.5), start=1), [np.asarray([0.0])]
    _, _, state = rule.step(fast, (), rule.init(fast, count=np.asarray(0)))
    _, _, state = rule.sync([np.asarray([4.0])], (), state, kernel=IN_PLACE)
    assert state.slow[0].tolist() == [2.0]


@pytest.mark.clause("C06", "C74", "C76", "C78")
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_every_rule_resumes_from_a_file_bitwise_at_every_phase(form, name, tmp_path):
    path = tmp_path / f"run.{form}"
    for when in range(1, 9):
        whole, first, second = (MetaOptimizer(SGD(start(), 0.01), RULES[name]) for _ in range(3))
        train(whole, 14)
        train(first, when)
        save(path, first)
        train(first, 1)
        load(path, second)
        train(second, 14 - when)
        for key, array in whole.params.items():
            assert second.params[key].tobytes() == array.tobytes(), (when, key)


@pytest.mark.clause("C15", "C71")
def test_momentum_keeps_its_buffer_where_slow_weights_are_wide():
    params = {"w": np.ones(4, np.float32)}
    optimizer = MetaOptimizer(SGD(params, 0.1), snoo(1), slow_dtype=np.float64)
    assert optimizer.state_dict()["outer/0/w"].dtype == np.float64


@pytest.mark.clause("C71")
@pytest.mark.parametrize("shape", [(200_000,), (3, 70_000), ()])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_the_blocked_momentum_is_the_reference(shape, layout):
    from lookahead_core import REFERENCE_KERNEL

    random = np.random.default_rng(0)
    leaves = [np.asarray(random.normal(size=shape), order=layout) for _ in range(3)]
    expected = REFERENCE_KERNEL.momentum(*([leaf.copy()] for leaf in leaves), 0.7, 0.9, True)
    got = IN_PLACE.momentum(*([leaf] for leaf in leaves), 0.7, 0.9, True)
    assert [a[0].tobytes() for a in got] == [a[0].tobytes() for a in expected]
    assert got[0][0] is leaves[0]
    assert got[1][0] is leaves[2]


@pytest.mark.clause("C71", "C72")
def test_slow_buffers_of_ones_own_are_written_to(tmp_path):
    slow = np.memmap(tmp_path / "slow", dtype=float, mode="w+", shape=(3,))
    for rule in (SyncRule(1, OuterAdam()), ema(0.5), snoo(1)):
        params = {"w": np.asarray([1.0, 2.0, 3.0])}
        optimizer = MetaOptimizer(SGD(params, 0.1), rule, slow_buffer=lambda name, leaf: slow)
        optimizer.step({"w": np.ones(3)})
        assert optimizer._state.slow[0] is slow
        assert not np.array_equal(slow, [1.0, 2.0, 3.0])


# --- the adaptive alpha ---


def alpha_of(optimizer, gradient, steps=1):
    """Where the last sync came to rest between the slow and the fast weights."""
    slow = optimizer.params["w"].copy()
    inner = type(optimizer.inner)({"w": slow.copy()}, optimizer.inner.lr)
    for _ in range(steps):
        optimizer.step({"w": gradient(optimizer.params["w"])})
        inner.step({"w": gradient(inner.params["w"])})
    way = inner.params["w"] - slow
    return (optimizer.params["w"] - slow) / way


@pytest.mark.clause("C77")
def test_the_secant_form_takes_the_gradients_of_the_steps():
    optimizer = Lookahead(SGD({"w": np.ones(3)}, 0.15), 2, AdaptiveAlpha(low=0.01))
    way = alpha_of(optimizer, lambda w: CURVATURE * w, steps=2)
    first = CURVATURE
    last = CURVATURE * (1 - 0.15 * CURVATURE)
    d = 0.15 * (first + last)
    expected = 1 + (last @ d) / ((first - last) @ d)
    assert way == pytest.approx(np.full(3, min(max(expected, 0.01), 1)), abs=1e-12)


@pytest.mark.clause("C77")
def test_the_inner_form_takes_the_root_of_adams_second_moment():
    adaptive = AdaptiveAlpha(0.01, "inner")
    optimizer = Lookahead(Adam({"w": np.ones(3)}, 0.5), 1, adaptive)
    gradient = np.asarray([1.0, -2.0, 3.0])
    way = alpha_of(optimizer, lambda w: -gradient)
    # At Adam's first step m / sqrt(v) is the sign, and sqrt(v) the absolute gradient.
    d = -0.5 * np.sign(gradient)
    expected = 1 + (-gradient @ d) / (d @ (np.abs(gradient) * d))
    assert way == pytest.approx(np.full(3, min(max(expected, 0.01), 1)), abs=1e-7)


@pytest.mark.clause("C25", "C77")
def test_an_inner_optimizer_without_curvature_is_named_and_nothing_moves():
    params = start()
    optimizer = Lookahead(SGD(params, 0.1), 1, AdaptiveAlpha(curvature="inner"))
    with pytest.raises(ValueError, match=r"method `curvature` \(Adam\), got SGD"):
        train(optimizer, 1)
    assert params["w"].tolist() == [1.0, -2.0, 3.0]


@pytest.mark.clause("C25", "C77")
def test_a_forced_sync_has_no_gradient_and_says_so():
    optimizer = Lookahead(SGD(start(), 0.1), 5, AdaptiveAlpha())
    train(optimizer, 2)
    with pytest.raises(ValueError, match="gradient must be given"):
        optimizer.sync()


@pytest.mark.clause("C11", "C77")
def test_a_leaf_without_a_gradient_counts_as_zero():
    optimizer = Lookahead(SGD(start(), 0.01), 2, AdaptiveAlpha())
    for _ in range(4):
        optimizer.step({"w": CURVATURE * optimizer.params["w"], "b": None})
    assert np.isfinite(optimizer.params["w"]).all()
    assert optimizer.params["b"].tolist() == [[0.5]]
