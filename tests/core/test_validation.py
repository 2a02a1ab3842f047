"""Settings that no float or no text can hold are refused like all others (clause C24)."""

import math
from fractions import Fraction

import pytest

from lookahead_core import AdaptiveAlpha, Momentum, SyncRule, ema, lookahead, outer
from lookahead_core.validation import shown

HUGE = 10**400
VALUES = {"int": HUGE, "minus": -HUGE, "Fraction": Fraction(HUGE), "unprintable": 10**5000}
MADE = {
    "alpha": lambda value: lookahead(alpha=value),
    "decay": lambda value: ema(decay=value),
    "restart": lambda value: SyncRule(restart=value),
    "lr": lambda value: Momentum(lr=value),
    "momentum": lambda value: Momentum(momentum=value),
    "low": lambda value: AdaptiveAlpha(low=value),
}


@pytest.mark.clause("C24")
@pytest.mark.parametrize(
    "value",
    [HUGE, -HUGE, Fraction(HUGE), 10**5000],
    ids=["int", "minus", "Fraction", "unprintable"],
)
@pytest.mark.parametrize("name", MADE)
def test_a_number_beyond_all_floats_is_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a .*number .*got "):
        MADE[name](value)


@pytest.mark.clause("C24", "C75")
def test_a_schedule_may_not_give_one_either():
    with pytest.raises(ValueError, match="alpha must be a number in"):
        outer.ALPHA.at(lambda syncs: HUGE, 0)


@pytest.mark.clause("C24")
def test_an_int_that_python_will_not_print_is_named_all_the_same():
    with pytest.raises(ValueError, match=r"sync_period must be .* got a number of 16610 bits"):
        lookahead(sync_period=-(10**5000))


@pytest.mark.clause("C24")
def test_a_message_is_no_longer_than_a_screen():
    assert shown("x" * 10_000) == "'" + "x" * 199 + "..."
    assert shown(math.pi) == repr(math.pi)


@pytest.mark.clause("C24")
@pytest.mark.parametrize("value", [["maintain"], {"maintain"}, None, 1])
def test_a_policy_is_a_text(value):
    with pytest.raises(ValueError, match="inner_state must be one of 'maintain'"):
        lookahead(inner_state=value)
