"""Words of other implementations: the error says ours, and the signature stays what it is."""

import inspect

import pytest

from lookahead_core import lookahead
from lookahead_core.words import translated

pytestmark = pytest.mark.clause("C24")

LINES = {
    "sync_period=6": {"k": 6},
    "sync_period=7": {"la_steps": 7},
    "alpha=0.8": {"la_alpha": 0.8},
    "alpha=0.5": {"slow_step_size": 0.5},
    "inner_state='reset'": {"reset_state": True},
    "inner_state='maintain'": {"reset_state": False},
    "inner_state='interpolate'": {"pullback_momentum": "pullback"},
    "sync_period=5, alpha=0.8": {"la_steps": 5, "la_alpha": 0.8},
}


@pytest.mark.parametrize("line", LINES)
def test_a_preset_says_what_to_write_for_a_word_of_another_implementation(line):
    with pytest.raises(TypeError, match=rf"lookahead\(\) has no argument .*: write {line}$"):
        lookahead(**LINES[line])


@pytest.mark.parametrize("word", ["momentum", "optimizer"])
def test_a_word_that_has_no_place_here_is_refused_as_python_does(word):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{word}'"):
        lookahead(**{word: 1})


def test_where_the_rule_has_the_setting_the_line_makes_the_rule():
    @translated
    def meta_optimizer(inner, rule):
        """Made up."""

    with pytest.raises(TypeError, match=r"write inner=..., rule=lookahead\(sync_period=6\)$"):
        meta_optimizer(optimizer=1, k=6)
    assert str(inspect.signature(meta_optimizer)) == "(inner, rule)"


def test_the_name_is_that_of_the_class_that_was_called():
    class Given:
        @translated
        def __init__(self, inner, sync_period=5):
            """Made up."""

    class Own(Given):
        """A user's."""

    with pytest.raises(TypeError, match=r"^Own\(\) has no argument k: write sync_period=6$"):
        Own(None, k=6)
