"""The suite's own promises: strict expected failures, refused names, reports without pytest."""

import pytest

from drivers.plain import PlainDriver, PlainLookahead
from lookahead_core.conformance import (
    CLAUSES,
    AdapterConformance,
    Inner,
    Leaf,
    Oracle,
    Setup,
    check_adapter,
)
from reference_loop import LEARNING_RATE, MOMENTUM, POLICIES, START, distance, gradient
from reference_loop import momentum_trajectory as by_hand


class NeverAnchorsAgain(PlainLookahead):
    def anchor(self):
        pass


BROKEN = PlainDriver(NeverAnchorsAgain)


@pytest.mark.clause("C16", "C17", "C18")
@pytest.mark.parametrize("policy", POLICIES)
def test_the_oracle_is_algorithm_1_written_twice(policy):
    inner = Inner(lr=LEARNING_RATE, momentum=MOMENTUM)
    oracle = Oracle(Setup((Leaf(START),), inner_state=policy, inner=inner))
    fast = []
    for _ in range(23):
        oracle.step([gradient([float(value) for value in oracle.fast[0]])])
        fast.append([float(value) for value in oracle.fast[0]])
    assert distance(fast, by_hand(policy).fast) < 1e-13


@pytest.mark.clause("C28", "C29", "C30")
def test_the_report_names_every_clause():
    report = check_adapter(PlainDriver())
    assert list(report) == list(CLAUSES)
    assert {outcome.status for outcome in report.values()} == {"pass"}


def test_a_failing_clause_says_what_was_seen():
    outcome = check_adapter(BROKEN)["C26"]
    assert outcome.status == "fail"
    assert "loaded after 0 steps, step 5 of the cycle: expected [" in outcome.detail


def test_an_error_in_the_adapter_is_a_failure_and_not_a_crash():
    class Raises(PlainLookahead):
        def sync(self, gradients=None):
            raise ZeroDivisionError("k = 0")

    assert check_adapter(PlainDriver(Raises))["C02"] == ("fail", "ZeroDivisionError: k = 0")


def test_an_expected_failure_carries_its_reason():
    report = check_adapter(BROKEN, {"C26": "written before that was known"})
    assert report["C26"] == ("expected failure", "written before that was known")


def test_a_clause_that_passes_although_it_should_fail_is_reported():
    assert check_adapter(PlainDriver(), {"C26": "?"})["C26"] == ("unexpected pass", "?")


def test_a_clause_that_cannot_be_asked_is_not_applicable():
    driver = PlainDriver()
    driver.capabilities = frozenset({"momentum"})
    outcome = check_adapter(driver)["C05"]
    assert outcome.status == "not applicable"
    assert "forced_sync (driver.sync: a sync on demand)" in outcome.detail


def test_names_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"expected_failures must be among .* got \['C99'\]"):
        check_adapter(PlainDriver(), {"C99": "?"})
    driver = PlainDriver()
    driver.capabilities = frozenset({"flying"})
    with pytest.raises(ValueError, match=r"capabilities must be among .* got \['flying'\]"):
        check_adapter(driver)


def test_a_class_with_an_unknown_clause_cannot_be_made():
    with pytest.raises(ValueError, match="expected_failures must be among"):
        type("Mine", (AdapterConformance,), {"driver": BROKEN, "expected_failures": {"C99": "?"}})


MODULE = """
from lookahead_core.conformance import AdapterConformance
from drivers.plain import PlainDriver
from test_suite_classes import NeverAnchorsAgain

class TestMine(AdapterConformance):
    driver = PlainDriver({adapter})
    expected_failures = {expected}
"""
CLASSES = """
from drivers.plain import PlainLookahead

class NeverAnchorsAgain(PlainLookahead):
    def anchors(self):
        return self.syncs == 0
"""


@pytest.mark.parametrize(
    ("adapter", "expected", "outcomes"),
    [
        ("", {}, {"passed": len(CLAUSES)}),
        ("NeverAnchorsAgain", {}, {"passed": len(CLAUSES) - 1, "failed": 1}),
        ("NeverAnchorsAgain", {"C26": "why"}, {"passed": len(CLAUSES) - 1, "xfailed": 1}),
        ("", {"C26": "why"}, {"passed": len(CLAUSES) - 1, "failed": 1}),
    ],
    ids=["conforms", "fails", "fails as declared", "passes although declared to fail"],
)
def test_the_pytest_class_gives_one_test_a_clause(adapter, expected, outcomes, pytester):
    pytester.makepyfile(test_suite_classes=CLASSES)
    pytester.makepyfile(test_mine=MODULE.format(adapter=adapter, expected=expected))
    pytester.syspathinsert()
    pytester.runpytest_inprocess("test_mine.py").assert_outcomes(**outcomes)
