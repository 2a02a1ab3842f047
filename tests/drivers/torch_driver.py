"""Drives lookahead_core.adapters.torch for the conformance suite."""

import io

import torch

from lookahead_core.adapters.torch import MetaOptimizer
from lookahead_core.conformance import INNER_EDITS, sync_rule


def dtype_of(name):
    return None if name is None else getattr(torch, name)


def named(own):
    """Settings of a group by their names in it."""
    names = {"alpha": "lookahead_alpha", "period": "lookahead_sync_period"}
    return {names[name]: value for name, value in own.items()}


def tensor(values, dtype, shape=None):
    """`values` as the suite writes them: the parts of complex numbers in turn."""
    if dtype.is_complex:
        new = torch.view_as_complex(torch.tensor(values, dtype=dtype.to_real()).reshape(-1, 2))
    else:
        new = torch.tensor(values, dtype=dtype)
    return new if shape is None else new.reshape(shape)


def plain(leaf):
    """The values of a tensor, as the suite reads them."""
    real = torch.view_as_real(leaf) if leaf.is_complex() else leaf
    return real.detach().double().flatten().tolist()


class Run:
    """Parameters, their inner optimizer, what `wrap` puts around that, and a loss scaler."""

    def __init__(self, setup, wrap, **options):
        self.params, groups = [], {}
        for leaf in setup.leaves:
            if leaf.same_as is not None:
                # model.parameters() lists a tied parameter once, and so does the optimizer.
                self.params.append(self.params[leaf.same_as])
                continue
            new = tensor(leaf.values, dtype_of(leaf.dtype), leaf.shape)
            self.params.append(torch.nn.Parameter(new, requires_grad=leaf.trained))
            groups.setdefault(leaf.rate, []).append(self.params[-1])
        inner = setup.inner
        params = [{"params": group, "lr": inner.lr * rate} for rate, group in groups.items()]
        self.rates = list(groups)
        self.inner = (
            torch.optim.Adam(params, **options)
            if inner.kind == "adam"
            else torch.optim.SGD(params, momentum=inner.momentum, **options)
        )
        self.optimizer = wrap(self.inner, setup)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=10**6)


class TorchDriver:
    """With the ways that the adapter's sync (`kernel`, `capturable`) and the inner one can run."""

    capabilities = frozenset(
        {
            *("adam", "edit", "edit_inner", "evaluate", "forced_sync", "freeze", "frozen"),
            *("groups", "interpolate", "learning_rate", "missing_gradient", "momentum", "nested"),
            *("metrics", "outer_momentum", "period_schedule", "reset", "restart", "schedule"),
            *("skip", "slow_dtype", "start"),
            *("gradient_point", "inner_lr", "reload", "tied"),
            *("float32", "float16", "bfloat16", "int32", "complex128", "complex64"),
        }
    )

    def __init__(self, kernel="foreach", capturable=False, **inner):
        self.options, self.inner = {"kernel": kernel, "capturable": capturable}, inner
        self.eager = kernel != "compiled"
        if capturable:
            # A graph goes on with the parameters that were trained when it was captured.
            self.capabilities = self.capabilities - {"freeze"}
        if inner.get("fused"):
            # "`fused=True` requires all the params to be floating point Tensors", frozen ones too.
            self.capabilities = self.capabilities - {"int32", "complex128", "complex64"}

    def wrap(self, inner, setup):
        """The adapter around `inner`: what another wrapper's driver replaces."""
        return MetaOptimizer(
            inner, sync_rule(setup), slow_dtype=dtype_of(setup.slow_dtype), **self.options
        )

    def make(self, setup):
        return Run(setup, self.wrap, **self.inner)

    def step(self, run, gradients):
        run.optimizer.zero_grad()
        for leaf, gradient in zip(run.params, gradients, strict=True):
            if gradient is not None:
                # As backward() does: a tied leaf gets the sum.
                new = tensor(gradient, leaf.dtype, leaf.shape)
                leaf.grad = new if leaf.grad is None else leaf.grad + new
        run.optimizer.step()

    def fast(self, run):
        return [plain(leaf) for leaf in run.params]

    def slow(self, run):
        # Not slow_weights(): that is what C22 compares with these.
        parts, slow = run.optimizer._parts, {}
        for part in parts.current():
            state = parts.filled(part, {}, part.on_host())
            slow |= dict(zip(part.members, part.rule.slow(part.members, state), strict=True))
        return [plain(slow.get(leaf, leaf)) for leaf in run.params]

    def evaluate(self, run):
        with run.optimizer.slow_weights():
            return self.fast(run)

    def metrics(self, run):
        return run.optimizer.metrics()

    def evaluating(self, run):
        return run.optimizer.slow_weights()

    def save(self, run):
        buffer = io.BytesIO()
        torch.save([[leaf.detach() for leaf in run.params], run.optimizer.state_dict()], buffer)
        return buffer.getvalue()

    def load(self, setup, saved):
        return self.put_back(self.make(setup), saved)

    def put_back(self, run, saved):
        params, state = torch.load(io.BytesIO(saved), weights_only=True)
        with torch.no_grad():
            for leaf, value in zip(run.params, params, strict=True):
                leaf.copy_(value)
        run.optimizer.load_state_dict(state)
        return run

    def reload(self, run, saved):
        _, state = torch.load(io.BytesIO(saved), weights_only=True)
        run.optimizer.load_state_dict(state)

    def sync(self, run):
        run.optimizer.sync()

    @torch.no_grad()
    def edit(self, run, values):
        for leaf, new in zip(run.params, values, strict=True):
            leaf.copy_(tensor(new, leaf.dtype, leaf.shape))

    @torch.no_grad()
    def edit_inner(self, run, index, edit):
        leaf, factor = run.params[index], INNER_EDITS[edit]
        if edit == "remove" and self.inner.get("fused"):
            edit = "zero"  # fused SGD (torch 2.13) takes no buffers of some parameters alone
        entries = run.optimizer.state.pop(leaf, {})
        if edit == "remove" or not entries:
            return
        moments = entries.keys() - {"step"}
        if edit == "replace":
            entries = {k: v * factor if k in moments else v for k, v in entries.items()}
        else:
            for key in moments:
                entries[key].mul_(factor)
        run.optimizer.state[leaf] = entries

    def train(self, run, index, trained):
        run.params[index].requires_grad_(trained)

    def add_group(self, run, leaf, own):
        new = tensor(leaf.values, dtype_of(leaf.dtype), leaf.shape)
        run.params.append(torch.nn.Parameter(new))
        run.rates.append(leaf.rate)
        lr = run.optimizer.param_groups[0]["lr"] / run.rates[0] * leaf.rate
        run.optimizer.add_param_group({"params": run.params[-1:], "lr": lr, **named(own)})

    def set_in_group(self, run, index, own):
        run.optimizer.param_groups[index].update(named(own))

    def skip(self, run):
        run.optimizer.zero_grad()
        for leaf in run.params:
            leaf.grad = torch.full_like(leaf, float("inf"))
        run.scaler.scale(torch.zeros(()))  # the scaler starts with its first scaled loss
        run.scaler.step(run.optimizer)
        run.scaler.update(1.0)

    def set_learning_rate(self, run, lr):
        for group, rate in zip(run.optimizer.param_groups, run.rates, strict=True):
            group["lr"] = lr * rate
