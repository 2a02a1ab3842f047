"""The slow network: the page is what the JSON gives, formulas are the library's, nothing is left.

No test needs root or measures a time; the machines' commands are recorded and not run.
"""

import json
import math
import os
import sys
import time
from contextlib import suppress
from itertools import product

import pytest
from PIL import Image

from experiments.network import (
    findings,
    links,
    measured,
    network_tables,
    picture_of_network,
    slow_network,
    what_breaks,
)
from experiments.network import plan_at_scale as plan
from experiments.network.launch import WorkerError, wait_for
from experiments.network.links import Network
from experiments.network.plan_at_scale import Link, Way
from experiments.network.sizes import size
from experiments.network.sync_methods import METHODS, Method
from lookahead_core import analysis, local_sgd

PAGE = slow_network.PAGE.read_text()
DATA = json.loads(slow_network.DATA.read_text())
RUNS = measured.runs(DATA["runs"])
SYNCING = [run for run in RUNS if METHODS[run.method].sync_period]


def name_of(run):
    return f"{run.method}, {run.workers} workers, {run.megabits} Mbit/s"


# The page, and the JSON that it is made of.


@pytest.mark.parametrize("name", network_tables.blocks(DATA))
def test_a_table_on_the_page_is_what_the_json_and_the_formulas_give(name):
    block = network_tables.blocks(DATA)[name]
    assert f"<!-- {name} -->\n{block}<!-- end -->" in PAGE


def test_the_json_has_every_method_on_every_network_at_the_same_number_of_steps():
    expected = set(product(slow_network.WORKERS, slow_network.MEGABITS, METHODS))
    found = [(run.workers, run.megabits, run.method) for run in RUNS]
    assert len(found) == len(expected)
    assert set(found) == expected
    assert {run.steps for run in RUNS} == {slow_network.STEPS}


@pytest.mark.parametrize("run", RUNS, ids=name_of)
def test_the_training_is_real(run):
    steps, _, loss, accuracy = zip(*run.held_out, strict=True)
    assert steps[-1] == run.steps
    assert loss[-1] < loss[0] < math.log(10)
    assert accuracy[-1] > 0.8


@pytest.mark.parametrize("run", SYNCING, ids=name_of)
def test_the_formula_columns_are_the_formulas(run):
    """Written out here once more: 2 (W - 1) / W of the bytes, over the period, over the link."""
    method = METHODS[run.method]
    bits = {None: 32, "int4": 4.25}[method.codec]
    whole = 2 * (run.workers - 1) / run.workers * run.weights * bits / 8
    in_sync = whole / method.fragments
    left = max(0, 8 * in_sync / run.megabits / 1e6 - method.delay * run.local_seconds)
    between = method.sync_period / method.fragments * run.local_seconds
    said = measured.formulas(run)
    assert said.sent == pytest.approx(whole / method.sync_period)
    assert said.sent_in_sync == pytest.approx(in_sync)
    assert said.sync_seconds == pytest.approx(left)
    assert said.utilisation == pytest.approx(between / (between + left))


def test_a_method_that_never_syncs_has_no_formula():
    alone = next(run for run in RUNS if run.method == "alone")
    assert alone.sent * alone.steps < 1000  # who has which address
    with pytest.raises(ValueError, match="run must be of a method that syncs, got 'alone'"):
        measured.formulas(alone)


def test_the_columns_of_the_page_are_in_the_order_of_their_heads():
    run = next(r for r in SYNCING if r.megabits == min(slow_network.MEGABITS))
    said = measured.formulas(run)
    cells = [f" {cell} " for cell in (run.workers, run.method, size(run.sent))]
    cells += [f" {size(said.sent)} ", f" {run.sent / said.sent:.3f} "]
    assert "|".join(cells) in network_tables.sent(RUNS)
    cells = [f" {run.sync_seconds:.3f} ", f" {said.sync_seconds:.3f} "]
    assert "|".join(cells) in network_tables.times(RUNS)


def test_the_findings_name_the_worst_ratios():
    ratios = [run.sent_in_sync / measured.formulas(run).sent_in_sync for run in SYNCING]
    assert f"{min(ratios):.3f} to {max(ratios):.3f} times it in a sync" in findings.text(RUNS)


def test_a_page_without_a_marker_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("<!-- network: times -->\n", ""))
    with pytest.raises(ValueError, match="must have <!-- network: times --> once, got 0"):
        network_tables.rewrite(page, slow_network.DATA)


def test_rewriting_changes_what_is_stale_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    first = network_tables.blocks(DATA)["network: losses"]
    page.write_text(PAGE.replace(first, "| stale |\n"))
    network_tables.rewrite(page, slow_network.DATA)
    assert page.read_text() == PAGE


def test_sizes_have_three_digits_and_a_unit():
    assert size(999_900) == "1 MB"
    assert size(4_275_240) == "4.28 MB"
    assert size(12) == "12 B"
    assert size(0) == "0 B"


def test_the_picture_is_as_wide_as_a_phone(tmp_path):
    picture_of_network.draw(slow_network.DATA, tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as drawn, Image.open(slow_network.PICTURE) as committed:
        assert drawn.size == committed.size
        assert drawn.size[0] == 720


def test_one_method_measured_again_leaves_the_rows_of_the_others(monkeypatch, tmp_path):
    again = [line | {"steps": 7} for line in DATA["runs"] if line["method"] == "every step"]
    copy = tmp_path / "distributed.json"
    copy.write_text(slow_network.DATA.read_text())
    monkeypatch.setattr(slow_network, "DATA", copy)
    monkeypatch.setattr(slow_network, "_runs", lambda *_: again)
    monkeypatch.setattr(slow_network, "_mnist", dict)
    monkeypatch.setattr(slow_network, "refusal", lambda: None)
    monkeypatch.setattr(slow_network, "SIGNALS", ())
    # torch is not there where NumPy's tests run.
    monkeypatch.setattr(slow_network, "version", lambda name: "0")
    monkeypatch.setattr(slow_network.network_tables, "rewrite", lambda *_: None)
    monkeypatch.setattr(slow_network.picture_of_network, "draw", lambda *_: None)
    slow_network.main(["--method", "every step"])
    lines = json.loads(copy.read_text())["runs"]
    before = [
        line | ({"steps": 7} if line["method"] == "every step" else {}) for line in DATA["runs"]
    ]
    assert lines == before


# From what workers wrote down to a line of the JSON.


def test_a_summary_is_of_the_steps_that_it_says(monkeypatch):
    monkeypatch.setitem(METHODS, "k = 2", Method(local_sgd(2)))
    first = {
        "seconds": [1.0, 6.0, 2.0, 9.0],
        "sent": [0, 100, 110, 310],
        "held_out": [[2, 0.5, 0.75], [4, 0.25, 0.875]],
        "local_seconds": [],
        "weights": 7,
    }
    second = first | {"seconds": [3.0, 5.0, 4.0, 7.0], "sent": [0, 300, 300, 400]}
    run = measured.Run(**measured.summary("k = 2", 50, [first, second]))
    assert run.local_seconds == 2.5  # of 1, 2, 3, 4
    assert run.sync_step_seconds == 6  # of 5 and 7: the worker that waits least
    assert run.sync_seconds == 3.5
    assert run.total_seconds == 18.5
    assert run.utilisation == pytest.approx(2.5 * 4 / 18.5)
    assert run.sent == (310 + 400) / 2 / 4
    assert run.sent_in_sync == (150 + 200) / 2  # medians of 100, 200 and of 300, 100
    assert run.held_out == [[2, 7.0, 0.5, 0.75], [4, 18.0, 0.25, 0.875]]
    assert (run.workers, run.steps, run.weights, run.megabits) == (2, 4, 7, 50)


def test_syncs_are_where_the_fragments_have_their_turns():
    assert Method(local_sgd(5)).syncs(14) == [(4, 4), (9, 9)]
    late = Method(local_sgd(100), fragments=4, delay=5).syncs(300)
    assert (late[0], late[-1], len(late)) == ((24, 29), (274, 279), 11)
    assert Method(alone=True).syncs(300) == []


def test_what_a_late_sync_sends_is_counted_until_it_has_come(monkeypatch):
    monkeypatch.setitem(METHODS, "late", Method(local_sgd(4), fragments=2, delay=1))
    record = {
        "seconds": [1.0, 9.0, 4.0, 9.0, 6.0, 3.0],
        "sent": [0, 10, 30, 30, 70, 70],
        "held_out": [],
        "local_seconds": [],
        "weights": 1,
    }
    run = measured.Run(**measured.summary("late", 50, [record] * 2))
    assert run.sent_in_sync == (30 + 40) / 2
    assert run.sync_step_seconds == (4 + 6) / 2
    assert run.local_seconds == (1 + 3) / 2


def test_where_every_step_sends_the_spare_network_says_what_a_step_takes():
    record = {"seconds": [5.0, 6.0], "sent": [10, 20], "held_out": [], "local_seconds": [2.0]}
    run = measured.Run(**measured.summary("every step", 50, [record | {"weights": 1}] * 2))
    assert run.local_seconds == 2
    assert run.sync_step_seconds == 5.5


# Machines and their links.


class Recorder:
    """Runs nothing; fails at the commands that contain one of `failing`."""

    def __init__(self, *failing):
        self.failing, self.commands = failing, []

    def __call__(self, command):
        line = " ".join(command)
        self.commands.append(line)
        if any(part in line for part in self.failing):
            raise RuntimeError(line)

    def namespaces(self, verb):
        begin = f"ip netns {verb} "
        return [c.removeprefix(begin) for c in self.commands if c.startswith(begin)]


def test_both_ends_of_every_link_are_limited():
    recorder = Recorder()
    with Network(2, recorder) as network:
        network.limit(50)
    limits = [c.split(" root tbf ") for c in recorder.commands if " tbf " in c]
    switch = network.machines[0].removesuffix("-0") + "-switch"
    ends = [(network.machines[rank], "eth0") for rank in (0, 1)]
    ends += [(switch, f"port{rank}") for rank in (0, 1)]
    expected = {f"tc -n {where} qdisc replace dev {end}" for where, end in ends}
    assert {where for where, _ in limits} == expected
    assert {bucket.partition(" burst ")[0] for _, bucket in limits} == {"rate 50mbit"}


def test_every_namespace_is_made_for_this_process_and_deleted_in_the_end():
    recorder = Recorder()
    with suppress(KeyboardInterrupt), Network(4, recorder):
        assert recorder.namespaces("delete") == []
        raise KeyboardInterrupt
    assert len(recorder.namespaces("add")) == 5
    assert all(str(os.getpid()) in name for name in recorder.namespaces("add"))
    assert sorted(recorder.namespaces("delete")) == sorted(recorder.namespaces("add"))


def test_a_network_that_cannot_be_made_leaves_nothing():
    recorder = Recorder("link add port1")
    with pytest.raises(RuntimeError, match="link add port1"), Network(2, recorder):
        raise AssertionError("never entered")
    assert sorted(recorder.namespaces("delete")) == sorted(recorder.namespaces("add"))


def test_a_namespace_that_cannot_be_deleted_keeps_no_other_one():
    recorder = Recorder("netns delete")
    with pytest.raises(RuntimeError, match="not deleted: ip netns delete"), Network(2, recorder):
        pass
    assert sorted(recorder.namespaces("delete")) == sorted(recorder.namespaces("add"))


def test_one_machine_is_no_network():
    with pytest.raises(ValueError, match="workers must be 2 to 200, got 1"):
        Network(1)


def test_a_command_that_fails_says_what_it_said():
    with pytest.raises(RuntimeError, match="told you so"):
        links.run([sys.executable, "-c", "import sys; sys.exit('told you so')"])


@pytest.mark.parametrize(
    ("there", "user", "why"),
    [
        (["ip"], 0, "Linux with iproute2: there is no tc here"),
        ([], 0, "there is no ip and no tc here"),
        (["ip", "tc"], 1000, "needs root"),
    ],
)
def test_what_is_missing_is_said(monkeypatch, there, user, why):
    monkeypatch.setattr(links.shutil, "which", lambda name: name if name in there else None)
    monkeypatch.setattr(links.os, "geteuid", lambda: user)
    monkeypatch.setattr(slow_network, "_measure", lambda options: pytest.fail("it has begun"))
    assert why in links.refusal()
    with pytest.raises(SystemExit, match=why):
        slow_network.main(["--quick"])


def test_nothing_is_missing_for_root_with_ip_and_tc(monkeypatch):
    monkeypatch.setattr(links.shutil, "which", lambda name: name)
    monkeypatch.setattr(links.os, "geteuid", lambda: 0)
    assert links.refusal() is None


# Processes.


def sleeper(file, then):
    """Writes its process id, and `then` does what it does."""
    write = (
        f"import os, sys, time, pathlib; pathlib.Path({str(file)!r}).write_text(str(os.getpid()))"
    )
    return [sys.executable, "-c", f"{write}\n{then}"]


def is_running(file):
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_fails_stops_the_others_and_is_named(tmp_path):
    files = [tmp_path / "0", tmp_path / "1"]
    wait = f"while not os.path.exists({str(files[0])!r}): time.sleep(0.01)"
    commands = [
        sleeper(files[0], "time.sleep(90)"),
        sleeper(files[1], f"{wait}\nsys.exit('out of luck')"),
    ]
    with pytest.raises(WorkerError, match="worker 1 ended with 1: out of luck"):
        wait_for(commands, [os.environ] * 2, longest=60)
    assert not is_running(files[0])


def test_workers_that_do_not_end_are_stopped(tmp_path):
    file = tmp_path / "0"
    before = time.monotonic()
    with pytest.raises(WorkerError, match="workers must end within 3 seconds"):
        wait_for([sleeper(file, "time.sleep(90)")], [os.environ], longest=3)
    assert time.monotonic() - before < 60
    assert not is_running(file)


# The plan.


def test_the_plan_is_the_formulas_of_the_library():
    way, link = Way(100, bits=4, fragments=10, overlap=5), Link(1e9, 0.05)
    at_once = analysis.peak_traffic(8e9, 64, bits=4, fragments=10)
    seconds = analysis.sync_seconds(at_once, 64, 1e9, 0.05)
    assert plan.at_once(8e9, 64, way) == at_once
    assert plan.sent(8e9, 64, way) == analysis.traffic_per_step(8e9, 64, 100, 4)
    assert plan.sync_time(8e9, 64, way, link) == seconds
    assert plan.utilisation(8e9, 64, way, link) == analysis.compute_utilisation(
        plan.STEP, seconds, 10, overlap_steps=5
    )


@pytest.mark.parametrize("way", plan.WAYS.values(), ids=plan.WAYS)
def test_the_link_that_is_enough_is_just_enough(way):
    bandwidth = plan.bandwidth_for(1e9, 64, way, hop=1e-5)
    assert plan.utilisation(1e9, 64, way, Link(bandwidth, 1e-5)) == pytest.approx(plan.ENOUGH)


def test_no_link_is_enough_where_latency_is_too_much():
    assert plan.bandwidth_for(1e9, 1000, Way(30), hop=0.05) == math.inf


def test_what_holds_up_is_the_larger_part():
    every_step = Way(1)
    assert plan.held_up_by(1e9, 8, every_step, Link(1e9, 1e-4)) == "bandwidth"
    assert plan.held_up_by(1e9, 8, every_step, Link(1e12, 1.0)) == "latency"
    assert plan.held_up_by(1e9, 8, every_step, Link(1e15, 1e-9)) == ""


def test_the_slowest_of_two_and_of_three_are_where_the_textbook_has_them():
    assert plan.slowest_of(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-6)
    assert plan.slowest_of(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-6)


def test_a_replica_needs_all_its_copies():
    """16 bytes for AdamW, 4 slow, 4 momentum, and three sixteenths of 4 in passing."""
    found = plan.memory(16)
    assert (found.inner, found.outer, found.passing, found.together) == (256, 128, 12, 396)


def test_what_breaks_has_the_numbers_of_the_plan():
    told = what_breaks.text()
    assert "6.3 s for 64 and 99.9 s for 1,000 workers" in told  # 126 and 1,998 hops of 50 ms
    assert "in 11 hours among 64, and in 43 minutes among 1,000" in told  # 30 days each
    assert "500 steps then 18 % lose a worker" in told  # 1 - exp(-500 s / 43.2 min)
    assert "1.12 TB with AdamW alone and 1.73 TB" in told  # 16 and 24.75 bytes of 70e9
