"""The method as docs/spec.md has it, one number at a time, in plain Python floats.

Written from that page alone; the inner optimizers are torch's SGD and Adam. It imports nothing of
the package, which random runs are compared with it (properties/test_interleavings.py).
"""

import math


class Number:
    """One number of a leaf: no rule here mixes two of them."""

    def __init__(self, value):
        self.fast = self.before = self.slow = float(value)  # `before` the last step
        self.buffer = 0.0  # what the outer rule keeps (C71, C85)
        self.distance = 0.0  # from the slow weight to the super-slow one (C78)
        self.moments = self.slow_moments = None  # not made yet: the same as zero


class Leaf:
    """An array of weights; one that is listed twice is one leaf (C31)."""

    def __init__(self, values, trained=True):
        self.numbers = [*map(Number, values)]
        self.trained = self.is_member = trained
        self.count = 0  # steps behind the bias correction of Adam
        self.total = self.top = 0.0  # sum of the weights of the cycles, largest rate (C87)


class Group:
    """Leaves with one learning rate, one period and one alpha, and their own syncs (C42)."""

    def __init__(self, rate, period, alpha):
        self.rate, self.period, self.alpha, self.leaves = rate, period, alpha, []
        self.syncs = self.steps = 0  # `steps` of this cycle


class Model:
    """What an optimizer with the settings of `setup` does.

    Of `idioms`, "one_count": the inner Adam has one count for all leaves, and not one for each;
    "emits_updates": a sync is added to the weights (C13).
    """

    def __init__(self, setup, idioms=()):
        self.setup = setup
        self.one_count, self.emits_updates = "one_count" in idioms, "emits_updates" in idioms
        self.lr, self.clock = setup.inner.lr, -setup.start  # of all groups (C42, C73)
        self.listed, groups = [], {}
        for given in setup.leaves:
            if given.same_as is not None:
                self.listed.append(self.listed[given.same_as])
                continue
            self.listed.append(Leaf(given.values, given.trained))
            own = Group(given.rate, setup.sync_period, setup.alpha)
            groups.setdefault(given.rate, own).leaves.append(self.listed[-1])
        self.groups = [*groups.values()]

    @property
    def fast(self):
        return [[number.fast for number in leaf.numbers] for leaf in self.listed]

    @property
    def slow(self):
        """The read-out (C22)."""
        groups = {id(leaf): group for group in self.groups for leaf in group.leaves}
        return [self.read_out(groups[id(leaf)], leaf) for leaf in self.listed]

    @property
    def has_begun(self):
        return any(group.syncs or group.steps for group in self.groups)

    def add_group(self, values, rate, period=None, alpha=None):
        """C42: it has the counters of the part that it joins, or begins by itself."""
        alpha = self.setup.alpha if alpha is None else alpha
        settings = period or self.setup.sync_period, alpha
        new = Group(rate, *settings)
        joined = next((old for old in self.groups if (old.period, old.alpha) == settings), new)
        new.syncs, new.steps = joined.syncs, joined.steps
        new.leaves.append(Leaf(values))
        self.groups.append(new)
        self.listed += new.leaves

    def edit(self, values):
        for leaf, new in zip(self.listed, values, strict=True):
            for number, value in zip(leaf.numbers, new, strict=True):
                number.fast = value

    def edit_inner(self, index, factor, removes):
        """Multiply the moments of a leaf, or take its inner state away."""
        leaf = self.listed[index]
        leaf.count *= not removes
        for number in leaf.numbers:
            if number.moments:
                number.moments = None if removes else [factor * own for own in number.moments]

    def step(self, gradients):
        """One inner step, and the syncs that are due (C02)."""
        if all(gradient is None for gradient in gradients):  # C03: what the inner one counts
            for leaf in self.listed:
                leaf.count += self.one_count
            return
        self.note()
        for group in self.groups:
            if not group.steps and self.clock >= 0:
                self.begin(group)
            group.steps += self.clock >= 0
            for leaf in group.leaves:
                listed = zip(self.listed, gradients, strict=True)
                given = [own for other, own in listed if other is leaf and own is not None]
                leaf.count += bool(given) or self.one_count
                for place, number in enumerate(leaf.numbers if given else ()):
                    gradient = math.fsum(own[place] for own in given)
                    direction = self.direction(number, gradient, leaf.count)
                    number.fast -= self.lr * group.rate * direction
        self.clock += 1
        for group in self.groups:
            if group.steps and self.is_due(group):
                self.sync_group(group)

    def direction(self, number, gradient, count):
        inner = self.setup.inner
        if inner.kind == "sgd":
            if not inner.momentum:
                return gradient
            (velocity,) = number.moments or [0.0]
            number.moments = [inner.momentum * velocity + gradient]
            return number.moments[0]
        m, n = number.moments or [0.0, 0.0]
        m, n = 0.9 * m + (1 - 0.9) * gradient, 0.999 * n + (1 - 0.999) * gradient * gradient
        number.moments = [m, n]
        return m / (1 - 0.9**count) / (math.sqrt(n / (1 - 0.999**count)) + 1e-8)

    def sync(self):
        """C05: all groups, and their clock starts again."""
        self.note()
        for group in self.groups:
            if not group.steps:
                self.begin(group)
            self.sync_group(group)
        self.clock = 0

    def is_due(self, group):
        """C42: one clock keeps numbers in phase; C90: a schedule says how long each cycle is."""
        if callable(group.period):
            return group.steps >= group.period(group.syncs)
        return self.clock % group.period == 0

    def note(self):
        """The weights that updates are added to."""
        for leaf in self.listed:
            for number in leaf.numbers:
                number.before = number.fast

    def takes(self, group):
        """Whether a cycle starts from the fast weights (C26), or where the last sync left (C72)."""
        return group.syncs == 0 or (self.setup.restart, self.setup.restart_period) == (1, 1)

    def begin(self, group):
        """C26, C18, C27: what a cycle starts from, and who takes part in it."""
        for leaf in group.leaves:
            joins, leaf.is_member = leaf.trained and not leaf.is_member, leaf.trained
            if joins:
                leaf.total = leaf.top = 0.0
            for number in leaf.numbers:
                if joins:
                    number.buffer = number.distance = 0.0
                if joins or self.takes(group):
                    number.slow, number.slow_moments = number.fast, number.moments

    def sync_group(self, group):
        setup = self.setup
        back = setup.restart > 0 and (group.syncs + 1) % setup.restart_period == 0  # C72
        for leaf in group.leaves:
            if not leaf.is_member:
                continue
            old_part = self.old_part(group, leaf)
            for number in leaf.numbers:
                deep = number.slow + number.distance
                number.slow = self.outer(group, number, old_part)
                self.second(group, number, deep)
                if back:
                    number.fast = between(number.fast, number.slow, setup.restart)
                    if self.emits_updates:
                        number.fast = number.before + (number.fast - number.before)
                    self.sync_moments(group, number)
            if back and setup.inner_state == "reset":  # C17
                for each in self.listed if self.one_count else [leaf]:
                    each.count = 0
        group.syncs, group.steps = group.syncs + 1, 0

    def alpha(self, group):
        """How much of the way this sync goes (C51, C71)."""
        outer = self.setup.outer
        if type(outer).__name__ == "Outer":
            return min(1.0, outer.lr * (1 + outer.momentum if outer.nesterov else 1))
        return group.alpha(group.syncs) if callable(group.alpha) else group.alpha

    def outer(self, group, number, mu_x):
        """The next slow weight."""
        slow, fast, rule = number.slow, number.fast, self.setup.outer
        kind = type(rule).__name__
        if kind == "Outer":  # C71
            number.buffer = rule.momentum * number.buffer + (slow - fast)
            ahead = slow - fast + rule.momentum * number.buffer
            return slow - rule.lr * (ahead if rule.nesterov else number.buffer)
        if kind == "Averaging":  # C85, from the y of the last sync, and x - z
            z = slow - rule.mu_y * number.buffer
            x, z = z + number.buffer, z - (slow - fast)
            x = between(z, x, mu_x)
            number.buffer = x - z
            return between(z, x, rule.mu_y)
        if kind == "Ahead":  # C85
            move = fast - (slow - rule.step_size * number.buffer)
            number.buffer = rule.decay * number.buffer + (1 - rule.decay) * move
            return fast + rule.step_size * number.buffer
        return between(slow, fast, self.alpha(group))

    def old_part(self, group, leaf):
        """C87: the weight of the old average."""
        rule = self.setup.outer
        if type(rule).__name__ != "Averaging" or rule.mu_x is not None:
            return getattr(rule, "mu_x", None)
        leaf.top = max(leaf.top, self.lr * group.rate)
        before = leaf.total
        leaf.total += (group.syncs + 1) ** rule.r * leaf.top**rule.power
        return before / leaf.total if leaf.total else 1.0

    def second(self, group, number, deep):
        """C78: a rule around the first, and how far its weight is from the slow one."""
        rule = self.setup.second
        if rule is None:
            return
        if (group.syncs + 1) % rule.period == 0:
            deep = between(deep, number.slow, rule.alpha)
            number.slow = between(number.slow, deep, rule.restart)
        number.distance = deep - number.slow

    def sync_moments(self, group, number):
        """C16, C17, C18."""
        if self.setup.inner_state == "reset":
            number.moments = None
        if self.setup.inner_state == "interpolate" and number.moments:
            slow = number.slow_moments or [0.0] * len(number.moments)
            pairs, part = zip(slow, number.moments, strict=True), self.alpha(group)
            number.moments = number.slow_moments = [between(*pair, part) for pair in pairs]

    def read_out(self, group, leaf):
        """C22, C78, C86: of the fast weights between two cycles, and of a leaf that is frozen."""
        if not leaf.is_member:
            return [number.fast for number in leaf.numbers]
        is_fast, rule = not group.steps and self.takes(group), self.setup.outer
        slow = [number.fast if is_fast else number.slow for number in leaf.numbers]
        pairs = [*zip(slow, leaf.numbers, strict=True)]
        if self.setup.second:
            return [start + number.distance for start, number in pairs]
        kind = type(rule).__name__
        if kind not in ("Averaging", "Ahead"):
            return slow
        part = 1 - rule.mu_y if kind == "Averaging" else -rule.step_size
        return [start + part * number.buffer for start, number in pairs]


def between(start, end, part):
    """`part` of the way; at both ends exact, whatever the other one is (C07)."""
    if part in (0, 1):
        return end if part else start
    return start + part * (end - start)
