"""Traffic, utilisation and memory: against a ring that is played through, and against print."""

import pytest

from lookahead_core.analysis import (
    compute_utilisation,
    extra_memory,
    peak_traffic,
    sync_seconds,
    traffic_per_step,
)


@pytest.mark.parametrize(
    ("parameters", "k", "bits", "size"),
    [
        (1e9, 1, 16, 3.5e9),
        (1e10, 30, 16, 35e9 / 30),
        (72e9, 500, 16, 504e6),
        (72e9, 100, 4, 630e6),
        (1e12, 500, 2, 875e6),
    ],
)
def test_bytes_per_step_are_the_printed_ones(parameters, k, bits, size):
    assert traffic_per_step(parameters, 8, k, bits) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_ring_that_is_played_through_sends_that_much(workers):
    chunks, hops = 1 / workers, 0
    for _phase in ("reduce", "gather"):
        for _round in range(workers - 1):
            hops += 1
    assert peak_traffic(1000, workers, bits=8) == pytest.approx(1000 * chunks * hops)
    assert sync_seconds(0, workers, bandwidth=1.0, latency=3.0) == 3.0 * hops


def test_64_workers_send_an_eighth_more_than_8():
    assert peak_traffic(1e9, 64) == pytest.approx(1.125 * peak_traffic(1e9, 8), rel=1e-12)


def test_a_rarer_sync_is_as_large_and_a_fragment_is_smaller():
    assert peak_traffic(72e9, 8) == 252e9
    assert sync_seconds(peak_traffic(72e9, 8), 8, bandwidth=1e9) == 2016
    assert peak_traffic(72e9, 8, fragments=9) == pytest.approx(28e9)


@pytest.mark.parametrize(
    ("bandwidth", "k", "bits", "overlap", "utilisation"),
    [
        (1e10, 1, 16, 0, 0.034),
        (1e10, 30, 16, 0, 0.511),
        (1e10, 500, 16, 0, 0.946),
        (1e10, 100, 4, 0, 0.929),
        (1e10, 100, 4, 5, 0.974),
        (1e9, 100, 4, 5, 0.604),
        (1e11, 100, 4, 5, 1.0),
    ],
)
def test_utilisation_is_the_printed_one(bandwidth, k, bits, overlap, utilisation):
    sync = sync_seconds(peak_traffic(1e10, 8, bits), 8, bandwidth, latency=0.05)
    assert compute_utilisation(1.0, sync, k, overlap) == pytest.approx(utilisation, abs=6e-4)


def test_memory_counts_each_copy():
    assert extra_memory(10) == 40
    assert extra_memory(10, outer_buffers=1) == 80
    assert extra_memory(10, slow_bytes=2, interpolated_buffers=2) == 60


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"workers must be an int >= 1 .* got 0"):
        peak_traffic(1e9, 0)
    with pytest.raises(ValueError, match=r"parameters must be a finite number > 0 .* got -1"):
        extra_memory(-1)
    with pytest.raises(ValueError, match=r"fragments must be an int >= 1 .* got 0"):
        peak_traffic(1e9, 8, fragments=0)
    with pytest.raises(ValueError, match=r"sync_period must be an int >= 1 .* got 0"):
        traffic_per_step(1e9, 8, 0)
    with pytest.raises(ValueError, match=r"bandwidth must be a finite number > 0 .* got 0"):
        sync_seconds(1e9, 8, bandwidth=0)
    with pytest.raises(ValueError, match=r"step_seconds must be a finite number > 0 .* got 0"):
        compute_utilisation(0, 1.0, 5)
