import asyncio
import json
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.complete import needs
from support.dtype_models import echoes
from support.fallback_fakes import FakeExecutor
from support.grpc_stand import code_of, loaded

from fallback_server.batching.options import BatchingOptions
from fallback_server.protocol import methods
from fallback_server.protocol.proto import inference_pb2 as pb
from fallback_server.transport import large
from fallback_server.transport.infer_messages import read_infer
from fallback_server.transport.templates import Table

pytestmark = pytest.mark.usefixtures("transport")

CODE = grpc.StatusCode
CLIENTS = Path(sys.prefix) / "share" / "clients" / "bin" / "python"
SCRIPTS = Path(__file__).parents[2] / "support" / "clients"

needs_client = needs(CLIENTS.exists(), "tritonclient")


def request(x, *, typed=False, **options):
    x = np.asarray(x, np.float32)
    message = pb.ModelInferRequest(model_name="m", **options)
    tensor = message.inputs.add(name="x", datatype="FP32", shape=x.shape)
    if typed:
        tensor.contents.fp32_contents.extend(x.reshape(-1).tolist())
    else:
        message.raw_input_contents.append(x.tobytes())
    return message


def told(story, tmp_path, executor=None, **options):
    async def run():
        async with loaded(executor or FakeExecutor(factor=2), tmp_path, **options) as stand:
            stand.control.labels["stable"] = 1
            await story(stand)

    asyncio.run(run())


def floats(response):
    return np.frombuffer(response.raw_output_contents[0], np.float32).tolist()


@pytest.mark.parametrize("typed", [False, True])
def test_inference(tmp_path, typed):
    """Raw and typed values in, raw out; id, version and datatype in the answer."""

    async def story(stand):
        reply = await stand.unary(methods.MODEL_INFER)(request([[1, 2]], typed=typed, id="7"))
        assert (reply.id, reply.model_name, reply.model_version) == ("7", "m", "1")
        (output,) = reply.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [1, 2])
        assert floats(reply) == [2, 4]

    told(story, tmp_path)


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"model_name": ""}, CODE.INVALID_ARGUMENT, "the request has no model name"),
        ({"model_version": "canary"}, CODE.INVALID_ARGUMENT, "Unrecognized servable version label: canary"),
        ({"model_version": "5"}, CODE.NOT_FOUND, "Servable not found for request: Specific(m, 5)"),
        (
            {"raw_input_contents": [b"", b""]},
            CODE.INVALID_ARGUMENT,
            "2 raw_input_contents for 1 inputs: each must have its own",
        ),
        (
            {"raw_input_contents": [b"123"]},
            CODE.INVALID_ARGUMENT,
            "input 'x': 3 raw bytes, FP32 of shape [1, 2] needs 8",
        ),
        (
            {"outputs": [pb.ModelInferRequest.InferRequestedOutputTensor(name="q")]},
            CODE.INVALID_ARGUMENT,
            "output tensor alias not found in signature: q Outputs expected to be in the set {y}.",
        ),
        (
            {"parameters": {"sequence_id": pb.InferParameter(int64_param=3)}},
            CODE.UNIMPLEMENTED,
            "parameter sequence_id: sequences of requests are not supported",
        ),
        (
            {"parameters": {"timeout": pb.InferParameter(string_param="soon")}},
            CODE.INVALID_ARGUMENT,
            "parameter timeout must be a number of microseconds, got 'soon'",
        ),
        (
            {"parameters": {"priority": pb.InferParameter(int64_param=-1)}},
            CODE.INVALID_ARGUMENT,
            "parameter priority must be a whole number of at least 0, got -1",
        ),
        (
            {"parameters": {"signature_name": pb.InferParameter(string_param="q")}},
            CODE.FAILED_PRECONDITION,
            'Serving signature key "q" not found.',
        ),
    ],
)
def test_refusals(tmp_path, change, code, text):
    """What is asked for wrongly is named, with what was expected."""

    async def story(stand):
        asked = request([[1, 2]])
        for name in change:
            asked.ClearField(name)
        asked.MergeFrom(pb.ModelInferRequest(**change))
        assert await code_of(stand.unary(methods.MODEL_INFER)(asked)) == (code, text)

    told(story, tmp_path)


def test_parameters():
    """The timeout becomes a wait, signature, client and priority are taken, and what nobody knows is passed over."""
    parameters = {
        "timeout": pb.InferParameter(int64_param=1500),
        "signature_name": pb.InferParameter(string_param="s"),
        "client_id": pb.InferParameter(string_param="c"),
        "priority": pb.InferParameter(uint64_param=1),
        "mood": pb.InferParameter(bool_param=True),
    }
    asked = read_infer(request([[1, 2]], parameters=parameters).SerializeToString())
    assert (asked.timeout_s, asked.call.signature, asked.call.client_key) == (0.0015, "s", b"c")
    assert asked.call.priority == 1


@pytest.mark.parametrize(("said", "priority"), [(None, 0), (0, 0), (1, 1), (2, 0), (3, -1), (4, 0)])
def test_a_priority_is_tritons(said, priority):
    """1 is the highest of three, 2 the default, which 0 and unknown ones stand for; by a template as in full."""
    parameters = {} if said is None else {"priority": pb.InferParameter(uint64_param=said)}
    templates = Table()
    for value in (1, 2):
        data = request([[value, value, value, value]], parameters=parameters).SerializeToString()
        assert read_infer(data, templates=templates).call.priority == priority
    assert len(templates) == 1


def test_large_raw_tensors_are_read_in_place():
    """Every raw item keeps its place beside a large one, which is not copied."""
    big = np.random.default_rng(0).random(large.LARGE_BYTES, np.float32)
    message = request(big)
    message.inputs.add(name="s", datatype="INT8", shape=[1])
    message.raw_input_contents.append(b"\x05")
    inputs = read_infer(message.SerializeToString()).call.inputs
    np.testing.assert_array_equal(inputs["x"], big)
    assert inputs["x"].base is not None
    assert inputs["s"].tolist() == [5]


def test_the_repository(tmp_path):
    """The index in the protocol's words; load and unload go to the control."""

    async def story(stand):
        (model,) = (await stand.unary(methods.REPOSITORY_INDEX)(pb.RepositoryIndexRequest(ready=True))).models
        assert (model.name, model.version, model.state) == ("m", "1", "READY")
        await stand.unary(methods.REPOSITORY_MODEL_UNLOAD)(pb.RepositoryModelUnloadRequest(model_name="m"))
        await stand.unary(methods.REPOSITORY_MODEL_LOAD)(pb.RepositoryModelLoadRequest(model_name="m"))
        assert stand.control.orders == [("unload", "m"), ("load", "m")]
        asked = pb.RepositoryModelLoadRequest(model_name="m")
        asked.parameters["config"].string_param = "{}"
        code, text = await code_of(stand.unary(methods.REPOSITORY_MODEL_LOAD)(asked))
        assert (code, text) == (CODE.UNIMPLEMENTED, "load parameters are not supported: config")

    told(story, tmp_path)


def test_what_an_unload_says_beside_the_name_is_read(tmp_path):
    """No model depends on another: what is said of those changes nothing, and what is not known is refused."""

    async def story(stand):
        unload, asked = stand.unary(methods.REPOSITORY_MODEL_UNLOAD), pb.RepositoryModelUnloadRequest(model_name="m")
        asked.parameters["unload_dependents"].bool_param = True
        await unload(asked)
        assert stand.control.orders == [("unload", "m")]
        asked.parameters["unload_dependents"].int64_param = 1
        assert await code_of(unload(asked)) == (CODE.INVALID_ARGUMENT, "unload_dependents must be true or false")
        del asked.parameters["unload_dependents"]
        asked.parameters["force"].bool_param = True
        assert await code_of(unload(asked)) == (CODE.UNIMPLEMENTED, "unload parameters are not supported: force")
        assert stand.control.orders == [("unload", "m")]

    told(story, tmp_path)


def test_versions_of_any_length_are_read(tmp_path):
    """Zeros in front count for nothing; what no int64 holds is the caller's fault, in every call."""

    async def story(stand):
        ready = await stand.unary(methods.MODEL_READY)(pb.ModelReadyRequest(name="m", version="0" * 5000 + "1"))
        assert ready.ready
        for number in ("1" * 5000, str(2**63)):
            for method, asked in (
                (methods.MODEL_INFER, request([[1, 2]], model_version=number)),
                (methods.MODEL_READY, pb.ModelReadyRequest(name="m", version=number)),
                (methods.MODEL_METADATA, pb.ModelMetadataRequest(name="m", version=number)),
                (methods.MODEL_CONFIG, pb.ModelConfigRequest(name="m", version=number)),
                (methods.MODEL_STATISTICS, pb.ModelStatisticsRequest(name="m", version=number)),
            ):
                code, text = await code_of(stand.unary(method)(asked))
                assert (code, text[:11]) == (CODE.INVALID_ARGUMENT, "version " + number[:3])

    told(story, tmp_path)


def test_a_model_that_is_not_here_is_not_ready(tmp_path):
    """Nor is a version that is not."""

    async def story(stand):
        for name, version, ready in (("m", "", True), ("m", "1", True), ("m", "2", False), ("zz", "", False)):
            answer = await stand.unary(methods.MODEL_READY)(pb.ModelReadyRequest(name=name, version=version))
            assert answer.ready is ready

    told(story, tmp_path)


def test_what_can_not_be_read_is_counted(tmp_path):
    """Under the model's name, where that could be read; alone and in a stream."""

    async def story(stand):
        seen = []
        stand.plane._observe = lambda call, servable_id, answer, took_s: seen.append(
            (call.target.name, servable_id, type(answer).__name__)
        )
        asked = request([[1, 2]])
        asked.inputs[0].datatype = "FP99"
        assert (await code_of(stand.unary(methods.MODEL_INFER)(asked)))[0] == CODE.INVALID_ARGUMENT
        raw = stand.channel.unary_unary(methods.MODEL_INFER.path)
        assert (await code_of(raw(b"\xff")))[0] == CODE.INVALID_ARGUMENT
        stream = stand.channel.stream_stream(methods.MODEL_STREAM_INFER.path)(iter([asked.SerializeToString()]))
        assert b"FP99" in await stream.read()
        assert seen == [("m", None, "InvalidInput"), ("", None, "InvalidInput"), ("m", None, "InvalidInput")]

    told(story, tmp_path)


def test_the_only_signature_answers_where_none_is_named(tmp_path):
    """As over REST; of several none is guessed, and the refusal names them."""

    async def story(stand):
        asked = request([[1, 2]])
        assert floats(await stand.unary(methods.MODEL_INFER)(asked)) == [1, 2]
        asked.parameters["signature_name"].string_param = "FP32"
        assert floats(await stand.unary(methods.MODEL_INFER)(asked)) == [1, 2]
        asked.parameters["signature_name"].string_param = "serving_default"
        assert (await code_of(stand.unary(methods.MODEL_INFER)(asked)))[0] == CODE.FAILED_PRECONDITION

    async def refused(stand):
        text = "model m has no signature serving_default: a request must name one of FP32, INT8 in its parameter"
        for method, asked in (
            (methods.MODEL_INFER, request([[1, 2]])),
            (methods.MODEL_CONFIG, pb.ModelConfigRequest(name="m")),
            (methods.MODEL_METADATA, pb.ModelMetadataRequest(name="m")),
        ):
            code, said = await code_of(stand.unary(method)(asked))
            assert (code, said) == (CODE.FAILED_PRECONDITION, f"{text} signature_name")

    told(story, tmp_path, executor=echoes(["FP32"]))
    told(refused, tmp_path, executor=echoes(["FP32", "INT8"]))


def test_calls_that_are_not_here_are_refused_by_name(tmp_path):
    """Whoever asks for Triton's other calls hears which it was, and what there is none of."""

    async def story(stand):
        for name, lack in (
            ("SystemSharedMemoryStatus", "tensors in shared memory"),
            ("CudaSharedMemoryRegister", "tensors in shared memory"),
            ("TraceSetting", "traces to set"),
            ("LogSettings", "log that can be set from outside"),
        ):
            call = stand.channel.unary_unary(f"/{methods.INFERENCE_SERVICE}/{name}")
            said = await code_of(call(b""))
            assert said == (CODE.UNIMPLEMENTED, f"{name} is not supported: this server has no {lack}")
        for path in (f"/{methods.INFERENCE_SERVICE}/Nonsense", "/other.Service/LogSettings"):
            assert await code_of(stand.channel.unary_unary(path)(b"")) == (CODE.UNIMPLEMENTED, "Method not found!")

    told(story, tmp_path)


async def client_says(script, *arguments):
    client = await asyncio.create_subprocess_exec(CLIENTS, SCRIPTS / script, *arguments, stdout=asyncio.subprocess.PIPE)
    printed, _ = await asyncio.wait_for(client.communicate(), 120)
    assert client.returncode == 0
    return json.loads(printed)


@pytest.mark.slow
@needs_client
def test_every_datatype_goes_and_comes(tmp_path):
    """As bytes, with empty strings and tensors of no elements; contents of another size are refused."""

    async def story(stand):
        seen = await client_says("triton_dtypes.py", "grpc", f"127.0.0.1:{stand.port}", "m")
        assert (seen["differ"], seen["still"]) == ([], [[1]])
        assert seen["tried"] > 50
        assert seen["wrong"] == [["StatusCode.INVALID_ARGUMENT", f"input 'x': {text}"] for text in WRONG_SIZES]

    told(story, tmp_path, executor=echoes(), batching=BatchingOptions())


WRONG_SIZES = (
    "7 raw bytes, FP32 of shape [1, 1] needs 4",
    "string 0 of 1 ends 3 bytes beyond the raw contents",
    "1 bytes are left after the 1 strings of [1, 1]",
    "3 raw bytes, BF16 of shape [1, 1] needs 2",
)


@pytest.mark.slow
@needs_client
def test_tritons_own_client(tmp_path):
    """Everything that tritonclient does over gRPC, streams and large tensors too."""

    async def story(stand):
        seen = await client_says("triton_grpc.py", f"127.0.0.1:{stand.port}", "m")
        doubled = [[2.0, 4.0], [6.0, 8.0]]
        assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, [True, True, False])
        assert seen["server"]["name"] == "edge-fallback-server"
        assert seen["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "2"]}]
        assert (seen["metadata"]["versions"], seen["metadata"]["platform"]) == (["1"], "tensorflow_savedmodel")
        assert seen["response"] == ["7", "m", "1"]
        assert [seen[key] for key in ("y", "version", "label", "timeout")] == [doubled] * 4
        assert seen["large"] is True
        stream = seen["stream"]
        assert {key: stream[key] for key in "012"} == {"0": [[0, 0]], "1": [[2, 2]], "2": [[4, 4]]}
        assert stream["error"].startswith("[INVALID_ARGUMENT] input 'x': expected float32 [-1, 2]")
        assert seen["wrong_name"][0] == "StatusCode.INVALID_ARGUMENT"
        assert seen["wrong_version"] == ["StatusCode.NOT_FOUND", "Servable not found for request: Specific(m, 5)"]
        assert seen["unknown"][0] == "StatusCode.NOT_FOUND"
        assert seen["sequence"][0] == "StatusCode.UNIMPLEMENTED"
        extensions = ["model_repository", "model_configuration", "statistics", "binary_tensor_data", "parameters"]
        assert seen["server"]["extensions"] == extensions
        config = seen["config"]
        assert (config["name"], config["platform"], config["max_batch_size"]) == ("m", "tensorflow_savedmodel", 32)
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["2"]}]
        assert config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": ["2"]}]
        (stats,) = seen["statistics"]
        assert (stats["name"], stats["version"]) == ("m", "1")
        assert stats["inference_stats"]["success"]["count"] == "8"
        assert stats["inference_stats"]["queue"]["count"] == stats["inference_stats"]["compute_infer"]["count"] == "8"
        assert stats["inference_count"] == str(4 * 2 + 3 + 600_000)
        assert seen["statistics_of_all"] == seen["statistics_of_version"] == seen["statistics"]
        assert seen["no_statistics"][0] == "StatusCode.NOT_FOUND"
        assert {code for code, _ in seen["absent"].values()} == {"StatusCode.UNIMPLEMENTED"}
        assert "TraceSetting is not supported" in seen["absent"]["trace"][1]
        assert seen["index"]["models"] == [{"name": "m", "version": "1", "state": "READY"}]

    told(story, tmp_path, batching=BatchingOptions())
