"""What docs/tensorflow-serving.md says, and no other test shows: over both transports and the real control."""

import asyncio
import contextlib
import functools

import grpc
import httpx
import numpy as np
import pytest
from support.grpc_stand import code_of
from support.rest_stand import Loader, halves

from fallback_server.batching.options import BatchingOptions
from fallback_server.control import Control
from fallback_server.core.errors import LoadFailed
from fallback_server.core.manager import Manager, ManagerOptions
from fallback_server.core.model_config import ModelConfig, PolicyKind, VersionPolicy
from fallback_server.core.servable import State
from fallback_server.core.source import FileSystemSource
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DataPlane
from fallback_server.flag_table import DEFAULT_METRICS_PATH
from fallback_server.flags import parse
from fallback_server.metrics import Metrics
from fallback_server.protocol import methods
from fallback_server.protocol.proto import model_config_pb2 as config_pb
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.protocol.tensors import decode, encode
from fallback_server.settings import options_of
from fallback_server.transport.grpc_server import GrpcServer
from fallback_server.transport.rest.server import RestServer

CODE = grpc.StatusCode
X = np.float32([[1, 2]])


def executor_of(servable_id):
    """What is loaded of a version, or what its load ends with."""
    return LoadFailed("no such op") if servable_id.name == "broken" else halves(servable_id.version)


def add(version):
    """A version's folder, which no executor reads."""
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"x")


class Whole:
    """A server over real folders, with the real control and both transports.

    Version N of model `m` multiplies by N, and no version of model `broken` can be loaded.
    """

    def __init__(self, folder, **options):
        self.folder = folder
        for version in ("m/1", "m/2", "broken/1"):
            add(folder / version)
        policy = VersionPolicy(kind=PolicyKind.ALL)
        configs = [
            ModelConfig(name="m", base_path=folder / "m", version_policy=policy, labels={"stable": 1}),
            ModelConfig(name="broken", base_path=folder / "broken"),
        ]
        source = FileSystemSource(configs=configs, wall_clock=lambda: 4e9)
        self.manager = Manager(
            make_loader=lambda servable_id, *_: Loader(servable_id, executor_of(servable_id)),
            options=ManagerOptions(max_num_load_retries=0),
        )
        self.control = Control(manager=self.manager, source=source, configs=configs)
        self.control.wake = self.poll
        clock = asyncio.get_running_loop().time
        self.plane = DataPlane(versions=self.control, options=BatchingOptions(), clock=clock)
        self.grpc = GrpcServer(self.plane, self.control, **options)
        self.rest = RestServer(self.plane, self.control, Metrics())

    def poll(self):
        self.control.set_aspired(self.control.poll().aspired)

    async def status(self, **spec):
        """Version -> state, or the code and text of the refusal."""
        asked = pb.GetModelStatusRequest(model_spec=spec_of(**spec))
        reply = await self.unary(methods.GET_MODEL_STATUS)(asked)
        return {each.version: each.state for each in reply.model_version_status}

    async def predict(self, **spec):
        asked = pb.PredictRequest(model_spec=spec_of(**spec), inputs={"x": encode(X)})
        return await self.unary(methods.PREDICT)(asked)

    def unary(self, method):
        return self.channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )


def spec_of(*, version=None, label=None):
    spec = pb.ModelSpec(name="m")
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
    return spec


@contextlib.asynccontextmanager
async def served(folder, *, socket_path=None, **options):
    whole = Whole(folder, **options)
    port = await whole.grpc.start(host="127.0.0.1", port=0, socket_path=socket_path)
    rest_port = await whole.rest.start(host="127.0.0.1", port=0)
    whole.plane.scheduler.start()
    await asyncio.to_thread(whole.poll)
    assert await asyncio.to_thread(functools.partial(whole.manager.wait_idle, timeout_s=30))
    address = f"127.0.0.1:{port}" if socket_path is None else f"unix:{socket_path}"
    async with (
        grpc.aio.insecure_channel(address) as whole.channel,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{rest_port}") as whole.http,
    ):
        yield whole
    await whole.rest.stop(grace_s=1)
    await whole.grpc.stop(grace_s=1)
    assert whole.plane.scheduler.stop(timeout_s=10)
    assert whole.manager.stop(timeout_s=10)


def told(story, folder, **options):
    async def run():
        async with served(folder, **options) as whole:
            await story(whole)

    asyncio.run(run())


def test_defaults_that_are_not_tensorflow_servings(tmp_path):
    """Loopback alone, REST and its metrics on, requests merged; without a policy of its own a repository serves all."""
    options = options_of(parse([f"--model_repository={tmp_path}"]))
    network, batching = options.network, options.batching
    assert (network.host, network.port, network.rest_port) == ("127.0.0.1", 8500, 8501)
    assert options.metrics_path == DEFAULT_METRICS_PATH
    assert (batching.enabled, batching.max_batch_size_rows, batching.batch_timeout_us) == (True, 32, 0)
    for version in ("m/1", "m/2", "m/3"):
        add(tmp_path / version)
    snapshot = FileSystemSource(repository=tmp_path, wall_clock=lambda: 4e9).poll()
    assert sorted(servable_id.version for servable_id in snapshot.aspired) == [1, 2, 3]


def test_a_status_by_label_is_that_of_its_version(tmp_path):
    """TensorFlow Serving passes the label over and tells of all versions."""

    async def story(whole):
        assert await whole.status() == {1: pb.ModelVersionStatus.AVAILABLE, 2: pb.ModelVersionStatus.AVAILABLE}
        assert await whole.status(label="stable") == {1: pb.ModelVersionStatus.AVAILABLE}
        code, text = await code_of(whole.status(label="nope"))
        assert (code, text) == (CODE.INVALID_ARGUMENT, "Unrecognized servable version label: nope")
        (version,) = (await whole.http.get("/v1/models/m/labels/stable")).json()["model_version_status"]
        assert version["version"] == "1"

    told(story, tmp_path)


def test_version_0_is_whichever_answers_over_both_transports(tmp_path):
    """Where no folder is called 0; the reply says which it was."""

    async def story(whole):
        reply = await whole.predict(version=0)
        assert (reply.model_spec.version.value, decode(reply.outputs["y"]).tolist()) == (2, [[2, 4]])
        body = {"instances": X.tolist()}
        assert (await whole.http.post("/v1/models/m/versions/0:predict", json=body)).json() == {
            "predictions": [[2.0, 4.0]]
        }

    told(story, tmp_path)


def test_answers_hold_typed_values(tmp_path):
    """As TensorFlow Serving's: its clients read `float_val`."""

    async def story(whole):
        y = (await whole.predict()).outputs["y"]
        assert (y.tensor_content, list(y.float_val)) == (b"", [2, 4])

    assert not options_of(parse([f"--model_repository={tmp_path}"])).network.tensor_content
    told(story, tmp_path)


def test_answers_hold_their_arrays_as_bytes_where_the_flag_is_given(tmp_path):
    """`--enable_serialization_as_tensor_content`, as TensorFlow Serving has it."""

    async def story(whole):
        y = (await whole.predict()).outputs["y"]
        assert (len(y.tensor_content), list(y.float_val)) == (8, [])

    given = parse([f"--model_repository={tmp_path}", "--enable_serialization_as_tensor_content"])
    told(story, tmp_path, tensor_content=options_of(given).network.tensor_content)


@pytest.mark.parametrize(("value", "content_bytes"), [("1", 8), ("0", 0)])
def test_a_caller_can_ask_for_arrays_as_bytes(tmp_path, value, content_bytes):
    """By the metadata of the one call."""

    async def story(whole):
        asked = pb.PredictRequest(model_spec=spec_of(), inputs={"x": encode(X)})
        reply = await whole.unary(methods.PREDICT)(asked, metadata=[("edge-tensor-content", value)])
        assert len(reply.outputs["y"].tensor_content) == content_bytes

    assert methods.TENSOR_CONTENT_METADATA == ("edge-tensor-content", "1")
    told(story, tmp_path)


def models(*configs):
    listed = config_pb.ModelConfigList(config=configs)
    return config_pb.ModelServerConfig(model_config_list=listed)


def one(**fields):
    return config_pb.ModelConfig(name="m", base_path="/m", **fields)


@pytest.mark.parametrize(
    ("config", "code", "text"),
    [
        (
            models(one(), one()),
            CODE.INVALID_ARGUMENT,
            "Illegal to list model m multiple times in config list",
        ),
        (
            models(config_pb.ModelConfig(name="m", base_path="m")),
            CODE.INVALID_ARGUMENT,
            "Expected model m to have an absolute path or URI; got base_path()=m",
        ),
        (
            models(one(version_labels={"stable": 3})),
            CODE.FAILED_PRECONDITION,
            "Request to assign label to version 3 of model m, which is not currently available for inference",
        ),
        (
            models(one(logging_config=config_pb.LoggingConfig())),
            CODE.INVALID_ARGUMENT,
            "model m: logging_config is not supported: this server logs no requests",
        ),
        (
            config_pb.ModelServerConfig(custom_model_config={}),
            CODE.INVALID_ARGUMENT,
            "custom_model_config is not supported: list the models in model_config_list",
        ),
    ],
)
def test_a_reload_that_is_refused_changes_nothing(tmp_path, config, code, text):
    """TensorFlow Serving's codes and texts where it has them; what was served is served on."""

    async def story(whole):
        reload = whole.unary(methods.RELOAD_CONFIG)
        assert await code_of(reload(pb.ReloadConfigRequest(config=config))) == (code, text)
        assert (await whole.predict(label="stable")).model_spec.version.value == 1

    told(story, tmp_path)


def test_a_reload_answers_with_a_status_and_no_metrics(tmp_path):
    """The metrics that a request names are not looked up: they are scraped over REST."""

    async def story(whole):
        asked = pb.ReloadConfigRequest(metric_names=[":tensorflow:serving:request_count"])
        asked.config.model_config_list.config.add(name="m", base_path=str(whole.folder / "m"))
        reply = await whole.unary(methods.RELOAD_CONFIG)(asked)
        assert (reply.status.error_code, list(reply.metric)) == (0, [])
        code, text = await code_of(whole.predict(label="stable"))
        assert (code, text) == (CODE.INVALID_ARGUMENT, "Unrecognized servable version label: stable")

    told(story, tmp_path)


def test_metadata_has_one_field(tmp_path):
    """The refusal is TensorFlow Serving's."""

    async def story(whole):
        asked = pb.GetModelMetadataRequest(model_spec=spec_of(), metadata_field=["weights"])
        expected = (CODE.INVALID_ARGUMENT, "Metadata field weights is not supported")
        assert await code_of(whole.unary(methods.GET_MODEL_METADATA)(asked)) == expected

    told(story, tmp_path)


def test_what_tensorflow_serving_streams_is_passed_over(tmp_path):
    """`predict_streamed_options` (5) and `request_options` (7) are fields that a request may have."""

    async def story(whole):
        asked = pb.PredictRequest(model_spec=spec_of(), inputs={"x": encode(X)}).SerializeToString()
        raw = whole.channel.unary_unary(methods.PREDICT.path, response_deserializer=pb.PredictResponse.FromString)
        reply = await raw(asked + b"\x2a\x00" + b"\x3a\x00")
        assert decode(reply.outputs["y"]).tolist() == [[2, 4]]

    told(story, tmp_path)


def test_there_is_no_profiler(tmp_path):
    """`tensorflow_model_server` has one unless it is told otherwise."""

    async def story(whole):
        profile = whole.channel.unary_unary("/tensorflow.ProfilerService/Profile")
        assert (await code_of(profile(b"")))[0] is CODE.UNIMPLEMENTED

    told(story, tmp_path)


def test_a_unix_socket_stands_beside_the_port(tmp_path):
    """`--grpc_socket_path`: the same calls, in plain text."""

    async def story(whole):
        assert (await whole.predict(version=1)).model_spec.version.value == 1

    told(story, tmp_path / "models", socket_path=str(tmp_path / "s"))


def test_channel_arguments_reach_grpc(tmp_path):
    """`--grpc_channel_arguments`: here the bound on a request's headers."""

    async def story(whole):
        asked = pb.PredictRequest(model_spec=spec_of(), inputs={"x": encode(X)})
        predict = whole.unary(methods.PREDICT)
        assert (await code_of(predict(asked)))[0] is CODE.OK
        assert (await code_of(predict(asked, metadata=[("x-note", "n" * 4000)])))[0] is CODE.RESOURCE_EXHAUSTED

    told(story, tmp_path, channel_arguments=[("grpc.absolute_max_metadata_size", 2000)])


@pytest.mark.slow
def test_the_graph_is_chosen_by_its_tags(models):
    """`--saved_model_tags`: what the SavedModel has not is refused, with TensorFlow's text."""
    from fallback_server.executors.saved_model import SavedModelOptions, open_saved_model

    path = models / "scale" / "1"
    with pytest.raises(Exception, match=r"MetaGraphDef associated with tags .*gpu"):
        open_saved_model(path, SavedModelOptions(tags=("gpu",)))
    open_saved_model(path, SavedModelOptions(tags=("serve",))).close()


@pytest.mark.slow
def test_an_empty_batch_of_a_convolution_is_answered_as_tensorflow_answers_it(models):
    """Its kernel leaves at once, and the last dimension is the input's: nothing of that is put right here."""
    import tensorflow as tf

    from fallback_server.executors.saved_model import SavedModelOptions, open_saved_model

    path = models / "conv" / "1"
    none = np.zeros((0, 8, 8, 1), np.float32)
    executor = open_saved_model(path, SavedModelOptions())
    given = executor.run("serving_default", {"image": none})["y"]
    executor.close()
    theirs = tf.saved_model.load(str(path)).signatures["serving_default"](image=tf.constant(none))["y"]
    assert given.shape == tuple(theirs.shape)
    assert len(given) == 0


def test_a_model_that_fails_at_the_start_keeps_no_other_from_serving(tmp_path):
    """TensorFlow Serving does not start then; here the model's status says why, and the others answer."""

    async def story(whole):
        (state,) = whole.control.states(ModelTarget(name="broken"))
        assert (state.state, state.error) == (State.END, "LoadFailed: no such op")
        assert (await whole.predict()).model_spec.version.value == 2

    told(story, tmp_path)
