"""Conformance: checks that decide what Lookahead is, for our adapters and for anybody's.

`check_adapter(driver)` and `check_kernel(kernel, xp)` need nothing but the core and return a
report; `AdapterConformance` and `KernelConformance` are the same checks as pytest classes. The
clauses are those of docs/spec.md.
"""

from typing import TYPE_CHECKING, Any

from . import clauses as _clauses  # noqa: F401 (fills the register)
from . import failures as _failures  # noqa: F401 (likewise)
from . import family as _family  # noqa: F401 (likewise)
from . import files as _files  # noqa: F401 (likewise)
from . import gradient_point as _gradient_point  # noqa: F401 (likewise)
from . import metrics as _metrics  # noqa: F401 (likewise)
from .driver import CAPABILITIES, INNER_EDITS, AdapterDriver
from .kernel import KERNEL_CHECKS, check_kernel
from .oracle import Oracle, torch_inner
from .registry import CLAUSES
from .report import Outcome, check_adapter
from .rules import sync_rule
from .setup import Ahead, Averaging, Inner, Leaf, Outer, Second, Setup

if TYPE_CHECKING:
    from .suite import AdapterConformance, KernelConformance

__all__ = [
    "CAPABILITIES",
    "CLAUSES",
    "INNER_EDITS",
    "KERNEL_CHECKS",
    "AdapterConformance",
    "AdapterDriver",
    "Ahead",
    "Averaging",
    "Inner",
    "KernelConformance",
    "Leaf",
    "Oracle",
    "Outcome",
    "Outer",
    "Second",
    "Setup",
    "check_adapter",
    "check_kernel",
    "sync_rule",
    "torch_inner",
]


def __getattr__(name: str) -> Any:
    # Lazy, because they alone need pytest.
    if name in ("AdapterConformance", "KernelConformance"):
        from . import suite

        return getattr(suite, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
