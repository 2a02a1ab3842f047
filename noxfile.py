# /// script
# dependencies = ["nox>=2025.5"]
# ///
"""Everything that is run on this project.

    nox                       what to run after a change: NumPy, MLX, lint; under ten minutes
    nox -t rest               all other checks: torch, JAX, versions, clients, workers, docs, build
    nox -s matrix             the tests alone, and their table; the same: nox -t cpu
    nox -s "tests(torch)"     one backend; more arguments for pytest after --
    nox -s newest             NumPy and JAX on the newest Python, with the newest of each
    nox -s clients            the adapters in lightning, transformers, flax, orbax and others
    nox -s distributed        many workers: 2 and 4 processes of torch, 2 of JAX, 8 devices; faults
    nox -s gpu_code           compile for GPUs what CuPy and torch run there; needs no GPU
    nox -t gpu                CuPy, torch and JAX on a GPU; without one that is an error
    nox -s site               docs/ as a site, in _site; nox -s site -- --serve shows it
    nox -s demo               the demo with NumPy; another adapter: nox -s demo -- --backend torch
                              with one more method: nox -s demo -- --method schedule_free
    nox -s peers              hold other implementations against the specification
    nox -s bench              measure it beside others; in short: nox -s bench -- --quick --out FILE
    nox -s network            workers over slow links, as root; in short: nox -s network -- --quick
    nox -s figures            draw docs/figures again; nox -s figures -- --check compares instead
    nox -s evidence           train on real data, with controls; writes docs/evidence*

Tests run against the built wheel, from an empty folder, side by side: as many processes as there
are processors, with one thread each; -- -n 0 runs them in one. Most sessions share .nox/shared,
where each installs what is not there yet. With LOOKAHEAD_BACKENDS=numpy,cupy in the environment the
matrix is those backends, and one that is not there is an error. The results by backend and clause
are written to docs/matrix.md.
"""

import json
import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import nox

nox.needs_version = ">=2025.5"
# nox would make an environment for each session: see Environment.
nox.options.default_venv_backend = "none"
nox.options.tags = ["quick"]

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTORCH_CPU = "https://download.pytorch.org/whl/cpu"
KERAS = ("keras-tensorflow", "keras-jax", "keras-torch")
CPU = ("numpy", "torch", "jax", "mlx", "dask", *KERAS)
GPU = ("cupy", "torch-cuda", "jax-gpu")
# What needs neither PyTorch nor JAX is installed and run in minutes.
QUICK = ("numpy", "mlx")
# The backends of the matrix: all that need no GPU, unless somebody says which.
ASKED = [n.strip() for n in os.environ.get("LOOKAHEAD_BACKENDS", "").split(",") if n.strip()] or CPU
if unknown := set(ASKED) - {*CPU, *GPU}:
    raise ValueError(f"LOOKAHEAD_BACKENDS must be among {[*CPU, *GPU]}, got {sorted(unknown)}")
BACKENDS = [
    nox.param(
        name,
        id=name,
        tags=[
            "cpu" if name in CPU else "gpu",
            *(["quick" if name in QUICK else "rest"] if name in ASKED else []),
        ],
    )
    for name in (*CPU, *GPU)
]
# What the adapter does on another backend of Keras; the core is tested by those of its arrays.
KERAS_TESTS = (
    *("tests/adapters/keras", "tests/examples", "tests/demo", "tests/docs/test_keras_guide.py"),
)
# Dask has no adapter and no extra: the pure core runs on it, and nothing else.
ALL = ("numpy", "torch", "jax", "mlx")
# The installed copy is tested: no path of the user's may put another one in front. Compiled modules
# are kept even where the user's shell forbids it: some hundred processes import PyTorch or JAX,
# and compiling PyTorch takes each of them 8 seconds.
ISOLATED = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": ""}
# The programs of `experiments/` run in the checkout's folder, which must not be on the path either:
# tests/experiments.py says how they are found.
PROGRAMS = {**ISOLATED, "PYTHONPATH": str(ROOT / "tests"), "PYTHONSAFEPATH": "1"}
PEERS = str(ROOT / "experiments" / "peers" / "requirements.txt")
# Two processes with two threads each would wait for each other on two processors.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Files in an archive get this time, so that building again gives the same bytes: 2020-02-02.
BUILT_AT = "1580601600"
# Files that a host reads, by the schemas that say what is in them.
HOSTED = {"github-workflows": ".github/workflows/ci.yml", "citation-file-format": "CITATION.cff"}
# The conformance suite is asked of one form of the optax adapter: of all, and of eight devices, in
# tests(jax).
ONE_FORM = "not (TestEager or TestInAScan or TestUnderVmap or on_eight_devices)"
OTHER_VERSIONS = ("--backend=numpy", "--backend=jax", "-k", ONE_FORM)
SIDE_BY_SIDE = ("pytest", "--numprocesses=logical", "--maxprocesses=8", "--dist=worksteal")


class Environment:
    """Packages of one session or of several, in a folder of .nox.

    Not uv's: it does not read pip's settings, which say where a CPU build of PyTorch is to be had.
    """

    with_this_wheel: ClassVar[set[Path]] = set()

    def __init__(
        self, session: nox.Session, name: str = "shared", python: str = sys.executable
    ) -> None:
        self.session = session
        self.folder = Path(session.cache_dir).resolve().parent / name
        self.programs = self.folder / ("Scripts" if os.name == "nt" else "bin")
        if not self.programs.exists():
            virtualenv = (sys.executable, "-m", "virtualenv", "--quiet", "--python", python)
            session.run_install(*virtualenv, str(self.folder))

    def run(self, program: str, *arguments: str, **options: Any) -> None:
        self.session.run(str(self.programs / program), *arguments, **{"env": ISOLATED, **options})

    def pip(self, *arguments: str) -> None:
        # Modules are compiled when they are first imported, which most of them never are.
        command = (str(self.programs / "python"), "-m", "pip", "install", "--no-compile")
        self.session.run_install(*command, *arguments, silent=True)

    def install_wheel(self) -> None:
        """Build the checkout's wheel and install it: once, whatever sessions of this run ask."""
        if self.folder not in self.with_this_wheel:
            clean_build()
            self.pip("--no-deps", str(ROOT))
            self.with_this_wheel.add(self.folder)


@nox.session
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The core on one backend; its adapter and example, and the demo through it."""
    results = matrix_folder(session) / f"{backend}.json"
    results.unlink(missing_ok=True)
    launcher = SIDE_BY_SIDE
    if backend == "dask":
        # Its own environment shows that the core needs no extra.
        environment = install(session, groups=["backend-dask"], environment="dask")
        paths = ["tests/core/test_rule.py"]
    elif backend in KERAS:
        # Its own environment, so that TensorFlow is installed once, and where it does not matter.
        environment = install_keras(session)
        paths = [*KERAS_TESTS]
    elif backend in GPU:
        environment = install_for_gpu(session, backend)
        paths, launcher = ["tests/core", "tests/adapters"], ("pytest",)  # one process owns the GPU
    else:
        evidence = ["evidence"] if backend == "jax" else []
        environment = install(session, backend, groups=[f"backend-{backend}", "demo", *evidence])
        paths = ["tests"]
    # Part of the tests is no row of the table.
    record = [] if session.posargs else [f"--matrix-json={results}"]
    ignored = [] if backend in KERAS else [f"--ignore={ROOT / 'tests' / 'docs'}"]
    run_tests(environment, *paths, "--backend", backend, *ignored, *record, launcher=launcher)


@nox.session(tags=["rest"])
def newest(session: nox.Session) -> None:
    """The same on the newest Python that is found, with the newest NumPy, JAX and optax for it."""
    environment = Environment(session, "newest", newest_python())
    clean_build()
    environment.pip("--upgrade", f"{ROOT}[numpy,jax]", *requirements("backend-numpy"))
    environment.run("python", "--version")
    run_tests(environment, "tests/core", "tests/adapters", *OTHER_VERSIONS)


@nox.session(tags=["rest", "cpu"])
def minimums(session: nox.Session) -> None:
    """The core and the adapters of NumPy and JAX with the oldest versions that we promise."""
    oldest = nox.project.dependency_groups(PYPROJECT, "minimums")
    clean_build()
    environment = Environment(session, "minimums")
    # In one go with the wheel: pip then never takes a newer version first.
    environment.pip(f"{ROOT}[numpy,jax]", *oldest)
    run_tests(environment, "tests/core", "tests/adapters", *OTHER_VERSIONS)


@nox.session(tags=["rest"])
@nox.parametrize("backend", ["torch", "jax"], ids=["torch", "jax"])
def clients(session: nox.Session, backend: str) -> None:
    """The adapters inside the real trainers, libraries and file formats that they are used with."""
    environment = install(session, backend, groups=[f"clients-{backend}"])
    if backend == "torch":
        environment.pip("--no-deps", *requirements("without-dependencies"))
    run_tests(environment, f"tests/clients/{backend}", "--clients", "--backend", backend)


@nox.session(tags=["rest"])
def distributed(session: nox.Session) -> None:
    """Workers as real processes, with collectives between them."""
    environment = install(session, "torch", "jax", groups=["distributed"])
    options = ["--distributed", "--backend=torch", "--backend=jax"]
    # pytest keeps the folders of three runs: the fourth process would delete the first one's, and
    # two that delete the same one fail.
    keep = ("-o", "tmp_path_retention_count=100")
    for processes in (2, 4):
        # Two cores: a thread for each of four processes is two too many already.
        launcher = ("torchrun", "--standalone", f"--nproc-per-node={processes}", "-m", "pytest")
        run_tests(environment, "tests/distributed/torch", *options, *keep, launcher=launcher)
    run_tests(environment, "tests/distributed/jax", *options)
    # One by one: these start processes themselves, and wait for each other with time limits.
    done = [f"--ignore={ROOT}/tests/distributed/{folder}" for folder in ("torch", "jax")]
    # The run with four workers that are killed takes two minutes here, and ten seconds elsewhere.
    chaos = {"CHAOS_SECONDS": "120"}
    run_tests(environment, "tests/distributed", *options, *done, launcher=("pytest",), env=chaos)


@nox.session(tags=["rest"])
def gpu_code(session: nox.Session) -> None:
    """What the kernels of CuPy and torch become on GPUs of three generations, without one."""
    environment = install(session, "torch", groups=["gpu-code"], environment="gpu-code")
    run_tests(environment, "tests/gpu_code", "--gpu-code", launcher=("pytest",))


@nox.session(tags=["quick"])
def lint(session: nox.Session) -> None:
    """Ruff, its formatting included."""
    environment = Environment(session)
    environment.pip(*requirements("lint"))
    environment.run("ruff", "check", ".")
    environment.run("ruff", "format", "--check", ".")


@nox.session(tags=["rest"])
def types(session: nox.Session) -> None:
    """mypy --strict on the installed wheel: import hooks hide an editable install from it."""
    environment = install(session, *ALL, groups=["types"])
    config = ROOT / "pyproject.toml"
    session.chdir(session.create_tmp())  # else the checkout's folder is taken for the package
    environment.run("mypy", "--config-file", str(config), "-p", "lookahead_core")


@nox.session(tags=["rest"])
def docs(session: nox.Session) -> None:
    """Docstrings by numpydoc's rules, their examples, links, clauses, the README's code."""
    environment = install(session, *ALL, groups=["docs"])
    everything = [f"--backend={name}" for name in ALL]
    run_tests(environment, "tests/docs", *everything)


@nox.session(tags=["rest"])
def site(session: nox.Session) -> None:
    """Build the pages of docs/ and the reference, and test them: -- --serve shows them here."""
    environment = install(session, *ALL, "keras", groups=["site"])
    source, pages = ROOT / "docs", ROOT / "_site"
    shutil.rmtree(pages, ignore_errors=True)
    trees = f"--doctree-dir={environment.folder / 'doctrees'}"
    strict = ("--fresh-env", "--fail-on-warning", "--keep-going", "--quiet")
    environment.run("sphinx-build", *strict, trees, str(source), str(pages))
    if "--serve" in session.posargs:
        here = ("--bind", "127.0.0.1", "--directory", str(pages))
        environment.run("python", "-m", "http.server", *here)
    else:
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        opened = [f"--browser={browser}"] if browser else []  # else the report names what is not
        run_tests(environment, "tests/site", f"--site={pages}", *opened, launcher=("pytest",))


@nox.session(tags=["rest"])
def build(session: nox.Session) -> None:
    """Build twice, check the metadata and files for hosts, and test what is in the archives."""
    environment = install(session, *ALL, "keras", groups=["build"])
    dist, again = ROOT / "dist", (Path(session.create_tmp()) / "again").resolve()
    for folder in (dist, again):
        shutil.rmtree(folder, ignore_errors=True)
        clean_build()
        # From the checkout through the source archive; then from the checkout itself.
        wheel_alone = ["--wheel"] if folder is again else []
        command = ("-m", "build", *wheel_alone, "--outdir", str(folder), str(ROOT))
        environment.run("python", *command, env={**ISOLATED, "SOURCE_DATE_EPOCH": BUILT_AT})
    (wheel,), (second,) = dist.glob("*.whl"), again.glob("*.whl")
    if wheel.read_bytes() != second.read_bytes():
        session.error(f"{wheel} and {second} are built from the same files and differ")
    environment.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    environment.run("check-wheel-contents", str(wheel))
    for schema, file in HOSTED.items():
        schema = f"vendor.{schema}"  # it comes with the checker: no network
        environment.run("check-jsonschema", "--builtin-schema", schema, str(ROOT / file))
    environment.run("zizmor", "--offline", str(ROOT / HOSTED["github-workflows"]))
    everything = [f"--backend={name}" for name in ALL]
    run_tests(environment, "tests/packaging", f"--wheel={wheel}", *everything)


@nox.session(tags=["rest", "cpu", "gpu"])
def table(session: nox.Session) -> None:
    """Merge the results of the backends into docs/matrix.md, and print it."""
    environment = Environment(session)
    environment.pip(*requirements("test"))
    program, page = ROOT / "tests" / "matrix_table.py", ROOT / "docs" / "matrix.md"
    environment.run("python", str(program), str(matrix_folder(session)), str(page))


@nox.session(default=False)
def matrix(session: nox.Session) -> None:
    """All sessions that make up the matrix, and its table."""
    for name in (*(f"tests({backend})" for backend in ASKED), "minimums", "table"):
        session.notify(name)


@nox.session
def demo(session: nox.Session) -> None:
    """Train on real data through one adapter; prints a table and draws a picture."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--backend", default="numpy")
    backend = parser.parse_known_args(session.posargs)[0].backend
    if backend == "keras":
        environment = install_keras(session)
    else:
        own = {backend} & {"torch", "jax", "mlx", "cupy"}  # the demo itself refuses any other
        environment = install(session, "numpy", *own, groups=["demo"], environment="demo")
    run_program(environment, "demo.digits")


@nox.session(default=False)
def figures(session: nox.Session) -> None:
    """Draw docs/figures, or check that they are drawn like this: -- --check, -- NAME."""
    environment = install(session, "numpy", groups=["figures"], environment="figures")
    # More threads add numbers in another order, and a pixel may differ.
    run_program(environment, "figures.draw", **ONE_THREAD)


@nox.session
def peers(session: nox.Session) -> None:
    """The conformance suite on other people's Lookaheads; writes docs/scoreboard.md."""
    environment = install(session, *ALL, "keras", environment="peers")
    # Without dependencies: requirements.txt is complete, and timm would bring torchvision.
    environment.pip("--no-deps", "-r", PEERS)
    run_program(environment, "peers.scoreboard")


@nox.session(default=False)
def evidence(session: nox.Session) -> None:
    """Lookahead, its relatives and controls on real data: up to an hour; cut off, it goes on."""
    environment = install(session, "jax", groups=["evidence"])
    run_program(environment, "evidence.real_data")


@nox.session(default=False)
def network(session: nox.Session) -> None:
    """Workers on links that are slow on purpose, as root; writes distributed-measurements.md."""
    environment = install(session, "torch", groups=["network"])
    run_program(environment, "network.slow_network")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure time and memory beside others; writes docs/performance-tables.md."""
    environment = install(session, *ALL, environment="peers")
    environment.pip("--no-deps", "-r", PEERS)
    run_program(environment, "benchmarks.bench")


def run_tests(
    environment: Environment,
    *arguments: str,
    launcher: tuple[str, ...] = SIDE_BY_SIDE,
    env: dict[str, str] | None = None,
) -> None:
    """pytest on the installed wheel, from an empty folder: nothing of the checkout is in the way.

    Arguments that begin with "tests" are paths in the checkout; those that the user gives come in
    the place of the session's own.
    """
    asked = environment.session.posargs
    if any(argument.startswith("tests") for argument in asked):
        arguments = tuple(a for a in arguments if not a.startswith("tests"))
    everything = [
        str(ROOT / argument) if argument.startswith("tests") else argument
        for argument in (*arguments, *asked)
    ]
    config = ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "--installed"]
    with TemporaryDirectory() as empty, environment.session.chdir(empty):
        environment.run(
            *launcher, *config, *everything, env={**ISOLATED, **ONE_THREAD, **(env or {})}
        )


def run_program(environment: Environment, module: str, **variables: str) -> None:
    """A module of `experiments/` on the installed wheel, with what the user gives after --."""
    command = ("-m", f"experiments.{module}", *environment.session.posargs)
    environment.run("python", *command, env={**PROGRAMS, **variables})


def newest_python() -> str:
    """The newest of the interpreters on the path and of pyenv's; this one, if there is no newer."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(14, sys.version_info.minor, -1):
        named = [shutil.which(f"python3.{minor}"), *pyenv.glob(f"3.{minor}.*/bin/python")]
        for program in filter(None, named):
            # A shim of pyenv may be on the path although no such version is chosen.
            if subprocess.run([program, "--version"], capture_output=True).returncode == 0:
                return str(program)
    return sys.executable


def matrix_folder(session: nox.Session) -> Path:
    """Where the results of the backends wait for their table."""
    folder = Path(session.cache_dir).resolve() / "matrix"
    folder.mkdir(exist_ok=True)
    return folder


def clean_build() -> None:
    """setuptools leaves modules that are gone from the checkout in build/, and packs them again."""
    shutil.rmtree(ROOT / "build", ignore_errors=True)


def requirements(*groups: str) -> list[str]:
    return nox.project.dependency_groups(PYPROJECT, *groups)


def install(
    session: nox.Session,
    *extras: str,
    groups: tuple[str, ...] | list[str] = (),
    environment: str = "shared",
) -> Environment:
    """An environment with the wheel of this checkout, its `extras`, and dependency groups."""
    made = Environment(session, environment)
    if "torch" in extras:
        install_torch(made)
    made.install_wheel()
    made.pip(f"lookahead-core[{','.join(extras)}]", *requirements(*groups))
    return made


def install_keras(session: nox.Session) -> Environment:
    """One environment for Keras on all three of its backends: TensorFlow alone has 1.3 GB."""
    groups = ["backend-keras", "demo"]
    return install(session, "keras", "numpy", "torch", "jax", groups=groups, environment="keras")


def install_for_gpu(session: nox.Session, backend: str) -> Environment:
    """Builds for CUDA, which are gigabytes: of torch what PyPI has, of JAX its own extra."""
    family = backend.partition("-")[0]
    clean_build()
    cuda = {"jax": ["jax[cuda12]"]}.get(family, [])
    environment = Environment(session, backend)
    environment.pip(f"{ROOT}[numpy,{family}]", *cuda, *requirements(f"backend-{family}"))
    return environment


def install_torch(environment: Environment) -> None:
    """Install the CPU build of PyTorch, never a CUDA build with its gigabytes of libraries.

    The pip settings of the machine come first. If they lead to CUDA packages, as PyPI does on
    Linux, nothing of that is installed and PyTorch's own index of CPU builds is asked instead.
    """
    pinned = requirements("torch-cpu")
    report = environment.folder / "torch.json"
    environment.pip("--dry-run", "--quiet", "--report", str(report), *pinned)
    planned = [item["metadata"]["name"] for item in json.loads(report.read_text())["install"]]
    cuda = [name for name in planned if name.startswith(("nvidia", "cuda", "triton"))]
    if cuda:
        found = ", ".join(cuda)
        environment.session.log(f"pip would install {found}: taking the CPU build instead")
        environment.pip("--index-url", PYTORCH_CPU, *pinned)
    else:
        environment.pip(*pinned)
