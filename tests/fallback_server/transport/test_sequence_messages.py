"""What the messages of sequences are by template and in full."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from support.sequence_streams import request
from support.typed_tensors import arrays
from support.wire_messages import changed, predict_requests

from fallback_server.core.errors import InvalidInput, ServerError
from fallback_server.core.servable import ServableId
from fallback_server.dataplane import PredictReply
from fallback_server.protocol.proto import edge_pb2 as pb
from fallback_server.protocol.tensors import decode
from fallback_server.transport.sequence_messages import (
    StepReply,
    read_step,
    read_whole_step,
    write_step,
    write_whole_step,
)
from fallback_server.transport.templates import Table

X = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
LIMIT = 2**31
FIRST = PredictReply(outputs={}, servable_id=ServableId("m", 3), signature="step")


def told(step):
    """All that a request says."""
    message = step.message
    flags = message.HasField("model_spec"), message.model_spec, message.reset, message.end, message.return_state
    return flags, [(name, *bits(array)) for name, array in step.inputs.items()]


def outcome(read, data, **options):
    """What is read, or why nothing is."""
    try:
        return told(read(data, max_tensor_bytes=LIMIT, **options))
    except ServerError as error:
        return repr(error)


def bits(array):
    return array.dtype, array.shape, array.tobytes()


@st.composite
def step_requests(draw):
    flags = draw(st.lists(st.sampled_from([b"\x18\x01", b"\x20\x01", b"\x28\x01", b"\x20\x00"]), max_size=3))
    return draw(predict_requests()) + b"".join(flags)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_requests_read_the_same_by_template_and_in_full(data):
    """However a message is written, and of any that differs in some bytes: the same step, or the same fault."""
    first = data.draw(step_requests())
    same = outcome(read_whole_step, first)
    assume(not isinstance(same, str))
    templates = Table(of_one_key=4)
    assert outcome(read_step, first, templates=templates) == same
    event(f"learnt: {len(templates)}")
    assert outcome(read_step, first, templates=templates) == same
    for _ in range(8):
        other = data.draw(changed(first))
        assert outcome(read_step, other, templates=templates) == outcome(read_whole_step, other)


def test_a_second_step_is_read_without_protobuf():
    """Only its tensors differ; what it says beside them is what the first said. The bound on its bytes holds."""
    templates = Table(of_one_key=4)
    read_step(request(x=X, end=True).SerializeToString(), max_tensor_bytes=LIMIT, templates=templates)
    (template,) = templates.kept.popitem()[1]
    templates.keep(size := len(data := request(x=X + 1, end=True).SerializeToString()), template)
    step = read_step(data, max_tensor_bytes=LIMIT, templates=templates)
    assert step.message is template.rest
    assert (step.message.end, step.message.reset) == (True, False)
    np.testing.assert_array_equal(step.inputs["x"], X + 1)
    assert templates.kept[size][0].used
    with pytest.raises(InvalidInput, match="at most 8 "):
        read_step(data, max_tensor_bytes=8, templates=templates)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_replies_are_written_the_same_by_template_and_in_full(data):
    """Whatever its arrays are, with and without a state, first or not, and of any step."""
    templates = Table()
    outputs = data.draw(st.dictionaries(st.sampled_from(["y", "z"]), arrays(), min_size=1))
    state = data.draw(st.dictionaries(st.sampled_from(["y", "s"]), arrays()))
    for step in data.draw(st.lists(st.integers(1, 2**40), min_size=1, max_size=4)):
        first = FIRST if data.draw(st.booleans()) else None
        reply = StepReply(step=step, outputs=outputs, state=state, first=first)
        written = write_step(reply, templates=templates)
        assert written == write_whole_step(reply)
        read = pb.SequenceResponse.FromString(written)
        assert (read.step, read.HasField("model_spec")) == (step, first is not None)
        for given_arrays, protos in ((outputs, read.outputs), (state, read.state)):
            found = {name: decode(proto) for name, proto in protos.items()}
            assert {name: bits(array) for name, array in found.items()} == {
                name: bits(array) for name, array in given_arrays.items()
            }
        event(f"kept: {len(templates)}")


def test_what_moves_from_the_outputs_to_the_state_has_another_template():
    """Of the same names and shapes."""
    templates = Table()
    replies = [
        StepReply(step=1, outputs={"y": X, "s": X}, state={}),
        StepReply(step=1, outputs={"y": X}, state={"s": X}),
    ]
    for reply in replies * 2:
        assert write_step(reply, templates=templates) == write_whole_step(reply)
    assert len(templates) == len(replies)
