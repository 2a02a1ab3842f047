"""docs/jax.md: every block of code runs, in page order, those about models of flax too."""

from pathlib import Path

import jax
import jax.numpy as jnp
from markdown_it import MarkdownIt

PAGE = (Path(__file__).parents[3] / "docs/jax.md").read_text()
BLOCKS = [t.content for t in MarkdownIt().parse(PAGE) if t.type == "fence"]


def test_every_block_runs_in_page_order():
    names, models = {"__name__": "guide"}, []
    for block in BLOCKS:
        exec(compile(block, "docs/jax.md", "exec"), names)
        models += [names["slow_model"]] if "slow_model =" in block else []
    of_flax, of_equinox = models
    assert of_flax(jnp.ones((8, 4))).shape == jax.vmap(of_equinox)(jnp.ones((8, 4))).shape == (8, 2)
    assert names["trainer"].opt_state.syncs == 1


def test_no_code_of_the_page_is_outside_of_a_block():
    assert not [token for token in MarkdownIt().parse(PAGE) if token.type == "code_block"]
