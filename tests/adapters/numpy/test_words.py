"""The array loop's classes, CuPy's too, say what words of other implementations are here."""

import numpy as np
import pytest

from lookahead_core.adapters import cupy, numpy

pytestmark = pytest.mark.clause("C24")


@pytest.fixture(params=[numpy, cupy], ids=["numpy", "cupy"])
def adapter(request, monkeypatch):
    """One of the two; CuPy's as if there were a GPU."""
    monkeypatch.setattr("lookahead_core.adapters.cupy._optimizer._obstacle", lambda: None)
    return request.param


def test_a_word_of_another_implementation_is_answered_with_ours(adapter):
    inner = numpy.SGD([np.zeros(1)], 0.1)
    with pytest.raises(TypeError, match=r"Lookahead\(\) .* write sync_period=6$"):
        adapter.Lookahead(inner, k=6)
    with pytest.raises(TypeError, match=r"Lookahead\(\) .* inner=..., inner_state='reset'$"):
        adapter.Lookahead(optimizer=inner, reset_state=True)
    with pytest.raises(TypeError, match=r"MetaOptimizer\(\) .* rule=lookahead\(alpha=0.8\)$"):
        adapter.MetaOptimizer(inner, slow_step_size=0.8)
