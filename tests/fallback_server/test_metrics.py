import re
import threading
from types import SimpleNamespace

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from support.fallback_fakes import FakeExecutor

from fallback_server.batching.options import BatchingOptions
from fallback_server.batching.queue import Task
from fallback_server.core.errors import QueueFull
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import PredictCall, PredictReply, Verb
from fallback_server.metrics import MAX_KINDS, MAX_VERSIONS, Metrics, observer
from fallback_server.sequences.figures import Ended, SequenceFigures
from fallback_server.served_model import ServedModel

US = ":tensorflow:serving:"


LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')


def samples(metrics):
    text, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    assert list(text_string_to_metric_families(text.decode()))  # Prometheus reads it
    found = [LINE.fullmatch(line) for line in text.decode().splitlines() if not line.startswith("#")]
    return {(one[1], frozenset(LABEL.findall(one[2] or ""))): float(one[3]) for one in found}


def value(metrics, name, **labels):
    return samples(metrics).get((name, frozenset(labels.items())))


def request(metrics, *, model="m", version=1, verb="Predict", entrypoint="GRPC", code="OK", latency_s=0.001):
    metrics.request(model=model, version=version, verb=verb, entrypoint=entrypoint, code=code, latency_s=latency_s)


def test_requests_stand_under_tensorflow_servings_names():
    """Counted by model and code; timed in microseconds by model, API and entry point, as it spells them."""
    metrics = Metrics()
    request(metrics)
    request(metrics, verb="Predict", entrypoint="REST", latency_s=0.5)
    request(metrics, code="INVALID_ARGUMENT")
    assert value(metrics, f"{US}request_count", model_name="m", status="OK") == 2
    assert value(metrics, f"{US}request_count", model_name="m", status="INVALID_ARGUMENT") == 1
    grpc = {"model_name": "m", "API": "Predict", "entrypoint": "GRPC"}
    rest = {"model_name": "m", "API": "predict", "entrypoint": "REST"}
    assert value(metrics, f"{US}request_latency_sum", **grpc) == 1000
    assert value(metrics, f"{US}request_latency_count", **rest) == 1
    assert value(metrics, f"{US}request_latency_bucket", **rest, le="393464") == 0
    assert value(metrics, f"{US}request_latency_bucket", **rest, le="708235") == 1
    assert value(metrics, f"{US}request_latency_bucket", **rest, le="+Inf") == 1


def test_the_text_is_what_tensorflow_serving_writes():
    """Counters without `_total`, labels in its order, whole numbers without a fraction, quotes escaped."""
    metrics = Metrics()
    request(metrics, model='a"b\\')
    lines = metrics.render()[0].decode().splitlines()
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    assert r':tensorflow:serving:request_count{model_name="a\"b\\",status="OK"} 1' in lines
    assert "# TYPE :tensorflow:serving:request_latency histogram" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


def test_versions_stand_side_by_side():
    """What a canary is judged by: requests by code, and latency, for each version."""
    metrics = Metrics()
    request(metrics, version=12)
    request(metrics, version=13, code="INTERNAL")
    ours = {"model_name": "m", "verb": "Predict"}
    assert value(metrics, "edge_fallback_requests_total", **ours, version="12", code="OK") == 1
    assert value(metrics, "edge_fallback_requests_total", **ours, version="13", code="INTERNAL") == 1
    assert value(metrics, "edge_fallback_request_seconds_count", model_name="m", version="12") == 1
    assert value(metrics, "edge_fallback_request_seconds_count", model_name="m", version="13") == 0


def test_both_counters_of_requests_agree():
    """A version's, and what was refused before there was one, make up what is told by TensorFlow Serving's name."""
    metrics = Metrics()
    for version, code in ((1, "OK"), (2, "INTERNAL"), (None, "RESOURCE_EXHAUSTED"), (None, "INTERNAL")):
        request(metrics, version=version, code=code)
    ours, theirs = {}, {}
    for (name, labels), count in samples(metrics).items():
        told = dict(labels)
        if name == "edge_fallback_requests_total":
            key = told["model_name"], told["code"]
            ours[key] = ours.get(key, 0) + count
        elif name == f"{US}request_count":
            theirs[told["model_name"], told["status"]] = count
    assert ours == theirs == {("m", "OK"): 1, ("m", "INTERNAL"): 2, ("m", "RESOURCE_EXHAUSTED"): 1}


def test_batches_and_loads_are_counted():
    """Rows, padding, waiting and runs; how long loads took, and how many failed."""
    metrics = Metrics()
    metrics.batch(model="m", version=1, rows=3, padded_rows=4, queued_s=[0.0005, 0.5], run_s=0.002)
    metrics.load(model="m", version=1, seconds=2.5, ok=True)
    metrics.load(model="m", version=2, seconds=1.0, ok=False)
    assert value(metrics, f"{US}runtime_latency_sum", model_name="m", API="Predict", runtime="TF1") == 2000
    batching = f"{US}batching_session:"
    assert value(metrics, f"{batching}queuing_latency_count", thread_pool_name="batch") == 2
    assert value(metrics, f"{batching}padding_size_sum") == 1
    assert value(metrics, f"{batching}wrapped_run_count") == 1
    assert value(metrics, "edge_fallback_batch_rows_sum", model_name="m", version="1") == 3
    assert value(metrics, "edge_fallback_load_seconds", model_name="m", version="1") == 2.5
    assert value(metrics, "edge_fallback_loads_total", model_name="m", status="fail") == 1


def test_names_that_callers_make_up_make_no_series():
    """A request that no version had counts for its model only when that is known; of versions the latest are kept."""
    metrics = Metrics()
    for number in range(100):
        request(metrics, model=f"made-up-{number}", version=None, code="NOT_FOUND")
        request(metrics, model="real", version=number)
    request(metrics, model="real", version=None, code="NOT_FOUND")
    count = f"{US}request_count"
    assert value(metrics, count, model_name="", status="NOT_FOUND") == 100
    assert value(metrics, count, model_name="real", status="NOT_FOUND") == 1
    ours = {"verb": "Predict", "version": "", "code": "NOT_FOUND"}
    assert value(metrics, "edge_fallback_requests_total", model_name="", **ours) == 100
    assert value(metrics, "edge_fallback_requests_total", model_name="real", **ours) == 1
    versions = {
        dict(labels)["version"] for name, labels in samples(metrics) if name == "edge_fallback_request_seconds_count"
    }
    assert versions == {str(number) for number in range(100 - MAX_VERSIONS, 100)}


def test_more_kinds_than_are_counted_some_at_a_time_are_counted():
    """Requests and batches of more kinds than are noted are counted where they come, each once."""
    metrics = Metrics()
    for number in range(MAX_KINDS + 10):
        for _ in range(2):
            request(metrics, version=1, code=f"CODE_{number}")
            metrics.batch(model="m", version=1, rows=number, padded_rows=number, queued_s=[0.0, 0.0], run_s=1e-3)
    counted = [count for (name, _), count in samples(metrics).items() if name == "edge_fallback_requests_total"]
    assert counted == [2] * (MAX_KINDS + 10)
    assert value(metrics, f"{US}batching_session:wrapped_run_count") == 2 * (MAX_KINDS + 10)
    assert value(metrics, f"{US}batching_session:queuing_latency_count", thread_pool_name="batch") == 4 * (
        MAX_KINDS + 10
    )


def come_and_gone(metrics, numbers, *, rows=4):
    """Versions that were loaded, answered, and went for the next."""
    for number in numbers:
        metrics.load(model="m", version=number, seconds=1.0, ok=True)
        request(metrics, version=number)
        for count in range(1, rows + 1):
            metrics.batch(model="m", version=number, rows=count, padded_rows=count, queued_s=[0.0], run_s=1e-3)


def test_versions_that_have_gone_take_no_places_of_kinds():
    """So those of today are noted as the first were; of what all have done nothing is lost. Also in a worker."""
    metrics, worker = Metrics(), Metrics()
    for number in range(MAX_KINDS // 4 + 10):
        for each in (metrics, worker):
            come_and_gone(each, [number])
        metrics.add(worker.take())
    for each in (metrics, worker):
        assert len(each._answered) <= MAX_VERSIONS
        assert len(each._ran) <= 4 * MAX_VERSIONS
    assert value(metrics, f"{US}request_count", model_name="m", status="OK") == 2 * (MAX_KINDS // 4 + 10)
    assert value(metrics, f"{US}batching_session:wrapped_run_count") == 8 * (MAX_KINDS // 4 + 10)


def test_a_version_that_is_heard_of_is_kept_however_many_come_and_go_beside_it():
    """And one from before that is heard of again takes the place of whoever has been silent for longest."""
    metrics = Metrics()
    for number in range(2, 2 + 3 * MAX_VERSIONS):
        request(metrics, version=1)
        come_and_gone(metrics, [number])
    request(metrics, version=2)
    counts = {
        int(told["version"]): count
        for (name, labels), count in samples(metrics).items()
        if name == "edge_fallback_requests_total" and (told := dict(labels))["version"]
    }
    latest = range(2 + 2 * MAX_VERSIONS + 2, 2 + 3 * MAX_VERSIONS)
    assert counts == {1: 3 * MAX_VERSIONS, 2: 1} | dict.fromkeys(latest, 1)


def test_what_is_noted_of_many_versions_before_it_is_counted_is_its_models():
    """Where more were heard of than are kept: sums of the model, and no counter of one from before."""
    metrics = Metrics()
    for number in range(2 * MAX_VERSIONS):
        request(metrics, version=number)
        metrics.batch(model="m", version=number, rows=1, padded_rows=1, queued_s=[0.0], run_s=1e-3)
    found = samples(metrics)
    for name in ("edge_fallback_request_seconds_count", "edge_fallback_batch_rows_count"):
        kept = {dict(labels)["version"]: count for (each, labels), count in found.items() if each == name}
        assert kept == {str(number): 1 for number in range(MAX_VERSIONS, 2 * MAX_VERSIONS)}
    assert value(metrics, f"{US}batching_session:wrapped_run_count") == 2 * MAX_VERSIONS


def test_the_catalog_is_read_when_somebody_asks():
    """States, labels, traffic and the default version; queues, and how far a shadow's answers were off."""
    servable = ServedModel(ServableId("m", 2), FakeExecutor(), BatchingOptions())
    servable.statistics.compared(diverged=True, difference=0.5)
    task = Task(caller=SimpleNamespace(cancelled=False), inputs={"x": np.zeros((3, 2))}, deadline_s=None, rows=3)
    servable.queues["serving_default"].put(task)
    versions = [
        SimpleNamespace(state=ServableState(servable_id=ServableId("m", 2), state=State.AVAILABLE), servable=servable),
        SimpleNamespace(state=ServableState(servable_id=ServableId("m", 1), state=State.END), servable=None),
    ]
    model = SimpleNamespace(name="m", versions=versions, labels={"stable": 2}, default_version=2, traffic={2: 0.95})
    metrics = Metrics(catalog=lambda: [model])
    assert value(metrics, "edge_fallback_model_version_state", model_name="m", version="1", state="END") == 1
    assert value(metrics, "edge_fallback_queued_rows", model_name="m", version="2") == 3
    assert value(metrics, "edge_fallback_expected_wait_ms", model_name="m", version="2") == 0
    assert value(metrics, "edge_fallback_batch_limit_rows", model_name="m", version="2") == 32
    servable.queues["serving_default"].runs_here = 7
    assert value(metrics, "edge_fallback_inline_batches_total", model_name="m", version="2") == 7
    assert value(metrics, "edge_fallback_label", model_name="m", label="stable", version="2") == 1
    assert value(metrics, "edge_fallback_traffic_weight", model_name="m", version="2") == 0.95
    assert value(metrics, "edge_fallback_default_version", model_name="m") == 2
    assert value(metrics, "edge_fallback_shadow_diverged_total", model_name="m", version="2") == 1
    assert value(metrics, "edge_fallback_shadow_mean_divergence", model_name="m", version="2") == 0.5


def test_the_data_planes_calls_are_observed():
    """With the version that had it, and the code that the error travels as."""
    metrics = Metrics()
    observe = observer(metrics, lambda error: type(error).__name__)
    call = PredictCall(target=ModelTarget(name="m"), verb=Verb.CLASSIFY, entrypoint="REST")
    observe(call, ServableId("m", 4), QueueFull("full"), 0.1)
    reply = PredictReply(outputs={}, servable_id=ServableId("m", 4), signature="s")
    observe(call, ServableId("m", 4), reply, 0.1)
    assert value(metrics, f"{US}request_count", model_name="m", status="QueueFull") == 1
    assert value(metrics, f"{US}request_latency_count", model_name="m", API="classify", entrypoint="REST") == 1


def test_threads_lose_no_count():
    """Many tell at once, while another reads."""
    metrics = Metrics()
    threads = [threading.Thread(target=lambda: [request(metrics) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    samples(metrics)
    for thread in threads:
        thread.join()
    assert value(metrics, f"{US}request_count", model_name="m", status="OK") == 2000


def test_sequences_are_told_by_model():
    """How many live, began and ended and why, their steps, and how many ran together; nothing of models without any."""
    figures = SequenceFigures()
    metrics = Metrics(sequences=figures.snapshot)
    assert value(metrics, "edge_fallback_sequence_state_bytes") == 0
    for _ in range(3):
        figures.begun("m")
    figures.answered("m", 3)
    figures.answered("m", 1)
    figures.ended("m", Ended.IDLE)
    figures.ended("", Ended.BOUND)
    figures.state_bytes = 96
    assert value(metrics, "edge_fallback_live_sequences", model_name="m") == 2
    assert value(metrics, "edge_fallback_live_sequences", model_name="") is None
    assert value(metrics, "edge_fallback_sequences_begun_total", model_name="m") == 3
    assert value(metrics, "edge_fallback_sequences_ended_total", model_name="m", why="idle") == 1
    assert value(metrics, "edge_fallback_sequences_ended_total", model_name="", why="bound") == 1
    assert value(metrics, "edge_fallback_sequence_steps_total", model_name="m") == 4
    assert value(metrics, "edge_fallback_sequence_batch_steps_bucket", model_name="m", le="1") == 1
    assert value(metrics, "edge_fallback_sequence_batch_steps_bucket", model_name="m", le="4") == 2
    assert value(metrics, "edge_fallback_sequence_batch_steps_sum", model_name="m") == 4
    assert value(metrics, "edge_fallback_sequence_state_bytes") == 96
