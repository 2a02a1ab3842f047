"""Run the tutorials of docs/tutorials from their text, and write the pictures beside them.

python -m experiments.tutorials           all four, a minute
python -m experiments.tutorials game      one of them

Tests run the same blocks, and compare what they print and draw with what the pages show.
"""

import re
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["FOLDER", "blocks", "run"]

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
# What starts the Python of a page that is for several processes.
LAUNCHERS = {"workers": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")}


def blocks(name: str, language: str = "python") -> list[str]:
    """Code of one page, or what its code prints: `language` "text"."""
    page = (FOLDER / f"{name}.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def run(name: str, folder: Path) -> None:
    """Run the blocks of one page in its order, as one program, in `folder`."""
    names = {"__name__": name}
    with chdir(folder):
        for block in blocks(name):
            exec(compile(block, f"docs/tutorials/{name}.md", "exec"), names)


def draw(name: str) -> None:
    """Run one page as its reader does, and keep the picture."""
    with TemporaryDirectory() as folder:
        program = Path(folder) / f"{name}.py"
        program.write_text("\n".join(blocks(name)))
        command = (sys.executable, *LAUNCHERS.get(name, ()), str(program))
        subprocess.run(command, cwd=folder, check=True)
        shutil.copy(Path(folder) / f"{name}.png", FOLDER)


if __name__ == "__main__":
    for asked in sys.argv[1:] or sorted(page.stem for page in FOLDER.glob("*.md")):
        draw(asked)
