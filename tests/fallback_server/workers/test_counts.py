"""Counts that one process takes and another adds: nothing is lost, and nothing counted twice."""

import msgspec

from fallback_server.batching.queue import BatchRun
from fallback_server.core.errors import QueueFull
from fallback_server.counts import MetricCounts, StatisticCounts
from fallback_server.metrics import Metrics
from fallback_server.statistics import VersionStatistics


def sent(counts, kind):
    """As it comes to another process."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(counts), type=kind)


def ask(metrics, times):
    for index in range(times):
        code = "OK" if index % 3 else "NOT_FOUND"
        version = 1 if index % 3 else None
        metrics.request(
            model="m", version=version, verb="Predict", entrypoint="GRPC", code=code, latency_s=index * 1e-4
        )
    metrics.batch(model="m", version=1, rows=times, padded_rows=times + 1, queued_s=[1e-3] * times, run_s=2e-3)


def told(metrics):
    text, _ = metrics.render()
    return sorted(line for line in text.decode().splitlines() if ":tensorflow" in line or "edge_fallback" in line)


def test_metrics_of_two_processes_are_those_of_one():
    """Whatever is taken when: the text is the same as if one had counted all."""
    one, first, other = Metrics(), Metrics(), Metrics()
    for metrics in (one, first, other):
        metrics.load(model="m", version=1, seconds=1.0, ok=True)
    for times in (3, 7):
        ask(one, times)
        ask(other, times)
        first.add(sent(other.take(), MetricCounts))
    assert told(first) == told(one)
    assert not other.take().models


def settle(statistics, times):
    for index in range(times):
        statistics.settled(QueueFull("full") if index % 4 == 0 else None, index * 1e-3)
    statistics.ran(BatchRun(rows=times, padded_rows=times, queued_s=(1e-3,) * times, run_s=2e-3))


def test_statistics_of_two_processes_are_those_of_one():
    """Figures and sums alike; what was taken is not taken again."""
    one, first, other = (VersionStatistics(wall_clock=lambda: 5.0) for _ in range(3))
    for times in (5, 9):
        settle(one, times)
        settle(other, times)
        first.add(sent(other.take(), StatisticCounts))
    assert first.figures() == one.figures()
    assert first.work() == one.work()
    assert other.take().requests == 0
