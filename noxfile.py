# /// script
# dependencies = ["nox>=2025.5"]
# ///
"""Everything that is run on this project: `nox` runs all checks, `nox -s demo` the demo.

    nox                       tests on each CPU backend, lint, types, docs, build
    nox -s "tests(torch)"     one backend; more arguments for pytest after --
    nox -s demo               the demo with NumPy; another adapter: nox -s demo -- --backend torch
    nox -s peers              hold other implementations against the specification
    nox -t gpu                the backends that need a GPU

Tests run against the built wheel, not against the checkout.
"""

import json
import shutil
from argparse import ArgumentParser
from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
# Not uv: it does not read pip's settings, which say where a CPU build of PyTorch is to be had.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.tags = ["check"]

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTORCH_CPU = "https://download.pytorch.org/whl/cpu"
BACKENDS = [
    nox.param("numpy", id="numpy", tags=["check"]),
    nox.param("torch", id="torch", tags=["check"]),
    nox.param("jax", id="jax", tags=["check"]),
    nox.param("cupy", id="cupy", tags=["gpu"]),
]
ALL = ("numpy", "torch", "jax")
# The installed copy is tested: no path of the user's may put another one in front.
ISOLATED = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}


@nox.session
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The core, one adapter and its example, and the demo through it."""
    install(session, backend, groups=[f"backend-{backend}", "demo"])
    arguments = ["--backend", backend, "--ignore=tests/docs", *session.posargs]
    session.run("pytest", *arguments, env=ISOLATED)


@nox.session(tags=["check"])
def lint(session: nox.Session) -> None:
    """Ruff, its formatting included."""
    install_groups(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(tags=["check"])
def types(session: nox.Session) -> None:
    """mypy --strict on the installed wheel: import hooks hide an editable install from it."""
    install(session, *ALL, groups=["types"])
    config = ROOT / "pyproject.toml"
    session.chdir(session.create_tmp())  # else the checkout's folder is taken for the package
    session.run("mypy", "--config-file", str(config), "-p", "lookahead_core", env=ISOLATED)


@nox.session(tags=["check"])
def docs(session: nox.Session) -> None:
    """Docstrings by numpydoc's rules, their examples, links, clauses, the README's code."""
    install(session, *ALL, groups=["docs"])
    everything = [f"--backend={name}" for name in ALL]
    session.run("pytest", "tests/docs", *everything, *session.posargs, env=ISOLATED)


@nox.session(tags=["check"])
def build(session: nox.Session) -> None:
    """Build, check the metadata, and test what is in the wheel and what importing it imports."""
    install_groups(session, "build", "backend-numpy")
    dist = Path(session.create_tmp()) / "dist"
    for old in dist.glob("*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(dist), str(ROOT))
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    install(session, *ALL)
    everything = [f"--backend={name}" for name in ALL]
    session.run("pytest", "tests/packaging", f"--dist={dist}", *everything, env=ISOLATED)


@nox.session
def demo(session: nox.Session) -> None:
    """Train on real data through one adapter; prints a table and draws a picture."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument("--backend", default="numpy")
    backend = parser.parse_known_args(session.posargs)[0].backend
    extras = {"numpy", backend} if backend in {"numpy", "torch", "jax", "cupy"} else {"numpy"}
    install(session, *sorted(extras), groups=["demo"])
    session.run("python", str(ROOT / "demo" / "digits.py"), *session.posargs, env=ISOLATED)


@nox.session
def peers(session: nox.Session) -> None:
    """The conformance suite on other people's Lookaheads; writes docs/scoreboard.md."""
    install(session, *ALL)
    # Without dependencies: requirements.txt is complete, and timm would bring torchvision.
    session.install("--no-deps", "-r", str(ROOT / "peers" / "requirements.txt"))
    session.run("python", str(ROOT / "peers" / "scoreboard.py"), *session.posargs, env=ISOLATED)


def install(session: nox.Session, *extras: str, groups: list[str] | None = None) -> None:
    """Install the wheel of this checkout with `extras`, and dependency groups."""
    # setuptools leaves modules that are gone from the checkout in build/, and packs them again.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    if "torch" in extras:
        install_torch(session)
    session.install(f"{ROOT}[{','.join(extras)}]")
    if groups:
        install_groups(session, *groups)


def install_groups(session: nox.Session, *groups: str) -> None:
    session.install(*nox.project.dependency_groups(PYPROJECT, *groups))


def install_torch(session: nox.Session) -> None:
    """Install the CPU build of PyTorch, never a CUDA build with its gigabytes of libraries.

    The pip settings of the machine come first. If they lead to CUDA packages, as PyPI does on
    Linux, nothing of that is installed and PyTorch's own index of CPU builds is asked instead.
    """
    requirements = nox.project.dependency_groups(PYPROJECT, "torch-cpu")
    report = Path(session.create_tmp()) / "torch.json"
    options = ["--dry-run", "--quiet", "--report", str(report)]
    session.run("python", "-m", "pip", "install", *options, *requirements, silent=True)
    planned = [item["metadata"]["name"] for item in json.loads(report.read_text())["install"]]
    cuda = [name for name in planned if name.startswith(("nvidia", "cuda", "triton"))]
    if cuda:
        session.log(f"pip would install {', '.join(cuda)}: taking the CPU build instead")
        session.install("--index-url", PYTORCH_CPU, *requirements)
    else:
        session.install(*requirements)
