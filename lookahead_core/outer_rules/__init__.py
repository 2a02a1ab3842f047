"""Outer rules that the core does without: a shelf for the presets and the analysis.

`gradient_point` averages where gradients are taken, `nested` is two rules in one, `window` the mean
of the latest weights. Each is an `OuterRule` like one of your own.
"""
