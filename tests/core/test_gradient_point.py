"""Averages where gradients are taken: their papers' lines as loops in plain Python, in float64."""

import math

import pytest

from descent import COUNTERS, leaf, values
from lookahead_core import (
    EmaNesterov,
    PrimalAveraging,
    RateWeights,
    SyncRule,
    ema,
    ema_nesterov,
    gpa,
    lookahead,
    nested,
    polyak,
    schedule_free,
)
from lookahead_core.settings import as_real
from quadratic import Quadratic, distance, floats, run, sgd

EXACT = 1e-13
LR = 0.1


@pytest.fixture(params=COUNTERS)
def count(request, xp):
    return COUNTERS[request.param](xp)


@pytest.fixture
def problem():
    return Quadratic(0, steps=40)


class Sgd:
    """What one cycle of k steps from `y` on changes; its momentum goes on from cycle to cycle."""

    def __init__(self, problem, momentum=0.0, k=1):
        self.problem, self.momentum, self.k = problem, momentum, k
        self.velocity, self.steps = [0.0] * len(problem.start), 0

    def change(self, y, lr=LR):
        x = list(y)
        for _ in range(self.k):
            gradient = self.problem.gradient(x, self.steps)
            pairs = zip(self.velocity, gradient, strict=True)
            self.velocity = [self.momentum * v + g for v, g in pairs]
            x = [a - lr * v for a, v in zip(x, self.velocity, strict=True)]
            self.steps += 1
        return [after - before for after, before in zip(x, y, strict=True)]


def mixed(one, other, part):
    """`part` of one, and the rest of the other."""
    return [part * a + (1 - part) * b for a, b in zip(one, other, strict=True)]


def added(one, other, factor=1.0):
    return [a + factor * b for a, b in zip(one, other, strict=True)]


def primal_averaging(problem, mu_x, mu_y, momentum=0.0, k=1, rates=None):
    """The lines of arXiv:2405.15682 and arXiv:2512.17131: y and x after each cycle."""
    inner, z = Sgd(problem, momentum, k), list(problem.start)
    x, y = list(z), list(z)
    for n in range(problem.steps // k):
        z = added(z, inner.change(y, rates[n] if rates else LR))
        x = mixed(x, z, mu_x(n) if callable(mu_x) else mu_x)
        y = mixed(x, z, mu_y)
        yield y, x


def looking_ahead(problem, step_size, decay, momentum=0.0, k=1):
    """The lines of arXiv:2605.25395: where the next gradient is taken, and the weights."""
    inner, x = Sgd(problem, momentum, k), list(problem.start)
    m = [0.0] * len(x)
    at = step_size if callable(step_size) else lambda n: step_size
    for n in range(problem.steps // k):
        # In the paper step n looks ahead by its own step size: here it is that of the sync before.
        y = added(x, m, at(n - 1) if n else 0.0)
        moved = added(y, inner.change(y))
        m = [decay * a + (1 - decay) * (b - c) for a, b, c in zip(m, moved, x, strict=True)]
        x = moved
        yield added(x, m, at(n)), x


def require_equal(runs, expected, k=1):
    """Weights and read-out after each cycle."""
    ours, theirs = list(runs)[k - 1 :: k], list(expected)
    assert distance([y for y, _ in ours], [y for y, _ in theirs]) < EXACT
    assert distance([x for _, x in ours], [x for _, x in theirs]) < EXACT


# --- the papers' lines ---


@pytest.mark.clause("C79", "C85", "C86")
@pytest.mark.parametrize(("mu_x", "mu_y", "momentum"), [(0.9967, 0.7, 0.9), (0.75, 0.25, 0.0)])
def test_gpa_is_its_papers_lines(mu_x, mu_y, momentum, xp, problem, count):
    runs = run(xp, gpa(mu_x, mu_y), problem, LR, momentum, count)
    require_equal(runs, primal_averaging(problem, mu_x, mu_y, momentum))


@pytest.mark.clause("C79", "C85", "C87")
@pytest.mark.parametrize("r", [0.0, 1.0, 2.0])
def test_schedule_free_without_rates_weighs_by_the_number_of_the_step(r, xp, problem, count):
    weights = [(n + 1) ** r for n in range(problem.steps)]
    expected = primal_averaging(problem, lambda n: sum(weights[:n]) / sum(weights[: n + 1]), 0.9)
    require_equal(run(xp, schedule_free(0.9, 0.0, r), problem, LR, count=count), expected)


@pytest.mark.clause("C75", "C85")
def test_a_schedule_of_the_mean_of_all_is_schedule_free(xp, problem, count):
    rule = SyncRule(1, PrimalAveraging(lambda syncs: 1 - 1 / as_real(syncs + 1), 0.9))
    runs = run(xp, rule, problem, LR, count=count)
    require_equal(runs, primal_averaging(problem, lambda n: n / (n + 1), 0.9))


def in_a_warm_up_and_back(syncs):
    """Off, up to a half, and down again."""
    return 0.05 * (10 - abs(as_real(syncs) % 20 - 10))


@pytest.mark.clause("C75", "C79", "C85", "C86")
@pytest.mark.parametrize("step_size", [0.3, 0.9, -0.2, in_a_warm_up_and_back])
def test_ema_nesterov_is_its_papers_lines(step_size, xp, problem, count):
    runs = run(xp, ema_nesterov(step_size, 0.9), problem, LR, 0.5, count)
    require_equal(runs, looking_ahead(problem, step_size, 0.9, 0.5))


@pytest.mark.clause("C02", "C85")
@pytest.mark.parametrize("k", [2, 3])
def test_with_a_longer_period_a_cycle_is_the_step_of_the_papers(k, xp, problem, count):
    runs = run(xp, gpa(0.75, 0.5, k), problem, LR, 0.5, count)
    require_equal(runs, primal_averaging(problem, 0.75, 0.5, 0.5, k), k)
    runs = run(xp, ema_nesterov(0.5, 0.75, k), problem, LR, 0.5, count)
    require_equal(runs, looking_ahead(problem, 0.5, 0.75, 0.5, k), k)


# --- members ---


@pytest.mark.clause("C09", "C85")
@pytest.mark.parametrize("outer", [PrimalAveraging(0.0, 0.7), EmaNesterov(0.0, 0.99)])
def test_with_nothing_kept_it_is_the_inner_optimizer_bit_for_bit(outer, xp, problem, count):
    runs = list(run(xp, SyncRule(1, outer), problem, LR, 0.9, count))
    bare = list(run(xp, lookahead(1, 1.0), problem, LR, 0.9, count))
    assert [y for y, _ in runs] == [y for y, _ in bare]
    # What is shipped is the newest iterate; EMA-Nesterov's mean of moves is along no way at all.
    assert [x for _, x in runs] == [x for _, x in bare]


@pytest.mark.clause("C85")
@pytest.mark.parametrize("mu", [0.5, 0.9])
def test_equal_parts_are_nesterovs_momentum(mu, xp, problem, count):
    runs = run(xp, gpa(mu, mu), problem, LR / (1 - mu), count=count)
    assert distance([y for y, _ in runs], sgd(problem, LR, mu, nesterov=True)) < EXACT


@pytest.mark.clause("C85")
@pytest.mark.parametrize("mu", [0.5, 0.9])
def test_gradients_at_the_average_are_the_heavy_ball(mu, xp, problem, count):
    runs = list(run(xp, gpa(mu, 1.0), problem, LR / (1 - mu), count=count))
    assert distance([y for y, _ in runs], sgd(problem, LR, mu)) < EXACT
    assert [x for _, x in runs] == [y for y, _ in runs]


@pytest.mark.clause("C72", "C85", "C86")
def test_gradients_at_the_iterates_are_an_average_that_training_does_not_see(xp, problem, count):
    require_equal(
        run(xp, gpa(0.9, 0.0), problem, LR, 0.5, count), run(xp, ema(0.9), problem, LR, 0.5)
    )
    runs = run(xp, schedule_free(0.0, 0.0), problem, LR, 0.5, count)
    require_equal(runs, run(xp, polyak(), problem, LR, 0.5))


# --- weights that go by the inner learning rate ---


def at_rates(xp, rule, problem, rates, count=0):
    """Fast weights and the read-out of `rule` around SGD, whose rate is another at each step."""
    fast = (xp.asarray(problem.start, dtype=xp.float64),)
    state = rule.init(fast, count=count)
    for step, lr in enumerate(rates):
        gradient = xp.asarray(problem.gradient(floats(fast[0]), step), dtype=xp.float64)
        fast, _, state = rule.step((fast[0] - lr * gradient,), (), state, inner_lr=lr)
        yield floats(fast[0]), floats(rule.slow(fast, state)[0])


def warm_up_and_decay(problem):
    """From zero up to 0.2 in ten steps, then down: the largest stays."""
    ups = [0.02 * step for step in range(11)]
    return ups + [0.2 * 0.95**step for step in range(problem.steps - len(ups))]


@pytest.mark.clause("C79", "C87")
@pytest.mark.parametrize(("power", "r"), [(2.0, 0.0), (1.0, 1.0)])
def test_schedule_free_weighs_by_the_largest_rate_so_far(power, r, xp, problem, count):
    rates = warm_up_and_decay(problem)
    tops = [max(rates[: n + 1]) for n in range(len(rates))]
    weights = [(n + 1) ** r * top**power for n, top in enumerate(tops)]

    def mu_x(n):
        return sum(weights[:n]) / sum(weights[: n + 1]) if sum(weights[: n + 1]) else 1.0

    runs = at_rates(xp, schedule_free(0.9, power, r), problem, rates, count)
    require_equal(runs, primal_averaging(problem, mu_x, 0.9, rates=rates))


@pytest.mark.clause("C87")
def test_each_leaf_goes_by_its_own_rate(xp):
    """Two leaves with rates of their own are as each of them alone; an array is as its number."""
    rule, rates = schedule_free(0.5), [(0.5, 0.125), (0.25, 0.5), (0.25, xp.asarray(0.25))]
    together, apart = [leaf(xp, 1.0), leaf(xp, 2.0)], [[leaf(xp, 1.0)], [leaf(xp, 2.0)]]
    state, states = rule.init(together), [rule.init(own) for own in apart]
    for pair in rates:
        together, _, state = rule.step([x - 1.0 for x in together], (), state, inner_lr=pair)
        for index, rate in enumerate(pair):
            moved = [apart[index][0] - 1.0]
            apart[index], _, states[index] = rule.step(moved, (), states[index], inner_lr=rate)
    assert values(together[0]) == values(apart[0][0])
    assert values(together[1]) == values(apart[1][0])
    assert values(together[0]) != [value - 1.0 for value in values(together[1])]


@pytest.mark.clause("C14", "C32", "C87")
def test_a_leaf_that_is_not_averaged_needs_no_weights_and_a_complex_one_real_ones(xp):
    rule, fast = schedule_free(), (leaf(xp, 3, dtype="int32"), leaf(xp, 1j, dtype="complex64"))
    state = rule.init(fast)
    _, _, state = rule.step(fast, (), state, inner_lr=(0.25, 0.5))
    ((numbers,),) = state.outer[1:]
    assert values(numbers) == [0.25, 0.5]  # 0.5 squared, and 0.5


@pytest.mark.clause("C25", "C87")
def test_a_rate_that_is_not_given_is_asked_for(xp):
    rule, fast = schedule_free(), (leaf(xp, 1.0),)
    state = rule.init(fast)
    with pytest.raises(ValueError, match=r"inner_lr must be given to RateWeights.*power=0 needs"):
        rule.step(fast, (), state)
    assert rule.needs_inner_lr
    assert not schedule_free(weight_lr_power=0.0).needs_inner_lr
    assert not gpa().needs_inner_lr
    assert nested(lookahead(1), schedule_free(sync_period=2)).needs_inner_lr


# --- beside other settings ---


@pytest.mark.clause("C81")
def test_many_workers_have_one_average_and_rates_are_refused(xp):
    """Two workers; the mean of what they did is the papers' step."""
    rule, mean = gpa(0.75, 0.5), [-1.0, 0.5]
    fast, state = [leaf(xp, 1.0, 2.0)], rule.init([leaf(xp, 1.0, 2.0)])
    alone, expected = rule.init(fast), fast
    for _ in range(3):
        moved = [fast[0] - leaf(xp, 3.0, -3.0)]
        fast, _, state = rule.step(moved, (), state, average=lambda _: [leaf(xp, *mean)])
        expected, _, alone = rule.step([expected[0] - leaf(xp, *mean)], (), alone)
        assert values(fast[0]) == pytest.approx(values(expected[0]), abs=1e-15)
    with pytest.raises(ValueError, match="must not ask for gradients or learning rates"):
        schedule_free().step(fast, (), schedule_free().init(fast), average=lambda own: own)


@pytest.mark.clause("C78", "C86")
def test_a_second_rule_that_reads_out_is_read(xp):
    """Iterates -1, -2, ... in the place of the fast weights; every one is averaged by half."""
    rule = nested(lookahead(1, 1.0), SyncRule(2, PrimalAveraging(0.5, 0.5), restart=0.0))
    fast, state, x, y, z = [leaf(xp, 0.0)], rule.init([leaf(xp, 0.0)]), 0.0, 0.0, 0.0
    for step in range(1, 7):
        fast, _, state = rule.step([fast[0] - 1.0], (), state)
        if step % 2 == 0:
            z = z - (y - -float(step))
            x = 0.5 * x + 0.5 * z
            y = 0.5 * x + 0.5 * z
        assert values(fast[0]) == [-float(step)]
        assert values(rule.slow(fast, state)[0]) == pytest.approx([x], abs=1e-15)


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrimalAveraging(mu_x=1.5), r"mu_x must be a number in \[0, 1\] .* got 1.5"),
        (lambda: PrimalAveraging(mu_y=-0.1), r"mu_y must be a number in \[0, 1\] .* got -0.1"),
        (lambda: gpa(mu_y=math.nan), r"mu_y must be a number .* got nan"),
        (lambda: RateWeights(power=-1.0), r"power must be a finite number >= 0 .* got -1.0"),
        (lambda: RateWeights(r=math.inf), r"r must be a finite number >= 0 .* got inf"),
        (lambda: EmaNesterov(step_size=math.inf), r"step_size must be a finite number .* got inf"),
        (lambda: EmaNesterov(step_size=True), r"step_size must be a finite number .* got True"),
        (lambda: EmaNesterov(decay=1.0), r"decay must be a number in \[0, 1\) .* got 1.0"),
        (
            lambda: SyncRule(1, PrimalAveraging(), inner_state="interpolate"),
            "needs restart=1, restart_period=1 and an outer rule with a fraction",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused_when_the_rule_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.clause("C25", "C75")
def test_a_schedule_out_of_range_is_refused_before_anything_moves(xp):
    rule = SyncRule(1, PrimalAveraging(lambda syncs: 2.0))
    fast, state = [leaf(xp, 1.0)], rule.init([leaf(xp, 1.0)])
    with pytest.raises(ValueError, match=r"mu_x must be a number in \[0, 1\] .* got 2.0"):
        rule.step(fast, (), state)
    assert values(fast[0]) == values(state.slow[0]) == [1.0]
