"""What reading a request and writing an answer take by a template, against protobuf.

    python benchmarks/templates.py

An image of 28x28 floats and ten floats, as typed values, as `tensor_content`, and as raw contents of the Open Inference
Protocol. Both ways take turns, twice: in a loop, and after so much other memory was walked through that the processor's
caches hold none of either way's code and objects, which is nearer to what a call finds between gRPC and the kernel.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[1] / "tests")
sys.path.append(str(Path(__file__).parents[1]))
from support.typed_tensors import typed  # noqa: E402

from fallback_server.core.servable import ServableId  # noqa: E402
from fallback_server.dataplane import PredictReply  # noqa: E402
from fallback_server.protocol.proto import inference_pb2 as oip  # noqa: E402
from fallback_server.protocol.proto import serving_pb2 as pb  # noqa: E402
from fallback_server.protocol.tensors import encode  # noqa: E402
from fallback_server.transport import infer_messages, messages  # noqa: E402
from fallback_server.transport.large import assemble  # noqa: E402

LIMIT = 2**31 - 1
SHAPES = {"image": (1, 28, 28, 1), "10 floats": (1, 10)}
TARGET = 3.0
OTHER_BYTES = 2**24
"""More than the caches that a core has to itself."""

Way = Callable[[], object]


def pairs() -> Iterator[tuple[str, Way, Way]]:
    """What is done, in full and by a template."""
    for what, shape in SHAPES.items():
        array = np.random.default_rng(0).random(shape, np.float32)
        reply = PredictReply(outputs={"y": array}, servable_id=ServableId("cnn", 1), signature="serving_default")
        for form, write in (("typed", typed), ("content", encode)):
            data = pb.PredictRequest(model_spec={"name": "cnn"}, inputs={"x": write(array)}).SerializeToString()
            yield (
                f"read {what}, {form}",
                functools.partial(messages.read_whole_predict, data, max_tensor_bytes=LIMIT),
                functools.partial(messages.read_predict, data, max_tensor_bytes=LIMIT),
            )
            yield (
                f"write {what}, {form}",
                functools.partial(messages.write_whole_predict, reply, typed=form == "typed"),
                functools.partial(messages.write_predict, reply, typed=form == "typed"),
            )
        request = oip.ModelInferRequest(model_name="cnn", id="17", raw_input_contents=[array.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=shape)
        data = request.SerializeToString()
        answered = infer_messages.InferReply(reply=reply, id="17")
        yield (
            f"read {what}, raw",
            functools.partial(infer_messages.read_whole_infer, data),
            functools.partial(infer_messages.read_infer, data),
        )
        yield (
            f"write {what}, raw",
            lambda answered=answered: assemble(infer_messages.infer_whole_parts(answered)),
            functools.partial(infer_messages.write_infer, answered),
        )


def medians_us(ways: tuple[Way, Way], rounds: int, before: Way) -> list[float]:
    """The median microseconds of each, taking turns; before each something else is done."""
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for index in (number % 2, 1 - number % 2):
            way = ways[index]
            before()
            begin = time.perf_counter()
            way()
            took[index].append((time.perf_counter() - begin) * 1e6)
    return [statistics.median(each) for each in took]


def main() -> int:
    """Prints each in full and by template, and says whether the target is met in a loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--cold-rounds", type=int, default=100)
    options = parser.parse_args()
    other = np.zeros(OTHER_BYTES, np.uint8)
    met = True
    for what, full, short in pairs():
        for _ in range(10):
            full(), short()
        full_us, short_us = medians_us((full, short), options.rounds, lambda: None)
        cold_us, cold_short_us = medians_us((full, short), options.cold_rounds, other.sum)
        met &= full_us >= TARGET * short_us
        print(
            f"{what:26} {full_us:6.1f} -> {short_us:5.1f} us, {full_us / short_us:4.1f} x as fast;"
            f" caches cold {cold_us:6.1f} -> {cold_short_us:5.1f} us, {cold_us / cold_short_us:4.1f} x"
        )
    print(f"each at least {TARGET:.0f} x as fast in a loop: {'yes' if met else 'NO'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
