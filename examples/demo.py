"""The main job, end to end, on real data: `make demo`.

Trains two versions of a CNN on scikit-learn's digits, converts them to packages, serves both from a server found by
mDNS, and runs version 1 on the device side while bursts, a killed server and a restarted one come and go. Ends with a
summary table and a figure, and with exit code 1 if anything that should have happened did not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from demo_parts import Checks, Server, Timeline, command, draw, run

from converter.artifact import Package
from edge_runtime import EdgeRuntimeError, Model, Reply, Runtime

FRAMES = 32
"""Images a request in the bursts: what a camera has buffered after a second's stall."""

DEADLINE_MS = 1500.0
OVERLOAD = 1.25
"""A burst's work over what the device does within the deadline."""

KILL_AFTER = 5
"""Answers of the server in a burst after which it is killed: so that it is killed with requests in flight."""

FOUND_WITHIN_S = 30.0


def main() -> int:
    """The command; 0 if everything happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder to write to")
    parser.add_argument("--width", type=int, default=96, help="channels of version 1's convolutions")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training part")
    arguments = parser.parse_args()
    output: Path = arguments.output
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    checks = Checks()
    began_s = time.monotonic()

    train(output, arguments.width, arguments.epochs)
    convert(output, checks)
    with Server(output / "data" / "saved_model", output / "server.log") as server:
        took_s = server.start()
        print(f"[3/6] server    {server.ready_line}, after {took_s:.1f} s, with both versions")
        figure = serve(output, server, checks)
    print(f"\n[6/6] summary   {time.monotonic() - began_s:.0f} s in all; figure: {figure}\n")
    print(checks.table())
    return 0 if checks.passed else 1


def train(output: Path, width: int, epochs: int) -> None:
    """Step 1."""
    script = str(Path(__file__).with_name("digits.py"))
    options = ["--output", str(output / "data"), "--width", str(width), "--epochs", str(epochs)]
    took_s, text = run([sys.executable, script, *options])
    for line in text.splitlines():
        print(f"[1/6] train     {line}")
    print(f"[1/6] train     {took_s:.1f} s, exported as SavedModels")


def convert(output: Path, checks: Checks) -> None:
    """Step 2."""
    data = output / "data"
    for version in (1, 2):
        source = str(data / "saved_model" / str(version))
        target = ["--name", "digits", "--version", str(version), "--output", str(output / "packages")]
        samples = ["--calibration", str(data / "train.npz"), "--evaluation", str(data / "test.npz")]
        more = ["--labels", str(data / "labels.txt"), "--target", "raspberry-pi-5", "--target", "coral-usb"]
        more += ["--max-accuracy-drop", "1", "--report"]
        took_s, text = run([*command("edge-convert"), source, *target, *samples, *more, "--json"])
        result = json.loads(text)
        original = Package.open(result["package"]).manifest.source.metrics["probabilities"]["accuracy"]
        for one in result["variants"]:
            accuracy = one["metrics"].get("probabilities", {}).get("accuracy", float("nan"))
            print(
                f"[2/6] convert   digits/{version} {one['name']:13} {one['status']:3} "
                f"{one['size_bytes'] / 1024:7.1f} KiB  test accuracy {accuracy:.2%} (SavedModel {original:.2%})"
            )
        made = sorted(one["name"] for one in result["variants"] if one["status"] == "ok")
        chosen = ", ".join(f"{variant} for {target}" for target, variant in sorted(result["chosen"].items()))
        print(f"[2/6] convert   digits/{version} chosen: {chosen} ({took_s:.1f} s)")
        print(f"[2/6] convert   digits/{version} report: {result['report']}")
        checks.add(
            f"package digits/{version}: every variant made and run",
            made == ["dynamic", "float16", "float32", "int16x8", "int4", "int8", "int8-float-io"],
            ", ".join(made),
        )


@dataclass
class Scene:
    """What steps 4 and 5 play with."""

    runtime: Runtime
    server: Server
    images: Any
    labels: Any
    checks: Checks
    timeline: Timeline = field(default_factory=Timeline)
    capacity: float = 0.0

    @property
    def model(self) -> Model:
        """The model that is installed: version 1."""
        return self.runtime.model("digits")


def serve(output: Path, server: Server, checks: Checks) -> Path:
    """Steps 4 and 5."""
    store = output / "device"
    run([*command("edge-run"), "install", str(output / "packages" / "digits-1.tar.gz"), "--store", str(store)])
    with np.load(output / "data" / "test.npz") as test:
        images, labels = test["image"], test["labels"]
    # float32 and one thread: device and server share this machine, and the device must not be the faster of the two.
    with Runtime.open(store, fallback="mdns", engines=1, threads=1, variant="float32") as runtime:
        scene = Scene(runtime, server, images, labels, checks)
        answer_locally(scene)
        ask_for_version_2(scene)
        split_a_burst(scene)
        kill_in_burst(scene)
        find_again(scene)
    return draw(scene.timeline, output / "latency.png", DEADLINE_MS)


def answer_locally(scene: Scene) -> None:
    """Step 4: the whole test set, image by image, on the device."""
    images, labels, model = scene.images, scene.labels, scene.model
    started_s = time.perf_counter()
    replies = [model.predict(images[i : i + 1]) for i in range(len(images))]
    took_s = time.perf_counter() - started_s
    right = np.mean([reply.outputs["probabilities"].argmax() == y for reply, y in zip(replies, labels, strict=True)])
    median_ms = np.median([reply.latency_ms for reply in replies])
    print(
        f"[4/6] device    {len(replies)} test images, accuracy {right:.2%}, median {median_ms:.3f} ms, "
        f"{len(replies) / took_s:.0f}/s"
    )
    local = all((reply.version, reply.place, reply.reason) == (1, "device:cpu", "local") for reply in replies)
    scene.checks.add("the device answers the test set as version 1", local and right > 0.9, f"accuracy {right:.2%}")


def ask_for_version_2(scene: Scene) -> None:
    """Step 4: a version that is not installed."""
    reply = scene.runtime.model("digits", version=2).predict(scene.images, deadline_ms=20_000)
    scene.timeline.event("version 2 asked for")
    right = float(np.mean(reply.outputs["probabilities"].argmax(-1) == scene.labels))
    print(
        f"[4/6] version 2 answered by {reply.place} as version {reply.version}, reason {reply.reason}, "
        f"accuracy {right:.2%}"
    )
    fine = (reply.version, reply.reason) == (2, "version-missing") and reply.place == f"server:{scene.server.address}"
    scene.checks.add("version 2 is answered by the server as version 2", fine and right > 0.9, reply.place)


def measure(scene: Scene) -> float:
    """Requests of `FRAMES` images that the device alone answers in a second."""
    batch = scene.images[:FRAMES]
    started_s = time.perf_counter()
    count = sum(1 for _ in scene.model.predict_many(batch for _ in range(200)))
    return count / (time.perf_counter() - started_s)


def burst(scene: Scene, midway: Callable[[], None] | None = None) -> Counter[str]:
    """Requests that come within a quarter of the deadline and need `OVERLOAD` times what the device does in a whole.

    Args:
        scene: The scene.
        midway: Called once the server has answered `KILL_AFTER` of them.

    Returns:
        How each of them ended: by place and reason, or by the error's name; and `sent`.
    """
    model, images = scene.model, scene.images
    scene.capacity = measure(scene)  # Each time: what else this machine has to do changes.
    count = max(int(scene.capacity * DEADLINE_MS / 1e3 * OVERLOAD), 20)
    gap_s = DEADLINE_MS / 4e3 / count
    ends: Counter[str] = Counter()
    pending = [midway] if midway else []

    async def ask(i: int) -> None:
        start = i * FRAMES % (len(images) - FRAMES)
        asked_s = time.perf_counter()
        end: Reply | EdgeRuntimeError
        try:
            end = await model.predict_async(images[start : start + FRAMES], deadline_ms=DEADLINE_MS)
        except EdgeRuntimeError as error:
            end = error
        ends[scene.timeline.request(asked_s, end)] += 1
        if pending and answered(ends, "server") >= KILL_AFTER:
            pending.pop()()

    async def all_of_them() -> None:
        tasks, began_s = [], time.perf_counter()
        for i in range(count):
            tasks.append(asyncio.create_task(ask(i)))
            await asyncio.sleep(max(began_s + (i + 1) * gap_s - time.perf_counter(), 0))
        await asyncio.gather(*tasks)

    asyncio.run(all_of_them())
    if pending:
        sys.exit(f"the server answered fewer than {KILL_AFTER} of the burst: {shown(ends)}")
    ends["sent"] = count
    return ends


def shown(ends: Counter[str]) -> str:
    """A burst's outcome, in words."""
    return ", ".join(f"{name} {count}" for name, count in sorted(ends.items()) if name != "sent")


def answered(ends: Counter[str], place: str) -> int:
    """How many were answered at a place."""
    return sum(count for name, count in ends.items() if name.startswith(place))


def split_a_burst(scene: Scene) -> None:
    """Step 4: the burst."""
    ends = burst(scene)
    print(
        f"[4/6] burst     {ends['sent']} requests of {FRAMES} images in {DEADLINE_MS / 4:.0f} ms, deadline "
        f"{DEADLINE_MS:.0f} ms, device alone {scene.capacity:.0f}/s: {shown(ends)}"
    )
    device, server = answered(ends, "device"), answered(ends, "server")
    scene.checks.add("a burst is split between device and server", device > 0 and server > 0, f"{device} and {server}")
    scene.checks.add(
        "none of the burst is lost", device + server == ends["sent"], f"{device + server} of {ends['sent']}"
    )


def kill_in_burst(scene: Scene) -> None:
    """Step 5: the server's process is killed while it answers."""

    def kill() -> None:
        scene.timeline.event("server killed")
        scene.server.kill()

    ends = burst(scene, midway=kill)
    device, late = answered(ends, "device"), ends["DeadlineExceeded"]
    print(f"[5/6] kill      server killed in mid-burst of {ends['sent']}: {shown(ends)}")
    accounted = device + answered(ends, "server") + late
    scene.checks.add("with the server killed the device answers on", device > 0, f"{device} answered on the device")
    scene.checks.add(
        "every request of that burst is answered, or told its deadline passed",
        accounted == ends["sent"],
        f"{accounted} of {ends['sent']}, {late} told",
    )
    reply = scene.model.predict(scene.images[:1])
    scene.checks.add("the device still answers at once", reply.place == "device:cpu", f"{reply.latency_ms:.2f} ms")
    ask_in_vain(scene)


def ask_in_vain(scene: Scene) -> None:
    """Step 5: version 2, while nobody has it."""
    started_s = time.perf_counter()
    try:
        reply = scene.runtime.model("digits", version=2).predict(scene.images[:1], deadline_ms=2000)
        error = f"an answer from {reply.place}"
    except EdgeRuntimeError as caught:
        error = f"{type(caught).__name__}: {caught}"
    took_ms = (time.perf_counter() - started_s) * 1e3
    print(f"[5/6] error     version 2 without a server, after {took_ms:.0f} ms: {error}")
    named = error.startswith("VersionNotAvailable") and "version 2" in error
    scene.checks.add("version 2 without a server is a clear error in time", named and took_ms < 2000, error[:19])


def find_again(scene: Scene) -> None:
    """Step 5: the server comes back, at another port."""
    started_s = time.monotonic()
    scene.timeline.event("server started again")
    scene.server.start()
    reply = None
    while reply is None and time.monotonic() - started_s < FOUND_WITHIN_S:
        try:
            reply = scene.runtime.model("digits", version=2).predict(scene.images[:1], deadline_ms=1000)
        except EdgeRuntimeError:
            time.sleep(0.1)
    place = f"server:{scene.server.address}"
    scene.timeline.event("found again")
    took_s = time.monotonic() - started_s
    ends = burst(scene)
    print(f"[5/6] restart   found again at {place}, {took_s:.1f} s after its start; burst: {shown(ends)}")
    scene.checks.add("the server is found again", reply is not None and reply.place == place, place)
    scene.checks.add("and used again", answered(ends, place) > 0, f"{answered(ends, place)} of {ends['sent']}")


if __name__ == "__main__":
    sys.exit(main())
