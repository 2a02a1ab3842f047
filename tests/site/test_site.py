"""The built site: every public name is in the reference, and nothing comes from elsewhere."""

import importlib
import json
import os
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")  # the one that is installed for the site

ROOT = Path(__file__).parents[2]
ADAPTERS = ("cupy", "keras", "mlx", "numpy", "optax", "torch")
MODULES = [
    "lookahead_core",
    *(f"lookahead_core.adapters.{name}" for name in ADAPTERS),
    "lookahead_core.analysis",
    "lookahead_core.conformance",
]
# What a browser fetches by itself, and where its address is.
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
NOT_FETCHED = {"canonical", "next", "prev", "index", "search"}


@pytest.fixture(scope="module")
def site(request):
    return Path(request.config.getoption("--site"))


@pytest.fixture(scope="module")
def documented(site):
    """Names that have an entry in the reference, from the index that Sphinx keeps for others."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", maxsplit=4)[4]
    return {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}


class Fetched(HTMLParser):
    """Addresses of what a page loads."""

    def __init__(self, page):
        super().__init__()
        self.addresses = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if FETCHED.get(tag) in given and given.get("rel") not in NOT_FETCHED:
            self.addresses.add(given[FETCHED[tag]])


def is_elsewhere(address):
    return address.startswith(("http:", "https:", "//"))


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module, documented):
    public = {f"{module}.{name}" for name in importlib.import_module(module).__all__}
    public.discard("lookahead_core.adapters.cupy.InnerOptimizer")  # NumPy's, which is there
    assert public - documented == set()


def test_every_page_of_docs_is_in_the_site(site):
    docs = ROOT / "docs"
    pages = [path.relative_to(docs).with_suffix(".html") for path in docs.rglob("*.md")]
    assert [page for page in pages if not (site / page).is_file()] == []
    assert len(pages) > 30


def test_pages_load_nothing_from_elsewhere(site):
    pages = [*site.rglob("*.html")]
    fetched = {page.name: Fetched(page).addresses for page in pages}
    assert all(fetched.values())
    assert {n: a for n, a in fetched.items() if any(map(is_elsewhere, a))} == {}
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    assert "url(http" not in styles
    assert "@import" not in styles


def test_what_pages_load_is_there(site):
    for page in site.rglob("*.html"):
        for address in Fetched(page).addresses:
            file = address.partition("?")[0].partition("#")[0]
            assert address.startswith("data:") or (page.parent / file).is_file(), (page, address)


def test_search_finds_the_slow_weights(site):
    text = (site / "searchindex.js").read_text()
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    found = {index["docnames"][page] for page in index["terms"]["slow_weight"]}
    assert {"torch", "reference/torch", "mlx"} <= found
