"""How many examples: a few in every run, `pytest --hypothesis-profile full` for 2,000 a backend."""

from hypothesis import HealthCheck, settings

# Eager JAX takes milliseconds a step: time says nothing about an example.
COMMON = {
    "deadline": None,
    "stateful_step_count": 25,
    "suppress_health_check": [HealthCheck.too_slow],
}

# The same examples in every run, so that a change is judged and not the draw.
settings.register_profile("few", max_examples=60, derandomize=True, **COMMON)
settings.register_profile("full", max_examples=2000, **COMMON)

# Hypothesis has chosen one of its own, unless it was told which.
if settings.get_current_profile_name() in ("default", "ci"):
    settings.load_profile("few")
