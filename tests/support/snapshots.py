"""Snapshots of a running application, as a test wants them, and what has them as a runtime would."""

from edge_runtime.scheduling.stats import BatcherStats
from edge_runtime.snapshot import ProcessStats, Snapshot
from edge_runtime.telemetry import (
    ClimateStats,
    EngineFaults,
    Meter,
    RuntimeStats,
    Sensor,
    ServerStats,
    model_stats,
)
from edge_runtime.types import EngineReport, Reply

SERVER = "10.0.0.7:8500"


def meter_of(**answers):
    """A meter that has counted: `place__reason=(times, milliseconds)`, with `device` and `server` for the places."""
    meter = Meter()
    places = {"device": "device:cpu", "server": f"server:{SERVER}"}
    for key, (times, latency_ms) in answers.items():
        place, _, reason = key.partition("__")
        reply = Reply(
            outputs={}, version=3, place=places[place], reason=reason.replace("_", "-"), latency_ms=latency_ms
        )
        for _ in range(times):
            meter.answered(reply)
    return meter


def busy(local=100, far=20, failed=3, dropped=5):
    """The stats of a runtime that has everything: a loaded version, another that servers have, heat and faults."""
    near, elsewhere = meter_of(device__local=(local, 2.0), server__overloaded=(far, 20.0)), meter_of()
    for _ in range(failed):
        near.failed(TimeoutError())
    elsewhere.answered(
        Reply(outputs={}, version=9, place=f"server:{SERVER}", reason="version-missing", latency_ms=30.0)
    )
    digits = model_stats(
        "digits",
        3,
        near,
        queue=BatcherStats(queued=7, slots=2, running=1, standby=1, dropped=dropped, batches={1: 10, 4: 10}),
        engines=[
            EngineReport(device="edgetpu:usb:0", variant="int8-edgetpu", state="unhealthy", reason="it hangs"),
            EngineReport(device="cpu", variant="int8", state="ready", threads=2, isolation="process"),
        ],
        faults={"edgetpu:usb:0": EngineFaults(stuck=2, failed=1, restarts=1)},
    )
    return RuntimeStats(
        models=(digits, model_stats("faces", None, elsewhere)),
        servers={SERVER: "closed", "10.0.0.8:8500": "open"},
        endpoints=(
            ServerStats(
                address=SERVER,
                state="closed",
                in_flight=2,
                round_trip_ms=0.8,
                bandwidth_bytes_s=2.5e6,
                wait_ms=12.5,
                serves={"digits": (2, 3), "gone": ()},
            ),
        ),
        climate=ClimateStats(
            sensors=(
                Sensor(source="thermal_zone0", kind="cpu-thermal", celsius=81.5),
                Sensor(source="apex_0", kind="edgetpu", celsius=90.0, trips_celsius=(85.0,)),
            ),
            factors={"cpu": 3.0, "apex_0": 1.0},
            clock_mhz=(600.0, 1800.0),
            firmware=("throttled", "seen_under_voltage"),
        ),
    )


def snapshot(stats=None, *, taken_s=100.0, cpu_s=5.0, pid=42, program="camera.py"):
    process = ProcessStats(pid=pid, program=program, cpu_s=cpu_s, up_s=3700.0, resident_bytes=200 * 2**20)
    return Snapshot(taken_s=taken_s, process=process, stats=stats or busy())


class Running:
    """What has the stats of a runtime; `error` is raised instead where there is one."""

    def __init__(self, stats=None):
        self.error = None
        self.given = stats or busy()

    def stats(self):
        if self.error is not None:
            raise self.error
        return self.given
