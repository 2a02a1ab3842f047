"""Step hooks and the profiler's label, at no price where nobody asked for them."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from warnings import warn
from weakref import finalize, ref

import torch
from torch.optim import Optimizer, optimizer

from ._joint import each
from ._parts import Parts

__all__ = ["StepsPast", "hooked"]


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


class StepsPast:
    """Hook of an inner optimizer that says when a whole cycle of steps did not come through ours.

    It does not keep `parts` alive, which are those of ours.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = ref(parts)

    @classmethod
    def count(cls, parts: Parts) -> None:
        """Have the steps of the inner optimizer counted from now on, if it has hooks."""
        for one in each(parts.inner):
            # Without hooks: an optimizer that has not called super().__init__().
            hooks = getattr(one, "_optimizer_step_post_hooks", None)
            if hooks is not None and not any(
                isinstance(h, cls) and h.parts() is parts for h in hooks.values()
            ):
                handle = one.register_step_post_hook(cls(parts))
                finalize(parts, handle.remove).atexit = False

    def __call__(self, inner: Optimizer, args: Any, kwargs: Any) -> None:
        parts = self.parts()
        if parts is None or torch.compiler.is_compiling():
            return
        parts.inner_steps += 1  # since our last step began, so it may be the first
        if parts.inner_steps <= (several := len(each(parts.inner))):
            return
        if parts.inner_steps == parts.rule.period(parts.parts[0].on_host()) * several + 1:
            warn(
                f"step() of {type(inner).__name__} was called by itself for a whole cycle: only "
                "that of the optimizer around it counts and syncs, call that one instead",
                stacklevel=3,
            )


def _asked_for(self: Optimizer) -> bool:
    return bool(
        self._optimizer_step_pre_hooks
        or self._optimizer_step_post_hooks
        or optimizer._global_optimizer_pre_hooks
        or optimizer._global_optimizer_post_hooks
        or torch._C._autograd._profiler_enabled()
    )
