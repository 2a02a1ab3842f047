"""How Hypothesis chooses: the same examples in every run, and no time limit on one of them."""

from hypothesis import settings

examples = settings(deadline=None, derandomize=True)
