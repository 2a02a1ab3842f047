"""Many workers on a mesh: the checks are in tests/drivers/workers_on_devices.py.

On eight devices of one process, and on four devices of each of two processes with collectives
between them.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from drivers.compiled_collectives import collectives
from drivers.several_processes import run_together
from drivers.workers_on_devices import CHECKS
from programs import WITH_TESTS

SAVED, RESUMED = "a_run_is_saved", "a_saved_run_goes_on_on_other_meshes"
CLAUSES = {
    "states_are_sharded_like_their_parameters": ["C55"],
    "types_are_kept_on_an_explicit_mesh": ["C55"],
    "parameters_can_be_put_back_to_the_bit": ["C10"],
    "each_form_is_the_plain_loop": ["C54", "C71"],
    "each_method_is_the_plain_loop": ["C71"],
}
# What collectives between processes might change; compiled programs and types are the same.
ACROSS = (
    "each_form_is_the_plain_loop",
    "all_workers_have_the_same_bits",
    "parameters_can_be_put_back_to_the_bit",
)


def marked(names):
    return [
        pytest.param(name, marks=pytest.mark.clause("C81", *CLAUSES.get(name, [])))
        for name in names
    ]


def free_port():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def environment(devices):
    asked = os.environ.get("XLA_FLAGS", "")
    flags = f"--xla_force_host_platform_device_count={devices} {asked}"
    return {**os.environ, **WITH_TESTS, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def require(check, folder, processes=1):
    """The check holds in every process."""
    program = [sys.executable, "-W", "error", "-m", "drivers.workers_on_devices"]
    port = str(free_port())
    several = [[str(processes), str(n), port] for n in range(processes)] if processes > 1 else [[]]
    commands = [[*program, check, str(folder), *arguments] for arguments in several]
    for code, output in run_together(commands, environment(8 // processes), folder, seconds=240):
        assert (code, output.splitlines()[-1:]) == (0, ["held"]), output


@pytest.mark.parametrize("check", marked(sorted(set(CHECKS) - {SAVED, RESUMED})))
def test_on_eight_devices(check, tmp_path):
    require(check, tmp_path)


@pytest.mark.parametrize("check", marked(ACROSS))
def test_on_two_processes(check, tmp_path):
    require(check, tmp_path, processes=2)
    # What each process has of the same shards.
    if written := [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]:
        one, other = written
        assert one == other
        assert len(one) > 10


@pytest.mark.clause("C06", "C74", "C81")
@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1)])
def test_orbax_brings_a_run_to_another_mesh(before, after, tmp_path):
    require(SAVED, tmp_path, processes=before)
    require(RESUMED, tmp_path, processes=after)


def test_the_code_of_the_page_runs_on_four_workers(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "test_jax_workers_page.py"
    command = [sys.executable, "-m", "pytest", str(page), "--backend", "jax"]
    ((code, output),) = run_together([command], environment(4), tmp_path, seconds=240)
    assert code == 0, output
    assert "1 passed" in output


def test_the_others_are_killed_when_one_fails(tmp_path):
    begin = time.monotonic()
    commands = [[sys.executable, "-c", code] for code in ("import time; time.sleep(60)", "1 / 0")]
    (killed, _), (failed, output) = run_together(commands, os.environ, tmp_path, seconds=50)
    assert (killed, failed) == (-9, 1)
    assert "ZeroDivisionError" in output
    assert time.monotonic() - begin < 30


def test_the_time_is_bounded(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert run_together([command], os.environ, tmp_path, seconds=0.5) == [(-9, "")]


COMPILED = """
%mean.1 (a: f32[]) -> f32[] {
  ROOT %r.1 = f32[] all-reduce(%a), to_apply=%add.1
}
%add.1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %s.1 = f32[] add(%a, %b)
}
%same.1 (a: f32[]) -> f32[] {
  ROOT %c.1 = f32[] copy(%a)
}
ENTRY %main.1 (p: s32[], a: f32[]) -> f32[] {
  ROOT %c.2 = f32[] CALL
}
"""


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("conditional(%p, %a, %a), branch_computations={%same.1, %mean.1}", ([], ["all-reduce"])),
        ("conditional(%p, %a, %a), true_computation=%mean.1, false_computation=%same.1",
         ([], ["all-reduce"])),
        ("call(%a), to_apply=%mean.1", (["all-reduce"], [])),
        (
            "conditional(%p, %a, %a), branch_computations={%same.1, %mean.1}\n"
            "  %d.1 = f32[] call(%a), to_apply=%mean.1",
            (["all-reduce"], []),
        ),
        ("all-gather-start(%a)", (["all-gather", "all-reduce"], [])),
        ("copy(%a)", (["all-reduce"], [])),
    ],
)  # fmt: skip
def test_a_collective_outside_of_a_branch_would_be_seen(call, expected):
    always, in_branches = collectives(COMPILED.replace("CALL", call))
    assert (sorted(always), in_branches) == expected
