"""Outer rules that the core does without: a shelf that nothing but the presets imports.

`gradient_point` averages where gradients are taken, `nested` is two rules in one, `window` the mean
of the latest weights. Each is an `OuterRule` like one of your own.
"""
