import functools
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.typed_tensors import arrays
from support.wire_messages import RAW, UNKNOWN, changed, entry, field, infer_requests, predict_requests, spec, tensor_of

from fallback_server.core.errors import ServerError
from fallback_server.core.servable import ServableId
from fallback_server.dataplane import PredictCall, PredictReply
from fallback_server.protocol.proto import inference_pb2 as oip
from fallback_server.protocol.proto.tensor_pb2 import TensorProto
from fallback_server.protocol.tensors import encode
from fallback_server.transport import infer_messages, messages
from fallback_server.transport.infer_messages import InferReply
from fallback_server.transport.large import LARGE_BYTES, assemble
from fallback_server.transport.templates import MAX_FIXED_BYTES, Table

X = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
LIMIT = 2**31


def told(call):
    """All that a call says."""
    inputs = [(name, array.dtype, array.shape, array.tobytes()) for name, array in call.inputs.items()]
    rest = {name: getattr(call, name) for name in PredictCall.__slots__} | {"output_filter": list(call.output_filter)}
    return rest | {"inputs": inputs, "like": None}  # What it has in common with others is no part of what it says.


def told_infer(asked):
    return told(asked.call), asked.id, asked.timeout_s


def outcome(read, tell, data):
    """What is read, or why nothing is."""
    try:
        return tell(read(data))
    except ServerError as error:
        return repr(error)


def whole(data):
    return messages.read_whole_predict(data, max_tensor_bytes=LIMIT)


def fits(template, data):
    return template.arrays(data) is not None


def by(template, data):
    """A PredictRequest that fits, by the template."""
    templates = Table()
    templates.keep(len(data), template)
    call = messages.read_predict(data, max_tensor_bytes=LIMIT, templates=templates)
    assert templates.kept == {len(data): (template,)}
    return call


def learnt(data):
    """The template of a PredictRequest, which reads that very message as protobuf does."""
    call = whole(data)
    template = messages.learn_predict(data, call)
    if template is not None:
        assert fits(template, data)
        assert told(by(template, data)) == told(call)
    return template


def infer_request(**given):
    request = oip.ModelInferRequest(model_name="m", raw_input_contents=[X.tobytes()], **given)
    request.inputs.add(name="x", datatype="FP32", shape=X.shape)
    return request


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_predict_requests_read_the_same_by_template_and_in_full(data):
    """However a message is written, and of any that differs in some bytes: the same call, or the same fault."""
    first = data.draw(predict_requests())
    same = outcome(whole, told, first)
    assume(not isinstance(same, str))
    template = learnt(first)
    event(f"learnt: {template is not None}")
    templates = Table(of_one_key=4)

    def read(some):
        return messages.read_predict(some, max_tensor_bytes=LIMIT, templates=templates)

    assert outcome(read, told, first) == same
    for _ in range(8):
        other = data.draw(changed(first))
        in_full = outcome(whole, told, other)
        assert outcome(read, told, other) == in_full
        if template is not None and fits(template, other):
            event("fits")
            assert told(by(template, other)) == in_full


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_infer_requests_read_the_same_by_template_and_in_full(data):
    """As with Predict; their ids may differ too, where they are plain text."""
    first = data.draw(infer_requests())
    same = outcome(infer_messages.read_whole_infer, told_infer, first)
    templates = Table(of_one_key=4)

    def read(some):
        return infer_messages.read_infer(some, templates=templates)

    assert outcome(read, told_infer, first) == same
    event(f"learnt: {len(templates)}")
    for _ in range(8):
        other = data.draw(changed(first))
        assert outcome(read, told_infer, other) == outcome(infer_messages.read_whole_infer, told_infer, other)


def every_byte(data):
    """All messages that differ in one byte."""
    for at in range(len(data)):
        for value in range(256):
            yield at, data[:at] + bytes([value]) + data[at + 1 :]


def test_every_byte_of_a_predict_request():
    """Whatever one byte becomes: what fits reads the same, and each byte of a payload, and of the client's id, fits."""
    floats, numbers = np.float32([1.5, -2]), np.int32([[7]])
    data = b"".join(
        (
            entry("x", tensor_of(floats, content=False)),
            spec(version={"value": 3}),
            field(6, b"me"),
            entry("k", tensor_of(numbers)),
            field(3, b"y"),
        )
    )
    template = learnt(data)
    free = {*range(at := data.index(floats.tobytes()), at + 8), *range(at := data.index(numbers.tobytes()), at + 4)}
    free |= {*range(at := data.index(b"me"), at + 2)}
    for at, other in every_byte(data):
        assert fits(template, other) is (at in free or other == data)
        if at in free:
            assert told(by(template, other)) == told(whole(other))


def test_every_byte_of_an_infer_request():
    """As with Predict; an id that is no plain text is left to protobuf."""
    data = infer_request(id="41").SerializeToString()
    template = infer_messages.learn_infer(data, infer_messages.read_whole_infer(data))
    free = {*range(at := data.index(X.tobytes()), at + X.nbytes)}
    text = {*range(at := data.index(b"41"), at + 2)}
    for at, other in every_byte(data):
        assert fits(template, other) is (at in free | text or other == data)
        if at in free | text:
            in_full = outcome(infer_messages.read_whole_infer, told_infer, other)
            assert outcome(functools.partial(infer_by, template), told_infer, other) == in_full


def infer_by(template, data):
    """As `by`; what the template isn't for is read in full."""
    templates = Table()
    templates.keep(len(data), template)
    return infer_messages.read_infer(data, templates=templates)


PAYLOAD = X.tobytes()
HEAD = spec()
SHAPE = encode(np.empty((2, 3), np.float32)[:0].reshape(0, 3))  # its dtype; the shape is set below
SHAPE.tensor_shape.dim[0].size = 2
SHAPE = SHAPE.SerializeToString()
CONTENT, FLOAT_VAL, INT_VAL = 4, 5, 7


def proto(**given):
    return TensorProto(**given).SerializeToString()


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (HEAD + entry("x", tensor_of(X)), True),
        (HEAD + entry("x", tensor_of(X, content=False)), True),
        (entry("x", tensor_of(X)) + HEAD, True),
        (HEAD + entry("x", tensor_of(X)) + field(UNKNOWN, b"later"), True),
        (HEAD + entry("x", tensor_of(np.float32(2))), True),
        # The payload's bytes elsewhere too: beside it, in the client's name, and in a field that doesn't count.
        (HEAD + field(UNKNOWN, PAYLOAD) + entry("x", tensor_of(X)), True),
        (field(6, PAYLOAD) + HEAD + entry("x", tensor_of(X)), True),
        (HEAD + entry("x", tensor_of(X) + field(FLOAT_VAL, PAYLOAD)), True),
        (HEAD + entry("x", tensor_of(X, content=False) + field(CONTENT, b"")), True),
        (HEAD + entry("x", tensor_of(np.frombuffer(HEAD * 4, np.uint8))), True),
        # Two inputs of the same bytes.
        (HEAD + entry("a", tensor_of(X)) + entry("b", tensor_of(X, content=False)), True),
        (HEAD + entry("a", tensor_of(X)) + entry("b", tensor_of(np.bool_([1, 0]))), False),
        # What comes twice.
        (HEAD + entry("x", tensor_of(X)) + entry("x", tensor_of(X)), False),
        (HEAD + field(2, field(1, b"x") + field(2, SHAPE) + field(2, field(CONTENT, PAYLOAD))), False),
        (HEAD + entry("x", SHAPE + field(CONTENT, PAYLOAD) * 2), False),
        (HEAD + entry("x", SHAPE + field(FLOAT_VAL, PAYLOAD[:8]) + field(FLOAT_VAL, PAYLOAD[8:])), False),
        (HEAD + HEAD + field(6, b"a") + field(6, b"b") + entry("x", tensor_of(X)), True),
        # Not every byte is a value there, or the values are elsewhere.
        (HEAD + entry("x", tensor_of(np.bool_([1, 0]))), False),
        (HEAD + entry("x", tensor_of(np.array([b"abcdefghijklmnop"], object))), False),
        (HEAD + entry("x", tensor_of(np.uint8([1, 2, 3]), content=False)), False),
        (HEAD + entry("x", tensor_of(np.float16([1, 2, 3]), content=False)), False),
        (HEAD + entry("x", tensor_of(np.int8([1, 2]), content=False) + field(FLOAT_VAL, PAYLOAD)), False),
        (HEAD + entry("x", SHAPE + b"".join(b"\x2d" + X.tobytes()[at : at + 4] for at in range(0, 24, 4))), False),
        # Fewer values than elements, and none.
        (HEAD + entry("x", SHAPE + field(FLOAT_VAL, PAYLOAD[:4])), False),
        (HEAD + entry("x", SHAPE), False),
        (HEAD + entry("x", tensor_of(X[:0])), False),
        (HEAD, True),
        # Longer than need be: a length, a tag; a group; and too much to keep.
        (HEAD + field(2, field(1, b"x", spare=1) + field(2, tensor_of(X))), False),
        (HEAD + b"\x92\x00" + entry("x", tensor_of(X))[1:], False),
        (HEAD + entry("x", tensor_of(X)) + b"\xc3\x3e\xc4\x3e", False),
        (HEAD + entry("x", tensor_of(X)) + field(UNKNOWN, bytes(MAX_FIXED_BYTES)), False),
    ],
)
def test_what_is_written_in_odd_ways(data, plain):
    """Whether there is a template; and if so, every byte of each payload may be any other."""
    template = learnt(data)
    assert (template is not None) is plain
    if not plain:
        return
    for value in range(256):
        for name, array in whole(data).inputs.items():
            begin = template_begin(template, data, name)
            other = data[:begin] + bytes([value]) * array.nbytes + data[begin + array.nbytes :]
            assert fits(template, other)
            assert told(by(template, other)) == told(whole(other))


def template_begin(template, data, name):
    """Where an input's bytes lie."""
    array = template.arrays(data)[name]
    return array.__array_interface__["data"][0] - np.frombuffer(data, np.uint8).__array_interface__["data"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"raw_input_contents": [PAYLOAD, b"more"]},
        {"inputs": [{"name": "b", "datatype": "BOOL", "shape": [1]}], "raw_input_contents": [PAYLOAD, b"\1"]},
        {"inputs": [{"name": "s", "datatype": "BYTES", "shape": [1]}], "raw_input_contents": [PAYLOAD, bytes(4)]},
        {"inputs": [{"name": "z", "datatype": "FP32", "shape": [0]}], "raw_input_contents": [PAYLOAD, b""]},
        {"parameters": {"sequence_id": {"int64_param": 1}}},
    ],
)
def test_infer_requests_without_a_template(change):
    """Refused ones, and those with bytes that aren't all values."""
    request = infer_request()
    request.ClearField("raw_input_contents")
    request.MergeFrom(oip.ModelInferRequest(**({"raw_input_contents": [PAYLOAD]} | change)))
    data = request.SerializeToString()
    templates = Table(of_one_key=4)
    for _ in range(3):
        read = outcome(lambda some: infer_messages.read_infer(some, templates=templates), told_infer, data)
        assert read == outcome(infer_messages.read_whole_infer, told_infer, data)
    assert not len(templates)


def test_typed_contents_have_no_template():
    """Values beside the raw ones' place are left to protobuf."""
    request = oip.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=[2], contents={"fp32_contents": [1, 2]})
    data = request.SerializeToString()
    assert infer_messages.learn_infer(data, infer_messages.read_whole_infer(data)) is None


def test_a_smaller_limit_holds_for_what_is_known():
    """A message that another server in this process takes is refused here with the same words as ever."""
    data = HEAD + entry("x", tensor_of(X))
    templates = Table(of_one_key=4)
    messages.read_predict(data, max_tensor_bytes=LIMIT, templates=templates)
    assert len(templates) == 1
    with pytest.raises(ServerError, match="takes 24 bytes, at most 23 are allowed"):
        messages.read_predict(data, max_tensor_bytes=23, templates=templates)


def test_arrays_lie_in_the_message():
    """Nothing is copied, and nobody can write to them; of a message of megabytes either."""
    big = np.arange(2**19, dtype=np.float32)
    for array in (X, big):
        data = HEAD + entry("x", tensor_of(array))
        templates = Table(of_one_key=4)
        for _ in range(2):
            read = messages.read_predict(data, max_tensor_bytes=LIMIT, templates=templates).inputs["x"]
        assert len(templates) == (len(data) < LARGE_BYTES)
        assert np.shares_memory(read, np.frombuffer(data, np.uint8))
        assert not read.flags.writeable
        np.testing.assert_array_equal(read, array)


def held_bytes(what, seen=None):
    """All bytes that a template keeps, by whatever it refers to."""
    seen = set() if seen is None else seen
    if id(what) in seen:
        return 0
    seen.add(id(what))
    size = len(what) if isinstance(what, bytes | str) else 0
    if type(what).__module__.startswith("fallback_server"):
        slots = [name for kind in type(what).__mro__ for name in getattr(kind, "__slots__", ())]
        return size + sum(held_bytes(getattr(what, name, None), seen) for name in slots)
    return size + (sum(held_bytes(one, seen) for one in what) if isinstance(what, tuple) else 0)


@pytest.mark.parametrize("size", [1, 100, 500_000])
def test_what_each_request_has_of_its_own_is_not_kept(size):
    """Neither a client's name, of whatever size, nor an id; and what is read says them all the same."""
    data = HEAD + field(6, b"c" * size) + entry("x", tensor_of(X))
    template = learnt(data)
    assert held_bytes(template) < MAX_FIXED_BYTES
    assert template.rest.client_key == b""
    assert by(template, data.replace(b"c", b"d")).client_key == b"d" * size
    asked = infer_request(id="i" * size).SerializeToString()
    template = infer_messages.learn_infer(asked, infer_messages.read_whole_infer(asked))
    assert held_bytes(template) < MAX_FIXED_BYTES
    assert infer_by(template, asked.replace(b"i" * size, b"j" * size)).id == "j" * size


def test_large_messages_are_not_learnt():
    """It would take as much memory again to look at them, for what is little beside reading or writing them."""
    large = np.zeros(2**18, np.float32)
    templates = Table()
    messages.read_predict(HEAD + entry("x", tensor_of(large)), max_tensor_bytes=LIMIT, templates=templates)
    request = oip.ModelInferRequest(model_name="m", raw_input_contents=[large.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=large.shape)
    infer_messages.read_infer(request.SerializeToString(), templates=templates)
    messages.write_predict(replies({"y": large}), typed=True, templates=templates)
    infer_messages.infer_parts(InferReply(reply=replies({"y": large}), id=""), templates=templates)
    assert not len(templates)
    assert templates.wants()
    messages.write_predict(replies({"y": X}), typed=True, templates=templates)  # None of them has put this off.
    assert len(templates) == 1


def replies(names_and_arrays, signature="s"):
    return PredictReply(outputs=dict(names_and_arrays), servable_id=ServableId("m", 7), signature=signature)


@settings(max_examples=200, deadline=None)
@given(
    outputs=st.lists(st.tuples(st.sampled_from("yzé"), arrays()), max_size=3, unique_by=lambda each: each[0]),
    typed=st.booleans(),
    data=st.data(),
)
def test_predict_responses_are_written_the_same(outputs, typed, data):
    """Byte for byte what protobuf writes, of any dtype; the second and third reply are of other values."""
    templates = Table()
    for _ in range(3):
        reply = replies(outputs)
        written = messages.write_predict(reply, typed=typed, templates=templates)
        assert written == messages.write_whole_predict(reply, typed=typed)
        event(f"learnt: {len(templates)}")
        turned = [(name, np.roll(np.frombuffer(array.tobytes(), np.uint8), 1), array) for name, array in outputs]
        step = data.draw(st.sampled_from([1, -1]))
        outputs = [(name, numbers.view(array.dtype)[::step]) for name, numbers, array in turned]


@settings(max_examples=100, deadline=None)
@given(
    dtypes=st.lists(st.sampled_from([*RAW, "bool"]), max_size=3),
    ids=st.lists(st.text(max_size=200), min_size=3, max_size=3),
    data=st.data(),
)
def test_infer_responses_are_written_the_same(dtypes, ids, data):
    """As with Predict, whatever the request's id."""
    templates = Table()
    shapes = [data.draw(hnp.array_shapes(min_dims=0, max_side=3)) for _ in dtypes]
    for text in ids:
        outputs = [
            (f"y{index}", data.draw(hnp.arrays(dtype, shape)))
            for index, (dtype, shape) in enumerate(zip(dtypes, shapes, strict=True))
        ]
        answered = InferReply(reply=replies(outputs), id=text)
        written = assemble(infer_messages.infer_parts(answered, templates=templates))
        assert written == assemble(infer_messages.infer_whole_parts(answered))
    assert len(templates) == 1


@pytest.mark.parametrize("typed", [True, False])
def test_layouts_of_replies(typed):
    """Arrays that are not contiguous, or big-endian, are other replies, or the same bytes."""
    templates = Table()
    for array in (X, X[:, ::-1], np.asfortranarray(X), X.astype(">f4"), np.zeros_like(X, ">f4"), X[::2], X):
        reply = replies([("y", array)])
        for _ in range(2):
            written = messages.write_predict(reply, typed=typed, templates=templates)
            assert written == messages.write_whole_predict(reply, typed=typed)


def test_whose_reply_it_is():
    """Name, version, signature and names are those of each reply; typed values and content are kept apart."""
    templates = Table()
    seen = set()
    for model in (ServableId("m", 1), ServableId("m", 2), ServableId("n", 1)):
        for signature in ("s", "t"):
            for name in ("y", "z"):
                for typed in (True, False):
                    reply = PredictReply(outputs={name: X}, servable_id=model, signature=signature)
                    for _ in range(2):
                        written = messages.write_predict(reply, typed=typed, templates=templates)
                        assert written == messages.write_whole_predict(reply, typed=typed)
                    seen.add(written)
    assert len(seen) == len(templates) == 24


def test_threads_share_a_table():
    """Many threads that read messages of few lengths, with room for two templates, each read their own."""
    requests = [HEAD + entry(name, tensor_of(X + shift)) for name in "abcdef" for shift in range(3)]
    wanted = [told(whole(data)) for data in requests]
    templates = Table(limit=2, of_one_key=2)
    faults = []

    def read(turn):
        for step in range(500):
            index = (turn * 7 + step // 3) % len(requests)
            call = messages.read_predict(requests[index], max_tensor_bytes=LIMIT, templates=templates)
            if told(call) != wanted[index]:
                faults.append(index)

    threads = [threading.Thread(target=read, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(templates) <= 2
