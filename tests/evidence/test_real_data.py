"""The evidence: what is trained is what the tables say, and the tables are what was measured.

Methods are written out again here, by hand, on a few steps; the committed tables are computed again
from the committed numbers.
"""

import json
import math
import re
import statistics
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from experiments.evidence import cells, tables, tasks
from experiments.evidence.cells import Cell, Plan, all_cells, key
from experiments.evidence.compared import (
    CONTROLS,
    MUON_ON,
    PRESETS,
    SCHEDULES,
    SETTINGS,
    Method,
    methods_for,
)
from experiments.evidence.real_data import DOCS, RESULTS, fill
from experiments.evidence.results import (
    Row,
    Table,
    difference,
    load,
    save,
    saved,
    touches_the_end,
    width,
)
from experiments.evidence.tasks import TASKS, load_split, python_text
from experiments.evidence.training import initial_weights, inner_optimizer, train

PAGES = [DOCS / page for page in tables.TABLES]
TABLES_PAGE = DOCS / "evidence-tables.md"
WITH_MOMENTUM = ("sgd", "adamw")
DIGITS = replace(TASKS[0], steps=20)
LR, SEED = 0.05, 3


def small_cells():
    """Two cells of one program, half a second each once it is compiled."""
    task = replace(TASKS[0], steps=10)
    methods = (Method("inner"), Method("inner, EMA 0.9", decay=0.9))
    return [Cell(task, "sgd", "constant", m, (0.01, 0.1), (0, 1)) for m in methods]


# Training, against loops that are written out here.


def gradients(weights, x, y):
    """Of the mean cross-entropy of a 64-32-10 ReLU network, and that mean."""
    hidden = np.maximum(x @ weights["w0"] + weights["b0"], 0)
    logits = hidden @ weights["w1"] + weights["b1"]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log[np.arange(len(y)), y].mean()
    error = (np.exp(log) - np.eye(10)[y]) / len(y)
    back = (error @ weights["w1"].T) * (hidden > 0)
    return {
        "w0": x.T @ back,
        "b0": back.sum(axis=0),
        "w1": hidden.T @ error,
        "b1": error.sum(axis=0),
    }, loss


class ByHand:
    """SGD with momentum or AdamW in float64, weight by weight, for the digits."""

    def __init__(self, inner, lr, momentum=0.9):
        split, rng = load_split("digits"), np.random.default_rng(SEED)
        self.inner, self.lr, self.momentum, self.count = inner, lr, momentum, 0
        start = initial_weights(DIGITS, split, rng)
        self.weights = {name: leaf.astype(np.float64) for name, leaf in start.items()}
        self.order = rng.permutation(len(split.train_y))
        self.restart()

    def restart(self, count=False):
        self.first = {name: np.zeros_like(leaf) for name, leaf in self.weights.items()}
        self.second = {name: np.zeros_like(leaf) for name, leaf in self.weights.items()}
        self.count = 0 if count else self.count

    def step(self, index):
        split = load_split("digits")
        rows = self.order[32 * index : 32 * (index + 1)]
        gradient, _ = gradients(self.weights, split.train_x[rows], split.train_y[rows])
        self.count += 1
        for name, g in gradient.items():
            if self.inner == "sgd":
                self.first[name] = self.momentum * self.first[name] + g
                move = self.first[name]
            else:
                self.first[name] = self.momentum * self.first[name] + (1 - self.momentum) * g
                self.second[name] = 0.999 * self.second[name] + 0.001 * g**2
                m = self.first[name] / (1 - self.momentum**self.count)
                v = self.second[name] / (1 - 0.999**self.count)
                move = m / (np.sqrt(v) + 1e-8) + 0.01 * self.weights[name]
            self.weights[name] = self.weights[name] - self.lr * move


def losses(weights):
    """On the training, validation and test data."""
    split = load_split("digits")
    parts = ("train", "val", "test")
    data = [(getattr(split, f"{p}_x"), getattr(split, f"{p}_y")) for p in parts]
    return [gradients(weights, x, y)[1] for x, y in data]


def blend(slow, fast, alpha):
    return {name: slow[name] + alpha * (fast[name] - slow[name]) for name in slow}


def measured(inner, method, schedule="constant", task=DIGITS):
    measures = train(task, inner, schedule, method, (LR,), (SEED,))
    return [float(loss[0, 0]) for loss in measures[:3]]


@pytest.mark.parametrize(
    ("inner", "policy", "sync_period", "alpha"),
    [
        *product(WITH_MOMENTUM, ["maintain", "reset", "interpolate"], [5], [0.5]),
        ("adamw", "reset moments", 5, 0.5),
        ("sgd", "maintain", 10, 0.8),
    ],
)
def test_lookahead_and_its_policies_are_what_they_say(inner, policy, sync_period, alpha):
    hand = ByHand(inner, LR)
    slow = dict(hand.weights)
    slow_state = dict(hand.first), dict(hand.second)
    for index in range(DIGITS.steps):
        hand.step(index)
        if (index + 1) % sync_period == 0:
            slow = blend(slow, hand.weights, alpha)
            hand.weights = dict(slow)
            if policy.startswith("reset"):
                hand.restart(count=policy == "reset")
            if policy == "interpolate":
                states = hand.first, hand.second
                slow_state = tuple(
                    blend(s, f, alpha) for s, f in zip(slow_state, states, strict=True)
                )
                hand.first, hand.second = map(dict, slow_state)
    method = Method("", sync_period=sync_period, alpha=alpha, inner_state=policy)
    assert measured(inner, method) == pytest.approx(losses(slow), rel=2e-4)


@pytest.mark.parametrize("inner", WITH_MOMENTUM)
@pytest.mark.parametrize("decay", [0.9, 0.98])
def test_the_read_out_is_an_average_that_training_never_sees(inner, decay):
    hand = ByHand(inner, LR)
    average = dict(hand.weights)
    for index in range(DIGITS.steps):
        hand.step(index)
        average = blend(average, hand.weights, 1 - decay)
    assert measured(inner, Method("", decay=decay)) == pytest.approx(losses(average), rel=2e-4)
    assert measured(inner, Method("")) == pytest.approx(losses(hand.weights), rel=2e-4)


@pytest.mark.parametrize("inner", WITH_MOMENTUM)
def test_the_control_is_the_inner_optimizer_at_alpha_times_the_rate(inner):
    hand = ByHand(inner, 0.8 * LR)
    for index in range(DIGITS.steps):
        hand.step(index)
    control = Method("", lr_factor=0.8)
    assert measured(inner, control) == pytest.approx(losses(hand.weights), rel=2e-4)


def test_a_cosine_starts_at_the_full_rate_and_ends_near_none():
    hand = ByHand("sgd", LR)
    for index in range(DIGITS.steps):
        hand.lr = LR * 0.5 * (1 + math.cos(math.pi * index / DIGITS.steps))
        hand.step(index)
    assert measured("sgd", Method(""), "cosine") == pytest.approx(losses(hand.weights), rel=2e-4)


def stepped(hand, weights, index):
    """What an inner step at `weights` takes away from them."""
    hand.weights = dict(weights)
    hand.step(index)
    return {name: weights[name] - hand.weights[name] for name in weights}


def minus(weights, move, part=1.0):
    return {name: weights[name] - part * move[name] for name in weights}


def primal_averaging(hand, mu_x, mu_y):
    """The lines of the papers of GPA and Schedule-Free; ships x."""
    x = z = dict(hand.weights)
    for index in range(DIGITS.steps):
        z = minus(z, stepped(hand, blend(z, x, mu_y), index))
        x = blend(z, x, mu_x(index))
    return x


def nesterov_with_a_mean(hand, step_size, decay):
    """The lines of the paper of EMA-Nesterov; ships x."""
    x, mean = dict(hand.weights), {name: 0 * leaf for name, leaf in hand.weights.items()}
    for index in range(DIGITS.steps):
        ahead = minus(x, mean, -step_size)
        after = minus(ahead, stepped(hand, ahead, index))
        mean = blend(minus(after, x), mean, decay)
        x = after
    return x


def outer_nesterov(hand, sync_period):
    """SNOO."""
    slow, buffer = dict(hand.weights), {name: 0 * leaf for name, leaf in hand.weights.items()}
    for index in range(DIGITS.steps):
        hand.step(index)
        if (index + 1) % sync_period == 0:
            delta = minus(slow, hand.weights)
            buffer = minus(delta, buffer, -0.37)
            slow = minus(slow, minus(delta, buffer, -0.37), 0.68)
            hand.weights = dict(slow)
    return slow


BY_HAND = {
    "SNOO k=20": lambda hand: outer_nesterov(hand, 20),
    "GPA 0.98": lambda hand: primal_averaging(hand, lambda _: 0.98, 0.7),
    "EMA-Nesterov 0.9": lambda hand: nesterov_with_a_mean(hand, 0.3, 0.9),
    "Schedule-Free 0.9": lambda hand: primal_averaging(hand, lambda n: n / (n + 1), 0.9),
}


@pytest.mark.parametrize(
    ("inner", "name"), [*product(["sgd"], BY_HAND), ("adamw", "Schedule-Free 0.9")]
)
def test_a_preset_is_the_lines_of_its_paper(inner, name):
    (method,) = [m for m in methods_for("text", inner, "constant") if m.name == name]
    without = name.startswith("Schedule-Free")
    factor = 10 if without and inner == "sgd" else 1
    hand = ByHand(inner, factor * LR, momentum=0.0 if without else 0.9)
    assert measured(inner, method) == pytest.approx(losses(BY_HAND[name](hand)), rel=2e-4)


def test_every_method_is_written_out_by_hand_but_the_averages_that_training_does_not_see():
    methods = {m.preset for m in PRESETS} - {"anytime_ema"}
    assert methods == {m.preset for m in PRESETS if m.name in BY_HAND}


def test_the_ema_of_the_controls_is_the_preset():
    preset = Method("", preset="ema", arguments=(("decay", 0.98),))
    assert measured("sgd", preset) == pytest.approx(measured("sgd", Method("", decay=0.98)))


def test_muon_moves_the_matrices_and_adamw_the_rest():
    rng = np.random.default_rng(0)
    weights = {"embedding": (9, 4), "w0": (8, 6), "b0": (6,), "w1": (6, 5), "b1": (5,)}
    gradient = {name: rng.normal(size=shape).astype(np.float32) for name, shape in weights.items()}
    at = {name: np.zeros(shape, np.float32) for name, shape in weights.items()}
    muon = inner_optimizer("muon", lambda _: 0.1, Method(""))
    update, _ = muon.update(gradient, muon.init(at), at)
    for name, leaf in update.items():
        if name.startswith("w"):  # orthogonal, as far as five steps of Newton and Schulz go
            lengths = np.linalg.svd(leaf, compute_uv=False)
            assert 0.05 < lengths.min() <= lengths.max() < 0.13
        else:
            # Adam's first step, of one size for all weights, with Nesterov's momentum.
            size = 0.1 * (1 + 0.9 * 0.1 / (1 - 0.9**2))
            np.testing.assert_allclose(leaf, -size * np.sign(gradient[name]), rtol=1e-3)


def test_a_run_that_diverges_classifies_nothing_and_stops_no_other():
    measures = train(DIGITS, "sgd", "constant", Method(""), (LR, 1e30), (0, 1))
    assert measures.test_correct[0].min() > 100
    assert measures.test_correct[1].tolist() == [0, 0]
    assert not np.isfinite(measures.test_loss[1]).any()


# Data.


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_row_of_the_test_data_is_trained_on(task):
    split = load_split(task.name)
    assert len(split.train_x) == len(split.train_y)
    assert set(np.unique(split.train_y)) <= set(range(split.classes))
    if task.is_text:
        return  # a window may well occur twice in a text; its place is tested below
    train_rows = {row.tobytes() for row in split.train_x}
    assert not train_rows & {row.tobytes() for row in (*split.val_x, *split.test_x)}


def test_a_window_is_followed_by_its_character_in_its_part_of_the_text():
    split, text = load_split("text"), python_text()
    alphabet = sorted(set(text))
    ends = {"train": (0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1)}
    for part, (first, last) in ends.items():
        stretch = text[max(0, int(first * len(text)) - 8) : int(last * len(text)) + 8]
        x, y = getattr(split, f"{part}_x"), getattr(split, f"{part}_y")
        for window, following in zip(x[:200], y[:200], strict=True):
            assert "".join(alphabet[code] for code in (*window, following)) in stretch


def test_runs_end_at_a_sync():
    assert all(task.steps % 10 == 0 for task in TASKS)


def test_another_text_than_the_tables_is_said(monkeypatch, capsys):
    monkeypatch.setattr(tasks, "TEXT_OF_PYTHON", {})
    load_split.cache_clear()
    load_split("text")
    load_split.cache_clear()
    assert "is not that of the committed table" in capsys.readouterr().out


# The cache.


def test_a_run_that_was_cut_off_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    wanted = small_cells()
    fill(tmp_path, wanted, workers=1)
    first, second = (tmp_path / f"{key(cell)}.json" for cell in wanted)
    finished, before = first.stat().st_mtime_ns, second.read_text()
    second.unlink()
    (tmp_path / f"{key(wanted[1])}.4711").write_text("half a fi")  # cut off while writing
    fill(tmp_path, wanted, workers=1)
    assert first.stat().st_mtime_ns == finished
    assert second.read_text() == before
    assert set(cells.read(tmp_path, wanted)) == set(wanted)


def test_every_setting_is_part_of_the_name_of_a_cell(monkeypatch):
    cell = small_cells()[0]
    others = [
        replace(cell, task=replace(cell.task, steps=20)),
        replace(cell, task=replace(cell.task, batch=16)),
        replace(cell, inner="adamw"),
        replace(cell, schedule="cosine"),
        replace(cell, method=replace(cell.method, decay=0.5)),
        replace(cell, lrs=(0.01,)),
        replace(cell, seeds=(0,)),
        replace(cell, task=replace(cell.task, name="mnist")),
    ]
    names = {key(other) for other in (cell, *others)}
    assert len(names) == len(others) + 1
    monkeypatch.setattr(cells, "load_split", lambda _: load_split("mnist"))  # other data
    assert key(cell) not in names


def test_a_change_of_the_program_is_another_cell_and_a_comment_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "HERE", tmp_path)
    found = []
    for text in ("x = 1\n", '"""Words."""\nx = 1  # why\n', "x = 2\n"):
        (tmp_path / "training.py").write_text(text)
        cells.fingerprint.cache_clear()
        found.append(cells.fingerprint())
    cells.fingerprint.cache_clear()
    assert found[0] == found[1] != found[2]


def test_the_quick_plan_asks_for_the_same_cells_in_small():
    quick, whole = list(all_cells(Plan().quick())), list(all_cells(Plan()))
    assert len(quick) == len(whole) == len(set(map(key, whole)))
    assert not set(map(key, quick)) & set(map(key, whole))


# The tables.


def test_the_controls_are_in_every_table_and_there_is_a_table_for_everything():
    committed = load(RESULTS)
    places = {(table.task, table.inner, table.schedule) for table in committed}
    everywhere = {(t.name, i, s) for t in TASKS for i in WITH_MOMENTUM for s in SCHEDULES}
    assert places == everywhere | {(name, "muon", s) for name in MUON_ON for s in SCHEDULES}
    for table in committed:
        names = [method.name for method in methods_for(table.task, table.inner, table.schedule)]
        assert list(table.rows) == names
        assert {control.name for control in CONTROLS} < set(table.rows)
        for starts in SETTINGS.values():
            assert any(name.startswith(starts) for name in names)
    lookaheads = [m for m in methods_for("text", "sgd", "cosine") if m.sync_period]
    grid = {(m.sync_period, m.alpha, m.inner_state) for m in lookaheads}
    policies = ("maintain", "reset", "interpolate")
    assert grid == {(k, a, p) for k in (5, 10) for a in (0.5, 0.8) for p in policies}


def test_at_least_five_seeds():
    assert len(json.loads(RESULTS.read_text())["about"]["seeds"]) >= 5


def test_the_best_rate_of_a_method_is_nowhere_the_first_or_the_last_that_was_tried():
    for table in load(RESULTS):
        for row in table.rows.values():
            if not row.method.startswith("LA "):
                assert 0 < row.best < len(row.lrs) - 1, (table.task, table.inner, row.method)


def rows_of_the_page():
    """Cells of the big tables of docs/evidence-tables.md: (title, method) to what is printed."""
    found = {}
    for title, body in re.findall(
        r"<summary>(.*?)</summary>(.*?)</details>", TABLES_PAGE.read_text(), re.DOTALL
    ):
        for line in re.findall(r"^\| (?!method|---)(.*) \|$", body, re.MULTILINE):
            method, *printed = (part.strip() for part in line.split(" | "))
            found[title, method] = printed
    return found


def scores(cell, sizes, part):
    """Percent or minus bits, one list a learning rate, straight from the JSON."""
    if f"{part}_correct" in cell:
        return [[100 * n / sizes[part] for n in row] for row in cell[f"{part}_correct"]]
    blind = math.log2(sizes["classes"])
    return [
        [-min(blind if x is None else x / math.log(2), blind) for x in row]
        for row in cell[f"{part}_loss"]
    ]


def test_every_printed_number_is_that_of_the_json():
    content, printed = json.loads(RESULTS.read_text()), rows_of_the_page()
    inner_names = {"sgd": "SGD, momentum", "adamw": "AdamW", "muon": "Muon"}
    titles = {task.name: task.title for task in TASKS}
    best = {}
    for cell in content["cells"]:  # the inner optimizer is the first of each table
        about = content["about"]
        sizes = about["tasks"][cell["task"]]
        val, test = (scores(cell, sizes, part) for part in ("val", "test"))
        chosen = max(range(len(val)), key=lambda i: statistics.fmean(val[i]))
        place = cell["task"], cell["inner"], cell["schedule"]
        title = f"{titles[place[0]]}; {inner_names[place[1]]}; {place[2]} rate"
        inner = best.setdefault(place, test[chosen])
        score, gain, lr, octaves = printed.pop((title, cell["method"]))
        sign, digits = (-1, 3) if place[0] == "text" else (1, 1)
        half = 0.5001 * 10**-digits
        mean, spread = map(float, score.split(" ± "))
        assert mean == pytest.approx(sign * statistics.fmean(test[chosen]), abs=half)
        assert spread == pytest.approx(statistics.stdev(test[chosen]), abs=half)
        assert (
            2.0 ** float(lr.removeprefix("2^")) == cell.get("lrs", about["lrs"][place[1]])[chosen]
        )
        if gain:
            by_seed = [a - b for a, b in zip(test[chosen], inner, strict=True)]
            mean, interval = map(float, gain.strip("*").split(" ± "))
            # 2.570582: Student's t for 6 seeds, as in any printed table of it.
            error = 2.570582 * statistics.stdev(by_seed) / math.sqrt(6)
            assert mean == pytest.approx(statistics.fmean(by_seed), abs=half)
            assert interval == pytest.approx(error, abs=half)
        if cell["method"] in {method.name for method in PRESETS}:
            assert octaves == "–"
            continue
        bar = statistics.fmean(inner) - (0.1 if place[0] == "text" else 2)
        grid = np.linspace(0, len(val) - 1, 20_001)
        above = [
            (np.interp(grid, range(len(val)), curve) >= bar).mean() * (len(val) - 1)
            for curve in np.transpose(test)
        ]
        mean, spread = map(float, octaves.removeprefix("≥ ").split(" ± "))
        assert mean == pytest.approx(statistics.fmean(above), abs=0.06)
        assert spread == pytest.approx(statistics.stdev(above), abs=0.06)
    assert not printed


def emptied(text):
    return re.sub(r"(?s)(<!-- (?!end)[a-z ]+ -->\n).*?(<!-- end -->)", r"\1\2", text)


def test_the_pages_are_what_the_command_writes(tmp_path):
    for page in PAGES:
        (tmp_path / page.name).write_text(emptied(page.read_text()))
    tables.rewrite(tmp_path, RESULTS)
    for page in PAGES:
        assert len(emptied(page.read_text())) < len(page.read_text())
        assert (tmp_path / page.name).read_text() == page.read_text()


def test_a_page_without_a_marker_is_an_error_and_all_stay_as_they_are(tmp_path):
    first, second = (tmp_path / page.name for page in PAGES)
    first.write_text(emptied(PAGES[0].read_text()))
    second.write_text("<!-- instead -->\n<!-- end -->\n<!-- against controls -->\n<!-- end -->\n")
    before = [first.read_text(), second.read_text()]
    with pytest.raises(ValueError, match=r"evidence-tables.md must have <!-- best --> once, got 0"):
        tables.rewrite(tmp_path, RESULTS)
    assert [first.read_text(), second.read_text()] == before


def test_the_page_is_one_that_a_person_reads():
    assert len(PAGES[0].read_text().split()) <= 2500


def test_the_best_setting_is_chosen_on_the_validation_data_and_compared_by_seed():
    val, test = np.array([[1.0, 1.0], [3.0, 3.0]]), np.array([[9.0, 9.0], [4.0, 6.0]])
    names = ["inner", *(c.name for c in CONTROLS[1:]), "anytime EMA 0.05", "LA k=5 α=0.5 maintain"]
    names += ["LA k=5 α=0.5 reset moments", "SNOO k=20", "GPA 0.98", "GPA 0.9967"]
    names += ["EMA-Nesterov 0.99", "Schedule-Free 0.9"]
    rows = {name: Row(name, np.array([1.0, 2.0]), val, test) for name in names}
    rows["GPA 0.9967"] = Row("GPA 0.9967", np.array([1.0, 2.0]), val + 1, test + 5)
    rows["LA k=5 α=0.5 reset moments"] = Row("", np.array([1.0, 2.0]), val + 9, test + 9)
    table = Table("digits", "sgd", "constant", False, rows)
    best = tables.chosen(table)
    assert best["GPA"].method == "GPA 0.9967"
    assert best["Lookahead"].method == "LA k=5 α=0.5 maintain"
    assert difference(best["GPA"], rows["inner"]).mean == 5
    assert tables.gains([table]).count("**+5.0 ± 0.0**") == 1
    assert tables.against_controls([table]).count("**+5.0 ± 0.0**") == 1
    assert "| GPA | constant | 1 | 1 | 0 | 1 | 0 |" in tables.counts([table])
    assert "| SNOO | constant | 1 | 0 | 0 | 0 | 0 |" in tables.counts([table])
    cosine = Row("inner", np.array([1.0, 2.0]), val, test - 1)
    with_cosine = replace(table, schedule="cosine", rows=rows | {"inner": cosine})
    printed = tables.instead_of_a_schedule([table, with_cosine])
    assert printed.count("**+6.0 ± 0.0**") == 1
    assert printed.count("**+1.0 ± 0.0**") == len(SETTINGS) - 1


def test_what_was_saved_before_is_kept_and_what_is_nowhere_is_an_error(tmp_path):
    old, new = small_cells()
    new = replace(new, lrs=(0.1,))
    results = {name: [[1, 2]] for name in ("val_correct", "test_correct", "train_loss")}
    save(tmp_path / "first.json", [old], {old: {"results": results}})
    before = saved(tmp_path / "first.json")
    save(tmp_path / "second.json", [old, new], {new: {"results": results}}, before)
    after = saved(tmp_path / "second.json")
    assert after[key(old)] == before[key(old)]
    assert after[key(new)]["lrs"] == [0.1]
    with pytest.raises(KeyError, match=key(new)):
        save(tmp_path / "third.json", [old, new], {}, before)


def a_row(*curve):
    test = np.array([curve, curve]).T
    return Row("inner", 2.0 ** np.arange(len(curve)), test, test)


def test_the_width_is_the_length_of_the_axis_above_the_bar():
    assert width(a_row(80, 90, 90, 80), bar=85).mean == pytest.approx(2.0)
    assert width(a_row(80, 90, 80, 90), bar=85).mean == pytest.approx(1.5)
    assert width(a_row(80, 80), bar=85).mean == 0
    assert touches_the_end(a_row(80, 90), 85)
    assert not touches_the_end(a_row(80, 90, 80), 85)


def test_a_run_of_text_that_diverged_scores_as_a_blind_guess(tmp_path):
    losses = [[None, 99.0], [math.log(2), 2 * math.log(2)]]
    cell = {"task": "text", "inner": "sgd", "schedule": "constant", "method": "inner"}
    sizes = {"val": 9, "test": 9, "classes": 8}
    about = {"lrs": {"sgd": [1.0, 2.0]}, "tasks": {"text": sizes}}
    cells = [{**cell, "val_loss": losses, "test_loss": losses}]
    (tmp_path / "results.json").write_text(json.dumps({"about": about, "cells": cells}))
    (table,) = load(tmp_path / "results.json")
    np.testing.assert_allclose(table.rows["inner"].test, [[-3, -3], [-1, -2]])


def test_the_validation_set_chooses_and_the_test_set_is_reported():
    row = Row("", np.array([1.0, 2.0]), np.array([[1, 1], [2, 2]]), np.array([[9, 9], [5, 7]]))
    assert row.at_best.tolist() == [5, 7]
    table = Table("digits", "sgd", "constant", False, {"inner": row})
    assert table.bar == 4.0
