"""What the drivers of the PyTorch peers share: everything but how the wrapper is made and read.

They are worked by the code that works our own torch adapter, so that no peer is judged by another
loop: gradients, steps, loss scaling, checkpoints and edits are `TorchDriver`'s.
"""

from drivers.torch_driver import TorchDriver, plain

__all__ = ["TorchPeerDriver"]


class TorchPeerDriver(TorchDriver):
    """A driver for one wrapper: subclasses say how to make it and where its slow tensors are."""

    # What any optimizer of torch is asked for; a subclass adds what its peer offers beyond that.
    capabilities = frozenset(
        {
            *("adam", "edit", "frozen", "groups", "learning_rate", "missing_gradient", "momentum"),
            *("skip", "tied"),
            *("float32", "float16", "bfloat16", "int32", "complex128", "complex64"),
        }
    )

    def wrap(self, inner, setup):
        """The peer's wrapper around `inner`, as its own documentation makes it."""
        raise NotImplementedError

    def slow_tensor(self, run, leaf):
        """The slow copy of `leaf`, or None where the wrapper has not made one yet."""
        raise NotImplementedError

    def slow(self, run):
        # While there is no slow copy, the model's weights are all that a user has.
        tensors = [self.slow_tensor(run, leaf) for leaf in run.params]
        pairs = zip(tensors, run.params, strict=True)
        return [plain(leaf if tensor is None else tensor) for tensor, leaf in pairs]

    def sync(self, run):
        raise NotImplementedError  # our own adapter's way, which no peer has under this name

    def evaluate(self, run):
        raise NotImplementedError
