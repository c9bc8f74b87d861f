import numpy as np
import pytest
from support.edge_models import rows

from edge_runtime.remote import codec
from edge_runtime.remote.faults import Unfit
from edge_runtime.types import InferRequest
from fallback_server.protocol import tensors
from fallback_server.protocol.methods import SIGNATURE_DEF_FIELD
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto import tensor_pb2


def request(count=2, *, batched=False, inputs=None):
    return InferRequest(
        model="scale",
        version=1,
        signature="s",
        inputs={"x": rows(count)} if inputs is None else inputs,
        rows=count,
        start_s=0.0,
        batched=batched,
    )


def response(**outputs):
    protos = {k: v if isinstance(v, tensor_pb2.TensorProto) else tensors.encode(v) for k, v in outputs.items()}
    message = pb.PredictResponse(outputs=protos)
    message.model_spec.version.value = 1
    return message


def read(message, count=2, *, batched=False):
    return codec.reply(request(count, batched=batched), message, "s:1", 0.0)


def shape(*sizes):
    return tensor_pb2.TensorShapeProto(dim=[{"size": size} for size in sizes])


def metadata(**dtypes):
    map_ = tensor_pb2.SignatureDefMap()
    for name, dtype in dtypes.items():
        info = tensor_pb2.TensorInfo(name="t", dtype=dtype, tensor_shape=shape(-1, 4))
        map_.signature_def[name].inputs["x"].CopyFrom(info)
        map_.signature_def[name].outputs["y"].CopyFrom(info)
    message = pb.GetModelMetadataResponse()
    message.metadata[SIGNATURE_DEF_FIELD].value = map_.SerializeToString()
    return message


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", "int64", "uint32", "bool", "complex64"])
def test_typed_values_and_tensor_content_are_the_same_answer(dtype):
    """TensorFlow Serving sends the one, our server the other: equal arrays that can be written to."""
    array = (np.arange(600).reshape(2, 300) % 2).astype(dtype)
    typed = tensor_pb2.TensorProto.FromString(b"".join(tensors.encode_parts(array, typed=True)))
    for answer in (typed, array):
        back = read(response(y=answer)).outputs["y"]
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert back.flags.writeable


def test_metadata_of_another_version_are_not_taken():
    """They would be remembered for the one that was asked for, whose every request would then be held against them."""
    message = metadata(good=tensor_pb2.DT_FLOAT)
    assert list(codec.signatures(message, 3)) == ["good"]
    message.model_spec.version.value = 3
    assert list(codec.signatures(message, 3)) == ["good"]
    assert list(codec.signatures(message)) == ["good"]
    with pytest.raises(Unfit, match="asked for the metadata of version 2, the server gave those of version 3"):
        codec.signatures(message, 2)


def test_odd_signature_is_left_out():
    """A signature whose dtype numpy lacks costs the others nothing."""
    found = codec.signatures(metadata(good=tensor_pb2.DT_FLOAT, odd=tensor_pb2.DT_BFLOAT16))
    assert list(found) == ["good"]


def test_signature_of_unknown_rank_or_without_outputs_is_left_out():
    """What says nothing of its shape or gives nothing back can't be checked here, so it is not offered."""
    message = metadata(good=tensor_pb2.DT_FLOAT)
    map_ = tensor_pb2.SignatureDefMap.FromString(message.metadata[SIGNATURE_DEF_FIELD].value)
    for name in ("rankless", "outputless"):
        map_.signature_def[name].CopyFrom(map_.signature_def["good"])
    map_.signature_def["rankless"].inputs["x"].tensor_shape.unknown_rank = True
    map_.signature_def["outputless"].ClearField("outputs")
    message.metadata[SIGNATURE_DEF_FIELD].value = map_.SerializeToString()
    assert list(codec.signatures(message)) == ["good"]


@pytest.mark.parametrize(
    "message",
    [
        pb.GetModelMetadataResponse(),
        metadata(),
        metadata(odd=tensor_pb2.DT_BFLOAT16),
    ],
)
def test_metadata_without_a_usable_signature_is_refused(message):
    """No signature that can be used is an error that says so, not an empty answer."""
    with pytest.raises(ValueError, match="no usable signature"):
        codec.signatures(message)


def test_metadata_that_is_no_map_is_refused():
    """Bytes that are no protobuf are a ValueError like any other unreadable answer."""
    message = pb.GetModelMetadataResponse()
    message.metadata[SIGNATURE_DEF_FIELD].value = b"\xff\xff\xff"
    with pytest.raises(ValueError, match="no signature map"):
        codec.signatures(message)


def test_outputs_can_be_written_to():
    """A server's outputs can be changed in place, as the device's own can."""
    output = read(response(y=rows(2))).outputs["y"]
    output += 1
    np.testing.assert_array_equal(output, rows(2) + 1)


def test_few_bytes_cannot_claim_much_memory():
    """A tensor that is filled up from few values is refused, however many of them a message holds."""
    filled = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_FLOAT, tensor_shape=shape(2, 10_000), float_val=[1.0])
    with pytest.raises(ValueError, match=r"output 'y': .* takes 80000 bytes"):
        read(response(y=filled))
    texts = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_STRING, tensor_shape=shape(2, 10_000), string_val=[b"a"])
    with pytest.raises(ValueError, match="output 'y'"):
        read(response(y=texts))


@pytest.mark.parametrize("dtype", [tensor_pb2.DT_INT64, tensor_pb2.DT_UINT64, tensor_pb2.DT_BOOL])
def test_complete_typed_values_are_never_refused(dtype):
    """The bound allows for the shortest form of every value."""
    field = {tensor_pb2.DT_INT64: "int64_val", tensor_pb2.DT_UINT64: "uint64_val", tensor_pb2.DT_BOOL: "bool_val"}
    proto = tensor_pb2.TensorProto(dtype=dtype, tensor_shape=shape(2, 500))
    getattr(proto, field[dtype]).extend([0] * 1000)
    assert read(response(y=proto)).outputs["y"].shape == (2, 500)


@pytest.mark.parametrize(
    ("batched", "count", "outputs", "match"),
    [
        (False, 1, {}, "no output"),
        (True, 2, {"y": rows(3)}, r"output 'y' has shape \[3, 4\], the request has 2 rows"),
        (True, 1, {"y": rows(2)}, "the request has 1 rows"),
        (True, 2, {"y": rows(2), "z": np.float32(1)}, "output 'z' has shape"),
        (False, 2, {"y": rows(3)}, "the request has 2 rows"),
    ],
)
def test_rows_that_do_not_match_are_refused(batched, count, outputs, match):
    """An answer with other rows than were asked for is not an answer."""
    with pytest.raises(ValueError, match=match):
        read(response(**outputs), count, batched=batched)


@pytest.mark.parametrize(
    ("count", "outputs"), [(1, {"y": rows(3)}), (1, {"y": np.float32(1)}), (2, {"y": rows(2), "z": np.float32(1)})]
)
def test_outputs_of_a_request_that_may_be_unbatched_are_free(count, outputs):
    """Where it is not known that the signature is batched, outputs without rows are let pass."""
    assert set(read(response(**outputs), count).outputs) == set(outputs)


def test_inputs_without_a_wire_form_are_refused():
    """An array that no message can carry is a ValueError before anything is sent."""
    with pytest.raises(ValueError, match="only bytes and str"):
        codec.predict_request(request(inputs={"x": np.array([1, 2], dtype=object)}))


def test_more_than_a_message_holds_is_refused():
    """Inputs over protobuf's bound are refused by their size, before they are copied."""
    huge = np.broadcast_to(np.float32(0), (2**29 + 1,))
    with pytest.raises(ValueError, match="a message holds at most 2147483647"):
        codec.predict_request(request(inputs={"x": huge}))
