"""Drives the Lookahead of timm, from its one module."""

from experiments.peers.timm_modules import Lookahead
from experiments.peers.torch_peer import TorchPeerDriver


class TimmDriver(TorchPeerDriver):
    # sync_lookahead is what timm's own training script calls at the end of each epoch.
    capabilities = TorchPeerDriver.capabilities | {"forced_sync"}

    def wrap(self, inner, setup):
        return Lookahead(inner, alpha=setup.alpha, k=setup.sync_period)

    def slow_tensor(self, run, leaf):
        # Made at the first sync; the state is a defaultdict, so do not index it.
        return run.inner.state.get(leaf, {}).get("lookahead_slow_buff")

    def sync(self, run):
        run.optimizer.sync_lookahead()


class AnchoredTimmDriver(TimmDriver):
    """The same wrapper, given from outside the anchor of Algorithm 1.

    Not what its users have: it tells which failures are that one defect seen again (C01).
    """

    def wrap(self, inner, setup):
        anchors = {}

        def remember(optimizer, *_):
            for leaf in (leaf for group in optimizer.param_groups for leaf in group["params"]):
                anchors.setdefault(leaf, leaf.detach().clone())

        def seed(optimizer, *_):
            # After the inner step: Adam takes a state that is not empty for a complete one.
            for leaf, anchor in anchors.items():
                if leaf.grad is not None:
                    optimizer.state[leaf].setdefault("lookahead_slow_buff", anchor)

        inner.register_step_pre_hook(remember)
        inner.register_step_post_hook(seed)
        return super().wrap(inner, setup)
