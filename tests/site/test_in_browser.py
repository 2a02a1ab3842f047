"""The site in a real browser, from files: no errors on its console, and search finds a method."""

import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def opened(request, tmp_path):
    """A function from a page to what the browser makes of it, and what is on its console."""
    site = Path(request.config.getoption("--site"))
    command = [request.config.getoption("--browser"), "--headless", "--no-sandbox", "--disable-gpu"]
    # The time is the page's own clock, which runs as fast as the scripts do.
    command += ["--enable-logging=stderr", "--dump-dom", "--virtual-time-budget=8000"]
    command += [f"--user-data-dir={tmp_path}"]

    def page(name):
        result = subprocess.run(
            [*command, f"{site.as_uri()}/{name}"], capture_output=True, text=True, timeout=120
        )
        return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]

    return page


@pytest.mark.parametrize("page", ["index", "torch", "tutorials/digits", "reference/core"])
def test_a_page_opens_without_a_message_on_the_console(opened, page):
    text, console = opened(f"{page}.html")
    assert "</footer>" in text
    assert console == []


def test_search_finds_the_slow_weights_from_a_file(opened):
    text, console = opened("search.html?q=slow_weights")
    assert console == []
    for adapter in ("mlx", "numpy", "torch"):
        name = f"lookahead_core.adapters.{adapter}.MetaOptimizer.slow_weights"
        assert f'href="reference/{adapter}.html#{name}"' in text
