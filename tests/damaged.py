"""State dicts with one part that is wrong, at random."""

import math

# What may stand in the place of anything.
PLAIN = (None, True, -1, 0, 3, 2**63, 10**400, 1.5, -2.0, math.nan, math.inf, 1j, "x", b"x")
STRUCTURES = ([], {}, (), [None], {"a": 1}, object())
NAMES = ("x", "step", "lookahead_slow", "lookahead_count", 0, 7, None)


def changed(value, draw, others):
    """`value` with one part of it changed, gone, doubled or under another name.

    `others(value, draw)` is what comes in the place of a part.
    """
    if isinstance(value, dict) and value and draw.random() < 0.95:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {name: own for name, own in value.items() if name != key}
        if draw.random() < 0.1:
            other = draw.choice(NAMES)
            return {other if name == key else name: own for name, own in value.items()}
        if draw.random() < 0.1:
            return {**value, draw.choice(("x", "lookahead_x", 7)): others(value[key], draw)}
        return {**value, key: changed(value[key], draw, others)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        if draw.random() < 0.2:
            return draw.choice((value[:place] + value[place + 1 :], [*value, value[place]]))
        return [*value[:place], changed(value[place], draw, others), *value[place + 1 :]]
    return others(value, draw)
