import numpy as np
import pytest
from support.allocated import measured
from support.typed_tensors import typed

from fallback_server.core.errors import InvalidInput, QueueFull
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictReply
from fallback_server.late_inputs import made, size_bytes
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto.tensor_pb2 import TensorProto
from fallback_server.protocol.status import Fault
from fallback_server.protocol.tensors import decode, encode
from fallback_server.transport import messages
from fallback_server.transport.faults import INTERNAL_TEXT, translate


def request(**spec):
    message = pb.PredictRequest(inputs={"x": encode(np.float32([[1, 2]]))}, output_filter=["y"])
    message.model_spec.name = "m"
    message.model_spec.signature_name = spec.get("signature", "")
    if "version" in spec:
        message.model_spec.version.value = spec["version"]
    if "label" in spec:
        message.model_spec.version_label = spec["label"]
    return message


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        ({}, ModelTarget(name="m")),
        ({"version": 3}, ModelTarget(name="m", version=3)),
        ({"version": 0}, ModelTarget(name="m", version=0)),
        ({"label": "stable"}, ModelTarget(name="m", label="stable")),
    ],
)
def test_targets(spec, target):
    """No version, a version (0 is one), or a label."""
    assert messages.read_target(request(**spec)) == target


def test_predict_request():
    """Every field arrives, and tensors as arrays."""
    sent = request(signature="s")
    sent.client_id = b"c"
    call = messages.read_predict(sent.SerializeToString(), max_tensor_bytes=100)
    assert (call.signature, call.output_filter, call.client_key) == ("s", ["y"], b"c")
    np.testing.assert_array_equal(call.inputs["x"], np.float32([[1, 2]]))


def test_unreadable_requests():
    """No model spec, a tensor that can't be read, and one that claims more than may be unpacked."""
    with pytest.raises(InvalidInput, match=r"^Missing ModelSpec$"):
        messages.read_predict(pb.PredictRequest().SerializeToString(), max_tensor_bytes=100)
    broken = request()
    broken.inputs["x"].tensor_content = b"123"
    with pytest.raises(InvalidInput, match=r"^tensor parsing error: x: tensor_content has 3 bytes"):
        messages.read_predict(broken.SerializeToString(), max_tensor_bytes=100)
    bomb = request()
    bomb.inputs["x"].ClearField("tensor_content")
    bomb.inputs["x"].float_val.append(1.0)
    bomb.inputs["x"].tensor_shape.dim[0].size = 2**29
    with pytest.raises(InvalidInput, match="takes 4294967296 bytes, at most 100 are allowed"):
        messages.read_predict(bomb.SerializeToString(), max_tensor_bytes=100)


@pytest.mark.parametrize("dtype", [np.float32, np.complex128, np.int64, np.uint8, np.float16, bool])
def test_large_typed_values(dtype):
    """What Java's and Go's clients send: megabytes in packed fields, of which floats are read where they lie."""
    array = (np.arange(2**21).reshape(2, -1) % 200).astype(dtype)
    tensor = pb.PredictRequest(model_spec={"name": "m"}, inputs={"x": typed(array)})
    data = tensor.SerializeToString()
    (back,) = messages.read_predict(data, max_tensor_bytes=array.nbytes).inputs.values()
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    if array.dtype.kind in "fc" and array.itemsize > 2:
        assert np.shares_memory(back, np.frombuffer(data, np.uint8))


def few_values(rows, *values, dtype=1, field="float_val"):
    return TensorProto(dtype=dtype, tensor_shape={"dim": [{"size": rows}]}, **{field: values})


@pytest.mark.parametrize("values", [(), (1,), (3, 2, 1)])
def test_few_values_take_no_memory_before_they_run(values):
    """As many inputs as are filled up at all are read, checked and counted without an array of their size."""
    size = 2**24 // 4
    message = pb.PredictRequest(
        model_spec={"name": "m"}, inputs={name: few_values(size, *values) for name in ("a", "b", "c", "d")}
    )
    data = message.SerializeToString()
    with measured() as memory:
        inputs = messages.read_predict(data, max_tensor_bytes=2**31).inputs
        assert [(array.dtype, array.shape) for array in inputs.values()] == [(np.float32, (size,))] * 4
        assert size_bytes(inputs) == 2**26
    assert memory.peak_bytes < 2**16
    whole = made(inputs)["b"]
    assert whole.shape == (size,)
    assert whole[:4].tolist() == (list(values) + [values[-1] if values else 0] * 4)[:4]


def test_few_strings_take_no_memory_before_they_run():
    """Those that differ are counted as well."""
    strings = few_values(2**19, b"long" * 1000, b"abc", dtype=7, field="string_val")
    message = pb.PredictRequest(model_spec={"name": "m"}, inputs={"x": strings})
    data = message.SerializeToString()
    with measured() as memory:
        inputs = messages.read_predict(data, max_tensor_bytes=2**31).inputs
        assert 2**19 * 11 < size_bytes(inputs) < 2**19 * 11 + 5000
    assert memory.peak_bytes < 2**16
    whole = made(inputs)["x"]
    assert [len(whole[index]) for index in (0, 1, -1)] == [4000, 3, 3]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({f"i{index}": few_values(2**24, 1) for index in range(60)}, "60 inputs .* claim 4026531840 bytes: at most 67"),
        ({f"i{index}": few_values(2**24, 1, 2) for index in range(2)}, "claim 134217728 bytes: at most 67108864"),
        ({"s": few_values(2**20, b"a", dtype=7, field="string_val")}, "claims 1048576 elements, 68157440 bytes"),
        (
            {f"i{index}": few_values(0) for index in range(1025)},
            "the request has 1025 inputs, at most 1024 are allowed",
        ),
        ({name: few_values(2**22, 1) for name in "ab"}, "the inputs take 33554432 bytes, at most 20000000 are allowed"),
    ],
)
def test_what_a_request_claims_is_bounded_as_a_whole(inputs, said):
    """What is filled up, how many inputs there are, and what they take together; nothing is allocated for it."""
    data = pb.PredictRequest(model_spec={"name": "m"}, inputs=inputs).SerializeToString()
    max_bytes = 20_000_000 if "20000000" in said else 2**33
    with measured() as memory, pytest.raises(InvalidInput, match=said):
        messages.read_predict(data, max_tensor_bytes=max_bytes)
    assert memory.peak_bytes < 2**20


def test_long_lists_of_small_things_are_refused_before_they_are_looked_at():
    """Outputs that are asked for, and dimensions."""
    data = pb.PredictRequest(model_spec={"name": "m"}, output_filter=[""] * 100_000).SerializeToString()
    with measured() as memory, pytest.raises(InvalidInput, match="output_filter has 100000 names, at most 1024"):
        messages.read_predict(data, max_tensor_bytes=100)
    assert memory.peak_bytes < 2**16
    deep = TensorProto(dtype=1, tensor_shape={"dim": [{}] * 100_000})
    data = pb.PredictRequest(model_spec={"name": "m"}, inputs={"x": deep}).SerializeToString()
    with measured() as memory, pytest.raises(InvalidInput, match="rank 100000, at most 64"):
        messages.read_predict(data, max_tensor_bytes=100)
    assert memory.peak_bytes < 2**16


def test_predict_response():
    """The outputs, in the form that is asked for, and the version and signature that answered."""
    outputs = {"y": np.float32([3]), "n": np.int16([-1, 1]), "s": np.array([b"a"], object)}
    reply = PredictReply(outputs=outputs, servable_id=ServableId("m", 2), signature="s")
    for typed_values in (True, False):
        response = pb.PredictResponse.FromString(messages.write_predict(reply, typed=typed_values))
        for name, array in outputs.items():
            assert decode(response.outputs[name]).tolist() == array.tolist()
        assert list(response.outputs["y"].float_val) == [3] * typed_values
        assert list(response.outputs["n"].int_val) == [-1, 1] * typed_values
        assert list(response.outputs["s"].string_val) == [b"a"]
        assert bool(response.outputs["y"].tensor_content) is not typed_values
        spec = response.model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == ("m", 2, "s")


def test_metadata_fields():
    """Something must be asked for, and only the signatures can be."""
    messages.check_metadata_fields(["signature_def"])
    with pytest.raises(InvalidInput, match=r"^GetModelMetadataRequest must specify at least one metadata_field$"):
        messages.check_metadata_fields([])
    with pytest.raises(InvalidInput, match=r"^Metadata field x is not supported$"):
        messages.check_metadata_fields(["x"])


def test_every_state_has_its_number_on_the_wire():
    """States by name; the error of a failed load in its status, with a code that is not OK."""
    states = [ServableState(servable_id=ServableId("m", index), state=state) for index, state in enumerate(State)]
    failed = ServableState(servable_id=ServableId("m", 9), state=State.END, error="no such op")
    reply = messages.write_states([*states, failed]).model_version_status
    assert [item.state for item in reply] == [10, 20, 30, 40, 50, 50]
    assert all(item.HasField("status") and item.status.error_code == 0 for item in reply[:-1])
    assert (reply[-1].status.error_code, reply[-1].status.error_message) == (13, "no such op")


def test_faults(caplog):
    """A named error keeps its text; anything else is INTERNAL, logged, and tells the caller nothing."""
    assert translate(QueueFull("full")) == (Fault.QUEUE_FULL, "full")
    assert translate(RuntimeError("secret")) == (Fault.INTERNAL, INTERNAL_TEXT)
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ({"state": State.AVAILABLE}, 0),
        ({"state": State.END}, 0),
        ({"state": State.END, "error": "broken"}, 13),
        ({"state": State.END, "error": "too large", "resource_exhausted": True}, 8),
        ({"state": State.START, "error": "variables/variables.index is missing"}, 14),
    ],
)
def test_a_status_says_whether_it_failed_lacks_memory_or_waits(state, code):
    """INTERNAL for a load that failed, RESOURCE_EXHAUSTED for want of memory, UNAVAILABLE for what is not complete."""
    one = ServableState(servable_id=ServableId("m", 1), **state)
    status = messages.write_states([one]).model_version_status[0].status
    assert (status.error_code, status.error_message) == (code, state.get("error", ""))
