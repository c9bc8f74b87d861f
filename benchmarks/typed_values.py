"""What typed values cost against `tensor_content`: to write an answer, to read it, and over the whole call.

    python benchmarks/typed_values.py

Answers of 1 KB, 150 KB and 10 MB, of float32 and of int64 from 0 to 50,000, as indices and tokens are; the sizes are
those of the arrays. Both forms take turns. Writing is what the server's own thread does, reading what a device's
does after gRPC; the call is one Predict of a server process whose model slices a constant, by a client that leaves the
bytes as they come.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import numpy as np

sys.path[0] = str(Path(__file__).parents[1] / "tests")
sys.path.append(str(Path(__file__).parents[1]))
from support.fallback_process import ServerProcess  # noqa: E402

from fallback_server.core.servable import ServableId  # noqa: E402
from fallback_server.dataplane import PredictReply  # noqa: E402
from fallback_server.protocol.methods import PREDICT, TENSOR_CONTENT_METADATA, UNLIMITED_MESSAGES  # noqa: E402
from fallback_server.protocol.proto import serving_pb2 as pb  # noqa: E402
from fallback_server.protocol.tensors import decode, encode  # noqa: E402
from fallback_server.transport.messages import write_predict  # noqa: E402

SIZES = {"1 KB": 1_000, "150 KB": 150_000, "10 MB": 10_000_000}
DTYPES = (np.dtype(np.float32), np.dtype(np.int64))
LARGEST = 50_000
WARM_CALLS = 20


def constant(dtype: np.dtype, count: int) -> np.ndarray:
    """What is answered."""
    return np.random.default_rng(0).integers(0, LARGEST, count).astype(dtype)


def write_model(folder: str) -> None:
    """A SavedModel that gives the first `count` values of a constant of each dtype."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf  # noqa: PLC0415  the benchmark itself would only run beside its threads

    module = tf.Module()
    module.constants = {
        dtype.name: tf.Variable(constant(dtype, max(SIZES.values()) // dtype.itemsize)) for dtype in DTYPES
    }

    def slices(count: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: values[:count] for name, values in module.constants.items()}

    module.slices = tf.function(slices, input_signature=[tf.TensorSpec([], tf.int64, name="count")])
    tf.saved_model.save(module, f"{folder}/slices/1", signatures={"serving_default": module.slices})


def median_us(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """The median microseconds of each, taking turns."""
    took: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, took, strict=True):
            begin = time.perf_counter()
            call()
            times.append((time.perf_counter() - begin) * 1e6)
    return [statistics.median(times) for times in took]


def told(what: str, content_us: float, typed_us: float) -> str:
    """Both, and their ratio."""
    return f"{what} {content_us:.0f} -> {typed_us:.0f} us, {typed_us / content_us:.2f} x"


def compare(predict: Callable[..., bytes], dtype: np.dtype, size: str, rounds: int) -> None:
    """One line."""
    array = constant(dtype, SIZES[size] // dtype.itemsize)
    reply = PredictReply(outputs={"y": array}, servable_id=ServableId("m", 1), signature="s")
    forms = [write_predict(reply, typed=typed) for typed in (False, True)]
    write = median_us([lambda: write_predict(reply, typed=False), lambda: write_predict(reply, typed=True)], rounds)
    read = median_us(
        [lambda form=form: decode(PREDICT.response.FromString(form).outputs["y"]) for form in forms], rounds
    )
    request = pb.PredictRequest(
        model_spec={"name": "slices"}, inputs={"count": encode(np.int64(len(array)))}, output_filter=[dtype.name]
    ).SerializeToString()
    asks = [
        lambda: predict(request, timeout=60, metadata=[TENSOR_CONTENT_METADATA]),
        lambda: predict(request, timeout=60),
    ]
    for ask in asks * WARM_CALLS:
        np.testing.assert_array_equal(decode(PREDICT.response.FromString(ask()).outputs[dtype.name]), array)
    call = median_us(asks, rounds)
    print(
        f"{size:>6} of {dtype.name:7} as tensor_content -> typed: "
        f"{told('write', *write)}; {told('read', *read)}; {told('call', *call)}; "
        f"{len(forms[1]) / len(forms[0]):.2f} x the bytes",
        flush=True,
    )


def main() -> None:
    """Prints a line for each size and dtype."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="of each; a quarter of it for 10 MB (default 300)")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model:
        write_model(arguments.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--model", folder], check=True, capture_output=True)
        server = ServerProcess(f"--model_repository={folder}", "--port=0", "--no-mdns")
        try:
            with grpc.insecure_channel(server.address, options=UNLIMITED_MESSAGES) as channel:
                predict = channel.unary_unary(PREDICT.path)
                for size, size_bytes in SIZES.items():
                    for dtype in DTYPES:
                        compare(predict, dtype, size, max(10, arguments.rounds // (4 if size_bytes > 2**20 else 1)))
        finally:
            server.close()


if __name__ == "__main__":
    main()
