"""What comes to the server over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from fuzz.target import Target
from google.protobuf.message import DecodeError

from fallback_server import config_proto
from fallback_server.classification import example_inputs
from fallback_server.config import ConfigInvalid
from fallback_server.core.errors import InvalidInput, ServerError, Unimplemented
from fallback_server.late_inputs import made
from fallback_server.protocol import methods, tensors
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import example_pb2, model_config_pb2, tensor_pb2
from fallback_server.protocol.proto import inference_pb2 as oip
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.transport import examples, infer_messages, large, messages, sequence_messages
from fallback_server.transport.rpc import parse
from fallback_server.transport.templates import MAX_OF_ONE_KEY, Table

MAX_TENSOR_BYTES = 2**22

_NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)
_STRINGS = np.array([b"one", b"", b"three"], object)
_ARRAYS = (_NUMBERS, _STRINGS, np.array([[True, False]]), np.arange(4, dtype=np.int64), np.zeros((0, 3), np.int8))


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    """Holds the arrays of two readers of one message against each other, to the bit."""
    one, other = made(one), made(other)
    assert one.keys() == other.keys(), (list(one), list(other))
    for name, array in one.items():
        assert (array.dtype, array.shape) == (other[name].dtype, other[name].shape), name
        if array.dtype.kind == "O":
            assert array.tolist() == other[name].tolist(), name
        else:
            assert array.tobytes() == other[name].tobytes(), name


def attempt(read, refusals=(InvalidInput, Unimplemented)):
    """What a reader gives, or None where it refuses."""
    try:
        return read()
    except refusals:
        return None


# ---- tensors


def _read_tensor(data: bytes) -> None:
    proto = tensor_pb2.TensorProto.FromString(data)
    array = tensors.decode(proto, max_bytes=MAX_TENSOR_BYTES)
    for typed in (False, True):
        written = b"".join(map(bytes, tensors.encode_parts(array, typed=typed)))
        again = tensors.decode(tensor_pb2.TensorProto.FromString(written))
        if array.dtype.kind in "fcV":  # A NaN may become another, as may bits of a byte that an int4 leaves unused.
            assert (again.dtype, again.shape) == (array.dtype, array.shape)
            wide = np.complex128 if array.dtype.kind == "c" else np.float64
            assert np.array_equal(again.astype(wide), array.astype(wide), equal_nan=True)
        else:
            same({"": again}, {"": array})


def _tensor_seeds() -> list[bytes]:
    seeds = [tensors.encode(array).SerializeToString() for array in _ARRAYS]
    seeds += [b"".join(map(bytes, tensors.encode_parts(array, typed=True))) for array in _ARRAYS]
    shape = tensor_pb2.TensorShapeProto(dim=[tensor_pb2.TensorShapeProto.Dim(size=3)])
    for number in tensor_pb2.DataType.values():
        proto = tensor_pb2.TensorProto(dtype=number, tensor_shape=shape)
        proto.int_val.extend([1, 2])
        proto.half_val.extend([15360])
        seeds.append(proto.SerializeToString())
    return seeds


# ---- Predict

_PREDICTS = Table(of_one_key=MAX_OF_ONE_KEY)


def _read_predict(data: bytes) -> None:
    def whole():
        return messages.read_whole_predict(data, max_tensor_bytes=MAX_TENSOR_BYTES)

    def cut():
        rest, contents = large.cut_map(data, field=2, cut=tensors.CUTTABLE, threshold=1)
        request = parse(methods.PREDICT, rest)
        return messages.read_inputs(request.inputs, contents, MAX_TENSOR_BYTES)

    call, pieces = attempt(whole), attempt(cut)
    if call is None or pieces is None:
        assert call is None, "what was cut out is refused, and taken where it is whole"
    else:
        same(call.inputs, pieces)
    for _ in range(2):  # It may be learnt at the first time, and is read by what was learnt at the second.
        known = messages.read_predict(data, max_tensor_bytes=MAX_TENSOR_BYTES, templates=_PREDICTS)
        assert call is not None
        assert (known.target, known.signature, list(known.output_filter), known.client_key) == (
            call.target,
            call.signature,
            list(call.output_filter),
            call.client_key,
        )
        same(known.inputs, call.inputs)


def _predict_seeds() -> list[bytes]:
    seeds = []
    for array in _ARRAYS:
        request = pb.PredictRequest(inputs={"x": tensors.encode(array)}, output_filter=["y"], client_id=b"me")
        request.model_spec.name, request.model_spec.version.value = "m", 3
        seeds.append(request.SerializeToString())
        request.inputs["y"].CopyFrom(tensors.encode(_NUMBERS))
        request.model_spec.version_label = "stable"
        request.inputs["z"].float_val.append(1.5)
        request.inputs["z"].dtype = tensor_pb2.DT_FLOAT
        request.inputs["z"].tensor_shape.dim.add(size=7)
        seeds.append(request.SerializeToString())
    return seeds


def _read_sequence(data: bytes) -> None:
    def whole():
        return sequence_messages.read_whole_step(data, max_tensor_bytes=MAX_TENSOR_BYTES)

    step = attempt(whole)
    for _ in range(2):
        known = sequence_messages.read_step(data, max_tensor_bytes=MAX_TENSOR_BYTES, templates=_STEPS)
        assert step is not None
        same(known.inputs, step.inputs)
        assert (known.message.reset, known.message.end) == (step.message.reset, step.message.end)
        attempt(lambda known=known: messages.read_target(known.message))


_STEPS = Table(of_one_key=MAX_OF_ONE_KEY)


def _sequence_seeds() -> list[bytes]:
    steps = [edge.SequenceRequest(inputs={"x": tensors.encode(array)}, reset=True) for array in _ARRAYS]
    for step in steps[:2]:
        step.model_spec.name = "m"
    return [step.SerializeToString() for step in steps]


# ---- Open Inference

_INFERS = Table(of_one_key=MAX_OF_ONE_KEY)


def _read_infer(data: bytes) -> None:
    call = attempt(lambda: infer_messages.read_whole_infer(data))

    def cut():
        rest, contents = large.cut_repeated(data, field=7, threshold=1)
        return infer_messages._read(parse(methods.MODEL_INFER, rest), contents)

    pieces = attempt(cut)
    if call is not None and pieces is not None:
        same(call.call.inputs, pieces.call.inputs)
    else:
        assert call is None, "what was cut out is refused, and taken where it is whole"
    for _ in range(2):
        known = infer_messages.read_infer(data, templates=_INFERS)
        assert call is not None
        assert (known.id, known.timeout_s, known.call.target) == (call.id, call.timeout_s, call.call.target)
        same(known.call.inputs, call.call.inputs)


def _infer_seeds() -> list[bytes]:
    raw = oip.ModelInferRequest(model_name="m", model_version="1", id="7")
    raw.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    raw.raw_input_contents.append(_NUMBERS.tobytes())
    raw.parameters["timeout"].int64_param = 1000
    raw.outputs.add(name="y")
    strings = oip.ModelInferRequest(model_name="m")
    strings.inputs.add(name="x", datatype="BYTES", shape=[2])
    strings.raw_input_contents.append(b"\1\0\0\0a\0\0\0\0")
    typed = oip.ModelInferRequest(model_name="m")
    for name, datatype, values in (
        ("a", "INT8", {"int_contents": [1, -2]}),
        ("b", "BYTES", {"bytes_contents": [b"a", b"b"]}),
        ("c", "BOOL", {"bool_contents": [True, False]}),
        ("d", "UINT64", {"uint64_contents": [1, 2]}),
        ("e", "FP64", {"fp64_contents": [1, 2]}),
    ):
        typed.inputs.add(name=name, datatype=datatype, shape=[2], contents=oip.InferTensorContents(**values))
    return [each.SerializeToString() for each in (raw, strings, typed)]


# ---- Examples


def _read_examples(data: bytes) -> None:
    calls = [attempt(lambda read=read: read(data)) for read in (examples.read_classify, examples.read_regress)]
    calls = [call for call in calls if call is not None]
    calls += attempt(lambda: examples.read_multi(data)) or []
    if not calls:
        raise InvalidInput("no reader takes it")
    for call in calls:
        ((_, array),) = made(example_inputs(call.examples)).items()
        assert array.shape == (len(call.examples),)


def _example_seeds() -> list[bytes]:
    example = example_pb2.Example()
    example.features.feature["x"].float_list.value.extend([1.5, 2])
    example.features.feature["y"].bytes_list.value.append(b"text")
    example.features.feature["z"].int64_list.value.append(7)
    plain = pb.ClassificationRequest()
    plain.model_spec.name = "m"
    plain.input.example_list.examples.extend([example] * 3)
    context = pb.ClassificationRequest()
    context.model_spec.name = "m"
    context.input.example_list_with_context.examples.extend([example] * 12)
    context.input.example_list_with_context.context.CopyFrom(example)
    multi = pb.MultiInferenceRequest(input=plain.input)
    for method in ("classify", "regress"):
        task = multi.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", method
    return [each.SerializeToString() for each in (plain, context, multi)]


# ---- orders


def _read_orders(data: bytes) -> None:
    taken = 0
    for method in (methods.GET_MODEL_STATUS, methods.GET_MODEL_METADATA):
        request = attempt(lambda method=method: parse(method, data))
        if request is not None:
            taken += attempt(lambda request=request: messages.read_target(request)) is not None
            if isinstance(request, pb.GetModelMetadataRequest):
                attempt(lambda request=request: messages.check_metadata_fields(request.metadata_field))
    if not taken:
        raise InvalidInput("no reader takes it")


def _order_seeds() -> list[bytes]:
    metadata = pb.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name, metadata.model_spec.version_label = "m", "stable"
    return [metadata.SerializeToString()]


def _read_reload(data: bytes) -> None:
    config_proto.read_configs(model_config_pb2.ModelServerConfig.FromString(data))


def _reload_seeds() -> list[bytes]:
    config = model_config_pb2.ModelServerConfig()
    model = config.model_config_list.config.add(name="m", base_path="/models/m", model_platform="tensorflow")
    model.model_version_policy.specific.versions.extend([1, 2])
    model.version_labels["stable"] = 1
    model.traffic.weights[1] = 0.5
    model.shadow.version, model.shadow.share = 2, 0.1
    model.sequence.signature = "step"
    model.sequence.state["h"] = "h_out"
    return [config.SerializeToString()]


_SERVER = ("fallback_server.protocol", "fallback_server.transport", "fallback_server.late_inputs")

TARGETS: Sequence[Target] = (
    Target(
        name="tensor",
        read=_read_tensor,
        refusals=(tensors.TensorCodecError, DecodeError),
        seeds=_tensor_seeds,
        message=tensor_pb2.TensorProto,
        modules=_SERVER,
    ),
    Target(
        name="predict",
        read=_read_predict,
        refusals=(InvalidInput,),
        seeds=_predict_seeds,
        message=pb.PredictRequest,
        modules=_SERVER,
    ),
    Target(
        name="sequence",
        read=_read_sequence,
        refusals=(InvalidInput,),
        seeds=_sequence_seeds,
        message=edge.SequenceRequest,
        modules=_SERVER,
    ),
    Target(
        name="infer",
        read=_read_infer,
        refusals=(InvalidInput, Unimplemented),
        seeds=_infer_seeds,
        message=oip.ModelInferRequest,
        modules=_SERVER,
    ),
    Target(
        name="examples",
        read=_read_examples,
        refusals=(InvalidInput, Unimplemented),
        seeds=_example_seeds,
        message=pb.ClassificationRequest,
        modules=(*_SERVER, "fallback_server.classification"),
    ),
    Target(
        name="orders",
        read=_read_orders,
        refusals=(InvalidInput,),
        seeds=_order_seeds,
        message=pb.GetModelMetadataRequest,
        modules=_SERVER,
    ),
    Target(
        name="reload",
        read=_read_reload,
        refusals=(ConfigInvalid, ServerError, DecodeError),
        seeds=_reload_seeds,
        message=model_config_pb2.ModelServerConfig,
        modules=("fallback_server.config_proto", "fallback_server.model_list", "fallback_server.core.model_config"),
    ),
)
"""All of them."""
