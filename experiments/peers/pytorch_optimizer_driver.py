"""Drives pytorch_optimizer.Lookahead (PyPI pytorch_optimizer, by kozistr)."""

from pytorch_optimizer import Lookahead

from experiments.peers.torch_peer import TorchPeerDriver

POLICIES = {"maintain": "none", "reset": "reset", "interpolate": "pullback"}


class PytorchOptimizerDriver(TorchPeerDriver):
    # backup_and_load_cache is its documented way to evaluate; a sync on demand it has not.
    capabilities = TorchPeerDriver.capabilities | {"evaluate", "interpolate", "reset"}

    def wrap(self, inner, setup):
        policy = POLICIES[setup.inner_state]
        return Lookahead(inner, k=setup.sync_period, alpha=setup.alpha, pullback_momentum=policy)

    def slow_tensor(self, run, leaf):
        return run.optimizer.state[leaf]["slow_params"]

    def evaluate(self, run):
        run.optimizer.backup_and_load_cache()
        values = self.fast(run)
        run.optimizer.clear_and_load_backup()
        return values
