"""Frameworks without float64, and whose Adam is not torch's, can pass the suite too."""

import math
from decimal import Decimal

import pytest

from drivers.plain import Inner, PlainDriver, PlainLookahead
from lookahead_core.conformance import CLAUSES, AdapterConformance, check_adapter, torch_inner


class UncorrectedInner(Inner):
    """Adam as MLX has it by default: moments that began at zero are not corrected for that."""

    def adam(self, i, j, g):
        first, second = self.moments[i]
        first[j] = 0.9 * first[j] + (1 - 0.9) * g
        second[j] = 0.999 * second[j] + (1 - 0.999) * g * g
        return first[j] / (math.sqrt(second[j]) + 1e-3)


def uncorrected(inner, moments, gradient, count):
    """The same formula in exact numbers."""
    if inner.kind != "adam":
        return torch_inner(inner, moments, gradient, count)
    b1, b2, eps = map(Decimal, (0.9, 0.999, 1e-3))
    first = [b1 * m + (1 - b1) * g for m, g in zip(moments[0], gradient, strict=True)]
    second = [b2 * n + (1 - b2) * g * g for n, g in zip(moments[1], gradient, strict=True)]
    pairs = zip(first, second, strict=True)
    return [m / (n.sqrt() + eps) for m, n in pairs], [first, second]


class SingleLookahead(PlainLookahead):
    """On float32 alone; complex numbers are pairs of it."""

    inner_of = UncorrectedInner

    def __init__(self, setup):
        assert {leaf.dtype for leaf in setup.leaves} <= {
            "float32",
            "bfloat16",
            "int32",
            "complex64",
        }
        super().__init__(setup)


class SingleDriver(PlainDriver):
    dtype = "float32"
    inner_step = staticmethod(uncorrected)
    capabilities = PlainDriver.capabilities - {"float16", "complex128"}

    def __init__(self, adapter=SingleLookahead):
        super().__init__(adapter)


class WithoutReference(SingleDriver):
    inner_step = staticmethod(torch_inner)


class TestSinglePrecision(AdapterConformance):
    driver = SingleDriver()
    thorough = True


def statuses(driver, **options):
    return {name: outcome.status for name, outcome in check_adapter(driver, **options).items()}


def test_every_clause_is_asked_of_a_framework_without_float64():
    assert set(statuses(SingleDriver()).values()) == {"pass"}


def test_its_complex64_is_asked_for_without_complex128():
    class SharesOneImaginaryPart(SingleLookahead):
        def moved(self, i, j):
            moved = super().moved(i, j)
            return moved if self.setup.leaves[i].dtype != "complex64" else moved + j

    assert statuses(SingleDriver(SharesOneImaginaryPart), clauses=["C32"]) == {"C32": "fail"}
    neither = SingleDriver()
    neither.capabilities -= {"complex64"}
    outcome = check_adapter(neither, clauses=["C32"])["C32"]
    assert outcome.status == "not applicable"
    assert "complex128 (leaves of complex128); complex64 (leaves of complex64)" in outcome.detail


def test_with_torchs_adam_for_a_reference_it_fails_where_adam_is_asked_for():
    failed = {n for n, status in statuses(WithoutReference()).items() if status == "fail"}
    assert failed == {"C16", "C17", "C18", "C34"}


@pytest.mark.parametrize("dtype", ["float63", "int32"])
def test_a_dtype_that_is_no_floating_one_is_refused(dtype):
    driver = SingleDriver()
    driver.dtype = dtype
    with pytest.raises(ValueError, match=rf"dtype must be among .* got \['{dtype}'\]"):
        check_adapter(driver)


def test_some_clauses_are_run_alone_and_told_as_they_are():
    told = []
    report = check_adapter(
        PlainDriver(),
        clauses=["C10", "C02"],
        progress=lambda name, outcome: told.append((name, outcome.status)),
    )
    assert list(report) == ["C02", "C10"]
    assert told == [("C02", "pass"), ("C10", "pass")]
    assert list(check_adapter(PlainDriver(), clauses=[])) == []
    for wrong, message in ((["C99"], r"got \['C99'\]"), ("C02", "a list of names, got 'C02'")):
        with pytest.raises(ValueError, match=message):
            check_adapter(PlainDriver(), clauses=wrong)


class Counting(PlainDriver):
    """Counts steps."""

    steps = 0

    def step(self, run, gradients):
        self.steps += 1
        super().step(run, gradients)


def steps_of(thorough):
    driver = Counting()
    CLAUSES["C06"].check(driver, thorough)
    return driver.steps


@pytest.mark.clause("C06")
def test_resuming_is_light_unless_it_is_asked_to_be_thorough():
    assert steps_of(False) < 0.55 * steps_of(True)
