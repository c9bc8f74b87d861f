"""What a Predict with 300 MB in and out takes of the server's memory, and what it does to another model's callers.

    python benchmarks/large_messages.py

One server process with its workers. What all of its processes hold (their proportional set size, and each file of
shared memory once, whether it is mapped or not) is sampled while requests of 300 MB go in and come out, one after the
other; the peak less what it was when idle, over the message's bytes, is what counts. Meanwhile another client calls a
small model in a closed loop, and did so before, alone: the ratio of the two 99th percentiles shows how much a large
message holds up others. gRPC itself copies a message twice when it has arrived, with Python's lock held: that is in
the figures too. Each round is once with `tensor_content` and once with typed values, `float_val`, both ways.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil

sys.path[0] = str(Path(__file__).parents[1] / "tests")
sys.path.append(str(Path(__file__).parents[1]))
from support.fallback_process import ServerProcess  # noqa: E402

from fallback_server.protocol.methods import PREDICT, TENSOR_CONTENT_METADATA, UNLIMITED_MESSAGES  # noqa: E402
from fallback_server.protocol.proto import serving_pb2 as pb  # noqa: E402
from fallback_server.protocol.tensors import decode, encode, encode_parts  # noqa: E402
from fallback_server.transport.large import assemble, field_parts  # noqa: E402

MODELS = Path(__file__).parents[1] / "tests" / "support" / "fallback_models.py"
TARGET_MEMORY = 3.0
SAMPLE_S = 0.01
ALONE_S = 8.0
CONTENT, TYPED = FORMS = ("tensor_content", "typed")


class Caller:
    """Calls a model of a server."""

    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address, options=(*UNLIMITED_MESSAGES, ("grpc.use_local_subchannel_pool", 1)))
        self._call = channel.unary_unary(PREDICT.path, response_deserializer=PREDICT.response.FromString)

    def __call__(self, data: bytes, form: str = CONTENT) -> pb.PredictResponse:
        """The answer to a serialized request, in the same form."""
        return self._call(data, timeout=300, metadata=[TENSOR_CONTENT_METADATA] if form == CONTENT else [])


def request(name: str, **inputs: np.ndarray) -> bytes:
    """A serialized PredictRequest."""
    spec = pb.ModelSpec(name=name)
    return pb.PredictRequest(
        model_spec=spec, inputs={key: encode(array) for key, array in inputs.items()}
    ).SerializeToString()


def large_request(x: np.ndarray, form: str) -> bytes:
    """The request of `large_call`; typed values as protobuf packs them."""
    if form == CONTENT:
        return request("scale", x=x)
    entry = [*field_parts(1, [b"x"]), *field_parts(2, encode_parts(x, typed=True))]
    return assemble([request("scale"), *field_parts(2, entry)])


def memory_bytes(server: psutil.Process) -> int:
    """What a process and all below it hold: their PSS, but shared memory by its files, once, mapped or not."""
    total = 0
    shared: dict[int, int] = {}
    for process in (server, *server.children(recursive=True)):
        with contextlib.suppress(OSError, psutil.Error):
            folder = Path(f"/proc/{process.pid}")
            for line in (folder / "smaps_rollup").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in ("Pss_Anon", "Pss_File"):
                    total += int(value.split()[0]) * 1024
            shared |= memory_files(folder)
    return total + sum(shared.values())


def memory_files(folder: Path) -> dict[int, int]:
    """The tensors' memory files that a process has open or mapped: inode -> bytes."""
    found: dict[int, int] = {}
    for line in (folder / "maps").read_text().splitlines():
        if "/memfd:tensors" in line:
            span, _, _, _, inode = line.split()[:5]
            begin, _, end = span.partition("-")
            found[int(inode)] = int(end, 16) - int(begin, 16)
    for link in (folder / "fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:tensors" in str(link.readlink()):
                status = link.stat()
                found[status.st_ino] = status.st_blocks * 512
    return found


@contextlib.contextmanager
def sampled(server: psutil.Process) -> Iterator[list[int]]:
    """Samples a server's memory while the block runs."""
    samples: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            samples.append(memory_bytes(server))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def small_calls(address: str, data: bytes) -> Iterator[list[tuple[float, float]]]:
    """Calls a small model in a closed loop while the block runs; when each call began, and its milliseconds."""
    took: list[tuple[float, float]] = []
    done = threading.Event()

    def calls() -> None:
        call = Caller(address)
        while not done.is_set():
            begin = time.monotonic()
            call(data)
            took.append((begin, (time.monotonic() - begin) * 1e3))
            time.sleep(0.002)

    thread = threading.Thread(target=calls)
    thread.start()
    try:
        yield took
    finally:
        done.set()
        thread.join()


def large_call(address: str, rows: int, form: str) -> tuple[float, float]:
    """One large Predict in a process of its own, which has its own lock; when it began and ended, as all processes."""
    out = subprocess.run(
        [sys.executable, __file__, "--call", address, str(rows), form], check=True, capture_output=True
    )
    begin, end = out.stdout.split()
    return float(begin), float(end)


def call_once(address: str, rows: int, form: str) -> tuple[float, float]:
    """What `large_call` runs."""
    x = np.ones((rows, 3), np.float32)
    data, call = large_request(x, form), Caller(address)
    begin = time.monotonic()
    reply = call(data, form)
    end = time.monotonic()
    assert bool(reply.outputs["y"].tensor_content) is (form == CONTENT)
    assert (decode(reply.outputs["y"]) == x * 3).all()
    return begin, end


def idle_bytes(server: psutil.Process) -> int:
    """Its memory when nothing has changed for a while."""
    before, now = 0, memory_bytes(server)
    while abs(now - before) > 2**20:
        time.sleep(1)
        before, now = now, memory_bytes(server)
    return now


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--call", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        print(*call_once(arguments.call[0], int(arguments.call[1]), arguments.call[2]))
        return
    rows = arguments.megabytes * 1_000_000 // 12
    message_bytes = rows * 12
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, MODELS, folder], check=True, capture_output=True)
        server = ServerProcess(f"--model_repository={folder}", "--port=0", "--no-mdns")
        try:
            measure(server, rows=rows, message_bytes=message_bytes, rounds=arguments.rounds)
        finally:
            server.close()


def measure(server: ServerProcess, *, rows: int, message_bytes: int, rounds: int) -> None:
    """Runs the rounds on a server."""
    process = psutil.Process(server.process.pid)
    small = request("many", a=np.ones((1, 2), np.float32), b=np.ones((1, 2), np.int32))
    with small_calls(server.address, small):
        for form in FORMS:
            large_call(server.address, 300_000, form)
    idle = idle_bytes(process)
    print(f"idle: {idle / 1e6:.0f} MB over {1 + len(process.children(recursive=True))} processes")
    for number, form in ((number, form) for number in range(rounds) for form in FORMS):
        with small_calls(server.address, small) as alone:
            time.sleep(ALONE_S)
        with sampled(process) as memory:
            large_call(server.address, rows, form)
        with small_calls(server.address, small) as calls:
            begin, end = large_call(server.address, rows, form)
        beside = [ms for began, ms in calls if begin <= began + ms / 1e3 and began <= end]
        peak = (max(memory) - idle) / message_bytes
        after = (idle_bytes(process) - idle) / message_bytes
        p99 = [float(np.percentile(each, 99)) for each in ([ms for _, ms in alone], beside)]
        print(
            f"round {number + 1}, {form}: {message_bytes / 1e6:.0f} MB in and out in {end - begin:.1f} s; "
            f"peak {peak:.2f} x the message (target {TARGET_MEMORY}), afterwards {after:.2f} x; "
            f"another model: p99 {p99[0]:.1f} ms alone, {p99[1]:.1f} ms beside it, "
            f"ratio {p99[1] / p99[0]:.1f}, longest {max(beside):.0f} ms"
        )


if __name__ == "__main__":
    main()
