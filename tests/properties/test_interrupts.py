"""Ctrl-C, and errors, at every call of our code in a cycle (clause C88).

What is left is the state of before or of after, or that in which the inner optimizer alone has
stepped. A few places of each act in every run, all with `pytest --hypothesis-profile full`; a
failure says its place.
"""

import signal
import sys
import threading
from importlib import import_module
from inspect import CO_GENERATOR
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

import lookahead_core
from lookahead_core.adapters import _interrupts
from lookahead_core.conformance import Inner, Leaf, Outer, Second, Setup
from lookahead_core.conformance.runs import gradients

FULL = settings.get_current_profile_name() == "full"
PACKAGES = tuple(str(Path(m.__file__).parent) for m in (lookahead_core, _interrupts))
K = 2
LEAVES = (Leaf((1.0, -2.0, 3.0)), Leaf((0.5, 4.0), "float32"))
MOMENTUM = Inner(momentum=0.5)
SETUPS = {
    "maintain": Setup(LEAVES, K, 0.25, inner=MOMENTUM),
    "reset": Setup(LEAVES, K, 0.5, "reset", Inner("adam", lr=0.0625)),
    "interpolate": Setup(LEAVES, K, 0.75, "interpolate", MOMENTUM),
    "momentum outside": Setup(LEAVES, K, inner=MOMENTUM, outer=Outer()),
    "an average": Setup(LEAVES, K, 0.25, inner=MOMENTUM, restart=0.0),
    "nested": Setup(LEAVES, K, 0.25, inner=MOMENTUM, second=Second(2, 0.5)),
}
# Where arrays are overwritten: errors come before that alone.
WRITING = {"sync": "torch", "count_and_sync": "torch", "_apply": "numpy"}
WRITING |= {"load_state_dict": "numpy", "keep": "_streaming", "start_again": "_streaming"}
OVERWRITING = {"assign", "written", "settle"}


class Fault:
    """Something goes wrong at the n-th call of our code; without a place they are counted.

    Not within the step of an inner optimizer of the array loop: that is as others' are.
    """

    def __init__(self, place=None):
        self.place, self.seen, self.inner = place, 0, None

    def __call__(self, frame, event, argument):
        if event == "return":
            self.inner = None if frame is self.inner else self.inner
        elif event != "c_return" and self.inner is None and is_ours(frame.f_code):
            if "_inner" in Path(frame.f_code.co_filename).parts:
                self.inner = frame
            elif self.counts(frame, event):
                self.seen += 1
                if self.seen == self.place:
                    self.happen()

    def during(self, act):
        """Whether it comes of the act: in the middle, or when it is done."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.setprofile(self)
        try:
            act()
        except (KeyboardInterrupt, MemoryError, ValueError):  # the last of a load
            return True
        finally:
            sys.setprofile(None)
            signal.signal(signal.SIGINT, before)
        return False


def is_ours(code):
    # What is raised while an object is deleted, as a generator may be, is told and dropped.
    deleted = code.co_name == "__del__" or code.co_flags & CO_GENERATOR
    return code.co_filename.startswith(PACKAGES) and not deleted


class CtrlC(Fault):
    """Python looks for interrupts where a call begins, and after one of C."""

    def counts(self, frame, event):
        return True

    def happen(self):
        signal.raise_signal(signal.SIGINT)


class Error(Fault):
    """An error in a function of ours, up to where it would come between two writings of a sync."""

    writer = None

    def __call__(self, frame, event, argument):
        if event == "return" and frame is self.writer:
            self.writer = None
        super().__call__(frame, event, argument)

    def counts(self, frame, event):
        if self.writer is None and overwrites(frame):
            self.writer = syncing(frame)
        return event == "call" and self.writer is None

    def happen(self):
        raise MemoryError("none is left")


def overwrites(frame):
    code = frame.f_code
    return code.co_name in OVERWRITING or "_kernels" in code.co_filename


def syncing(frame):
    """The function that changes all of a sync, if this frame is in one."""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if WRITING.get(frame.f_code.co_name) == file.parent.name:
            return frame
        frame = frame.f_back
    return None


class Run:
    """A run of an adapter, by its driver."""

    def __init__(self, driver, setup, steps):
        self.driver, self.setup = driver, setup
        self.run = driver.make(setup)
        for step in range(max(steps, K)):
            if step == K - 1:
                self.saved = driver.save(self.run)
            if step < steps:
                self.step(step)

    def step(self, step=7):
        self.driver.step(self.run, gradients(self.setup, step))

    def inner_step(self):
        """What the inner optimizer does at a step, and nothing of ours."""
        if not hasattr(self.run, "optimizer"):
            alone = SimpleNamespace(inner=self.run.inner, step=self.run.inner.step)
            self.driver.step(alone, gradients(self.setup, 7))
            return
        ours, self.run.optimizer = self.run.optimizer, self.run.optimizer.inner
        self.step()
        self.run.optimizer = ours

    def sync(self):
        self.driver.sync(self.run)

    def reload(self):
        self.driver.reload(self.run, self.saved)

    def evaluate(self):
        self.driver.evaluate(self.run)

    def leave_evaluation(self):
        """Ctrl-C before the first instruction of an `__exit__` keeps it from being run."""
        optimizer = getattr(self.run, "optimizer", self.run)
        if hasattr(optimizer, "train"):
            optimizer.train()

    def end(self):
        """All that there is to be seen, now and after more steps."""
        seen = []
        for step in range(2 * K + 1):
            seen += [self.driver.fast(self.run), self.driver.slow(self.run)]
            self.step(step)
        self.run = self.driver.load(self.setup, self.driver.save(self.run))
        return [*seen, self.driver.fast(self.run), self.driver.evaluate(self.run)]


# By name: how many steps before it, and what it is.
ACTS = {
    **{f"step {number}": (number - 1, Run.step) for number in range(1, K + 2)},
    "a sync in mid-cycle": (K + 1, Run.sync),
    "a sync between cycles": (K, Run.sync),
    "a load": (K + 1, Run.reload),
    "an evaluation": (K + 1, Run.evaluate),
    "an evaluation between cycles": (K, Run.evaluate),
}


def torch_driver(**options):
    return import_module("drivers.torch_driver").TorchDriver(**options)


def in_parts():
    """The second leaf has a period of its own, in a group of its own."""

    class InParts(type(torch_driver())):
        def wrap(self, inner, setup):
            inner.param_groups[-1]["lookahead_sync_period"] = 1
            return super().wrap(inner, setup)

        def make(self, setup):
            leaves = (setup.leaves[0], setup.leaves[1]._replace(rate=0.5))
            return super().make(setup._replace(leaves=leaves))

    return InParts()


def streamed():
    """Fragments at steps of their own, one of which is applied a step after it was taken."""
    import torch.distributed as dist

    from lookahead_core.adapters.torch import StreamingOptimizer
    from lookahead_core.conformance import sync_rule

    class Streamed(type(torch_driver())):
        def wrap(self, inner, setup):
            return StreamingOptimizer(
                inner,
                sync_rule(setup),
                process_group=dist.group.WORLD,
                fragments=2,
                delay=1,
                codec="int8",
            )

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return Streamed()


FORMS = {
    "numpy": lambda: import_module("drivers.array_driver").ArrayDriver(),
    "mlx": lambda: import_module("drivers.mlx_driver").MlxDriver(),
    "torch": torch_driver,
    "torch, leaf by leaf": lambda: torch_driver(kernel="plain"),
    "torch, captured": lambda: torch_driver(capturable=True),
    "torch, in parts": in_parts,
    "torch, streamed": streamed,
}


def allowed(driver, setup, name):
    """What may come of an act that goes wrong."""
    steps, act = ACTS[name]
    found = [Run(driver, setup, steps) for _ in range(3)]
    act(found[0])
    if act is Run.step and hasattr(found[1].run, "inner"):
        found[1].inner_step()
    return [run.end() for run in found]


def go_wrong(fault, driver, setup, name, stride=None):
    """Let an act go wrong at some places, each in a run of its own."""
    steps, act = ACTS[name]
    outcomes, count, run = allowed(driver, setup, name), fault(), Run(driver, setup, steps)
    assert not count.during(lambda: act(run))
    # A few in every run: others in each setup, because their numbers differ.
    stride = stride or (1 if FULL else max(1, count.seen // 4))
    for place in range(1 + len(name) % stride, count.seen + 1, stride):
        run = Run(driver, setup, steps)
        assert fault(place).during(lambda run=run: act(run))
        run.leave_evaluation()
        assert run.end() in outcomes, f"place {place} of {count.seen}"


# slow_weights() that is interrupted before it is entered says that nobody has entered it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:slow_weights.. did nothing"),
]


@pytest.mark.clause("C88", "C89")
@pytest.mark.parametrize("fault", [CtrlC, Error])
@pytest.mark.parametrize("name", ACTS)
def test_whatever_goes_wrong_leaves_the_state_of_before_or_of_after(backend, name, fault):
    if name == "a load" and backend == "mlx":
        return  # its state is a tree of arrays: who assigns one has done it
    for form in [form for form in FORMS if form.startswith(backend)]:
        for kind in kinds_of(form, list(ACTS).index(name)):
            go_wrong(fault, FORMS[form](), SETUPS[kind], name)


def kinds_of(form, number):
    """The setups for a form; in a short run "interpolate", which has most arrays, and one more."""
    if form == "torch, streamed":  # which refuses the other policies
        kinds = [kind for kind in SETUPS if SETUPS[kind].inner_state == "maintain"]
        return kinds if FULL else kinds[number % len(kinds) :][:1]
    first = [] if "," in form else [[*SETUPS][number % len(SETUPS)]]
    return SETUPS if FULL else {*first, "interpolate"}


@pytest.fixture(autouse=True)
def no_group_stays():
    """That of the streamed form."""
    yield
    if "torch.distributed" in sys.modules and sys.modules["torch.distributed"].is_initialized():
        sys.modules["torch.distributed"].destroy_process_group()


@pytest.mark.parametrize("fault", [CtrlC, Error])
def test_half_of_it_would_be_seen(backend, fault, monkeypatch):
    module = import_module(f"lookahead_core.adapters.{backend}._optimizer")
    if fault is CtrlC:  # it does not wait
        monkeypatch.setattr(_interrupts.Uninterrupted, "__enter__", lambda self: None)
        monkeypatch.setattr(_interrupts.Uninterrupted, "__exit__", lambda self, *_: None)
    else:  # it comes between two writings as well
        monkeypatch.setattr(Error, "counts", lambda self, frame, event: event == "call")
    if backend == "mlx":  # what is there is not put back
        monkeypatch.setattr(module.MetaOptimizer, "_whole", lambda self, change, *own: change(*own))
    with pytest.raises(AssertionError, match="place"):
        go_wrong(fault, FORMS[backend](), SETUPS["interpolate"], f"step {K}", stride=1)


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """Also where the tests were started in the background, whose shell has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_does_not_wait():
    came = []

    def go_on():
        with _interrupts.Uninterrupted():
            for number in range(3):
                came.append(number)
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert came == [0, 1]


def test_elsewhere_than_in_the_main_thread_there_is_nothing_to_put_off():
    handler, seen = signal.getsignal(signal.SIGINT), []

    def run():
        with _interrupts.Uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [handler]


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_handler_of_the_system_stays(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with _interrupts.Uninterrupted():
            assert signal.getsignal(signal.SIGINT) is handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
