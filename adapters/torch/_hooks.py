"""Step hooks and the profiler's label, at no price where nobody asked for them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.optim import Optimizer, optimizer

__all__ = ["hooked"]


def hooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """`Optimizer.profile_hook_step`, which labels each step for a profiler that is rarely there.

    The label is half of what a step between syncs costs (6 of 11 microseconds, torch 2.13).
    """
    labelled = Optimizer.profile_hook_step(step)

    @wraps(step)
    def stepped(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or _asked_for(self):
            return labelled(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    # Or torch patches the class when the first instance is made (`_patch_step_function`), and hooks
    # of one instance depend on which others have been made.
    stepped.hooked = True  # type: ignore[attr-defined]
    return stepped


def _asked_for(self: Optimizer) -> bool:
    return bool(
        self._optimizer_step_pre_hooks
        or self._optimizer_step_post_hooks
        or optimizer._global_optimizer_pre_hooks
        or optimizer._global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()
    )
