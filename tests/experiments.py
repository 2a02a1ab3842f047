"""The programs of the checkout's `experiments/`, importable for whoever has tests/ on the path.

Tests and nox have it there, and the checkout itself nowhere: its own `lookahead_core`, which is
without the adapters, would come before the installed one, and it is the installed one that is
tested and run.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "experiments")]
