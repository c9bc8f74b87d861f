"""What a server far away adds to a device that has too much to do, and what its absence and a bad network take away.

    python benchmarks/far.py [SCENARIO...] [--seconds 60] [--figure docs/routing.png]

The device's runs take 10 ms (a real delegate that waits, so that no processor time is what is measured); one real
server is reached over a network with a delay each way; requests come evenly at three times what the device can answer,
each with 50 ms to live. Beside each figure stands that of the device alone, of the same run.

A machine that others use has other things to do at times: `lates.py` sees when a part of this had to wait for a core.
Requests of such moments are left out of what shares are held against; the figures with them stand beside it. There are
few such moments with `nice -n -15` before the command. Two seconds of the load come first, in which the server runs its
model for the first time.

| scenario | what happens | target |
|---|---|---|
| `overload` | nothing more | at least 99.5 % in time |
| `killed` | the server is killed after a third of the time, and another is back after two | no request untold; \
the device alone as good as ever; the server used again within 3 s |
| `slow` | 150 KB a request over 64 kbit/s | no worse than the device alone |
| `hedging` | 2 % of the runs stall 200 ms, without overload or deadlines | p99 at most half of that without hedging, \
at most 5 % more requests to the server |
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.far_scene import (  # noqa: E402
    DEADLINE_MS,
    NARROW,
    WIDE,
    Scene,
    Tally,
    capacity,
    in_thread,
    load,
    ones,
    percentile,
    served,
    steady,
)
from benchmarks.lates import Lates  # noqa: E402
from benchmarks.network import Network  # noqa: E402
from edge_runtime.config import ModelOptions  # noqa: E402
from edge_runtime.model import Model  # noqa: E402

OVERLOAD = 3.0
ROUNDS = 6
WARM_UP_S = 2.0
KINDS = ("hedged", "plain")
PAIRS = 4
"""Models of each kind: a stall keeps a device busy, and the next request of its model should find it idle again."""

EVERY_S = 0.25
WARM_S = 15.0
"""So long each model is asked before hedging is measured: 50 answers are needed to know what takes long."""

HIT_RATE, GOODPUT, AGAIN_S, HEDGED, EXTRA = 0.995, 0.95, 3.0, 0.5, 0.05


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    seconds: float
    delay_ms: float
    figure: Path | None


def told(name: str, tally: Tally, lates: Lates) -> None:
    """A line, what it is made of, and what it is without the moments at which the machine itself was late."""
    print(
        f"  {name:20}{tally.rate:8.2%} in time, {tally.goodput:6.1f}/s of {len(tally.outcomes) / tally.seconds:.0f}/s; "
        f"longest {tally.latest_ms:.0f} ms, untold {tally.untold}"
    )
    print(f"  {'':20}{tally.ways()}")
    good = tally.punctual(lates)
    missing = len(tally.outcomes) - len(good.outcomes)
    print(
        f"  {'':20}without {missing} during which the machine was late: {good.rate:.2%}, "
        f"longest {good.latest_ms:.0f} ms, untold {good.untold}"
    )


def verdict(text: str, *, met: bool) -> bool:
    """A target's line."""
    print(f"  {text}: {'met' if met else 'MISSED'}")
    return met


@dataclass(frozen=True)
class Compared:
    """The overload on the device alone, and on device and server.

    Attributes:
        able: What the device answers a second.
    """

    alone: Tally
    together: Tally
    able: float
    lates: Lates


def both(alone: Model, together: Model, width: int, seconds: float) -> Compared:
    """Plays both in turn."""
    row = ones(width)
    able = capacity(alone, row, 2.0)
    load(together, row, OVERLOAD * able, WARM_UP_S)
    found, lates = (Tally(), Tally()), Lates()
    for _ in range(ROUNDS):
        for tally, model in zip(found, (alone, together), strict=True):
            tally.add(load(model, row, OVERLOAD * able, seconds / ROUNDS))
    return Compared(*found, able, lates.stop())


def overload(scene: Scene, settings: Settings) -> bool:
    """Three times the load, and a server."""
    server = scene.server()
    try:
        with (
            Network(server.address, delay_ms=settings.delay_ms) as network,
            scene.runtime(None) as alone,
            scene.runtime(network.address) as helped,
        ):
            found = both(alone.model("scale"), helped.model("scale"), NARROW, settings.seconds)
    finally:
        server.kill()
    print(
        f"overload: {OVERLOAD:g} x {found.able:.0f}/s, {DEADLINE_MS:.0f} ms each, "
        f"server {settings.delay_ms:g} ms away each way"
    )
    told("device alone", found.alone, found.lates)
    told("device and server", found.together, found.lates)
    rate = found.together.punctual(found.lates).rate
    return verdict(
        f"{rate:.2%} in time, {rate / found.alone.punctual(found.lates).rate:.2f} x the device alone "
        f"(target: {HIT_RATE:.1%})",
        met=rate >= HIT_RATE,
    )


def killed(scene: Scene, settings: Settings) -> bool:
    """The server's process is killed, and another one comes back at its address."""
    seconds, row = settings.seconds, ones(NARROW)
    first, second = scene.server(), scene.server()
    marks: dict[str, float] = {}
    try:
        with (
            Network(first.address, delay_ms=settings.delay_ms) as network,
            scene.runtime(None) as alone,
            scene.runtime(network.address) as helped,
        ):
            model, lonely = helped.model("scale"), alone.model("scale")
            able = capacity(lonely, row, 2.0)
            lates = Lates()
            base = load(lonely, row, OVERLOAD * able, seconds / 4)
            load(model, row, OVERLOAD * able, WARM_UP_S)
            began_s = time.monotonic() + 0.1

            def happen() -> None:
                time.sleep(max(began_s + seconds / 3 - time.monotonic(), 0))
                marks["killed"] = time.monotonic()
                first.kill()
                network.refuse()
                time.sleep(max(began_s + seconds * 2 / 3 - time.monotonic(), 0))
                network.to(second.address)
                network.open()
                marks["back"] = time.monotonic()

            events = in_thread(happen)
            tally = load(model, row, OVERLOAD * able, seconds, began_s)
            events.join()
            base.add(load(lonely, row, OVERLOAD * able, seconds / 4))
            lates.stop()
    finally:
        first.kill()
        second.kill()
    gone = tally.between(marks["killed"], marks["back"])
    answered_s = [one.asked_s + one.took_ms / 1e3 for one in tally.outcomes if one.place == "server"]
    again_s = min((at_s for at_s in answered_s if at_s >= marks["back"]), default=float("inf")) - marks["back"]
    print(f"killed: {OVERLOAD:g} x {able:.0f}/s, gone for {marks['back'] - marks['killed']:.1f} s")
    told("device alone", base, lates)
    told("before", tally.between(began_s, marks["killed"]), lates)
    told("while it is gone", gone, lates)
    told("after", tally.between(marks["back"], began_s + seconds), lates)
    if settings.figure is not None:
        from benchmarks.far_figure import draw  # noqa: PLC0415  it loads matplotlib

        draw(tally, began_s, {"server killed": marks["killed"], "server back": marks["back"]}, base, settings.figure)
    ratio = gone.goodput / base.goodput
    untold = tally.punctual(lates).untold
    return all(
        [
            verdict(f"requests untold by their deadline: {untold} (target: 0)", met=untold == 0),
            verdict(f"while it is gone {ratio:.3f} x the device alone (target: {GOODPUT})", met=ratio >= GOODPUT),
            verdict(f"in use again after {again_s:.2f} s (target: {AGAIN_S:.0f})", met=again_s <= AGAIN_S),
        ]
    )


def slow(scene: Scene, settings: Settings) -> bool:
    """Inputs that can't arrive in time."""
    server = scene.server()
    try:
        with (
            Network(server.address, delay_ms=settings.delay_ms, kbit_s=64) as network,
            scene.runtime(None) as alone,
            scene.runtime(network.address) as helped,
        ):
            found = both(alone.model("wide"), helped.model("wide"), WIDE, settings.seconds)
            sent = served(server, "wide")
    finally:
        server.kill()
    print(
        f"slow: {OVERLOAD:g} x {found.able:.0f}/s, 150 KB a request over 64 kbit/s, {sent} arrived at the server at all"
    )
    told("device alone", found.alone, found.lates)
    told("device and server", found.together, found.lates)
    ratio = found.together.punctual(found.lates).rate / found.alone.punctual(found.lates).rate
    return verdict(f"in time {ratio:.3f} x the device alone (target: at least 1, 0.98 for noise)", met=ratio >= 0.98)


def hedging(scene: Scene, settings: Settings) -> bool:
    """Runs that stall now and then: models with and without hedging side by side, each on a device of its own."""
    server = scene.server()
    names = {kind: [f"{kind}-{number}" for number in range(PAIRS)] for kind in KINDS}
    options = {
        name: ModelOptions(
            delegates=(scene.delegate(device=f"usb:{name}", stall_every=50, stall_ms=200),), hedge=kind == "hedged"
        )
        for kind, of_kind in names.items()
        for name in of_kind
    }
    try:
        with (
            Network(server.address, delay_ms=settings.delay_ms) as network,
            scene.runtime(network.address, models=options) as runtime,
        ):
            models = [runtime.model(name) for of_kind in names.values() for name in of_kind]
            steady(models, ones(NARROW), EVERY_S, WARM_S)
            before = {kind: served(server, kind) for kind in names}
            found = steady(models, ones(NARROW), EVERY_S, settings.seconds)
            remote = {kind: served(server, kind) - before[kind] for kind in names}
    finally:
        server.kill()
    print(f"hedging: {PAIRS} models each way, every {EVERY_S * 1e3:.0f} ms, one run in 50 stalls 200 ms")
    p99, share = {}, {}
    for kind, of_kind in names.items():
        outcomes = [one for name in of_kind for one in found[name]]
        took_ms = [one.took_ms for one in outcomes]
        p99[kind], share[kind] = percentile(took_ms, 99), remote[kind] / len(outcomes)
        print(
            f"  {kind:8}p50 {percentile(took_ms, 50):6.1f}  p95 {percentile(took_ms, 95):6.1f}  "
            f"p99 {p99[kind]:6.1f} ms of {len(outcomes)}, {share[kind]:.2%} asked of the server"
        )
        print(f"  {'':8}{Tally(outcomes).ways()}")
    extra = share["hedged"] - share["plain"]
    ratio = p99["hedged"] / p99["plain"]
    return all(
        [
            verdict(f"p99 {ratio:.2f} x that without (target: {HEDGED})", met=ratio <= HEDGED),
            verdict(f"{extra:.2%} more requests to the server (target: {EXTRA:.0%})", met=extra <= EXTRA),
        ]
    )


SCENARIOS: dict[str, Callable[[Scene, Settings], bool]] = {
    "overload": overload,
    "killed": killed,
    "slow": slow,
    "hedging": hedging,
}


def main() -> None:
    """Plays the scenarios and prints each beside its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement (default 60)")
    parser.add_argument("--delay-ms", type=float, default=10, help="of the network, each way (default 10)")
    parser.add_argument("--figure", type=Path, help="draw `killed` into this PNG file")
    parser.add_argument("--verbose", action="store_true", help="show the runtime's log")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    logging.basicConfig(level=logging.INFO, format="    %(relativeCreated)d %(name)s %(message)s")
    if not arguments.verbose:
        logging.disable(logging.WARNING)
    settings = Settings(arguments.seconds, arguments.delay_ms, arguments.figure)
    with tempfile.TemporaryDirectory() as folder:
        pairs = {f"{kind}-{number}": NARROW for kind in KINDS for number in range(PAIRS)}
        scene = Scene(Path(folder), {"scale": NARROW, "wide": WIDE, **pairs})
        met = [SCENARIOS[name](scene, settings) for name in arguments.scenarios or SCENARIOS]
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
