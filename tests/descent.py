"""The core in a loop that is easy to follow, and arrays of few numbers to look at."""


def leaf(xp, *values, dtype="float64"):
    return xp.asarray(list(values), dtype=getattr(xp, dtype))


def values(array):
    return [float(array[i]) for i in range(array.shape[0])]


def bits(leaves):
    return [repr(values(array)) for array in leaves]


COUNTERS = {"branches": lambda xp: 0, "selects": lambda xp: xp.asarray(0)}


class Descent:
    """An inner optimizer that subtracts one at every step, and adds one to its inner state."""

    def __init__(self, xp, rule, count, start=0.0):
        self.fast = (leaf(xp, start),)
        self.inner = (leaf(xp, 0.0),)
        self.rule = rule
        self.state = rule.init(self.fast, self.inner, count=count)

    def step(self, times=1):
        for _ in range(times):
            self.state = self.rule.begin(self.fast, self.inner, self.state)
            self.fast = tuple(x - 1.0 for x in self.fast)
            self.inner = tuple(x + 1.0 for x in self.inner)
            self.fast, self.inner, self.state = self.rule.step(self.fast, self.inner, self.state)
        return self

    def sync(self):
        self.fast, self.inner, self.state = self.rule.sync(self.fast, self.inner, self.state)
        return self

    @property
    def weights(self):
        return values(self.fast[0])[0]

    @property
    def moment(self):
        return values(self.inner[0])[0]

    @property
    def slow(self):
        return values(self.rule.slow(self.fast, self.state)[0])[0]

    @property
    def counts(self):
        return int(self.state.count), int(self.state.syncs)
