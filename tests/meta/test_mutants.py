"""Tests of the suite: adapters that are broken as real ones were, each killed by its clause."""

import copy
import math

import pytest

from drivers.plain import PlainDriver, PlainLookahead, cast
from lookahead_core.conformance import CLAUSES
from lookahead_core.conformance.report import check_adapter

MUTANTS = {}


def killed_by(*clauses):
    """Register an adapter or a driver that these clauses must fail."""

    def register(mutant):
        MUTANTS[mutant.__name__] = (mutant, clauses)
        return mutant

    return register


@killed_by("C01", "C02")
class CapturesSlowWeightsAfterTheFirstStep(PlainLookahead):
    """alphadl/lookahead.pytorch, Paddle."""

    def anchor(self):
        pass

    def step(self, gradients):
        super().step(gradients)
        if not hasattr(self, "captured"):
            self.slow = copy.deepcopy(self.weights)
            self.captured = True


@killed_by("C02")
class CapturesSlowWeightsAtTheFirstSync(PlainLookahead):
    """timm: the first sync does nothing."""

    def sync(self, gradients=None):
        if not hasattr(self, "captured"):
            self.slow, self.captured = copy.deepcopy(self.weights), True
        super().sync(gradients)


@killed_by("C02")
class SyncsOneStepEarly(PlainLookahead):
    def due(self, gradients):
        return self.count >= max(1, self.setup.sync_period - 1)


@killed_by("C02")
class SyncsOneStepLate(PlainLookahead):
    def due(self, gradients):
        return self.count == self.setup.sync_period + 1


@killed_by("C02")
class SyncsAfterTheFirstStep(PlainLookahead):
    """The SNOO record's code: the counter is tested before it is advanced."""

    def __init__(self, setup):
        super().__init__(setup)
        self.total = 0

    def due(self, gradients):
        self.total += 1
        return (self.total - 1) % self.setup.sync_period == 0


@killed_by("C03")
class CountsSkippedSteps(PlainDriver):
    def skip(self, run):
        run.count += 1


@killed_by("C03")
class ASkippedStepMakesZeroSlowWeights(PlainDriver):
    """tensorflow-addons #2351: the slots were made, and the assignment to them was skipped."""

    def skip(self, run):
        run.slow = [[0.0] * len(leaf) for leaf in run.slow]
        run.anchor = lambda: None


@killed_by("C02")
class NeverSyncs(PlainLookahead):
    """ReaLLM-Forge #479: an early return in front of it."""

    def due(self, gradients):
        return False


@killed_by("C04")
class DoesNotSyncWithAPeriodOfOne(PlainLookahead):
    def due(self, gradients):
        return super().due(gradients) and self.setup.sync_period > 1


@killed_by("C91")
class AddsTheNormsOfTheLeavesUp(PlainLookahead):
    def norm(self, leaves):
        return sum(math.hypot(*leaf) for leaf in leaves)


@killed_by("C91")
class ReadsTheSlowWeightsInThePlaceOfThoseToShip(PlainLookahead):
    """For `metrics` alone."""

    def metrics(self):
        found = super().metrics()
        return found | {"distance": found["pseudo_gradient_norm"]}


@killed_by("C91")
class MovesTheWeightsToMeasureThem(PlainLookahead):
    def metrics(self):
        found = super().metrics()
        for leaf in self.weights:
            leaf[0] += 1.0
        return found


@killed_by("C05")
class ForcedSyncKeepsTheCounter(PlainDriver):
    """timm's sync_lookahead."""

    def sync(self, run):
        count = run.count
        run.sync()
        run.count = count


@killed_by("C06")
class DoesNotSaveTheCounter(PlainLookahead):
    """Paddle, torchft."""

    def saved_names(self):
        return ("weights", "slow", "slow_moments")


@killed_by("C06")
class DoesNotSaveTheSlowWeights(PlainLookahead):
    """The authors' code."""

    def saved_names(self):
        return ("weights", "slow_moments", "count")


@killed_by("C06")
class DoesNotSaveTheSlowCopyOfTheInnerState(PlainLookahead):
    def saved_names(self):
        return ("weights", "slow", "count")


@killed_by("C06")
class DoesNotSaveTheInnerState(PlainLookahead):
    """tensorflow-addons #2094."""

    def load_state_dict(self, state):
        inner = {"moments": self.inner.moments, "count": 0, "lr": self.inner.lr}
        super().load_state_dict({**state, "inner": inner})


@killed_by("C06")
class SavesAnAlias(PlainLookahead):
    def state_dict(self):
        inner = {"moments": self.inner.moments, "count": self.inner.count, "lr": self.inner.lr}
        return {**{name: getattr(self, name) for name in self.saved_names()}, "inner": inner}


@killed_by("C06")
class CastsSlowWeightsOnLoad(PlainLookahead):
    """torch.optim.Optimizer.load_state_dict casts to the parameter's dtype."""

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.slow = [[cast(value, "float32") for value in leaf] for leaf in self.slow]


@killed_by("C06")
class CastsSlowWeightsToTheLeafsDtypeOnLoad(PlainLookahead):
    """The same, where the parameter is bfloat16 and the slow weights are float32."""

    def load_state_dict(self, state):
        super().load_state_dict(state)
        pairs = zip(self.slow, self.setup.leaves, strict=True)
        self.slow = [[cast(value, leaf.dtype) for value in slow] for slow, leaf in pairs]


@killed_by("C06")
class SavingTakesAStep(PlainLookahead):
    """torch.distributed.checkpoint steps with zero gradients to make the state that it reads."""

    def state_dict(self):
        self.step([[0.0] * len(leaf) for leaf in self.weights])
        return super().state_dict()


@killed_by("C09")
class StopsShortOfTheEnd(PlainLookahead):
    """s + alpha * (f - s) is not f at alpha = 1 in floating point."""

    def blend(self, slow, fast):
        return slow + self.setup.alpha * (fast - slow)


@killed_by("C10")
class StoresTheTargetAndWritesAnother(PlainLookahead):
    """optax.lookahead: fast + update is not the target exactly."""

    def sync(self, gradients=None):
        super().sync(gradients)
        for leaf in self.weights:
            leaf[:] = [value * (1 + 2.0**-52) for value in leaf]


@killed_by("C11")
class SkipsLeavesWithoutGradient(PlainLookahead):
    """timm, pytorch-optimizer, Ranger."""

    def synced(self, gradients):
        given = gradients or [1] * len(self.weights)
        return [i for i in super().synced(gradients) if given[i] is not None]


@killed_by("C12")
class SelectsByMultiplication(PlainLookahead):
    """optax.lookahead: 0 * inf is NaN."""

    def step(self, gradients):
        super().step(gradients)
        for slow, fast in zip(self.slow, self.weights, strict=True):
            slow[:] = [s + 0.0 * f for s, f in zip(slow, fast, strict=True)]


@killed_by("C13")
class MovesByTheOtherFraction(PlainLookahead):
    """The pattern page: fast * (1 - alpha) + slow * alpha."""

    def blend(self, slow, fast):
        return fast + self.setup.alpha * (slow - fast)


@killed_by("C14", "C27")
class SyncsEveryLeaf(PlainLookahead):
    """The authors' code: a frozen leaf that was edited is pulled back."""

    def synced(self, gradients):
        return list(range(len(self.weights)))


@killed_by("C15")
class KeepsSlowWeightsNarrow(PlainLookahead):
    def store(self, i, value):
        return cast(value, self.setup.leaves[i].dtype)


@killed_by("C16")
class AlwaysResets(PlainLookahead):
    """akashpalrecha/Lookahead."""

    def sync_inner(self):
        self.reset()


@killed_by("C17")
class ResetsTheFirstMomentAlone(PlainLookahead):
    """Knows `momentum_buffer` only."""

    def reset(self):
        for moments in self.inner.moments:
            moments[0] = [0.0] * len(moments[0])
        self.inner.count = 0


@killed_by("C17")
class ResetKeepsTheStepCount(PlainLookahead):
    def reset(self):
        count = self.inner.count
        super().reset()
        self.inner.count = count


@killed_by("C17")
class ResetDoesNothing(PlainLookahead):
    """pytorch-optimizer around AdamW."""

    def reset(self):
        pass


@killed_by("C17")
class ResetsByMultiplication(PlainLookahead):
    """optax.lookahead: 0 * nan is NaN, so what diverged stays so."""

    def reset(self):
        for moments in self.inner.moments:
            moments[:] = [[0.0 * value for value in moment] for moment in moments]
        self.inner.count = 0


@killed_by("C18")
class AliasesTheSlowCopyOfTheInnerState(PlainLookahead):
    """The authors' pullback: right at the first sync, wrong from the second."""

    def take_moments(self):
        pass

    def interpolate(self):
        super().interpolate()
        self.slow_moments = self.inner.moments


@killed_by("C18")
class InterpolateKeepsTheInnerState(PlainLookahead):
    def interpolate(self):
        pass


@killed_by("C18")
class KeepsTheSlowCopyOfTheInnerStateFromTheLastSync(PlainLookahead):
    """This project's NumPy and torch, before they were asked: right until a moment is edited."""

    def take_moments(self):
        if self.syncs == 0:
            super().take_moments()


@killed_by("C18")
class TakesNoSlowCopyOfMomentsThatAreZero(PlainLookahead):
    """An `or` in the place of `is None`: those of the last sync come back."""

    def take_moments(self):
        pairs = zip(self.inner.moments, self.slow_moments, strict=True)
        live = [new if any(map(any, new)) else old for new, old in pairs]
        self.slow_moments = copy.deepcopy(live)


@killed_by("C18")
class KeepsTheSlowCopyOfMomentsThatAreGone(PlainLookahead):
    """A dictionary that is updated, and from which nothing is ever dropped."""

    def take_moments(self):
        kept = self.slow_moments
        super().take_moments()
        pairs = zip(self.slow_moments, kept, strict=True)
        self.slow_moments = [new or old for new, old in pairs]


@killed_by("C18")
class CopiesTheMomentsThatItOnceFound(PlainLookahead):
    """A list of the arrays, made at a sync: others that take their place are not seen."""

    found = None

    def take_moments(self):
        self.slow_moments = copy.deepcopy(self.found or self.inner.moments)

    def interpolate(self):
        super().interpolate()
        self.found = list(self.inner.moments)


@killed_by("C18")
class TakesTheSlowCopyInMidCycleToo(PlainLookahead):
    """Whenever somebody has edited a moment: the steps before that are not halved."""

    left = None

    def step(self, gradients):
        if self.left not in (None, self.inner.moments):
            self.take_moments()
        super().step(gradients)
        self.left = copy.deepcopy(self.inner.moments)


@killed_by("C18")
class KeepsTheSlowCopyOfALeafThatWasFrozen(PlainLookahead):
    """Only what the last sync moved is taken again."""

    def begin(self):
        last, kept = self.members, self.slow_moments
        super().begin()
        for i, member in enumerate(last):
            self.slow_moments[i] = self.slow_moments[i] if member else kept[i]


@killed_by("C27")
class SyncsALeafThatThawedInMidCycle(PlainLookahead):
    """Asks who is trained when the sync comes: there is no anchor of its own to go back to."""

    def sync(self, gradients=None):
        self.members = list(self.trained)
        super().sync(gradients)


@killed_by("C22")
class EvaluatingSyncs(PlainLookahead):
    """Ranger, timm at each epoch's end."""

    def evaluate(self):
        self.sync()
        return super().evaluate()


@killed_by("C22")
class EvaluatesTheFastWeights(PlainLookahead):
    def evaluate(self):
        return copy.deepcopy(self.weights)


@killed_by("C24")
class TakesEverySetting(PlainLookahead):
    """A period of 2.5 never comes, an alpha of 1.5 runs away: both are seen much later or never."""

    def check(self, setup):
        pass


@killed_by("C26")
class AnchorsInMidCycle(PlainLookahead):
    """Takes every edit for a new start: the steps since the last sync are not halved."""

    def step(self, gradients):
        if self.weights != getattr(self, "left", self.weights):
            self.anchor()
        super().step(gradients)
        self.left = copy.deepcopy(self.weights)


@killed_by("C26")
class NeverAnchorsAgain(PlainLookahead):
    """Weights loaded after construction are pulled half of the way back."""

    def anchor(self):
        pass


@killed_by("C28")
class WorksInSinglePrecision(PlainLookahead):
    """An accumulator in float32, whatever the leaf."""

    def blend(self, slow, fast):
        return cast(super().blend(slow, fast), "float32")


@killed_by("C28")
class RoundsToTheFirstLeafsDtype(PlainLookahead):
    """foreach helpers that look at element 0 of a list with mixed dtypes."""

    def store(self, i, value):
        return cast(value, self.setup.leaves[0].dtype)


@killed_by("C29")
class SyncsTheFirstAxisAlone(PlainLookahead):
    """A scalar has no first element, a matrix more than one row."""

    def sync(self, gradients=None):
        rest = [
            leaf[(self.setup.leaves[i].shape or [9])[0] :] for i, leaf in enumerate(self.weights)
        ]
        super().sync(gradients)
        for leaf, tail in zip(self.weights, rest, strict=True):
            if tail and len(tail) < len(leaf):
                leaf[-len(tail) :] = tail


@killed_by("C30")
class KeepsTheFirstLearningRate(PlainDriver):
    """A param_groups list that went stale."""

    def set_learning_rate(self, run, lr):
        pass


@killed_by("C31")
class SyncsTiedLeavesTwice(PlainLookahead):
    """torch._foreach_lerp_ with a tensor listed twice: 1 becomes .25 and not .5."""

    def tied(self, i):
        return False


@killed_by("C32")
class TakesTheRealPart(PlainLookahead):
    """A cast of complex weights to a real accumulator."""

    def store(self, i, value):
        self.stored = getattr(self, "stored", 0) + 1
        imaginary = "complex" in self.setup.leaves[i].dtype and self.stored % 2 == 0
        return 0.0 if imaginary else super().store(i, value)


@killed_by("C33")
class LooksAtTheFirstLeaf(PlainLookahead):
    """foreach helpers that ask element 0 of a list for its device."""

    def sync(self, gradients=None):
        assert self.weights[0] is not None
        super().sync(gradients)


@killed_by("C34")
class CountsTheStepOncePerGroup(PlainLookahead):
    """One counter, advanced in the loop over the parameter groups."""

    def due(self, gradients):
        self.count += len({leaf.rate for leaf in self.setup.leaves}) - 1
        return self.count >= self.setup.sync_period


@killed_by("C71")
class TakesTheHeavyBallForNesterov(PlainLookahead):
    def pushed(self, i, j, slow, fast):
        super().pushed(i, j, slow, fast)
        return slow - self.setup.outer.lr * self.buffers[i][j]


@killed_by("C71")
class BlendsTheInnerStateByAlpha(PlainLookahead):
    """Which a momentum rule has not."""

    def alpha(self):
        return self.setup.alpha if self.setup.outer else super().alpha()


@killed_by("C71")
class PutsTheRateIntoTheBuffer(PlainLookahead):
    """BMUF's form with Nesterov's direction: the same only where the rate is 1."""

    def pushed(self, i, j, slow, fast):
        outer, gradient = self.setup.outer, self.setup.outer.lr * (slow - fast)
        self.buffers[i][j] = outer.momentum * self.buffers[i][j] + outer.lr * gradient
        ahead = gradient + outer.momentum * self.buffers[i][j]
        return slow - (ahead if outer.nesterov else self.buffers[i][j])


@killed_by("C71")
class FeedsTheBufferAtEveryStep(PlainLookahead):
    def step(self, gradients):
        super().step(gradients)
        if self.count and self.setup.outer:
            for i, leaf in enumerate(self.weights):
                for j, weight in enumerate(leaf):
                    self.buffers[i][j] += 0 * (self.slow[i][j] - weight)


@killed_by("C72")
class PutsWeightsBackWhole(PlainLookahead):
    """Lookahead's sync in the place of an average."""

    def restarted(self, fast, slow):
        return slow


@killed_by("C72")
class AnchorsAnAverage(PlainLookahead):
    """The slow weights are lost wherever a cycle begins."""

    def anchors(self):
        return True


@killed_by("C72")
class EvaluatesTheFastWeightsBetweenCycles(PlainLookahead):
    def evaluate(self):
        return copy.deepcopy(self.slow if self.count > 0 else self.weights)


@killed_by("C72")
class ResetsWhereNothingGoesBack(PlainLookahead):
    def sync(self, gradients=None):
        super().sync(gradients)
        self.sync_inner()


@killed_by("C73")
class BeginsAtOnce(PlainLookahead):
    def __init__(self, setup):
        super().__init__(setup)
        self.count = 0


@killed_by("C73")
class AnchorsAtTheVeryStart(PlainLookahead):
    """The average begins later, from weights that are long gone."""

    def anchors(self):
        return self.setup.start == 0 and super().anchors()


@killed_by("C73")
class BlendsWithTheInnerStateOfTheVeryStart(PlainLookahead):
    """This project's core, before it was asked: the weights were anchored later, and they alone."""

    def take_moments(self):
        if self.syncs:
            super().take_moments()


@killed_by("C73")
class AForcedSyncBeforeTheStartMovesWeights(PlainDriver):
    def sync(self, run):
        run.count = max(run.count, 1)
        run.sync()


@killed_by("C73")
class ASaveBeforeTheStartPinsTheSlowInnerState(PlainLookahead):
    """This project's torch adapter: what a checkpoint had made was not taken again."""

    saved = False

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.saved = True

    def take_moments(self):
        if not self.saved:
            super().take_moments()


@killed_by("C74")
class ForgetsTheOuterBuffer(PlainLookahead):
    def saved_names(self):
        return tuple(name for name in super().saved_names() if name != "buffers")


@killed_by("C75")
class AsksTheScheduleOnce(PlainLookahead):
    def alpha(self):
        alpha = self.setup.alpha
        return alpha(0) if callable(alpha) else alpha


@killed_by("C75", "C79")
class CountsSyncsFromOne(PlainLookahead):
    """Its averages have a weight too many."""

    def alpha(self):
        alpha = self.setup.alpha
        return alpha(self.syncs + 1) if callable(alpha) else alpha


@killed_by("C78")
class ForgetsTheSuperSlowWeights(PlainLookahead):
    def saved_names(self):
        return tuple(name for name in super().saved_names() if name != "super_slow")


@killed_by("C78")
class EvaluatesTheSlowWeightsOfTheFirstRule(PlainLookahead):
    """This project's adapters, before rules had a read-out: the super-slow weights are to ship."""

    def evaluate(self):
        begins = self.count <= 0 and self.anchors()
        return copy.deepcopy(self.weights if begins else self.slow)


@killed_by("C78")
class SyncsTheSecondEveryTime(PlainLookahead):
    def sync_second(self, i, j):
        syncs, second = self.syncs, self.setup.second
        self.syncs = second.period - 1 if second else syncs
        super().sync_second(i, j)
        self.syncs = syncs


@killed_by("C90")
class AsksForThePeriodByTheSteps(PlainLookahead):
    def __init__(self, setup):
        super().__init__(setup)
        self.total = 0

    def step(self, gradients):
        super().step(gradients)
        self.total += 1

    def period(self):
        period = self.setup.sync_period
        return period(self.total) if callable(period) else period


@killed_by("C90")
class ForgetsThePeriodOfTheCycleItWasSavedIn(PlainLookahead):
    """What a cycle began with is not in the file, and after loading it is that of a first one."""

    def begin(self):
        super().begin()
        self.length = super().period()

    def period(self):
        return getattr(self, "length", self.setup.sync_period)

    def load_state_dict(self, state):
        super().load_state_dict(state)
        period = self.setup.sync_period
        self.length = period(0) if callable(period) else period


@killed_by("C90")
class AForcedSyncIsNotCounted(PlainDriver):
    """So that the next cycle is as long as the one that was cut short."""

    def sync(self, run):
        syncs = run.syncs
        run.sync()
        run.syncs = syncs


@killed_by("C85")
class TrainsAtTheIterates(PlainLookahead):
    """An average that is kept beside training, as EMA is."""

    def averaged(self, i, j, slow, fast):
        super().averaged(i, j, slow, fast)
        return fast


@killed_by("C85")
class LeavesTheWayAheadOutOfTheMove(PlainLookahead):
    """The weights also move where the step starts ahead of them."""

    def gone_ahead(self, i, j, slow, fast):
        outer = self.setup.outer
        self.buffers[i][j] = outer.decay * self.buffers[i][j] + (1 - outer.decay) * (fast - slow)
        return fast + self.step_size(self.syncs) * self.buffers[i][j]


@killed_by("C86")
class ShipsWhereGradientsAreTaken(PlainLookahead):
    """Evaluation without `eval()`: the weights of training are none to ship."""

    def evaluate(self):
        begins = self.count <= 0 and self.anchors()
        return copy.deepcopy(self.weights if begins else self.slow)


@killed_by("C86")
class ReadsOutByTheNextStepSize(PlainLookahead):
    def evaluate(self):
        self.syncs += 1
        read = super().evaluate()
        self.syncs -= 1
        return read


@killed_by("C86")
class ForgetsTheDifference(PlainLookahead):
    def saved_names(self):
        return tuple(name for name in super().saved_names() if name != "buffers")


@killed_by("C87")
class GoesByTheRateOfThisStep(PlainLookahead):
    """A decay then counts less than the steps before it, and the average lags behind."""

    def old_part(self, i):
        self.weights_so_far[i] = self.weights_so_far[i][0], 0.0
        return super().old_part(i)


@killed_by("C87")
class ForgetsTheWeightsSoFar(PlainLookahead):
    def saved_names(self):
        return tuple(name for name in super().saved_names() if name != "weights_so_far")


@killed_by("C88")
class TheSyncOfAStepThatFailedNeverComes(PlainLookahead):
    """This project's torch adapter: the counter had been set, and the slow weights were lost."""

    def take_back(self):
        pass


@killed_by("C88")
class ResetsBeforeItAsksForAlpha(PlainLookahead):
    """The moments are gone, and the weights stay."""

    def sync(self, gradients=None):
        if self.setup.inner_state == "reset" and self.goes_back():
            self.reset()
        super().sync(gradients)


@killed_by("C88")
class GoesOnWithoutTheSync(PlainLookahead):
    """A failure is caught, and nobody hears of it."""

    def sync(self, gradients=None):
        try:
            super().sync(gradients)
        except Exception:
            self.count = 0


@killed_by("C89")
class LoadsTheInnerStateBeforeItAsks(PlainLookahead):
    """This project's torch adapter around Adam, where `step` was found to be missing last."""

    def load_state_dict(self, state):
        vars(self.inner).update(copy.deepcopy(state["inner"]))
        super().load_state_dict(state)


@killed_by("C89")
class TakesTheCounterBeforeItAsks(PlainLookahead):
    def load_state_dict(self, state):
        self.count = state.get("count", self.count)
        super().load_state_dict(state)


@killed_by("C62")
class ReadsAFileWhole(PlainDriver):
    """Whatever it is: its size is compared with nothing."""

    def read(self, run, path):
        path.read_bytes()
        return super().read(run, path)


@killed_by("C62")
class WaitsForAPipe(PlainDriver):
    def load_file(self, run, path):
        with path.open("rb"):
            super().load_file(run, path)


@killed_by("C62")
class RaisesWhatTheParserRaises(PlainDriver):
    """Without the name of the file."""

    def read(self, run, path):
        try:
            return super().read(run, path)
        except ValueError as error:
            raise error.__cause__ or error from None


@killed_by("C62")
class LoadsBeforeItLooks(PlainDriver):
    """A file that is refused has taken the weights with it."""

    def check(self, run, path, leaves):
        run.weights[0][0] += 1.0
        super().check(run, path, leaves)


@killed_by("C62")
class TakesTheFileOfAnotherModel(PlainDriver):
    def check(self, run, path, leaves):
        pass


@killed_by("C62")
class TakesADamagedFile(PlainDriver):
    """As far as it goes, and none of the rest."""

    def read(self, run, path):
        try:
            return super().read(run, path)
        except ValueError:
            return {}

    def load_file(self, run, path):
        if path.is_file() and (state := self.read(run, path)):
            run.load_state_dict(state)


def driver_of(mutant):
    return mutant() if issubclass(mutant, PlainDriver) else PlainDriver(mutant)


def failures(driver):
    return {name for name, outcome in check_adapter(driver).items() if outcome.status == "fail"}


def test_the_adapter_that_the_mutants_break_holds_every_clause():
    assert {o.status for o in check_adapter(PlainDriver()).values()} == {"pass"}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_by_the_clauses_that_name_it(name):
    mutant, clauses = MUTANTS[name]
    assert set(clauses) <= failures(driver_of(mutant))


def test_every_clause_kills_a_mutant():
    named = {clause for _, clauses in MUTANTS.values() for clause in clauses}
    assert named == set(CLAUSES)
    assert len(MUTANTS) >= 25
