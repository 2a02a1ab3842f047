"""Drives torch_optimizer.Lookahead (PyPI torch-optimizer, by jettify)."""

import torch_optimizer

from experiments.peers.torch_peer import TorchPeerDriver


class TorchOptimizerDriver(TorchPeerDriver):
    def wrap(self, inner, setup):
        return torch_optimizer.Lookahead(inner, k=setup.sync_period, alpha=setup.alpha)

    def slow_tensor(self, run, leaf):
        # Made at the end of the first step; `state` is a defaultdict, so do not index it.
        return run.optimizer.state.get(leaf, {}).get("slow_param")


class RepairedTorchOptimizerDriver(TorchOptimizerDriver):
    """The same wrapper, given from outside the anchor and the phase of Algorithm 1.

    Not what its users have: it tells which failures are that one defect seen again (C01, C02).
    """

    def wrap(self, inner, setup):
        optimizer = super().wrap(inner, setup)
        for group in optimizer.param_groups:
            # It syncs after the step that finds a counter of 0, and counts modulo k.
            group["counter"] = int(setup.sync_period != 1)
            for leaf in group["params"]:
                optimizer.state[leaf]["slow_param"] = leaf.detach().clone()
        return optimizer
