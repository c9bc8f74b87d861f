import asyncio
import contextlib
import time

import numpy as np
import pytest
from support.edge_folded_models import answer, folded_signature, pixels, publish_folded
from support.edge_models import publish_scale, rows, scale_signature
from support.edge_servers import scale_server

from converter.artifact import InputPreprocess
from edge_runtime import InvalidInput, PackageRefused, Runtime
from edge_runtime.engine.quantization import codec
from edge_runtime.pixels import pixel_inputs
from edge_runtime.remote.client import RemoteClient
from edge_runtime.remote.endpoint import Endpoint
from edge_runtime.remote.endpoints import EndpointTable, Found
from edge_runtime.routing.router import Router
from edge_runtime.types import InferRequest

QUIET = {"threads": 1, "poll_interval_s": 3600.0}


@pytest.fixture(params=["uint8", "float32"])
def runtime(request, tmp_path):
    """One that runs the variant with the input folded, and one that runs the other."""
    publish_folded(tmp_path, 1)
    with Runtime.open(tmp_path, variant=request.param, **QUIET) as opened:
        yield opened


def test_pixels_and_floats_have_one_answer(runtime):
    """A camera's bytes give what their preprocessed form gives, whichever variant runs here."""
    model, raw = runtime.model("scale"), pixels(3)
    for inputs in (raw, {"x": raw}, model.preprocess(raw), model.preprocess(raw, pixels=True)):
        np.testing.assert_array_equal(model.predict(inputs).outputs["y"], answer(raw))


def test_pixels_go_into_the_interpreter_as_they_are():
    """Where they are folded in, the very array is handed over: no copy in floats."""
    raw = pixels(2)
    both = codec(scale_signature(), folded_signature(), ("x",), {"x": answer})
    assert both.quantize({"x": raw})["x"] is raw
    assert both.quantize({"x": answer(raw)})["x"].dtype == np.uint8


def test_preprocess_stops_at_pixels(runtime):
    """On demand, and then the raw array is what goes in."""
    raw = pixels(2)
    model = runtime.model("scale")
    assert model.preprocess(raw, pixels=True) is raw
    assert model.preprocess(raw).dtype == np.float32


def test_queued_pixels_and_floats_are_not_mixed(runtime):
    """Requests of both kinds, many at a time and in any batches, each get their own answer."""
    model = runtime.model("scale")
    series = [pixels(1, i) for i in range(100)]
    mixed = [raw if i % 2 else model.preprocess(raw) for i, raw in enumerate(series)]
    for raw, reply in zip(series, model.predict_many(mixed), strict=True):
        np.testing.assert_array_equal(reply.outputs["y"], answer(raw))

    async def ask():
        return await asyncio.gather(*(model.predict_async(one) for one in mixed))

    for raw, reply in zip(series, asyncio.run(ask()), strict=True):
        np.testing.assert_array_equal(reply.outputs["y"], answer(raw))


def test_a_server_gets_floats(tmp_path):
    """What goes to a server is what pixels mean; the request itself stays, for the device if no server answers."""
    manifest = publish_folded(tmp_path, 1).manifest
    table = EndpointTable(lambda address: Endpoint(address, time.monotonic))
    remote = RemoteClient(table, clock=time.monotonic, timeout_s=10.0)
    router = Router(None, remote, installed=list, clock=time.monotonic, pixels=pixel_inputs(manifest))
    request = InferRequest(
        model="scale",
        version=1,
        signature="serving_default",
        inputs={"x": pixels(2)},
        rows=2,
        start_s=time.monotonic(),
    )
    with scale_server({1: 1.0}) as server, contextlib.closing(remote):
        table.add(Found(key=server.address, address=server.address))
        reply = router.infer(request)
    assert reply.place.startswith("server:")
    np.testing.assert_array_equal(reply.outputs["y"], answer(pixels(2)))
    assert request.inputs["x"].dtype == np.uint8


def test_inputs_that_are_not_folded_take_no_pixels(tmp_path):
    """A uint8 array for a float input is refused as before, and so is a demand for pixels."""
    publish_scale(tmp_path, 1, 2.0)
    with Runtime.open(tmp_path, **QUIET) as runtime:
        model = runtime.model("scale")
        with pytest.raises(InvalidInput, match=r"must be float32\[-1, 4\].*got uint8\[1, 4\]"):
            model.predict(pixels(1))
        with pytest.raises(InvalidInput, match="'x' takes no pixels: no variant has it folded"):
            model.preprocess(pixels(1), pixels=True)


@pytest.mark.parametrize("inputs", [pixels(1)[:, :3], rows(1).astype(np.int16), pixels(1)[0], pixels(1)[:0]])
def test_pixels_of_a_wrong_shape_are_refused(runtime, inputs):
    """The shape is checked as that of floats is, and other integers are no pixels."""
    with pytest.raises(InvalidInput):
        runtime.model("scale").predict(inputs)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"step": InputPreprocess(mean=(1.0, 2.0, 3.0, 4.0))}, "'x' is folded, which .* mean differs by channel"),
        ({"step": InputPreprocess(scale=1 / 32)}, "'x' is folded: its stored 0 and 255 are"),
        ({"zero_point": 120}, "'x' is folded: its stored 0 and 255 are"),
    ],
)
def test_a_package_whose_pixels_mean_something_else_is_refused(tmp_path, fields, says):
    """A variant that says of its input that preprocessing is folded in is held to it before it answers."""
    publish_folded(tmp_path, 1, **fields)
    with Runtime.open(tmp_path, **QUIET) as runtime, pytest.raises(PackageRefused, match=says):
        runtime.model("scale")


def test_a_zero_point_that_was_rounded_is_right_enough(tmp_path):
    """Preprocessing to -1..1 has its zero between two pixels: half a step off is no other model."""
    publish_folded(tmp_path, 1, step=InputPreprocess(scale=1 / 64, mean=(127.5 / 64,)))
    with Runtime.open(tmp_path, **QUIET) as runtime:
        np.testing.assert_array_equal(runtime.model("scale").predict(pixels(1)).outputs["y"], answer(pixels(1)))


def test_a_float_input_is_not_folded():
    """Folded is only what the file stores as uint8."""
    with pytest.raises(PackageRefused, match="is folded, and float32"):
        codec(scale_signature(), scale_signature(), ("x",), {"x": answer})
