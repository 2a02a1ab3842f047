"""What would break first with 64 and 1,000 workers, in words around numbers of plan_at_scale.py."""

import math

from experiments.network import plan_at_scale as plan
from experiments.network.sizes import size

__all__ = ["DEVICE", "FAILURE", "text"]

# Bytes of a device, and days between failures of one worker: assumed.
DEVICE, FAILURE = 80e9, 30
FAR, FAST = "1 Gbit/s, 50 ms", "10 Gbit/s, 50 ms"
FEW, MANY = plan.WORKERS


def text() -> str:
    """A list, first the first to break."""
    parts = (_bandwidth(), _latency(), _stragglers(), _failures(), _memory())
    return "".join(f"{number}. {part}\n" for number, part in enumerate(parts, 1))


def _bandwidth() -> str:
    large, ways = plan.MODELS["70B"], plan.WAYS
    whole = plan.at_once(large, FEW, ways["k = 100"])
    coded = plan.at_once(large, FEW, ways["k = 100, 4 bits"])
    part = plan.at_once(large, FEW, ways["k = 100, 4 bits, streamed"])
    seconds = plan.sync_time(large, FEW, ways["k = 100"], plan.LINKS[FAR])
    return (
        f"**The peak, not the average.** A sync of 70B sends {size(whole)} at once, which is "
        f"{seconds / 60:.0f} minutes at 1 Gbit/s; k changes how often, and not how much. Bits and "
        f"fragments do: {size(coded)} with 4 bits, {size(part)} with 10 fragments as well."
    )


def _latency() -> str:
    small, link = plan.MODELS["1B"], plan.LINKS[FAST]
    floors = [f"{2 * (w - 1) * link.hop:.3g} s for {w:,}" for w in (FEW, MANY)]
    one, many = (
        f"{100 * plan.utilisation(small, MANY, plan.WAYS[name], link):.0f} %"
        for name in ("k = 100, 4 bits", "k = 100, 4 bits, streamed")
    )
    tree = 2 * math.ceil(math.log2(MANY)) * link.hop
    return (
        f"**The latency of a ring.** 2 (W - 1) hops of 50 ms are {' and '.join(floors)} workers, "
        "whatever is sent, and every fragment pays them again: with "
        f"{MANY:,} workers and 1B at 10 Gbit/s utilisation is {one} in one piece and {many} "
        f"streamed. So far apart, {MANY:,} workers need a tree ({tree:g} s) or a ring of rings; "
        "gloo's all-reduce is a ring, NCCL has trees, and we have no transport of our own."
    )


def _stragglers() -> str:
    few, many = (f"{100 * plan.slowest_of(w) * plan.JITTER:.0f} %" for w in (FEW, MANY))
    return (
        f"**The slowest worker.** If the time of each step scatters by {100 * plan.JITTER:.0f} %, "
        f"all wait {few} of a step for the slowest of {FEW}, {many} for that of {MANY:,}; k steps "
        "average that out, by √k. A worker that is always 10 % slower costs 10 % at every k: give "
        "it smaller batches, and let `optimizer.work` say so."
    )


def _failures() -> str:
    few, many = (24 * FAILURE / w for w in (FEW, MANY))
    steps = plan.WAYS["k = 500"].sync_period
    hit = 1 - math.exp(-steps * plan.STEP / (3600 * many))
    return (
        f"**Somebody is missing.** Workers that fail once in {FAILURE} days each are one failure "
        f"in {few:.0f} hours among {FEW}, and in {60 * many:.0f} minutes among {MANY:,}: of the "
        f"cycles of {steps} steps then {100 * hit:.0f} % lose a worker, and a mean over all of "
        "them does not come about. It has to be over those who are there."
    )


def _memory() -> str:
    found = plan.memory(plan.MODELS["70B"])
    devices = [math.ceil(b / DEVICE) for b in (found.inner, found.together)]
    return (
        f"**The replica that each worker holds.** 70B are {size(found.inner)} with AdamW alone and "
        f"{size(found.together)} with slow weights, outer momentum and what a sync needs in "
        f"passing: {devices[0]} and {devices[1]} devices of {size(DEVICE)} before the first "
        "activation. No k and no codec changes that; sharding and the host's memory do."
    )
