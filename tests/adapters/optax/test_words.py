"""The optax adapter's functions say what words of other implementations are here."""

import optax
import pytest

from lookahead_core.adapters.optax import lookahead, meta_optimizer

pytestmark = pytest.mark.clause("C24")

# The arguments of optax's own `lookahead`.
THEIRS = {"slow_step_size": 0.8, "reset_state": True}


def test_a_word_of_another_implementation_is_answered_with_ours():
    with pytest.raises(TypeError, match=r"lookahead\(\) .* alpha=0.8, inner_state='reset'$"):
        lookahead(optax.sgd(0.1), sync_period=5, **THEIRS)
    with pytest.raises(TypeError, match=r"meta_optimizer\(\) .* rule=lookahead\(alpha=0.8, .*\)$"):
        meta_optimizer(optax.sgd(0.1), **THEIRS)
