"""The torch adapter's classes say what words of other implementations are here."""

import pytest
import torch

from lookahead_core import lookahead
from lookahead_core.adapters.torch import Lookahead, MetaOptimizer, StreamingOptimizer, ranger
from torch_runs import single

pytestmark = pytest.mark.clause("C24")


def inner():
    return torch.optim.SGD([single()], lr=0.1)


CALLS = {
    r"Lookahead\(\) .* sync_period=6$": lambda: Lookahead(inner(), k=6),
    r"Lookahead\(\) .* inner=..., alpha=0.8$": lambda: Lookahead(optimizer=inner(), la_alpha=0.8),
    r"Lookahead\(\) .* inner_state='interpolate'$": lambda: Lookahead(
        inner(), pullback_momentum="pullback"
    ),
    r"MetaOptimizer\(\) .* rule=lookahead\(alpha=0.8\)$": lambda: MetaOptimizer(inner(), alpha=0.8),
    r"ranger\(\) .* sync_period=6$": lambda: ranger([single()], k=6),
    r"StreamingOptimizer\(\) .* rule=lookahead\(sync_period=6\)$": lambda: StreamingOptimizer(
        inner(), lookahead(), process_group=None, k=6
    ),
}


@pytest.mark.parametrize("message", CALLS)
def test_a_word_of_another_implementation_is_answered_with_ours(message):
    with pytest.raises(TypeError, match=message):
        CALLS[message]()
