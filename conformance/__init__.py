"""Conformance: checks that decide what Lookahead is, for our kernels and for anybody's.

So far the contract of a kernel; adapters follow. Needs no test framework: a check is a function
that raises AssertionError with what it saw.
"""

from .kernel import KERNEL_CHECKS, check_kernel

__all__ = ["KERNEL_CHECKS", "check_kernel"]
