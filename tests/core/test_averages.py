"""Averages for evaluation: beside plain loops; schedules as values; stored ones."""

import math
import pickle

import numpy as np
import pytest

from lookahead_core import (
    HalfLife,
    PostLocal,
    PowerWeights,
    QuadraticPeriod,
    Ramp,
    anytime_ema,
    blended,
    post_hoc_weights,
    power_ema,
    swa,
    wsm,
)

STEPS = 12


def averages(rule, xp, count):
    """The read-out after each of `STEPS` steps of weights that go where they like."""
    where = np.random.default_rng(3).normal(size=STEPS + 1)
    first = (xp.asarray([where[0]], dtype=xp.float64),)
    state, trace = rule.init(first, count=xp.asarray(0) if count == "array" else 0), []
    fast = first
    for step in range(1, STEPS + 1):
        state = rule.begin(fast, (), state)
        fast, _, state = rule.step((xp.asarray([where[step]], dtype=xp.float64),), (), state)
        trace.append(float(rule.slow(fast, state)[0][0]))
    return where, trace


@pytest.mark.clause("C19", "C79")
@pytest.mark.parametrize("count", ["int", "array"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 6.94])
def test_power_ema_is_the_sum_of_its_paper(gamma, xp, count):
    where, trace = averages(power_ema(gamma), xp, count)
    for n, seen in enumerate(trace, 1):
        weights = [m ** (gamma + 1) - (m - 1) ** (gamma + 1) for m in range(1, n + 1)]
        exact = sum(w * x for w, x in zip(weights, where[1:], strict=False)) / sum(weights)
        assert seen == pytest.approx(exact, abs=1e-13 if xp.__name__ != "jax.numpy" else 1e-6)


@pytest.mark.clause("C19", "C79")
@pytest.mark.parametrize("count", ["int", "array"])
def test_anytime_ema_forgets_half_in_a_fraction_of_the_run(xp, count):
    where, trace = averages(anytime_ema(0.25), xp, count)
    average = where[0]
    for n, seen in enumerate(trace, 1):
        decay = 2 ** (-1 / (0.25 * n))
        average = decay * average + (1 - decay) * where[n]
        assert seen == pytest.approx(average, abs=1e-13 if xp.__name__ != "jax.numpy" else 1e-6)


@pytest.mark.clause("C79")
@pytest.mark.parametrize("count", ["int", "array"])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_wsm_ends_where_the_same_moves_with_a_decaying_rate_end(power, xp, count):
    where, trace = averages(wsm(2, 4, power), xp, count)
    merged = where[4::2]  # the start, and the weights at each sync
    cycles = len(merged) - 1
    moves = np.diff(merged)
    rates = [1 - (j / (cycles + 1)) ** power for j in range(1, cycles + 1)]
    assert trace[-1] == pytest.approx(
        merged[0] + sum(rates * moves), abs=1e-13 if xp.__name__ != "jax.numpy" else 1e-6
    )


def test_linear_decay_is_swa():
    assert wsm(100, 7500) == swa(100, 7500)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_powers_hold_after_a_million_syncs(dtype, xp):
    """1 - ((n - 1) / n)**power has lost a tenth of alpha in float32 there."""
    alpha = PowerWeights(7.94)
    assert alpha(10**6) == pytest.approx(7.94e-6, rel=1e-5)
    assert float(alpha(xp.asarray(10**6))) == pytest.approx(7.94e-6, rel=1e-5)
    assert float(HalfLife(0.1)(xp.asarray(10**6))) == pytest.approx(math.log(2) * 1e-5, rel=1e-5)


@pytest.mark.parametrize(
    "schedule",
    [
        Ramp(0.25, 0.75, 4, start=2),
        Ramp(1.0, 0.0, 4, shape="cosine"),
        PowerWeights(2.5, before=1),
        HalfLife(0.3),
        PostLocal(3, 8),
        QuadraticPeriod(Ramp(0.5, 0.125, 8), growth=1.0, least=2, most=50),
    ],
)
def test_a_schedule_pickles_compares_and_means_the_same_with_either_counter(schedule, xp):
    twin = pickle.loads(pickle.dumps(schedule))
    assert (twin, hash(twin)) == (schedule, hash(schedule))
    for syncs in range(12):
        assert float(schedule(xp.asarray(syncs))) == pytest.approx(schedule(syncs), abs=1e-6)


def test_schedules_are_their_formulas():
    ramp = Ramp(0.25, 0.75, 4, start=2)
    assert [ramp(n) for n in range(8)] == [0.25, 0.25, 0.25, 0.375, 0.5, 0.625, 0.75, 0.75]
    cosine = Ramp(1.0, 0.0, 4, shape="cosine")
    assert [cosine(n) for n in (0, 2, 4, 9)] == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert [PostLocal(3, 8)(n) for n in (0, 2, 3)] == [1, 1, 8]
    quadratic = QuadraticPeriod(Ramp(0.5, 0.125, 3), growth=1.0, least=5, most=50)
    assert [quadratic(n) for n in range(4)] == [5, 7, 16, 50]  # 4, 7.1, 16, 64


# --- from stored averages ---


def test_an_average_of_another_length_is_made_of_stored_ones():
    """Weights that wander, two averages stored at 24 places; one in between, as if it had run."""
    rng = np.random.default_rng(5)
    where = np.cumsum(rng.normal(size=2400)) / 50

    def average(n, gamma):
        weights = np.diff(np.arange(n + 1.0) ** (gamma + 1))
        return float(np.sum(weights * where[:n]) / np.sum(weights))

    stored = [(n, gamma) for n in range(100, 2401, 100) for gamma in (6.94, 16.97)]
    kept = [average(*one) for one in stored]
    for gamma in (6.94, 9.0, 12.0, 16.97, 30.0):
        weights = post_hoc_weights(stored, 2400, gamma)
        assert sum(weights) == pytest.approx(1, abs=1e-3)
        made = sum(w * x for w, x in zip(weights, kept, strict=True))
        assert made == pytest.approx(average(2400, gamma), abs=0.005)
    assert abs(average(2400, 30.0) - average(2400, 6.94)) > 0.03  # they are not all the same


# --- a read-out that blends ---


@pytest.mark.clause("C22")
def test_a_blend_is_part_average_and_leaves_left_out_are_the_fast_ones(xp):
    fast = {"embed.w": xp.asarray([4.0]), "w": xp.asarray([4.0])}
    average = {"embed.w": xp.asarray([0.0]), "w": xp.asarray([0.0])}
    read = blended(fast, average, 0.75, leave_out=lambda name: name.startswith("embed"))
    assert {name: float(leaf[0]) for name, leaf in read.items()} == {"embed.w": 4.0, "w": 1.0}
    assert float(blended(fast, average)["w"][0]) == 0.0


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ramp(0.0, math.nan, 5), "last must be a finite number"),
        (lambda: Ramp(0.0, 1.0, 0), "length must be an int >= 1"),
        (lambda: Ramp(0.0, 1.0, 5, shape="square"), "shape must be one of 'linear', 'cosine'"),
        (lambda: PostLocal(-1, 5), "at must be an int >= 0"),
        (lambda: QuadraticPeriod(0.1, 1.0, 2, 4), "lr must be a schedule of the syncs"),
        (lambda: QuadraticPeriod(Ramp(1, 0, 5), 1.0, 4, 2), "most must be at least least=4, got 2"),
        (lambda: power_ema(-0.5), "gamma must be a finite number >= 0"),
        (lambda: anytime_ema(0.0), "half_life must be a finite number > 0"),
        (lambda: wsm(5, power=0.0), "power must be a finite number > 0"),
        (lambda: post_hoc_weights([], 5, 1.0), "stored must hold"),
        (lambda: post_hoc_weights([(5, 1.0)] * 2, 5, 1.0), "stored must hold"),
        (lambda: post_hoc_weights([(5, 1.0)], 6, 1.0), "syncs must be at most the latest stored"),
        (lambda: blended({"w": 1}, {"v": 1}), "the same names, got ['v', 'w'] in one of them"),
        (lambda: blended({}, {}, 1.5), "part must be a number in [0, 1]"),
    ],
)
def test_what_is_out_of_range_is_named(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
