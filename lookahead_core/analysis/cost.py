"""Arithmetic of communication and memory when W workers sync every k steps.

Bytes and seconds from counts and rates, nothing measured. A single process sends nothing.
"""

from lookahead_core.validation import non_negative, positive, positive_int

__all__ = [
    "compute_utilisation",
    "extra_memory",
    "peak_traffic",
    "sync_seconds",
    "traffic_per_step",
]


def peak_traffic(parameters: float, workers: int, bits: float = 16.0, fragments: int = 1) -> float:
    """Bytes that each worker sends in one sync by a ring all-reduce.

    2 (W - 1) / W * N / P * bits / 8. Syncing less often leaves it as it is; fragments that are
    synced one at a time, each at a step of its own, divide it.

    Parameters
    ----------
    parameters : float
        Number N of weights.
    workers : int
        Replicas W that take part.
    bits : float
        Bits sent for each weight: 16 for bfloat16, less with a codec.
    fragments : int
        Equal parts P of the weights that are synced at different steps.

    Returns
    -------
    float
        Bytes.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Derived in docs/theory.md. Assumes a ring and equal links.

    Examples
    --------
    >>> from lookahead_core.analysis import peak_traffic
    >>> peak_traffic(parameters=1e9, workers=8)
    3500000000.0
    """
    count = positive("parameters", parameters, "number of weights")
    ring = positive_int("workers", workers, "replicas that take part")
    parts = positive_int("fragments", fragments, "parts that are synced at different steps")
    return 2 * (ring - 1) / ring * count / parts * positive("bits", bits, "sent a weight") / 8


def traffic_per_step(
    parameters: float, workers: int, sync_period: int = 1, bits: float = 16.0
) -> float:
    """Bytes that each worker sends per inner step, on average over a cycle.

    2 (W - 1) / W * N * bits / 8 / k; with k = 1 it is what data-parallel training sends.

    Parameters
    ----------
    parameters : float
        Number N of weights.
    workers : int
        Replicas W that take part.
    sync_period : int
        Inner steps k between syncs.
    bits : float
        Bits sent for each weight.

    Returns
    -------
    float
        Bytes per step.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Derived in docs/theory.md. Assumes a ring.

    Examples
    --------
    >>> from lookahead_core.analysis import traffic_per_step
    >>> traffic_per_step(parameters=1e9, workers=8, sync_period=100)
    35000000.0
    """
    period = positive_int("sync_period", sync_period, "inner steps between syncs")
    return peak_traffic(parameters, workers, bits) / period


def sync_seconds(bytes_sent: float, workers: int, bandwidth: float, latency: float = 0.0) -> float:
    """Time of one ring all-reduce: bytes over bandwidth, and 2 (W - 1) hops.

    Parameters
    ----------
    bytes_sent : float
        By each worker, as `peak_traffic` says.
    workers : int
        Replicas W that take part.
    bandwidth : float
        Of a link, in bits per second.
    latency : float
        Of a hop, in seconds.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Derived in docs/theory.md. Assumes a ring of equal links and no congestion.

    Examples
    --------
    >>> from lookahead_core.analysis import sync_seconds
    >>> sync_seconds(35e9, workers=8, bandwidth=1e10, latency=0.05)
    28.7
    """
    sent = non_negative("bytes_sent", bytes_sent, "by each worker")
    hops = 2 * (positive_int("workers", workers, "replicas that take part") - 1)
    moved = 8 * sent / positive("bandwidth", bandwidth, "bits per second")
    return moved + hops * non_negative("latency", latency, "seconds a hop")


def compute_utilisation(
    step_seconds: float, sync_seconds: float, sync_period: int, overlap_steps: float = 0.0
) -> float:
    """Part of the time in which workers compute, if a sync stops them.

    k t / (k t + max(0, s - o t)): t seconds a step, s a sync, o steps that go on meanwhile.

    Parameters
    ----------
    step_seconds : float
        Time t of one inner step, > 0.
    sync_seconds : float
        Time s of one sync.
    sync_period : int
        Inner steps k between syncs.
    overlap_steps : float
        Steps o that workers go on for while a sync runs.

    Returns
    -------
    float
        In (0, 1].

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Derived in docs/theory.md.

    Examples
    --------
    >>> from lookahead_core.analysis import compute_utilisation
    >>> print(f"{compute_utilisation(step_seconds=1.0, sync_seconds=28.7, sync_period=100):.3f}")
    0.777
    """
    step = positive("step_seconds", step_seconds, "of one inner step")
    sync = non_negative("sync_seconds", sync_seconds, "of one sync")
    overlap = non_negative("overlap_steps", overlap_steps, "steps that go on during a sync")
    computing = positive_int("sync_period", sync_period, "inner steps between syncs") * step
    return computing / (computing + max(0.0, sync - overlap * step))


def extra_memory(
    parameters: float,
    slow_bytes: int = 4,
    outer_buffers: int = 0,
    interpolated_buffers: int = 0,
) -> float:
    """Bytes that slow weights take beside weights and inner optimizer.

    N * b * (1 + outer + interpolated): the slow copy, a buffer of a momentum outer rule, and a slow
    copy of every inner buffer that is interpolated.

    Parameters
    ----------
    parameters : float
        Number N of weights.
    slow_bytes : int
        Bytes b of one slow weight: 4 for float32.
    outer_buffers : int
        Zero for interpolation, one for momentum.
    interpolated_buffers : int
        With `inner_state="interpolate"` the buffers of the inner optimizer: 1 for momentum, 2 for
        Adam; else 0.

    Returns
    -------
    float
        Bytes.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    Derived in docs/theory.md.

    Examples
    --------
    >>> from lookahead_core.analysis import extra_memory
    >>> extra_memory(parameters=1e9, interpolated_buffers=2)
    12000000000.0
    """
    count = positive("parameters", parameters, "number of weights")
    outer = non_negative("outer_buffers", outer_buffers, "buffers of the outer rule")
    inner = non_negative("interpolated_buffers", interpolated_buffers, "inner buffers with a copy")
    return count * positive_int("slow_bytes", slow_bytes, "a slow weight") * (1 + outer + inner)
