"""The core under jax.jit, lax.scan and vmap means what it means eagerly, bit for bit.

Settings and steps are dyadic numbers, so that every value is exact: a compiler may contract
multiply and add, and does not get to here.
"""

import jax
import jax.numpy as jnp
import pytest

from lookahead_core import (
    AdaptiveAlpha,
    Interpolate,
    Momentum,
    PostLocal,
    SyncRule,
    interpolate,
    lookahead,
    nested,
    switch_ema,
)

pytestmark = pytest.mark.column("jax-jit")  # where a test does not say otherwise

POLICIES = ("maintain", "reset", "interpolate")
STEPS = 7


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(params=POLICIES)
def policy(request):
    return request.param


# Of the family; all numbers dyadic.
RELATIVES = {
    "heavy ball": SyncRule(3, Momentum(0.5, 0.5, nesterov=False), "reset"),
    "Nesterov": SyncRule(2, Momentum(lambda syncs: 0.5 ** (syncs + 1), 0.5)),
    "in part": SyncRule(2, Interpolate(0.25), "reset", restart=0.5, restart_period=2, start=1),
    "switch": switch_ema(3, 0.75),
    "post-local": SyncRule(PostLocal(2, 3), Interpolate(0.25)),
    "nested": nested(lookahead(1, 0.5), lookahead(3, 0.5)),
}


@pytest.fixture(params=[0.25, 0.75, *RELATIVES])
def rule(request, policy):
    """One on each side of the middle: the formula has two branches. And relatives."""
    if request.param in RELATIVES:
        return RELATIVES[request.param]
    return lookahead(3, request.param, policy)


def start(shift=0.0):
    """Weights and inner state: two floating dtypes, an integer and a boolean."""
    fast = (jnp.asarray([1.0, -2.0]) + shift, jnp.asarray(5, jnp.int32))
    inner = (jnp.asarray([[8.0]], jnp.float32), jnp.asarray(0, jnp.int32), jnp.asarray(False))
    return fast, inner


def began(rule, shift=0.0):
    fast, inner = start(shift)
    return fast, inner, rule.init(fast, inner, count=jnp.asarray(0))


def step(rule, carry):
    """An inner step that moves every leaf, and what the rule makes of it."""
    (weights, number), (moment, count, flag), state = carry
    fast = (weights - 8.0, number + 1)
    inner = (moment + 16.0, count + 1, ~flag)
    return rule.step(fast, inner, state)


def eagerly(rule, shift=0.0, steps=STEPS):
    """Carry after each step, with a Python int for a counter: no transformation could trace it."""
    fast, inner = start(shift)
    carry, trace = (fast, inner, rule.init(fast, inner)), []
    for _ in range(steps):
        carry = step(rule, carry)
        trace.append(carry)
    return trace


def plain(tree):
    """Dtypes and values of the leaves, `repr` for bits; counters by value alone."""
    fast, inner, state = tree
    arrays = jax.tree.leaves((fast, inner, state.slow, state.outer, state.inner_slow))
    told = [(str(array.dtype), repr(array.tolist())) for array in arrays]
    return told, int(state.count), int(state.syncs)


@pytest.mark.clause("C14", "C16", "C17", "C18", "C19")
def test_a_compiled_step_is_the_eager_one(rule):
    compiled = jax.jit(lambda carry: step(rule, carry))
    carry = began(rule)
    for expected in eagerly(rule):
        carry = compiled(carry)
        assert plain(carry) == plain(expected)


@pytest.mark.column("jax-scan")
@pytest.mark.clause("C14", "C16", "C17", "C18", "C19")
def test_a_scan_is_the_eager_loop(rule):
    _, trace = jax.lax.scan(lambda c, _: (step(rule, c),) * 2, began(rule), None, length=STEPS)
    for index, expected in enumerate(eagerly(rule)):
        assert plain(jax.tree.map(lambda leaf, i=index: leaf[i], trace)) == plain(expected)


@pytest.mark.column("jax-vmap")
@pytest.mark.clause("C14", "C16", "C17", "C18", "C19")
def test_vmap_runs_members_that_sync_at_different_steps(rule):
    shifts = (0.0, 64.0)
    # The second member is a step ahead, so that one syncs and the other does not.
    members = [began(rule, shifts[0]), step(rule, began(rule, shifts[1]))]
    carry = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    mapped = jax.vmap(lambda carry: step(rule, carry))
    expected = [eagerly(rule, shifts[0]), eagerly(rule, shifts[1], STEPS + 1)[1:]]
    for one, other in zip(*expected, strict=True):
        carry = mapped(carry)
        got = [jax.tree.map(lambda leaf, i=member: leaf[i], carry) for member in range(2)]
        assert [plain(tree) for tree in got] == [plain(one), plain(other)]


def branched(rule, carry):
    """The same step of a loop that branches by itself: a sync is computed where it is due alone."""
    fast, inner, state = carry
    state = rule.begin(fast, inner, state)
    (weights, number), (moment, count, flag) = fast, inner
    moved = (weights - 8.0, number + 1), (moment + 16.0, count + 1, ~flag)
    return jax.lax.cond(
        rule.due(state),
        rule.sync,
        lambda fast, inner, state: (fast, inner, rule.count_step(state)),
        *(*moved, state),
    )


@pytest.mark.clause("C18", "C19", "C26", "C73")
def test_a_loop_that_branches_by_itself_is_the_eager_one(rule):
    compiled = jax.jit(lambda carry: branched(rule, carry))
    carry = began(rule)
    for expected in eagerly(rule):
        carry = compiled(carry)
        assert read(rule, carry) == read(rule, expected)


def read(rule, carry):
    """As `plain`, with the read-out: a step that counts may leave the taking to the next one."""
    fast, inner, state = carry
    return plain((fast, inner, state._replace(slow=rule.slow(fast, state), inner_slow=())))


@pytest.mark.clause("C18", "C19", "C26", "C72", "C73")
def test_a_compiled_begin_is_the_eager_one(rule):
    compiled = jax.jit(rule.begin)
    edited = start(shift=32.0)
    for fast, inner, state in [(*start(), rule.init(*start())), *eagerly(rule)]:
        traced = state._replace(count=jnp.asarray(state.count), syncs=jnp.asarray(state.syncs))
        expected = rule.begin(*edited, state)
        assert plain((fast, inner, compiled(*edited, traced))) == plain((fast, inner, expected))


@pytest.mark.clause("C05", "C19")
def test_a_compiled_forced_sync_is_the_eager_one(rule):
    carry = eagerly(rule, steps=2)[-1]
    state = carry[2]
    traced = state._replace(count=jnp.asarray(state.count), syncs=jnp.asarray(state.syncs))
    got = jax.jit(rule.sync)(*carry[:2], traced)
    assert plain(got) == plain(rule.sync(*carry))


@pytest.mark.clause("C19", "C22")
def test_compiled_reads_of_the_slow_weights_are_the_eager_ones(rule):
    carry, read = began(rule), jax.jit(rule.slow)
    for _, inner, state in eagerly(rule):
        carry = step(rule, carry)
        edited, _ = start(shift=32.0)  # a new anchor where a cycle begins, and nowhere else
        expected = rule.slow(edited, state)
        assert plain((read(edited, carry[2]), inner, state)) == plain((expected, inner, state))


@pytest.mark.clause("C12", "C19")
@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_a_compiled_step_that_does_not_sync_keeps_infinity_out(poison, policy):
    rule = lookahead(3, 0.5, policy)
    fast, inner, state = began(rule)
    poisoned = (fast[0] * poison, fast[1])
    _, _, after = jax.jit(rule.step)(poisoned, inner, state)
    assert after.slow[0].tolist() == state.slow[0].tolist()


@pytest.mark.clause("C51")
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_derivative_by_alpha_is_the_way_at_the_ends_too(alpha):
    slow, fast = jnp.asarray([1.0, -2.0]), jnp.asarray([4.0, 6.0])
    derivative = jax.jacfwd(lambda a: interpolate(slow, fast, a))(alpha)
    assert derivative.tolist() == (fast - slow).tolist()
    assert jax.grad(lambda a: interpolate(slow, fast, a).sum())(alpha).item() == 11.0


@pytest.mark.clause("C51")
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_derivative_at_an_end_is_finite_where_a_weight_is_not(alpha):
    slow, fast = jnp.asarray([1.0, jnp.inf, 0.0]), jnp.asarray([4.0, 6.0, jnp.nan])
    assert jax.grad(lambda a: interpolate(slow, fast, a)[0])(alpha).item() == 3.0
    assert jax.jacfwd(lambda a: interpolate(slow, fast, a))(alpha).tolist() == [3.0, 0.0, 0.0]


@pytest.mark.column("jax-vmap")
@pytest.mark.clause("C51")
def test_vmap_over_alpha_is_a_rule_for_each(policy):
    alphas = jnp.asarray([0.0, 0.25, 0.75, 1.0])

    def weights(alpha):
        rule = lookahead(3, alpha, policy)
        carry = began(rule)
        for _ in range(STEPS):
            carry = step(rule, carry)
        return carry[0][0], carry[1][0]

    got = jax.jit(jax.vmap(weights))(alphas)
    for index, alpha in enumerate(alphas.tolist()):
        expected = weights(alpha)
        assert [leaf[index].tolist() for leaf in got] == [leaf.tolist() for leaf in expected]


@pytest.mark.clause("C51")
def test_a_compiled_schedule_is_the_eager_one(policy):
    rule = lookahead(3, lambda syncs: 1.0 / 2.0 ** (syncs + 1), policy)
    compiled = jax.jit(lambda carry: step(rule, carry))
    carry = began(rule)
    for expected in eagerly(rule):
        carry = compiled(carry)
        assert plain(carry) == plain(expected)


@pytest.mark.clause("C77")
def test_an_adaptive_alpha_is_estimated_without_the_host():
    """Under jit a value that the host asked for would be an error."""
    rule = lookahead(2, AdaptiveAlpha(low=0.25))

    def steps(count):
        fast = (jnp.asarray([1.0, -2.0]),)
        state = rule.init(fast, count=count)
        for gradient in (jnp.asarray([4.0, -8.0]), jnp.asarray([-2.0, 2.0])) * 2:
            fast = (fast[0] - 0.25 * gradient,)
            fast, _, state = rule.step(fast, (), state, gradient=(gradient,))
        return fast[0]

    eager = steps(0)
    assert jax.jit(steps)(jnp.asarray(0)).tolist() == pytest.approx(eager.tolist(), abs=1e-14)
    assert eager.tolist() != [0.0, 1.0]  # where alpha = 1 would have led
