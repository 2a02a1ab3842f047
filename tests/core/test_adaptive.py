"""The adaptive alpha: Proposition 1 of the paper, and what is made of it."""

import pytest

from lookahead_core import AdaptiveAlpha, Interpolate, SyncRule, lookahead, nested

# A quadratic of three dimensions with its exact alpha, worked out with 60 digits elsewhere.
CURVATURE, LINEAR = (1.0, 3.0, 10.0), (1.0, -2.0, 0.5)
SLOW, FAST = (1.0, -1.0, 2.0), (0.4, -0.9, -0.5)
EXACT = 0.7767530608999841


def leaf(xp, *values, dtype="float64"):
    return xp.asarray(list(values), dtype=getattr(xp, dtype))


def gradient(xp, point):
    pairs = zip(CURVATURE, point, LINEAR, strict=True)
    return leaf(xp, *(a * x - b for a, x, b in pairs))


def estimate(xp, adaptive, state=(), curvature=None, split=False):
    leaves = [leaf(xp, *SLOW)], [leaf(xp, *FAST)]
    g = [gradient(xp, FAST)]
    if split:
        leaves = [[side[0][:1], side[0][1:]] for side in leaves]
        g = [g[0][:1], g[0][1:]]
    return float(adaptive.estimate(*leaves, state, g, curvature))


@pytest.mark.clause("C77")
@pytest.mark.parametrize("split", [False, True])
def test_with_the_exact_curvature_it_is_the_minimum_on_the_line(split, xp):
    def curvature(way):
        parts = (CURVATURE[:1], CURVATURE[1:]) if split else (CURVATURE,)
        return [leaf(xp, *part) * d for part, d in zip(parts, way, strict=True)]

    got = estimate(xp, AdaptiveAlpha(0.1, curvature), split=split)
    assert got == pytest.approx(EXACT, abs=1e-14)


@pytest.mark.clause("C77")
def test_the_secant_form_is_exact_on_a_quadratic(xp):
    adaptive = AdaptiveAlpha(0.1)
    state = adaptive.watch(adaptive.init([leaf(xp, *SLOW)]), [gradient(xp, SLOW)])
    assert estimate(xp, adaptive, state) == pytest.approx(EXACT, abs=1e-14)


@pytest.mark.clause("C20", "C77")
def test_the_first_gradient_is_copied_in_the_dtype_of_the_slow_weights(xp):
    adaptive, given = AdaptiveAlpha(), leaf(xp, 1.0)
    (kept,) = adaptive.watch(adaptive.init([leaf(xp, 0.0)]), [given])
    assert kept[0] is not given
    (wide,) = adaptive.watch(adaptive.init([leaf(xp, 0.0)]), [leaf(xp, 1.0, dtype="float32")])
    assert wide[0].dtype == xp.float64


@pytest.mark.clause("C77", "C78")
def test_the_first_of_two_nested_rules_may_be_adaptive(xp):
    first = lookahead(2, AdaptiveAlpha())
    slow, middle, fast = (leaf(xp, *SLOW),), (leaf(xp, 0.5, 0.5, 0.5),), (leaf(xp, *FAST),)
    ends = []
    for rule in (first, nested(first, lookahead(4))):
        state = rule.init(slow)
        _, _, state = rule.step(middle, (), state, gradient=(gradient(xp, SLOW),))
        (end,), _, _ = rule.step(fast, (), state, gradient=(gradient(xp, FAST),))
        ends.append([float(end[i]) for i in range(3)])
    assert ends[1] == pytest.approx(ends[0], abs=1e-14)


@pytest.mark.clause("C77")
def test_the_inner_curvature_is_a_diagonal(xp):
    adaptive = AdaptiveAlpha(0.1, "inner")
    assert estimate(xp, adaptive, (), [leaf(xp, *CURVATURE)]) == pytest.approx(EXACT, abs=1e-14)
    roots = [leaf(xp, *(a**0.5 for a in CURVATURE))]
    assert estimate(xp, adaptive, (), roots) == pytest.approx(0.30293369187711094, abs=1e-14)


@pytest.mark.clause("C77")
def test_it_is_clipped_and_where_the_line_bends_down_it_goes_all_the_way(xp):
    assert estimate(xp, AdaptiveAlpha(0.2, lambda way: way)) == pytest.approx(0.2)  # -1.12
    assert estimate(xp, AdaptiveAlpha(0.2, lambda way: [100 * d for d in way])) < 1
    assert estimate(xp, AdaptiveAlpha(0.2, lambda way: [-d for d in way])) == 1
    assert estimate(xp, AdaptiveAlpha(0.2, lambda way: [0 * d for d in way])) == 1


@pytest.mark.clause("C77")
def test_products_of_narrow_leaves_are_added_up_wide(bfloat16):
    xp, dtype = bfloat16
    ones = xp.astype(xp.ones(1000, dtype=xp.float32), dtype)
    adaptive = AdaptiveAlpha(0.0, lambda way: way)
    # 1 - 300 / 1000: bfloat16 sums of ones stop at 256.
    short = xp.astype(xp.concat([xp.ones(300), xp.zeros(700)]), dtype)
    got = adaptive.estimate([ones], [ones * 0], (), [-short], None)
    assert float(got) == pytest.approx(0.7, abs=1e-6)


@pytest.mark.clause("C77")
@pytest.mark.parametrize("array", [False, True])
def test_a_rule_uses_the_estimate_for_weights_and_inner_state(array, xp):
    rule = SyncRule(2, Interpolate(AdaptiveAlpha()), "interpolate")
    slow, middle, fast = (leaf(xp, *SLOW),), (leaf(xp, 0.5, 0.5, 0.5),), (leaf(xp, *FAST),)
    inner = (leaf(xp, 0.0),)
    state = rule.init(slow, inner, count=xp.asarray(0) if array else 0)
    _, _, state = rule.step(middle, inner, state, gradient=(gradient(xp, SLOW),))
    given = {"gradient": (gradient(xp, FAST),)}
    fast, inner, state = rule.step(fast, (leaf(xp, 1.0),), state, **given)
    ends = zip(SLOW, FAST, strict=True)
    expected = [s + EXACT * (f - s) for s, f in ends]
    assert [float(fast[0][i]) for i in range(3)] == pytest.approx(expected, abs=1e-14)
    assert float(inner[0][0]) == pytest.approx(EXACT, abs=1e-14)


@pytest.mark.clause("C25", "C77")
def test_what_is_missing_is_named_before_anything_moves(xp):
    rule, fast = lookahead(1, AdaptiveAlpha()), (leaf(xp, 1.0),)
    state = rule.init(fast)
    with pytest.raises(ValueError, match="gradient must be given to a sync with AdaptiveAlpha"):
        rule.step(fast, (), state)
    inner = lookahead(1, AdaptiveAlpha(curvature="inner"))
    with pytest.raises(ValueError, match="curvature must be given"):
        inner.step(fast, (), inner.init(fast), gradient=fast)
    integers = (leaf(xp, 1, dtype="int32"),)
    with pytest.raises(ValueError, match="needs at least one floating leaf, got none"):
        rule.step(integers, (), rule.init(integers), gradient=integers)
