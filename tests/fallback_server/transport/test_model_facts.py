from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf import json_format
from support.fallback_fakes import FakeExecutor, caller, signature, spec
from support.rest_stand import several

from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import Task
from fallback_server.batching.scheduler import BatchScheduler
from fallback_server.core.errors import ModelNotFound, PreconditionFailed, VersionNotReady
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.target import ModelTarget
from fallback_server.executors.base import Signature
from fallback_server.protocol.proto import inference_pb2 as pb
from fallback_server.served_model import ServedModel
from fallback_server.transport import model_facts as facts

SIZES = BatchingOptions(max_batch_size_rows=8, batch_timeout_us=500, allowed_batch_sizes=(4, 8))


def served(executor, options=SIZES, version=1):
    return ServedModel(ServableId("m", version), executor, options)


class Handle:
    def __init__(self, servable_id, servable):
        self.servable_id, self.servable = servable_id, servable

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Models:
    """Versions by number; those that are None are loading, those in `gone` leave when they are asked for."""

    def __init__(self, versions, gone=()):
        self.versions, self.gone = versions, gone

    def acquire(self, target, client_key=b""):
        version = target.version if target.version is not None else max(self.versions)
        if version in self.gone or self.versions.get(version) is None:
            raise VersionNotReady(f"version {version}")
        return Handle(ServableId("m", version), self.versions[version])

    def index(self):
        return tuple(
            ServableState(
                servable_id=ServableId("m", number), state=State.AVAILABLE if model is not None else State.LOADING
            )
            for number, model in sorted(self.versions.items(), reverse=True)
        )

    def states(self, target):
        if target.name != "m":
            raise ModelNotFound(f"Could not find any versions of model {target.name}")
        return self.index()


def test_the_configuration_of_a_model_whose_requests_are_merged():
    """The dimensions are a row's, as `max_batch_size` is above 0; every field is one that the messages have."""
    config = facts.configuration("m", served(several()))
    assert (config["name"], config["platform"], config["backend"]) == ("m", "tensorflow_savedmodel", "tensorflow")
    assert config["max_batch_size"] == 8
    (a, s) = config["input"]
    assert (a["name"], a["data_type"], a["dims"]) == ("a", "TYPE_FP32", [])
    assert (s["name"], s["data_type"], s["dims"]) == ("s", "TYPE_STRING", [])
    assert [output["name"] for output in config["output"]] == ["twice", "text", "raw_bytes"]
    assert config["dynamic_batching"]["preferred_batch_size"] == [4, 8]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 500
    message = json_format.ParseDict(config, pb.ModelConfig())
    assert message.input[1].data_type == pb.TYPE_STRING


@pytest.mark.parametrize(
    ("shape", "options", "dims"),
    [
        ((-1, 2), BatchingOptions(enabled=False), [-1, 2]),
        ((3, -1), SIZES, [3, -1]),
        ((), SIZES, []),
        (None, SIZES, [-1]),
    ],
)
def test_the_configuration_of_a_model_whose_requests_run_alone(shape, options, dims):
    """`max_batch_size` is 0, and the dimensions are all that a tensor has."""
    executor = FakeExecutor()
    one = spec("x", shape, np.uint8)
    executor.signatures = {"only": Signature(name="only", inputs={"x": one}, outputs={"y": spec("y", shape)})}
    config = facts.configuration("m", served(executor, options))
    assert config["max_batch_size"] == 0
    assert "dynamic_batching" not in config
    assert (config["input"][0]["data_type"], config["input"][0]["dims"]) == ("TYPE_UINT8", dims)
    assert config["output"][0]["dims"] == dims


def test_a_dtype_that_the_protocol_has_not_is_seen():
    """It is invalid in the configuration, and has its own name in the metadata."""
    executor = FakeExecutor()
    executor.signatures = {"only": signature({"x": ((-1,), np.complex64)}, {"y": (-1,)}, name="only")}
    model = served(executor)
    assert facts.configuration("m", model)["input"][0]["data_type"] == "TYPE_INVALID"
    metadata = facts.metadata(Models({1: model, 2: None}), ModelTarget(name="m", version=1))
    assert metadata["inputs"] == [{"name": "x", "datatype": "complex64", "shape": [-1]}]
    assert metadata["versions"] == ["1"]


def test_the_entry_point():
    """The default signature, else the only one; of several none is guessed."""
    named = {name: signature({"x": (-1,)}, {"y": (-1,)}, name=name) for name in ("serving_default", "b", "a")}
    assert facts.entry_point("m", named).name == "serving_default"
    assert facts.entry_point("m", {"b": named["b"]}).name == "b"
    text = "model m has no signature serving_default: a request must name one of a, b in its parameter signature_name"
    with pytest.raises(PreconditionFailed, match=text):
        facts.entry_point("m", {"b": named["b"], "a": named["a"]})


def run(model, *rows):
    """One batch of tasks of so many rows each, each of which has waited for a second when it is run."""
    now = SimpleNamespace(s=10.0)
    scheduler = BatchScheduler(options=SIZES, on_done=lambda _: None, clock=lambda: now.s)
    queue = model.queues["serving_default"]
    tasks = [
        Task(caller=caller(), inputs={"x": np.ones((count, 2), np.float32)}, deadline_s=None, rows=count)
        for count in rows
    ]
    assert scheduler.submit([(queue, task) for task in tasks]) == [None] * len(rows)
    now.s += 1
    assert scheduler.step()


def test_statistics_count_what_was_run_and_what_was_not():
    """Rows and runs apart, each request's wait and run, and a count for each size of a batch."""
    model = served(FakeExecutor())
    run(model, 1, 2)
    run(model, 3)
    model.statistics.settled(None, 0.25)
    model.statistics.settled(VersionNotReady("x"), 0.5)
    (told,) = facts.statistics(Models({1: model}), ModelTarget(name="m"))["model_stats"]
    assert (told["name"], told["version"]) == ("m", "1")
    assert (told["inference_count"], told["execution_count"]) == (6, 2)
    stats = told["inference_stats"]
    assert stats["success"] == {"count": 1, "ns": 250_000_000}
    assert stats["fail"] == {"count": 1, "ns": 500_000_000}
    assert stats["queue"] == {"count": 3, "ns": 3_000_000_000}
    assert stats["compute_infer"] == {"count": 3, "ns": 0}
    assert all(stats[name] == {"count": 0, "ns": 0} for name in ("compute_input", "compute_output", "cache_hit"))
    assert [(size["batch_size"], size["compute_infer"]["count"]) for size in told["batch_stats"]] == [(3, 2)]
    message = json_format.ParseDict({"model_stats": [told]}, pb.ModelStatisticsResponse())
    assert message.model_stats[0].inference_stats.queue.ns == 3_000_000_000
    assert message.model_stats[0].last_inference > 1_700_000_000_000


def test_whose_statistics_are_told():
    """Those of the versions that answer; one that goes meanwhile is left out, and one that is named must answer."""
    versions = {number: served(FakeExecutor(), version=number) for number in (1, 2, 3)} | {4: None}
    models = Models(versions, gone={2})

    def told(target):
        return [stats["version"] for stats in facts.statistics(models, target)["model_stats"]]

    assert told(None) == told(ModelTarget(name="m")) == ["1", "3"]
    assert told(ModelTarget(name="m", version=3)) == ["3"]
    with pytest.raises(VersionNotReady):
        told(ModelTarget(name="m", version=2))
    with pytest.raises(ModelNotFound):
        told(ModelTarget(name="n"))
