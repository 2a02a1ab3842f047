"""The oracle: the method in 60-digit decimal arithmetic, written from the papers.

No array library and nothing of lookahead_core: it must not share a mistake with what it judges.
Zhang, Lucas, Hinton, Ba 2019, arXiv:1907.08610, Algorithm 1; the inner optimizers, and the momentum
on the pseudo-gradient, are torch's documented forms. Rules that decide where gradients are taken:
arXiv:2405.15682, arXiv:2512.17131 and arXiv:2605.25395.
"""

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from typing import TypeAlias

from .setup import Ahead, Averaging, Gradients, Inner, Outer, Setup

__all__ = ["InnerStep", "Oracle", "torch_inner"]

DIGITS = Context(prec=60)
# Floats, as the frameworks have them: their 1 - 0.999 is not a thousandth.
ADAM = (0.9, 0.999, 1e-8)
Vector = list[Decimal]
Moments = list[Vector]
InnerStep: TypeAlias = Callable[[Inner, Moments, Vector, int], tuple[Vector, Moments]]


def torch_inner(
    inner: Inner, moments: Moments, gradient: Vector, count: int
) -> tuple[Vector, Moments]:
    """One step of SGD or Adam on one leaf, as torch writes it.

    Parameters
    ----------
    inner : Inner
        The optimizer and its settings.
    moments : list of list of Decimal
        One of SGD, two of Adam; zero at the start, and after a reset.
    gradient : list of Decimal
        Of the leaf.
    count : int
        Steps since the start or a reset, this one included.

    Returns
    -------
    direction : list of Decimal
        What is taken from the weights, times the learning rate.
    moments : list of list of Decimal
        After the step.

    Examples
    --------
    >>> from lookahead_core.conformance import Inner
    >>> torch_inner(Inner(momentum=0.5), [[Decimal(1)]], [Decimal(2)], 1)
    ([Decimal('2.5')], [[Decimal('2.5')]])
    """
    if inner.kind == "sgd":
        momentum = Decimal(inner.momentum)
        velocity = [momentum * v + g for v, g in zip(moments[0], gradient, strict=True)]
        return velocity, [velocity]
    b1, b2, eps = map(Decimal, ADAM)
    first = [b1 * m + (1 - b1) * g for m, g in zip(moments[0], gradient, strict=True)]
    second = [b2 * n + (1 - b2) * g * g for n, g in zip(moments[1], gradient, strict=True)]
    c1, c2 = 1 - b1**count, 1 - b2**count
    pairs = zip(first, second, strict=True)
    return [(m / c1) / ((n / c2).sqrt() + eps) for m, n in pairs], [first, second]


class Oracle:
    """What an optimizer made from `setup` must do.

    Parameters
    ----------
    setup : Setup
        Leaves, inner optimizer and Lookahead's settings.
    inner_step : callable, optional
        The formula of the inner optimizer, in the place of `torch_inner`.

    Attributes
    ----------
    fast : list of list of Decimal
        Weights after the steps so far. May be edited, as loading a model does.
    lr : float
        Learning rate of the next inner step.

    Examples
    --------
    >>> from lookahead_core.conformance import Inner, Leaf, Setup
    >>> oracle = Oracle(Setup((Leaf((1.0,)),), sync_period=2, alpha=0.5, inner=Inner(lr=0.5)))
    >>> for _ in range(2):
    ...     oracle.step([[1.0]])
    >>> float(oracle.slow[0][0])
    0.5
    """

    def __init__(self, setup: Setup, inner_step: InnerStep = torch_inner) -> None:
        self.setup = setup
        self.inner_step = inner_step
        self.lr = setup.inner.lr
        self.fast = [[Decimal(v) for v in leaf.values] for leaf in setup.leaves]
        self.trained = [leaf.trained for leaf in setup.leaves]
        # Those that were trained when the cycle began: what a sync is about (clause C27).
        self.members = list(self.trained)
        # Slow weights, and how far those of a second rule are from them.
        self.first_slow = [list(leaf) for leaf in self.fast]
        self.distance = [[Decimal(0)] * len(leaf) for leaf in self.fast]
        # SGD keeps one moment a leaf, Adam two; the count is Adam's, for its bias correction.
        kinds = 2 if setup.inner.kind == "adam" else 1
        self.moments = [[[Decimal(0)] * len(leaf)] * kinds for leaf in self.fast]
        self.slow_moments = [list(moments) for moments in self.moments]
        # Momentum, the average less the iterates, or the mean of the moves, whichever there is.
        self.buffers = [[Decimal(0)] * len(leaf) for leaf in self.fast]
        # Where cycles weigh by the learning rate, of each leaf: their sum, and the largest rate.
        self.weights = [(Decimal(0), Decimal(0))] * len(self.fast)
        self.count = 0
        self.steps = -setup.start
        self.syncs = 0

    @property
    def begun(self) -> bool:
        """Whether a step of the first cycle has been taken."""
        return self.steps > 0 or self.syncs > 0

    @property
    def slow(self) -> list[Vector]:
        """The read-out: weights to evaluate and to ship (clauses C22, C78)."""
        slow = self._anchored()
        with localcontext(DIGITS):
            if self.setup.second is None:
                return [self._read(*pair) for pair in zip(slow, self.buffers, strict=True)]
            return [_sum(leaf, way) for leaf, way in zip(slow, self.distance, strict=True)]

    def _anchored(self) -> list[Vector]:
        """The slow weights themselves."""
        return self.fast if self.steps <= 0 and self._takes() else self.first_slow

    def metrics(self) -> dict[str, float]:
        """What there is to plot now (clause C91)."""
        outer, alpha = self.setup.outer, self.setup.alpha
        with localcontext(DIGITS):
            fast = [weight for leaf in self.fast for weight in leaf]
            ways = [
                [s - f for s, f in zip((w for leaf in slow for w in leaf), fast, strict=True)]
                for slow in (self.slow, self._anchored())
            ]
            distance, norm = (_product(way, way).sqrt() for way in ways)
            found: dict[str, float | Decimal] = {"syncs": self.syncs, "distance": distance}
            found["pseudo_gradient_norm"] = norm
            if isinstance(outer, Outer):
                buffer = [value for leaf in self.buffers for value in leaf]
                norms = norm * _product(buffer, buffer).sqrt()
                found["momentum_cosine"] = _product(ways[1], buffer) / norms if norms else 0
            if outer is None:
                found["alpha"] = alpha(self.syncs) if callable(alpha) else alpha
        return {name: float(value) for name, value in found.items()}

    def train(self, index: int, trained: bool) -> None:
        """Freeze a leaf, or train it again: it takes part from the next cycle on."""
        self.trained[index] = trained

    def edit_inner(self, index: int, factor: float) -> None:
        """Multiply the moments of a leaf."""
        with localcontext(DIGITS):
            moments = self.moments[index]
            self.moments[index] = [[Decimal(factor) * m for m in moment] for moment in moments]

    def step(self, gradients: Gradients, counted: bool = True) -> None:
        """One applied inner step, and a sync if it is the last of its cycle.

        One that is not counted is the inner step alone: what came after it has failed (C88).
        """
        with localcontext(DIGITS):
            if self.steps == 0:
                self._begin()
            self.count += 1
            for i, gradient in enumerate(self._summed(gradients)):
                if gradient is not None:
                    self._move(i, gradient)
            self._tie()
            self.steps += counted
            period = self.setup.sync_period
            if counted and self.steps == (period(self.syncs) if callable(period) else period):
                self.sync()

    def sync(self) -> None:
        """Slow weights move, and fast ones go back to them where they do."""
        with localcontext(DIGITS):
            if self.steps <= 0:  # no step of a cycle came before it
                self._begin()
            self.steps = 0
            rho = Decimal(self.setup.restart)
            back = (self.syncs + 1) % self.setup.restart_period == 0 and rho > 0
            for i, leaf in enumerate(self.setup.leaves):
                if not self.members[i] or leaf.same_as is not None:
                    continue
                super_slow = _sum(self.first_slow[i], self.distance[i])
                self.first_slow[i] = self._synced(i)
                self._sync_second(i, super_slow)
                if back:
                    self.fast[i] = _between(self.fast[i], self.first_slow[i], rho)
                    self._sync_moments(i)
            if self.setup.inner_state == "reset" and back:
                self.count = 0
            self.syncs += 1
            self._tie()

    def _begin(self) -> None:
        """What a cycle starts from: who takes part, weights and moments as they are now."""
        self.members = list(self.trained)
        if self._takes():
            self.first_slow = [list(leaf) for leaf in self.fast]
            self.slow_moments = [list(moments) for moments in self.moments]

    def _takes(self) -> bool:
        """Whether slow weights are taken from the fast ones where a cycle begins."""
        return self.syncs == 0 or (self.setup.restart, self.setup.restart_period) == (1, 1)

    def _synced(self, i: int) -> Vector:
        """Slow weights of a leaf after the outer rule."""
        outer = self.setup.outer
        if outer is None:
            return self._blend(self.first_slow[i], self.fast[i])
        if isinstance(outer, Averaging):
            return self._averaged(i, outer)
        if isinstance(outer, Ahead):
            return self._gone_ahead(i, outer)
        lr, momentum = Decimal(outer.lr), Decimal(outer.momentum)
        gradient = [s - f for s, f in zip(self.first_slow[i], self.fast[i], strict=True)]
        buffer = [momentum * b + g for b, g in zip(self.buffers[i], gradient, strict=True)]
        self.buffers[i] = buffer
        if outer.nesterov:
            buffer = [g + momentum * b for g, b in zip(gradient, buffer, strict=True)]
        return [s - lr * d for s, d in zip(self.first_slow[i], buffer, strict=True)]

    def _averaged(self, i: int, outer: Averaging) -> Vector:
        """The next y of a leaf: from y and x - z to its iterates and their average, and back."""
        mu_x, mu_y = self._old_part(i, outer), Decimal(outer.mu_y)
        y, fast, before = self.first_slow[i], self.fast[i], self.buffers[i]
        z = [at - mu_y * way for at, way in zip(y, before, strict=True)]
        x = _sum(z, before)
        z = [now - (at - end) for now, at, end in zip(z, y, fast, strict=True)]
        x = _between(z, x, mu_x)
        self.buffers[i] = [mean - now for mean, now in zip(x, z, strict=True)]
        return _between(z, x, mu_y)

    def _old_part(self, i: int, outer: Averaging) -> Decimal:
        """The mu_x of a leaf at this sync."""
        if outer.mu_x is not None:
            return Decimal(outer.mu_x)
        total, top = self.weights[i]
        top = max(top, self._rate(i))
        power, r = Decimal(outer.power), Decimal(outer.r)
        # 0^0 is 1, which decimal numbers refuse to say.
        weight = Decimal(self.syncs + 1) ** r * (top**power if power else 1)
        self.weights[i] = total + weight, top
        return total / (total + weight) if total + weight else Decimal(1)

    def _gone_ahead(self, i: int, outer: Ahead) -> Vector:
        """The next y of a leaf, ahead of its weights along the mean of their moves."""
        y, fast, mean = self.first_slow[i], self.fast[i], self.buffers[i]
        x, decay = self._read(y, mean), Decimal(outer.decay)
        moves = [end - at for end, at in zip(fast, x, strict=True)]
        self.buffers[i] = _between(moves, mean, decay)
        return _along(fast, self.buffers[i], self._step_size(self.syncs))

    def _step_size(self, syncs: int) -> Decimal:
        outer = self.setup.outer
        size = outer.step_size if isinstance(outer, Ahead) else 0.0
        return Decimal(size(syncs) if callable(size) else size)

    def _read(self, slow: Vector, buffer: Vector) -> Vector:
        """What a leaf ships: the average, or the weights that gradients are taken ahead of."""
        outer = self.setup.outer
        if isinstance(outer, Averaging):
            return _along(slow, buffer, 1 - Decimal(outer.mu_y))
        if isinstance(outer, Ahead):
            return _along(slow, buffer, -self._step_size(max(self.syncs - 1, 0)))
        return slow

    def _sync_second(self, i: int, super_slow: Vector) -> None:
        """At every period-th sync of the first rule the second one's, on its slow weights."""
        second = self.setup.second
        if second is None:
            return
        if (self.syncs + 1) % second.period == 0:
            super_slow = _between(super_slow, self.first_slow[i], Decimal(second.alpha))
            self.first_slow[i] = _between(self.first_slow[i], super_slow, Decimal(second.restart))
        pairs = zip(super_slow, self.first_slow[i], strict=True)
        self.distance[i] = [deep - slow for deep, slow in pairs]

    def _summed(self, gradients: Gradients) -> list[Vector | None]:
        """Gradients of the arrays: that of a tied one is the sum over its listings."""
        given = [None if g is None else [Decimal(v) for v in g] for g in gradients]
        for i, leaf in enumerate(self.setup.leaves):
            if leaf.same_as is not None:
                first, again = given[leaf.same_as], given[i]
                both = first and again and [a + b for a, b in zip(first, again, strict=True)]
                given[leaf.same_as], given[i] = both or first or again, None
        return given

    def _tie(self) -> None:
        for i, leaf in enumerate(self.setup.leaves):
            if leaf.same_as is not None:
                for weights in (self.fast, self.first_slow, self.distance, self.buffers):
                    weights[i] = weights[leaf.same_as]

    def _sync_moments(self, i: int) -> None:
        if self.setup.inner_state == "reset":
            self.moments[i] = [[Decimal(0)] * len(moment) for moment in self.moments[i]]
        if self.setup.inner_state == "interpolate":
            pairs = zip(self.slow_moments[i], self.moments[i], strict=True)
            self.slow_moments[i] = [self._blend(slow, live) for slow, live in pairs]
            self.moments[i] = list(self.slow_moments[i])

    def _blend(self, slow: Vector, fast: Vector) -> Vector:
        return _between(slow, fast, self._part())

    def _part(self) -> Decimal:
        """How much of the way a sync goes: alpha, or what momentum takes of the pseudo-gradient."""
        alpha, outer = self.setup.alpha, self.setup.outer
        if not isinstance(outer, Outer):
            return Decimal(alpha(self.syncs) if callable(alpha) else alpha)
        lr, momentum = Decimal(outer.lr), Decimal(outer.momentum)
        return min(Decimal(1), lr * (1 + momentum) if outer.nesterov else lr)

    def _move(self, i: int, gradient: Vector) -> None:
        inner, moments = self.setup.inner, self.moments[i]
        direction, self.moments[i] = self.inner_step(inner, moments, gradient, self.count)
        lr = self._rate(i)
        self.fast[i] = [w - lr * d for w, d in zip(self.fast[i], direction, strict=True)]

    def _rate(self, i: int) -> Decimal:
        return Decimal(self.lr) * Decimal(self.setup.leaves[i].rate)


def _product(one: Vector, other: Vector) -> Decimal:
    return sum((a * b for a, b in zip(one, other, strict=True)), Decimal(0))


def _sum(one: Vector, other: Vector) -> Vector:
    return [a + b for a, b in zip(one, other, strict=True)]


def _along(start: Vector, way: Vector, part: Decimal) -> Vector:
    return [s + part * w for s, w in zip(start, way, strict=True)]


def _between(start: Vector, end: Vector, part: Decimal) -> Vector:
    return [s + part * (e - s) for s, e in zip(start, end, strict=True)]
