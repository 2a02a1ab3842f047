"""What an outer rule keeps in torch: where it lives, whose it is, and that it resumes."""

import copy

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from lookahead_core import (
    AdaptiveAlpha,
    Momentum,
    SyncRule,
    ema,
    lookahead,
    nested,
    slowmo,
    snoo,
)
from lookahead_core.adapters.torch import MetaOptimizer
from torch_runs import (
    DOUBLE,
    INNERS,
    Quadratic,
    adam,
    assert_same,
    flat,
    pull_down,
    sgd,
    single,
    snapshot,
    train,
)

STEPS = 17
RULES = {
    "momentum": snoo(3),
    "momentum, restart and start": SyncRule(3, Momentum(), restart=0.5, restart_period=2, start=2),
    "momentum, reset": SyncRule(3, Momentum(), "reset"),
    "momentum, interpolate": SyncRule(3, Momentum(0.5, 0.25), "interpolate"),
    "ema, late": ema(0.9, start=4),
    "nested": nested(lookahead(3), SyncRule(6, Momentum())),
    "adaptive": lookahead(3, AdaptiveAlpha(low=0.2)),
}


@pytest.fixture(params=RULES)
def rule(request):
    return RULES[request.param]


def make(model, rule, inner=sgd, **options):
    return MetaOptimizer(inner(model.parameters()), rule, **options)


def momentum_of_one(weight, rule=None, **options):
    rule = slowmo(2, momentum=0.5) if rule is None else rule
    return MetaOptimizer(torch.optim.SGD([weight], lr=1.0), rule, **options)


def slot(optimizer, number=0, index=0):
    return optimizer.state_dict()["state"][number][f"lookahead_outer_{index}"]


# --- checkpoints ---


def whole_run(rule, inner, **options):
    model = Quadratic()
    train(make(model, rule, inner, **options), model, STEPS)
    return model


@pytest.mark.clause("C06", "C74")
@pytest.mark.parametrize("capturable", [False, True], ids=["branching", "capturable"])
@pytest.mark.parametrize("inner", INNERS)
def test_a_run_with_an_outer_state_resumes_at_any_step_bitwise(rule, inner, capturable):
    options = {"capturable": capturable}
    whole, first = whole_run(rule, INNERS[inner], **options), Quadratic()
    before = make(first, rule, INNERS[inner], **options)
    for steps in range(STEPS):
        saved = snapshot(first, before)
        second = Quadratic()
        after = make(second, rule, INNERS[inner], **options)
        second.load_state_dict(saved["model"])
        after.load_state_dict(saved["optimizer"])
        train(after, second, STEPS - steps)
        assert torch.equal(second.x, whole.x), steps
        assert torch.equal(second.y, whole.y), steps
        train(before, first, 1)


@pytest.mark.clause("C06", "C74")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("steps", [0, 1, 4, 7])
@pytest.mark.parametrize("inner", ["sgd", "adam", "plain"])
def test_a_run_with_an_outer_state_resumes_from_distributed_files(rule, inner, steps, tmp_path):
    inner = {**INNERS, "plain": lambda params: torch.optim.SGD(params, lr=0.1)}[inner]
    whole, first, second = whole_run(rule, inner), Quadratic(), Quadratic()
    before, after = make(first, rule, inner), make(second, rule, inner)
    train(before, first, steps)

    def state(model, optimizer):
        model.zero_grad()
        own = get_optimizer_state_dict(model, optimizer)
        return {"model": model.state_dict(), "optimizer": own}

    dcp.save(state(first, before), checkpoint_id=tmp_path, no_dist=True)
    loaded = state(second, after)
    dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    second.load_state_dict(loaded["model"])
    set_optimizer_state_dict(second, after, loaded["optimizer"])
    train(after, second, STEPS - steps)
    assert torch.equal(second.x, whole.x)
    assert torch.equal(second.y, whole.y)


@pytest.mark.clause("C41", "C74")
def test_what_is_saved_during_an_evaluation_has_slots_and_fast_weights_too(rule):
    whole, first, second = whole_run(rule, sgd), Quadratic(), Quadratic()
    before, after = make(first, rule), make(second, rule)
    train(before, first, 7)
    with before.slow_weights():
        saved = snapshot(first, before)
    second.load_state_dict(saved["model"])
    after.load_state_dict(saved["optimizer"])
    train(after, second, STEPS - 7)
    assert torch.equal(second.x, whole.x)


BAD = {
    "another outer rule": (
        lambda s: s["param_groups"][0].update(lookahead_outer="Interpolate"),
        r"made with outer='Interpolate', this optimizer has outer='Momentum\(lr=0.7",
    ),
    "another restart": (
        lambda s: s["param_groups"][0].update(lookahead_restart=1.0),
        "made with restart=1.0, this optimizer has restart=0.5",
    ),
    "another period of it": (
        lambda s: s["param_groups"][0].update(lookahead_restart_period=1),
        "made with restart_period=1, this optimizer has restart_period=2",
    ),
    "another start": (
        lambda s: s["param_groups"][0].update(lookahead_start=0),
        "made with start=0, this optimizer has start=2",
    ),
    "a count before the start": (
        lambda s: s["param_groups"][0].update(lookahead_count=-3),
        "count must be an int >= -2, got -3",
    ),
    "no slot": (
        lambda s: s["state"][0].pop("lookahead_outer_0"),
        r"\[0\]\['lookahead_outer_0'\] must be a Tensor of shape \(3,\) .*, got None",
    ),
    "a slot under another name": (
        lambda s: s["state"][0].update(lookahead_outer_1=s["state"][0].pop("lookahead_outer_0")),
        r"\[0\]\['lookahead_outer_0'\] must be a Tensor of shape \(3,\) .*, got None",
    ),
    "a slot of another shape": (
        lambda s: s["state"][0].update(lookahead_outer_0=torch.ones(2)),
        r"\[0\]\['lookahead_outer_0'\] must be a Tensor of shape \(3,\) .*, got \(2,\)",
    ),
    "a slot that is no tensor": (
        lambda s: s["state"][0].update(lookahead_outer_0=[1.0]),
        r"\['lookahead_outer_0'\] must be a Tensor of shape .*, got \[1.0\]",
    ),
}


@pytest.mark.clause("C25", "C74")
@pytest.mark.parametrize("case", BAD)
def test_an_outer_state_that_does_not_match_changes_nothing(case):
    damage, message = BAD[case]
    rule = RULES["momentum, restart and start"]
    model, other = Quadratic(), Quadratic()
    optimizer, source = make(model, rule), make(other, rule)
    train(optimizer, model, 3)
    train(source, other, 8)
    saved = copy.deepcopy(source.state_dict())
    damage(saved)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert_same(snapshot(model, optimizer), before)


@pytest.mark.clause("C25", "C74")
@pytest.mark.parametrize(("saved", "loaded"), [(snoo(3), lookahead(3)), (lookahead(3), snoo(3))])
def test_lookahead_and_momentum_do_not_load_each_other(saved, loaded):
    state = make(Quadratic(), saved).state_dict()
    with pytest.raises(ValueError, match="was made with outer="):
        make(Quadratic(), loaded).load_state_dict(state)


@pytest.mark.clause("C73", "C74")
def test_a_checkpoint_of_the_inner_optimizer_alone_starts_anew():
    rule, model = RULES["momentum, restart and start"], Quadratic()
    inner = adam(model.parameters())
    train(inner, model, 3)
    optimizer = make(model, rule, adam)
    train(optimizer, model, 6)
    with pytest.warns(UserWarning, match="slow weights are taken from the current parameters"):
        optimizer.load_state_dict(inner.state_dict())
    packed = optimizer.state_dict()
    assert packed["param_groups"][0]["lookahead_count"] == -2
    assert packed["state"][0]["lookahead_outer_0"].tolist() == [0.0] * 3


# --- where slots live, and whose they are ---


@pytest.mark.clause("C15", "C71")
def test_the_buffer_is_as_wide_as_the_slow_weights_and_stays_so_through_a_checkpoint():
    weight = single(1.0, torch.bfloat16)
    optimizer = momentum_of_one(weight, slow_dtype=torch.float32)
    for _ in range(2):
        pull_down(optimizer, weight)
    optimizer.load_state_dict(flat(optimizer.state_dict()))
    assert slot(optimizer).dtype == torch.float32
    assert slot(optimizer).item() == 2.0


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_the_buffer_follows_a_model_that_is_converted_at_any_phase(steps):
    weight = single()
    optimizer = momentum_of_one(weight)
    for step in range(4):
        if step == steps:
            torch.nn.ParameterList([weight]).double()
        pull_down(optimizer, weight)
    # 2 down; then a buffer of 0.5 * 2 + 2.
    assert weight.item() == -5.0
    assert (slot(optimizer).dtype, slot(optimizer).item()) == (DOUBLE, 3.0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_an_average_goes_on_where_a_model_is_converted(steps):
    weight = single()
    optimizer = momentum_of_one(weight, ema(0.5, sync_period=2))
    for step in range(4):
        if step == steps:
            torch.nn.ParameterList([weight]).double()
        pull_down(optimizer, weight)
    with optimizer.slow_weights():
        assert weight.item() == -2.5


def test_slots_live_on_the_device_of_the_slow_weights():
    weight = torch.nn.Parameter(torch.zeros(2, device="meta"))
    inner = torch.optim.SGD([weight], lr=1.0, foreach=False)
    optimizer = MetaOptimizer(inner, slowmo(2), slow_device="meta")
    pull_down(optimizer, weight)
    assert slot(optimizer).device.type == "meta"


@pytest.mark.clause("C27", "C71")
def test_a_parameter_that_is_frozen_between_cycles_takes_its_slot_with_it():
    weight, frozen = single(), single()
    inner = torch.optim.SGD([weight, frozen], lr=1.0)
    optimizer = MetaOptimizer(inner, slowmo(2, momentum=0.5))
    for _ in range(2):
        pull_down(optimizer, weight, frozen)
    frozen.requires_grad_(False)
    for _ in range(2):
        pull_down(optimizer, weight)
    assert (weight.item(), frozen.item()) == (-5.0, -2.0)
    assert list(optimizer._parts.kept) == [weight]
    frozen.requires_grad_(True)
    for _ in range(2):
        pull_down(optimizer, weight, frozen)
    # Its buffer is a new one: 2 down and not 2 + 0.5 * 2.
    assert (weight.item(), frozen.item()) == (-8.5, -4.0)


@pytest.mark.clause("C34", "C71")
def test_a_group_that_is_added_begins_with_slots_of_zero():
    weight, late = single(), single()
    optimizer = momentum_of_one(weight)
    for _ in range(2):
        pull_down(optimizer, weight)
    optimizer.add_param_group({"params": [late]})
    assert slot(optimizer, 1).item() == 0.0
    for _ in range(2):
        pull_down(optimizer, weight, late)
    assert (weight.item(), late.item()) == (-5.0, -2.0)


def test_parameters_that_a_trainer_takes_out_take_their_slots_along():
    old, new = single(), single()
    optimizer = momentum_of_one(old)
    optimizer.param_groups[0]["params"] = [new]
    pull_down(optimizer, new)
    assert list(optimizer._parts.kept) == [new]


def test_a_copy_has_slots_of_its_own():
    weight = single()
    optimizer = momentum_of_one(weight)
    twin_weight, twin = copy.deepcopy((weight, optimizer))
    for _ in range(2):
        pull_down(optimizer, weight)
    pull_down(twin, twin_weight)
    assert slot(twin).item() == 0.0
    pull_down(twin, twin_weight)
    assert slot(twin).item() == 2.0


# --- settings by group ---


@pytest.mark.clause("C24", "C42")
def test_an_alpha_in_a_group_is_refused_where_the_outer_rule_has_none():
    groups = [{"params": [single()], "lookahead_alpha": 0.5}]
    inner = torch.optim.SGD(groups, lr=1.0)
    with pytest.raises(ValueError, match=r"lookahead_alpha .* has an alpha, got Momentum\(lr=0.68"):
        MetaOptimizer(inner, snoo(2))
    optimizer = momentum_of_one(single())
    with pytest.raises(ValueError, match="lookahead_alpha in a group"):
        optimizer.add_param_group(groups[0])


@pytest.mark.clause("C42", "C71")
def test_a_group_may_have_a_period_of_its_own_around_momentum():
    weights = [single(), single()]
    groups = [{"params": [weights[0]], "lookahead_sync_period": 2}, {"params": [weights[1]]}]
    optimizer = MetaOptimizer(torch.optim.SGD(groups, lr=1.0), slowmo(4, momentum=0.5))
    for _ in range(4):
        pull_down(optimizer, *weights)
    assert [weight.item() for weight in weights] == [-5.0, -4.0]
    optimizer.load_state_dict(flat(optimizer.state_dict()))
    for _ in range(4):
        pull_down(optimizer, *weights)
    # Buffers 2, 3, 3.5, 3.75, and 4, 6.
    assert [weight.item() for weight in weights] == [-12.25, -10.0]


@pytest.mark.clause("C22", "C27", "C78")
def test_a_group_that_is_frozen_whole_is_evaluated_as_it_is():
    weights = [single(1.0), single(2.0)]
    weights[1].requires_grad_(False)
    groups = [{"params": [weights[0]], "lookahead_sync_period": 2}, {"params": [weights[1]]}]
    rule = nested(lookahead(4), lookahead(8))
    optimizer = MetaOptimizer(torch.optim.SGD(groups, lr=1.0), rule)
    pull_down(optimizer, weights[0])
    with optimizer.slow_weights():
        assert [weight.item() for weight in weights] == [1.0, 2.0]


class Unhashable:
    """A rule of the user's own as a plain dataclass would be: equal by value, and no hash."""

    __hash__ = None

    def init(self, slow):
        return ()

    def update(self, slow, fast, state, context):
        return [s + 0.25 * (f - s) for s, f in zip(slow, fast, strict=True)], state


@pytest.mark.clause("C76")
def test_a_rule_of_the_users_own_need_not_be_hashable():
    weight = single()
    optimizer = momentum_of_one(weight, SyncRule(2, Unhashable()))
    for _ in range(2):
        pull_down(optimizer, weight)
    assert weight.item() == -0.5


@pytest.mark.clause("C51", "C75")
def test_settings_of_momentum_may_be_schedules_of_the_syncs():
    weight = single()
    rule = SyncRule(1, Momentum(lambda syncs: 1 / (1 + syncs), lambda syncs: 0.5 * (syncs > 0)))
    optimizer = momentum_of_one(weight, rule)
    pull_down(optimizer, weight)
    assert weight.item() == -1.0
    pull_down(optimizer, weight)  # buffer 1.5, direction 1 + 0.5 * 1.5, at a rate of a half
    assert weight.item() == -1.875
