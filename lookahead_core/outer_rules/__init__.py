"""Outer rules that the core does without: a shelf for the presets and the analysis.

`gradient_point` averages where gradients are taken, `nested` is two rules in one, `window` the mean
of the latest weights. Each is an `OuterRule` like one of your own. `averages` has those that grow
with the run, which are settings of the core's rule, and `ramp` the schedules that they take.
"""
