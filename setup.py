"""The README as package indexes show it; all else about the package is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# In a clone relative links work and need no host. On an index they lead nowhere, and a picture is
# not shown unless its address is that of the file itself.
README = re.sub(
    r"(!?)(\[[^\]]*\])\((?!https?://|#)",
    lambda link: (
        f"{link[1]}{link[2]}({PROJECT['urls']['Source']}/{'raw' if link[1] else 'blob'}/main/"
    ),
    (ROOT / "README.md").read_text(),
)
setup(long_description=README, long_description_content_type="text/markdown")
