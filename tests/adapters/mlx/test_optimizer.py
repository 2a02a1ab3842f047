"""What MLX and its users expect of an optimizer, of the wrapper."""

import math

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from lookahead_core import AdaptiveAlpha, ema, schedule_free, snoo
from lookahead_core.adapters.mlx import Lookahead, MetaOptimizer
from lookahead_core.adapters.mlx._inner_state import learning_rates

POLICIES = ("maintain", "reset", "interpolate")
RULES = {
    **{policy: lambda inner, p=policy: Lookahead(inner, 3, 0.5, p) for policy in POLICIES},
    "snoo": lambda inner: MetaOptimizer(inner, snoo(3)),
    "ema": lambda inner: MetaOptimizer(inner, ema(0.5)),
    "schedule_free": lambda inner: MetaOptimizer(inner, schedule_free()),
}


def adam():
    return optim.Adam(learning_rate=0.01, bias_correction=True)


class Training:
    """A small network and one batch, trained as it is or under mx.compile."""

    def __init__(self, optimizer, compiled=False, frozen=(), clip=lambda gradients: gradients):
        mx.random.seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        for layer in frozen:
            self.model.layers[layer].freeze()
        self.optimizer, self.clip = optimizer, clip
        optimizer.init(self.model.trainable_parameters())
        self.batch = mx.random.normal((8, 3))
        self.loss = nn.value_and_grad(self.model, lambda x: self.model(x).square().sum())
        self.state = [self.model.state, optimizer.state]
        self.step = mx.compile(self.update, self.state, self.state) if compiled else self.update

    def update(self):
        _, gradients = self.loss(self.batch)
        self.optimizer.update(self.model, self.clip(gradients))

    def steps(self, number):
        for _ in range(number):
            self.step()
            mx.eval(self.state)
        return self

    def arrays(self):
        everything = [self.model.parameters(), self.optimizer.state]
        return {path: value.tolist() for path, value in tree_flatten(everything)}


@pytest.mark.parametrize("rule", RULES)
def test_a_compiled_step_is_the_step_as_it_is(rule):
    plain, compiled = (Training(RULES[rule](adam()), way).steps(8) for way in (False, True))
    assert plain.arrays() == compiled.arrays()


@pytest.mark.clause("C06")
@pytest.mark.parametrize("phase", range(6))
@pytest.mark.parametrize("rule", RULES)
def test_a_safetensors_file_comes_back_bit_for_bit(rule, phase, tmp_path):
    run = Training(RULES[rule](adam())).steps(phase)
    model, state = tmp_path / "model.safetensors", tmp_path / "optimizer.safetensors"
    run.model.save_weights(str(model))
    mx.save_safetensors(str(state), dict(tree_flatten(run.optimizer.state)))
    resumed = Training(RULES[rule](adam()))
    resumed.model.load_weights(str(model))
    resumed.optimizer.state = tree_unflatten([*mx.load(str(state)).items()])
    assert resumed.arrays() == run.arrays()
    assert resumed.steps(4).arrays() == run.steps(4).arrays()


@pytest.mark.clause("C06")
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "inner", [lambda: optim.SGD(learning_rate=0.01), adam], ids=["sgd", "adam"]
)
def test_empty_containers_and_the_order_of_a_file_are_no_matter(inner, turned, tmp_path):
    # SGD keeps nothing of a parameter, and the files of MLX have their arrays in any order.
    def make():
        return Training(Lookahead(inner(), 3, AdaptiveAlpha()))

    def stepped(run, number):
        # Without the network: with SGD it is another in the last bit now and then, from run to run.
        for _ in range(number):
            run.optimizer.update(run.model, run.model.parameters())
            mx.eval(run.state)
        return run.arrays()

    run, resumed, file = make(), make(), str(tmp_path / "optimizer.safetensors")
    stepped(run, 4)
    mx.save_safetensors(file, dict(tree_flatten(run.optimizer.state)))
    loaded = [*sorted(mx.load(file).items(), reverse=turned)]
    resumed.optimizer.state = tree_unflatten(loaded)
    resumed.model.update(run.model.parameters())
    assert resumed.arrays() == run.arrays()
    weights = dict(tree_flatten(run.model.parameters()))
    # Sums over all leaves are the same to the last bit.
    assert all(r.optimizer._core_state(weights)[0] == [*weights] for r in (run, resumed))
    assert stepped(resumed, 5) == stepped(run, 5)


def split(first, second):
    return optim.MultiOptimizer([first, second], [lambda path, _: path.endswith("weight")])


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("policy", POLICIES)
def test_inside_and_around_multi_optimizer(policy, compiled):
    around = Training(Lookahead(split(adam(), adam()), 3, 0.5, policy), compiled).steps(8)
    own = (Lookahead(adam(), 3, 0.5, policy) for _ in "ab")
    inside = Training(split(*own), compiled).steps(8)
    alone = Training(Lookahead(adam(), 3, 0.5, policy)).steps(8)
    weights = [dict(tree_flatten(run.model.parameters())) for run in (alone, around, inside)]
    for path, expected in weights[0].items():
        assert weights[1][path].tolist() == weights[2][path].tolist() == expected.tolist()


@pytest.mark.clause("C22")
def test_slow_weights_are_evaluated_and_the_fast_ones_come_back():
    run = Training(Lookahead(optim.SGD(learning_rate=0.01), 3)).steps(1)
    fast, start = run.model.parameters(), Training(Lookahead(adam())).model.parameters()
    before = dict(tree_flatten(fast))
    run.model.update(run.optimizer.slow_weights(run.model))
    for path, value in tree_flatten(run.model.parameters()):
        assert value.tolist() == dict(tree_flatten(start))[path].tolist()
    run.model.update(fast)
    for path, value in tree_flatten(run.model.parameters()):
        assert value.tolist() == before[path].tolist()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_clipped_gradients_are_what_the_inner_optimizer_is_given(compiled):
    def clip(gradients):
        return optim.clip_grad_norm(gradients, 0.1)[0]

    bare = Training(adam(), compiled, clip=clip).steps(4)
    wrapped = Training(Lookahead(adam(), 5), compiled, clip=clip).steps(4)
    unclipped = Training(adam(), compiled).steps(4)
    weights = [dict(tree_flatten(r.model.parameters())) for r in (bare, wrapped, unclipped)]
    for path, expected in weights[0].items():
        assert weights[1][path].tolist() == expected.tolist() != weights[2][path].tolist()


@pytest.mark.clause("C03")
def test_a_step_that_the_loop_throws_away_does_not_count():
    run = Training(Lookahead(optim.SGD(learning_rate=0.01)))
    _, norm = optim.clip_grad_norm({"w": mx.array([math.inf])}, 1.0)
    if math.isfinite(norm.item()):
        run.step()
    assert run.optimizer.state["lookahead"]["count"].item() == 0


@pytest.mark.clause("C27")
def test_frozen_parameters_have_no_slow_weights_and_join_when_they_thaw():
    run = Training(Lookahead(optim.SGD(learning_rate=0.01), 3), frozen=[0])
    frozen = run.model.layers[0].weight.tolist()
    run.steps(4)
    assert run.model.layers[0].weight.tolist() == frozen
    assert {path.split(".")[1] for path in run.optimizer._slow()} == {"2"}
    run.model.unfreeze()
    run.steps(1)
    assert {path.split(".")[1] for path in run.optimizer._slow()} == {"0", "2"}
    assert run.model.layers[0].weight.tolist() != frozen


def test_bfloat16_weights_with_float32_slow_ones_do_not_stall():
    weights = {"w": mx.array([1.0], dtype=mx.bfloat16)}
    optimizer = Lookahead(optim.SGD(learning_rate=2**-7), 1, 0.25, slow_dtype=mx.float32)
    optimizer.init(weights)
    for _ in range(8):
        weights.update(
            optimizer.apply_gradients({"w": mx.array([1.0], dtype=mx.bfloat16)}, weights)
        )
    assert optimizer._slow()["w"].item() < 1 - 2**-7


def test_the_learning_rate_and_the_step_are_the_inner_optimizers():
    run = Training(Lookahead(optim.SGD(learning_rate=0.5))).steps(2)
    run.optimizer.learning_rate = 0.25
    assert run.optimizer.inner.learning_rate.item() == run.optimizer.learning_rate.item() == 0.25
    assert run.optimizer.step.item() == 2


def test_the_state_of_the_inner_optimizer_alone_starts_anew_with_a_warning():
    bare, optimizer = Training(adam()).steps(4), Lookahead(adam())
    with pytest.warns(UserWarning, match="no entry 'lookahead'"):
        optimizer.state = bare.optimizer.state
    optimizer.update(bare.model, bare.loss(bare.batch)[1])
    assert optimizer.step.item() == 5
    assert optimizer.state["lookahead"]["count"].item() == 1


@pytest.mark.clause("C25")
def test_what_cannot_be_is_refused_in_the_users_words():
    with pytest.raises(ValueError, match=r"inner must not be wrapped already .*nested\(first, "):
        Lookahead(Lookahead(adam()))
    with pytest.raises(ValueError, match="inner must not be wrapped already"):
        Lookahead(optim.MultiOptimizer([adam(), Lookahead(adam())], [lambda *_: True]))
    with pytest.raises(ValueError, match="inner must be an mlx"):
        Lookahead([adam()])
    with pytest.raises(ValueError, match=r"sync_period must be at most .* 2147483648"):
        Lookahead(adam(), sync_period=2**31)
    with pytest.raises(TypeError, match="has no argument k: write sync_period=6"):
        Lookahead(adam(), k=6)
    with pytest.raises(ValueError, match="rule must be a SyncRule, got 5"):
        MetaOptimizer(adam(), 5)
    with pytest.raises(ValueError, match="curvature"):
        Lookahead(adam(), alpha=AdaptiveAlpha(curvature="inner"))
    with pytest.raises(ValueError, match="call init"):
        Lookahead(adam()).slow_weights({"w": mx.ones(1)})
    optimizer = Lookahead(adam())
    optimizer.init({"w": mx.ones(1)})
    with pytest.raises(ValueError, match="must have the leaf 'w'"):
        optimizer.sync({"v": mx.ones(1)})
    with pytest.raises(ValueError, match="must have count, syncs, phase and slow, got count"):
        optimizer.state = {"inner": {}, "lookahead": {"count": mx.array(0)}}


def test_a_reset_that_would_restart_a_schedule_is_refused():
    schedule = optim.cosine_decay(0.1, 100)
    inner = optim.Adam(learning_rate=schedule, bias_correction=True)
    with pytest.raises(ValueError, match="would restart the schedule of Adam"):
        Lookahead(inner, inner_state="reset")
    Lookahead(optim.Adam(learning_rate=schedule), inner_state="reset")  # no bias correction


def test_a_rule_that_asks_for_gradients_gets_them():
    run = Training(Lookahead(optim.SGD(learning_rate=0.01), 2, AdaptiveAlpha())).steps(4)
    assert all(math.isfinite(leaf.sum().item()) for _, leaf in tree_flatten(run.model.state))


@pytest.mark.clause("C03")
@pytest.mark.parametrize("inner", [lambda: optim.SGD(learning_rate=1.0), adam], ids=["sgd", "adam"])
@pytest.mark.parametrize("steps", [0, 2], ids=["cycle start", "sync due"])
def test_a_step_without_any_gradient_is_mlxs_and_does_not_count(steps, inner):
    weights, gradients = {"w": mx.array([1.0])}, {"w": mx.array([1.0])}
    optimizer = Lookahead(inner(), 3, 0.5)
    optimizer.init(weights)
    for _ in range(steps):
        weights = optimizer.apply_gradients(gradients, weights)
    before = [weights["w"].item(), optimizer.state["lookahead"]["count"].item()]
    assert optimizer.apply_gradients({}, weights) == {}
    assert [weights["w"].item(), optimizer.state["lookahead"]["count"].item()] == before
    assert optimizer.step.item() == steps + 1  # MLX counts it


@pytest.mark.clause("C24")
@pytest.mark.parametrize("name", ["inner", "rule", "alpha", "k", "sync_period", "slow_dtype"])
def test_what_would_be_without_effect_cannot_be_set(name):
    optimizer = Lookahead(adam())
    with pytest.raises(AttributeError, match=f"{name} of Lookahead cannot be set: make a new"):
        setattr(optimizer, name, 3)
    assert name not in vars(optimizer) or vars(optimizer)[name] != 3


@pytest.mark.clause("C87")
def test_each_leaf_goes_by_the_rate_of_its_own_optimizer():
    inner = split(optim.SGD(learning_rate=0.5), optim.SGD(learning_rate=0.25))
    optimizer = MetaOptimizer(inner, schedule_free())
    optimizer.init({"a.weight": mx.ones(1), "bias": mx.ones(1)})
    assert [rate.item() for rate in learning_rates(inner, ["a.weight", "bias"])] == [0.5, 0.25]


def test_a_rule_that_goes_by_a_rate_that_there_is_not_is_refused():
    optimizer = MetaOptimizer(optim.Adafactor(), schedule_free())
    with pytest.raises(ValueError, match="inner must have a learning rate, because the weights"):
        optimizer.apply_gradients({"w": mx.ones(1)}, {"w": mx.ones(1)})
