"""Classify, Regress and MultiInference: their messages to and from calls, and what answers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fallback_server import classification
from fallback_server.core.errors import InvalidInput, Unimplemented
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DEFAULT_SIGNATURE, PredictCall, PredictReply, Verb
from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto.example_pb2 import BytesList
from fallback_server.transport.counting import Reading, Refused, counted
from fallback_server.transport.large import LARGE_BYTES
from fallback_server.transport.messages import read_target, write_spec
from fallback_server.transport.rpc import parse

_VERBS = {classification.CLASSIFY_METHOD: Verb.CLASSIFY, classification.REGRESS_METHOD: Verb.REGRESS}

MAX_TASKS = 100
"""Of one MultiInference: models have a few signatures."""

_FEW = 256
"""So many Examples are as fast serialized one by one."""


_WEIGHT = 32
"""Classes are written one by one: that takes far longer than to copy them."""

_REGRESSION = np.dtype([("head", "S3"), ("value", "<f4")])
_REGRESSION_HEAD = bytes((1 << 3 | 2, 5, 1 << 3 | 5))
"""A Regression as an item of RegressionResult: field 1, of 5 bytes, in which field 1 is a float. Made all at once, as
protobuf's objects take a microsecond each."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply, and how many examples it is for."""

    reply: PredictReply
    rows: int


def read_classify(data: bytes, refused: Refused | None = None) -> PredictCall:
    """A serialized ClassificationRequest.

    Args:
        data: The message.
        refused: Is told of what is refused.

    Raises:
        InvalidInput: no ClassificationRequest, no model spec, or no examples.
    """
    with counted(refused, Verb.CLASSIFY) as reading:
        return _read(parse(methods.CLASSIFY, data), reading)


def read_regress(data: bytes, refused: Refused | None = None) -> PredictCall:
    """A serialized RegressionRequest; as `read_classify`."""
    with counted(refused, Verb.REGRESS) as reading:
        return _read(parse(methods.REGRESS, data), reading)


def read_multi(data: bytes, refused: Refused | None = None) -> list[PredictCall]:
    """A serialized MultiInferenceRequest: one call a task, all of one model and each of another signature.

    Args:
        data: The message.
        refused: Is told of what is refused: once, as what the first task asks for, if that can be told.

    Raises:
        InvalidInput: the tasks don't go together, or as `read_classify`.
        Unimplemented: a task's method is neither classify nor regress.
    """
    with counted(refused, Verb.CLASSIFY) as reading:
        request = parse(methods.MULTI_INFERENCE, data)
        if request.tasks:
            reading.name = request.tasks[0].model_spec.name
            reading.verb = _VERBS.get(request.tasks[0].method_name, Verb.CLASSIFY)
        return _tasks(request)


def _tasks(request: pb.MultiInferenceRequest) -> list[PredictCall]:
    if not 0 < len(request.tasks) <= MAX_TASKS:
        raise InvalidInput(f"a MultiInferenceRequest must have 1 to {MAX_TASKS} tasks, got {len(request.tasks)}")
    examples = read_input(request.input)
    calls: list[PredictCall] = []
    seen: set[str] = set()
    for task in request.tasks:
        target = read_target(task)
        if calls and target.name != calls[0].target.name:
            raise InvalidInput("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        signature = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if signature in seen:
            raise InvalidInput(f"Duplicate evaluation of signature: {signature}")
        seen.add(signature)
        verb = _VERBS.get(task.method_name)
        if verb is None:
            raise Unimplemented(f"Unsupported signature method_name: {task.method_name}")
        calls.append(PredictCall(target=target, signature=signature, verb=verb, examples=examples))
    _check_same_version([call.target for call in calls])
    return calls


def read_input(message: pb.Input) -> classification.Examples:
    """The serialized Examples, and the context before each of them.

    Raises:
        InvalidInput: there are none, or the context would be repeated too often.
    """
    context = b""
    given: pb.ExampleList | pb.ExampleListWithContext = message.example_list
    if message.WhichOneof("kind") == "example_list_with_context":
        given = message.example_list_with_context
        context = message.example_list_with_context.context.SerializeToString()
    if not given.examples:
        raise InvalidInput("Input is empty.")
    return classification.Examples(_serialized(given), context)


def _serialized(given: pb.ExampleList | pb.ExampleListWithContext) -> list[bytes]:
    """Each Example's bytes. Of many small ones they are cut out of the list's, of which BytesList has the form."""
    if len(given.examples) <= _FEW or given.ByteSize() >= LARGE_BYTES:
        return [example.SerializeToString() for example in given.examples]
    return list(BytesList.FromString(given.SerializeToString()).value)


def write_classify(answered: Answered) -> bytes:
    """A serialized ClassificationResponse.

    Raises:
        ExecutionFailed: the model's outputs are no classes.
    """
    response = pb.ClassificationResponse(result=_classes(answered))
    write_spec(response.model_spec, answered.reply)
    return response.SerializeToString()


def write_regress(answered: Answered) -> bytes:
    """A serialized RegressionResponse.

    Raises:
        ExecutionFailed: the model's output is no value a row.
    """
    response = pb.RegressionResponse(result=_regressions(answered))
    write_spec(response.model_spec, answered.reply)
    return response.SerializeToString()


def write_multi(results: Sequence[tuple[Verb, Answered]]) -> bytes:
    """A serialized MultiInferenceResponse, in the order of the tasks; raises as the two above."""
    response = pb.MultiInferenceResponse()
    for verb, answered in results:
        if verb is Verb.CLASSIFY:
            result = response.results.add(classification_result=_classes(answered))
        else:
            result = response.results.add(regression_result=_regressions(answered))
        write_spec(result.model_spec, answered.reply)
    return response.SerializeToString()


def answered_bytes(answered: Answered) -> int:
    """How many bytes could be copied in about the time that it takes to write the answer."""
    return _WEIGHT * sum(array.nbytes for array in answered.reply.outputs.values())


def _read(request: pb.ClassificationRequest | pb.RegressionRequest, reading: Reading) -> PredictCall:
    reading.name = request.model_spec.name
    return PredictCall(
        target=read_target(request),
        signature=request.model_spec.signature_name,
        verb=reading.verb,
        examples=read_input(request.input),
    )


def _check_same_version(targets: Sequence[ModelTarget]) -> None:
    """One version answers all tasks: tasks that name several can't be answered."""
    if any(target != targets[0] for target in targets):
        raise InvalidInput("All ModelSpecs in a MultiInferenceRequest must name the same version or label.")


def _classes(answered: Answered) -> pb.ClassificationResult:
    result = pb.ClassificationResult()
    for row in classification.classes(answered.reply.outputs, answered.rows):
        classes = result.classifications.add()
        for label, score in row:
            classes.classes.add(label=label, score=score)
    return result


def _regressions(answered: Answered) -> pb.RegressionResult:
    values = classification.regressions(answered.reply.outputs, answered.rows)
    written = np.empty(len(values), _REGRESSION)
    written["head"], written["value"] = _REGRESSION_HEAD, values
    return pb.RegressionResult.FromString(written.tobytes())
