import asyncio

import grpc
import numpy as np
import pytest
from support.allocated import measured
from support.fallback_fakes import FakeExecutor, signature
from support.grpc_stand import code_of, loaded

from fallback_server import classification
from fallback_server.core.errors import InvalidInput
from fallback_server.core.servable import ServableId
from fallback_server.dataplane import PredictReply
from fallback_server.late_inputs import made, size_bytes
from fallback_server.protocol import methods
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.proto.example_pb2 import Example
from fallback_server.protocol.proto.tensor_pb2 import TensorProto
from fallback_server.transport.examples import Answered, answered_bytes, read_input, read_regress, write_regress
from fallback_server.transport.large import LARGE_BYTES

pytestmark = pytest.mark.usefixtures("transport")

CODE = grpc.StatusCode
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


class ExampleExecutor(FakeExecutor):
    """Classifies and regresses by the length of the Examples' bytes."""

    def __init__(self):
        super().__init__()
        strings = ((-1,), object)
        self.signatures = {
            "classify": signature({"inputs": strings}, {"classes": ((-1, -1), object), "scores": (-1, -1)}, "classify"),
            "regress": signature({"inputs": strings}, {"outputs": (-1, 1)}, "regress"),
        }
        self.seen = []

    def run(self, name, inputs):
        rows = inputs["inputs"]
        self.seen.extend(rows.tolist())
        lengths = np.float32([[len(row)] for row in rows])
        if name == "regress":
            return {"outputs": lengths}
        return {
            "classes": np.array([[b"short", b"long"]] * len(rows), object),
            "scores": np.concatenate([lengths, -lengths], axis=1),
        }


def example(**features):
    message = Example()
    for name, value in features.items():
        message.features.feature[name].int64_list.value.append(value)
    return message


ONE, TWO = example(a=1), example(a=1, b=2)
SIZES = [len(each.SerializeToString()) for each in (ONE, TWO)]
INPUT = pb.Input(example_list=pb.ExampleList(examples=[ONE, TWO]))


def spec(signature_name="", name="m"):
    return pb.ModelSpec(name=name, signature_name=signature_name)


def told(story, tmp_path):
    async def run():
        executor = ExampleExecutor()
        async with loaded(executor, tmp_path) as stand:
            await story(stand, executor)

    asyncio.run(run())


def test_classify_and_regress(tmp_path):
    """Each Example's classes or value, and who answered."""

    async def story(stand, executor):
        reply = await stand.unary(methods.CLASSIFY)(pb.ClassificationRequest(model_spec=spec("classify"), input=INPUT))
        rows = [[(each.label, each.score) for each in row.classes] for row in reply.result.classifications]
        assert rows == [[("short", size), ("long", -size)] for size in SIZES]
        assert (reply.model_spec.version.value, reply.model_spec.signature_name) == (1, "classify")
        reply = await stand.unary(methods.REGRESS)(pb.RegressionRequest(model_spec=spec("regress"), input=INPUT))
        assert [each.value for each in reply.result.regressions] == SIZES
        assert reply.model_spec.name == "m"

    told(story, tmp_path)


def test_a_context_is_merged_into_each_example():
    """Its bytes come before each Example's: features of both, and the Example's own where both have one."""
    message = pb.Input()
    message.example_list_with_context.context.CopyFrom(example(c=3, a=9))
    message.example_list_with_context.examples.extend([ONE, TWO])
    merged = [Example.FromString(data) for data in read_input(message)]
    assert merged == [example(c=3, a=1), example(c=3, a=1, b=2)]


def with_context(context, *examples):
    message = pb.RegressionRequest(model_spec=spec("regress"))
    message.input.example_list_with_context.context.CopyFrom(context)
    message.input.example_list_with_context.examples.extend(examples)
    return message


def test_a_context_reaches_the_model(tmp_path):
    """Before each Example, over the whole way."""

    async def story(stand, executor):
        context = example(c=3, a=9)
        reply = await stand.unary(methods.REGRESS)(with_context(context, ONE, TWO))
        assert [each.value for each in reply.result.regressions] == [context.ByteSize() + size for size in SIZES]
        assert [Example.FromString(data) for data in executor.seen[-2:]] == [
            example(c=3, a=1),
            example(c=3, a=1, b=2),
        ]

    told(story, tmp_path)


def test_a_large_context_is_not_repeated_before_it_runs_nor_beyond_a_bound():
    """It is counted as often as it will be, and a message of kilobytes can't stand for gigabytes."""
    large = Example()
    large.features.feature["c"].bytes_list.value.append(bytes(100_000))
    data = with_context(large, *[ONE] * 600).SerializeToString()
    with measured() as memory:
        call = read_regress(data)
        inputs = classification.example_inputs(call.examples)
        assert size_bytes(inputs) == 600 * (8 + large.ByteSize() + SIZES[0])
    assert memory.peak_bytes < 2**20
    rows = made(inputs)["inputs"].tolist()
    assert (len(rows), set(rows)) == (600, {large.SerializeToString() + ONE.SerializeToString()})
    with measured() as memory, pytest.raises(InvalidInput, match=r"before each of 20000 examples takes 2000\d+ bytes"):
        read_regress(with_context(large, *[Example()] * 20_000).SerializeToString())
    assert memory.peak_bytes < 2**22


@pytest.mark.parametrize("values", [[], [0.0], [1.5, -0.0, np.inf, -2, 1e-45]])
def test_regressions_are_written_as_protobuf_writes_them(values):
    """All at once, and read as what they are."""
    outputs = {"outputs": np.float32(values).reshape(-1, 1)}
    reply = PredictReply(outputs=outputs, servable_id=ServableId("m", 1), signature="regress")
    told = pb.RegressionResponse.FromString(write_regress(Answered(reply, len(values))))
    assert np.float32([each.value for each in told.result.regressions]).tobytes() == outputs["outputs"].tobytes()


def test_an_answer_of_many_classes_is_written_in_a_thread():
    """Each of them takes as long as to copy a hundred bytes."""
    scores = np.zeros((1, 10_000), np.float32)
    reply = PredictReply(outputs={"scores": scores}, servable_id=ServableId("m", 1), signature="classify")
    assert answered_bytes(Answered(reply, 1)) >= LARGE_BYTES


@pytest.mark.parametrize("count", [1, 256, 257, 5000])
def test_many_examples(count):
    """Each comes as its own bytes, empty ones included."""
    sent = [example(a=index) if index % 3 else Example() for index in range(count)]
    wanted = [each.SerializeToString() for each in sent]
    assert read_input(pb.Input(example_list=pb.ExampleList(examples=sent)))[:] == wanted
    both = with_context(ONE, *sent).input
    assert read_input(both)[:] == [ONE.SerializeToString() + each for each in wanted]
    assert read_input(both)[count - 1] == ONE.SerializeToString() + wanted[-1]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (methods.PREDICT, "PredictRequest"),
        (methods.CLASSIFY, "ClassificationRequest"),
        (methods.REGRESS, "RegressionRequest"),
        (methods.MULTI_INFERENCE, "MultiInferenceRequest"),
        (methods.GET_MODEL_METADATA, "GetModelMetadataRequest"),
    ],
)
def test_bytes_that_are_no_message(tmp_path, method, message):
    """The refusal names the message that was expected by its own name."""

    async def story(stand, executor):
        told = await code_of(stand.channel.unary_unary(method.path)(b"\xff\xff"))
        assert told == (CODE.INVALID_ARGUMENT, f"the request is no {message}")

    told(story, tmp_path)


def test_multi_inference(tmp_path):
    """One result a task, in their order."""

    async def story(stand, executor):
        tasks = [
            pb.InferenceTask(model_spec=spec("regress"), method_name=REGRESS),
            pb.InferenceTask(model_spec=spec("classify"), method_name=CLASSIFY),
        ]
        reply = await stand.unary(methods.MULTI_INFERENCE)(pb.MultiInferenceRequest(tasks=tasks, input=INPUT))
        first, second = reply.results
        assert [each.value for each in first.regression_result.regressions] == SIZES
        assert second.classification_result.classifications[1].classes[0].score == SIZES[1]
        assert [each.model_spec.signature_name for each in reply.results] == ["regress", "classify"]
        assert {each.model_spec.version.value for each in reply.results} == {1}

    told(story, tmp_path)


def task(method=CLASSIFY, **options):
    return pb.InferenceTask(model_spec=spec(**options), method_name=method)


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        (methods.CLASSIFY, pb.ClassificationRequest(model_spec=spec()), CODE.INVALID_ARGUMENT, "Input is empty."),
        (methods.CLASSIFY, pb.ClassificationRequest(input=INPUT), CODE.INVALID_ARGUMENT, "Missing ModelSpec"),
        (
            methods.REGRESS,
            pb.RegressionRequest(model_spec=spec("x"), input=INPUT),
            CODE.INVALID_ARGUMENT,
            "No signature was found with the name: x",
        ),
        (
            methods.MULTI_INFERENCE,
            pb.MultiInferenceRequest(tasks=[task(), task(name="n")], input=INPUT),
            CODE.INVALID_ARGUMENT,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            methods.MULTI_INFERENCE,
            pb.MultiInferenceRequest(tasks=[task(signature_name="s"), task(signature_name="s")], input=INPUT),
            CODE.INVALID_ARGUMENT,
            "Duplicate evaluation of signature: s",
        ),
        (
            methods.MULTI_INFERENCE,
            pb.MultiInferenceRequest(tasks=[task("tensorflow/serving/predict")], input=INPUT),
            CODE.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        (
            methods.MULTI_INFERENCE,
            pb.MultiInferenceRequest(input=INPUT),
            CODE.INVALID_ARGUMENT,
            "a MultiInferenceRequest must have 1 to 100 tasks, got 0",
        ),
        (
            methods.GET_MODEL_METADATA,
            pb.GetModelMetadataRequest(model_spec=spec()),
            CODE.INVALID_ARGUMENT,
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
    ],
)
def test_refusals(tmp_path, method, request_, code, text):
    """TensorFlow Serving's codes and texts."""

    async def story(stand, executor):
        assert await code_of(stand.unary(method)(request_)) == (code, text)

    told(story, tmp_path)


def test_metadata(tmp_path):
    """The signatures as the executor has them, and the version that they are of."""

    async def story(stand, executor):
        asked = pb.GetModelMetadataRequest(model_spec=spec(), metadata_field=["signature_def"])
        reply = await stand.unary(methods.GET_MODEL_METADATA)(asked)
        assert reply.metadata["signature_def"].value == b"signatures"
        assert reply.model_spec.version.value == 1

    told(story, tmp_path)


@pytest.mark.parametrize(
    ("method", "data", "counted"),
    [
        (methods.PREDICT, b"\xff", ("", "Predict")),
        (methods.PREDICT, pb.PredictRequest(), ("", "Predict")),
        (
            methods.PREDICT,
            pb.PredictRequest(
                model_spec=pb.ModelSpec(name="m"), inputs={"x": TensorProto(dtype=1, tensor_content=b"123")}
            ),
            ("m", "Predict"),
        ),
        (methods.CLASSIFY, b"\xff", ("", "Classify")),
        (methods.CLASSIFY, pb.ClassificationRequest(model_spec=pb.ModelSpec(name="m")), ("m", "Classify")),
        (methods.REGRESS, pb.RegressionRequest(model_spec=pb.ModelSpec(name="m")), ("m", "Regress")),
        (methods.MULTI_INFERENCE, pb.MultiInferenceRequest(input=INPUT), ("", "Classify")),
        (
            methods.MULTI_INFERENCE,
            pb.MultiInferenceRequest(
                tasks=[pb.InferenceTask(model_spec=pb.ModelSpec(name="m"), method_name=REGRESS)] * 2, input=INPUT
            ),
            ("m", "Regress"),
        ),
    ],
)
def test_what_can_not_be_read_is_counted(tmp_path, method, data, counted):
    """Once, as what was asked for, under the model's name where that could be read."""

    async def story():
        async with loaded(ExampleExecutor(), tmp_path) as stand:
            seen = []
            stand.plane._observe = lambda call, servable_id, answer, took_s: seen.append(
                (call.target.name, call.verb.value, servable_id, type(answer))
            )
            message = data if isinstance(data, bytes) else data.SerializeToString()
            assert (await code_of(stand.channel.unary_unary(method.path)(message)))[0] is CODE.INVALID_ARGUMENT
            assert seen == [(*counted, None, InvalidInput)]

    asyncio.run(story())


def test_tasks_of_a_model_that_is_not_here_are_counted(tmp_path):
    """Each of them, though none came as far as a version."""

    async def story():
        async with loaded(ExampleExecutor(), tmp_path) as stand:
            seen = []
            stand.plane._observe = lambda call, *_: seen.append((call.target.name, call.verb.value))
            spec = pb.ModelSpec(name="nobody")
            task = pb.InferenceTask(model_spec=spec, method_name=REGRESS)
            asked = pb.MultiInferenceRequest(tasks=[task], input=INPUT)
            assert (await code_of(stand.unary(methods.MULTI_INFERENCE)(asked)))[0] is CODE.NOT_FOUND
            assert seen == [("nobody", "Regress")]

    asyncio.run(story())
