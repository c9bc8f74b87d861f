"""Metrics in Prometheus' text format: TensorFlow Serving's names, labels and units, and beside them our own.

What is told by TensorFlow Serving's names is a model's; versions stand side by side under `edge_fallback_...`. States,
queues and divergences are read from the catalog when somebody asks. Labels are bounded: a model that is not known
is counted as `model_name=""`, and of a model's versions the `MAX_VERSIONS` that were heard of last are kept.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from fallback_server.access.attempts import Reason
from fallback_server.core.errors import ServerError
from fallback_server.core.servable import ServableId
from fallback_server.counts import MetricCounts
from fallback_server.metric_cells import QUEUE_US, REQUEST_US, SIZES, Histogram, ModelCell, VersionCell
from fallback_server.sequences.figures import Snapshot
from fallback_server.statistics import MAX_NOTED, taken_off

if TYPE_CHECKING:
    from fallback_server.control import ModelView, VersionView
    from fallback_server.dataplane import Answer, Observe, PredictCall

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DEFAULT_PATH = "/monitoring/prometheus/metrics"
"""TensorFlow Serving's."""

MAX_MODELS = 10_000
"""As many as can be configured; what comes beyond is counted as no model in particular."""

MAX_KINDS = 4096
"""Of requests, and of batches, that are counted some at a time; others are where they come."""

MAX_VERSIONS = 32
"""Of one model; counters of those that were not heard of for longer are dropped."""

_TFS = ":tensorflow:serving:"
_OWN = "edge_fallback_"
_BATCHING = f"{_TFS}batching_session:"


_Kind = tuple[str, int | None, str, str, str]
"""What requests have in common that are counted together: model, version, verb, entry point and code."""

_Like = tuple[str, int, int, int]
"""Likewise batches: model, version, rows, and rows with padding."""


class Metrics(Collector):
    """Counts. Any thread may tell it: what it is told is noted, and counted when there is much, or when somebody asks.

    Args:
        catalog: The models as they are, asked at each scrape; None leaves out what only it knows.
        registry: Where others may add metrics of theirs; by default an own one that tells of this process.
        sequences: What sequences have come to, asked at each scrape; None leaves it out.
        refused: How many calls were refused for who called, by reason; likewise.
    """

    def __init__(
        self,
        catalog: Callable[[], Sequence[ModelView]] | None = None,
        registry: CollectorRegistry | None = None,
        *,
        sequences: Callable[[], Snapshot] | None = None,
        refused: Callable[[], Mapping[Reason, int]] | None = None,
    ) -> None:
        self._refused = refused
        self._catalog = catalog
        self._sequences = sequences
        self._lock = threading.Lock()
        self._models: dict[str, ModelCell] = {"": ModelCell()}
        self._queued = Histogram(QUEUE_US)
        self._sizes = {name: Histogram(SIZES) for name in ("input_batch_size", "processed_batch_size", "padding_size")}
        self._batches = 0
        # Numbers by what they have in common: see `VersionStatistics`.
        self._answered: dict[_Kind, list[float]] = {}
        self._ran: dict[_Like, tuple[list[float], list[float]]] = {}
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
        self.registry = registry
        registry.register(self)

    def request(
        self,
        *,
        model: str,
        version: int | None,
        verb: str,
        entrypoint: str,
        code: str,
        latency_s: float,
    ) -> None:
        """A request was settled.

        Args:
            model: As the caller named it.
            version: Which had it; None where none had, and then the model may be any text.
            verb: "Predict", "Classify" or "Regress".
            entrypoint: "GRPC" or "REST".
            code: gRPC's name of what came of it, such as "OK".
            latency_s: How long it took.
        """
        kind = (model, version, verb, entrypoint, code)
        noted = self._answered.get(kind)
        if noted is None:
            with self._lock:
                if version is None or len(self._answered) >= MAX_KINDS:
                    self._count_requests(kind, (latency_s,))
                    return
                # What is refused before there is a version is counted as its model's then. Each kind has its version
                # among the latest: what of others was left would take the place of one that lives.
                self._version(self._model(model, known=True), version)
                noted = self._answered.setdefault(kind, [])
        noted.append(latency_s)
        if len(noted) >= MAX_NOTED:
            self._count()

    def batch(
        self, *, model: str, version: int, rows: int, padded_rows: int, queued_s: Iterable[float], run_s: float
    ) -> None:
        """A batch has run.

        Args:
            model: Whose.
            version: Which of its versions.
            rows: That were asked for.
            padded_rows: That were run, with what was added to reach an allowed size.
            queued_s: How long each of its requests waited.
            run_s: How long the run took.
        """
        like = (model, version, rows, padded_rows)
        noted = self._ran.get(like)
        if noted is None:
            with self._lock:
                if len(self._ran) >= MAX_KINDS:
                    self._count_batches(like, tuple(queued_s), (run_s,))
                    return
                self._version(self._model(model, known=True), version)
                noted = self._ran.setdefault(like, ([], []))
        waits_s, runs_s = noted
        waits_s += queued_s
        runs_s.append(run_s)
        if len(runs_s) >= MAX_NOTED:
            self._count()

    def load(self, *, model: str, version: int, seconds: float, ok: bool) -> None:
        """A load has ended."""
        self._count()  # In the order in which it came.
        with self._lock:
            cell = self._model(model, known=True)
            cell.loads["success" if ok else "fail"] += 1
            self._version(cell, version).load_s = seconds

    def take(self) -> MetricCounts:
        """What requests and batches came to since the last time; from now on it is counted anew. Loads are not told."""
        self._count()
        with self._lock:
            # Models stay known, so that what is refused before there is a version is counted as theirs.
            models, self._models = self._models, self._emptied()
            queued, self._queued = self._queued, Histogram(QUEUE_US)
            sizes, self._sizes = self._sizes, {name: Histogram(SIZES) for name in self._sizes}
            batches, self._batches = self._batches, 0
        return MetricCounts(
            {name: model.taken() for name, model in models.items() if model.codes or model.versions},
            queued.taken(),
            {name: each.taken() for name, each in sizes.items()},
            batches,
        )

    def add(self, counts: MetricCounts) -> None:
        """Adds what another process has taken of its own."""
        with self._lock:
            for name, model in counts.models.items():
                cell = self._model(name, known=True)
                cell.join(model)
                for number, version in model.versions.items():
                    self._version(cell, number).join(version)
            self._queued.join(counts.queued)
            for name, each in counts.sizes.items():
                if name in self._sizes:
                    self._sizes[name].join(each)
            self._batches += counts.batches

    def render(self) -> tuple[bytes, str]:
        """All metrics as text, and its content type. A hundred models of two versions take some 50 ms."""
        return "".join(_text(self.registry.collect())).encode(), CONTENT_TYPE

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        self._count()
        yield from (*self._requests(), *self._batching(), *self._versions())
        if self._catalog is not None:
            yield from _catalog_families(self._catalog())
        if self._sequences is not None:
            yield from _sequence_families(self._sequences())
        if self._refused is not None:
            yield _refused_family(self._refused())

    def describe(self) -> Iterable[Metric]:
        """For the registry: nothing, so that making one asks no catalog."""
        return ()

    def _count(self) -> None:
        """Counts what was noted, all that is alike at once."""
        with self._lock:
            for kind, latencies_s in tuple(self._answered.items()):  # Some may be dropped meanwhile.
                if latencies_s:
                    self._count_requests(kind, taken_off(latencies_s))
            for like, (waits_s, runs_s) in tuple(self._ran.items()):
                if runs_s:
                    self._count_batches(like, taken_off(waits_s), taken_off(runs_s))

    def _emptied(self) -> dict[str, ModelCell]:
        """Cells for what comes next, that know which versions were told of. Under the lock."""
        return {name: ModelCell(model.latest) for name, model in self._models.items()}

    def _count_requests(self, kind: _Kind, latencies_s: Sequence[float], *, kept: bool = True) -> None:
        """Under the lock. What is not kept counts for the model alone."""
        model, version, verb, entrypoint, code = kind
        count = len(latencies_s)
        cell = self._model(model, known=version is not None)
        cell.codes[code] += count
        if code == "OK":
            # TensorFlow Serving's own spelling: what came over REST is told in the path's letters.
            key = (verb.lower() if entrypoint == "REST" else verb, entrypoint)
            latency = cell.latency.get(key)
            if latency is None:
                latency = cell.latency[key] = Histogram(REQUEST_US)
            latency.add_all(latencies_s, 1e6)
        if version is None:
            cell.unversioned[verb, code] += count
        elif kept:
            of_version = self._version(cell, version)
            of_version.codes[verb, code] += count
            if code == "OK":
                of_version.latency.add_all(latencies_s)

    def _count_batches(
        self, like: _Like, waits_s: Sequence[float], runs_s: Sequence[float], *, kept: bool = True
    ) -> None:
        """As `_count_requests`."""
        model, version, rows, padded_rows = like
        count = len(runs_s)
        cell = self._model(model, known=True)
        cell.runs.add_all(runs_s, 1e6)
        if kept:
            of_version = self._version(cell, version)
            of_version.rows.add(rows, count)
            of_version.runs.add_all(runs_s)
        self._batches += count
        self._sizes["input_batch_size"].add(rows, count)
        self._sizes["processed_batch_size"].add(padded_rows, count)
        self._sizes["padding_size"].add(padded_rows - rows, count)
        self._queued.add_all(waits_s, 1e6)

    def _model(self, name: str, *, known: bool) -> ModelCell:
        """A model's cell; under the lock. Only what is known may make a new one."""
        cell = self._models.get(name)
        if cell is not None:
            return cell
        if not known or len(self._models) > MAX_MODELS:
            return self._models[""]
        cell = self._models[name] = ModelCell()
        return cell

    def _version(self, cell: ModelCell, version: int) -> VersionCell:
        """A version's cell; under the lock. Who has to go for it leaves nothing behind."""
        found, gone = cell.version(version, most=MAX_VERSIONS)
        if gone is not None:
            self._drop(cell, gone)
        return found

    def _drop(self, cell: ModelCell, version: int) -> None:
        """Forgets the kinds of a version that is kept no longer; its model has what was noted of them."""
        for kind in [one for one in self._answered if one[1] == version and self._model(one[0], known=False) is cell]:
            if latencies_s := taken_off(self._answered.pop(kind)):
                self._count_requests(kind, latencies_s, kept=False)
        for like in [one for one in self._ran if one[1] == version and self._model(one[0], known=False) is cell]:
            waits_s, runs_s = self._ran.pop(like)
            if runs_s:
                self._count_batches(like, taken_off(waits_s), taken_off(runs_s), kept=False)

    def _requests(self) -> Iterator[Metric]:
        count = Metric(f"{_TFS}request_count", "The number of requests.", "counter")
        latency = Metric(f"{_TFS}request_latency", "Microseconds that answered requests took.", "histogram")
        runs = Metric(f"{_TFS}runtime_latency", "Microseconds that runs of the model took.", "histogram")
        loads = Metric(f"{_OWN}loads", "Loads that have ended.", "counter")
        for name, model in list(self._models.items()):
            with self._lock:  # for one model at a time: requests wait for it
                for code, value in sorted(model.codes.items()):
                    count.add_sample(count.name, {"model_name": name, "status": code}, value)
                for (api, entrypoint), histogram in sorted(model.latency.items()):
                    labels = {"model_name": name, "API": api, "entrypoint": entrypoint}
                    latency.samples += _samples(histogram, latency.name, labels)
                if name:
                    labels = {"model_name": name, "API": "Predict", "runtime": "TF1"}
                    runs.samples += _samples(model.runs, runs.name, labels)
                for ended, value in sorted(model.loads.items()):
                    loads.add_sample(f"{loads.name}_total", {"model_name": name, "status": ended}, value)
        return iter((count, latency, runs, loads))

    def _batching(self) -> Iterator[Metric]:
        queued = Metric(f"{_BATCHING}queuing_latency", "Microseconds that requests waited in a queue.", "histogram")
        batches = Metric(f"{_BATCHING}wrapped_run_count", "The number of batches.", "counter")
        sizes = {
            name: Metric(f"{_BATCHING}{name}", f"Rows: {name.replace('_', ' ')}.", "histogram") for name in self._sizes
        }
        with self._lock:
            queued.samples += _samples(self._queued, queued.name, {"thread_pool_name": "batch"})
            batches.add_sample(batches.name, {}, self._batches)
            for name, family in sizes.items():
                family.samples += _samples(self._sizes[name], family.name, {})
        return iter((queued, batches, *sizes.values()))

    def _versions(self) -> Iterator[Metric]:
        text = "Requests by the version that had them; what was refused before there was one has an empty version."
        count = Metric(f"{_OWN}requests", text, "counter")
        latency = Metric(f"{_OWN}request_seconds", "How long a version's answers took.", "histogram")
        rows = Metric(f"{_OWN}batch_rows", "Rows that were run at a time.", "histogram")
        runs = Metric(f"{_OWN}run_seconds", "How long a version's runs took.", "histogram")
        loads = Metric(f"{_OWN}load_seconds", "How long a version's last load took.", "gauge")
        for name, model in list(self._models.items()):
            with self._lock:
                versions = sorted(model.versions.items())
                codes = {"": model.unversioned, **{str(number): each.codes for number, each in versions}}
                for number_text, of_version in codes.items():
                    for (verb, code), value in sorted(of_version.items()):
                        labels = {"model_name": name, "version": number_text, "verb": verb, "code": code}
                        count.add_sample(f"{count.name}_total", labels, value)
                for number, version in versions:
                    labels = {"model_name": name, "version": str(number)}
                    latency.samples += _samples(version.latency, latency.name, labels)
                    rows.samples += _samples(version.rows, rows.name, labels)
                    runs.samples += _samples(version.runs, runs.name, labels)
                    loads.add_sample(loads.name, labels, version.load_s)
        return iter((count, latency, rows, runs, loads))


def _samples(histogram: Histogram, name: str, labels: Mapping[str, str]) -> Iterator[Sample]:
    count = 0
    for bound, here in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        count += here
        yield Sample(f"{name}_bucket", {**labels, "le": "+Inf" if bound == float("inf") else f"{bound:g}"}, count)
    yield Sample(f"{name}_sum", dict(labels), histogram.total)
    yield Sample(f"{name}_count", dict(labels), count)


def observer(metrics: Metrics, code_of: Callable[[ServerError], str]) -> Observe:
    """What tells the metrics of each call that the data plane settles.

    Args:
        metrics: Told.
        code_of: gRPC's name of the code that an error travels as.
    """

    def observe(call: PredictCall, servable_id: ServableId | None, answer: Answer, took_s: float) -> None:
        metrics.request(
            model=call.target.name,
            version=None if servable_id is None else servable_id.version,
            verb=call.verb.value,
            entrypoint=call.entrypoint,
            code=code_of(answer) if isinstance(answer, ServerError) else "OK",
            latency_s=took_s,
        )

    return observe


_GAUGES = {
    "model_version_state": "1 for the state that a version is in.",
    "queued_rows": "Rows that wait, over all of a version's signatures.",
    "expected_wait_ms": "How long a request that comes now is expected to wait and run.",
    "batch_limit_rows": "Rows that go into a batch at most, as far as a latency target lets them.",
    "label": "1 for each label, at the version that it names.",
    "traffic_weight": "A version's weight where traffic is split.",
    "default_version": "The version that answers a request which names none.",
    "shadow_mean_divergence": "Over compared answers, how far they were apart.",
}
_COUNTERS = {
    "inline_batches": "Batches that ran in the thread that brought their requests.",
    "shadow_compared": "Answers that were compared with another version's.",
    "shadow_diverged": "Those of them that differed by more than the tolerance.",
    "shadow_failed": "Requests that a version got as another's shadow and did not answer.",
}


def _catalog_families(models: Iterable[ModelView]) -> Iterator[Metric]:
    gauges = {name: Metric(_OWN + name, text, "gauge") for name, text in _GAUGES.items()}
    counters = {name: Metric(_OWN + name, text, "counter") for name, text in _COUNTERS.items()}

    def gauge(name: str, value: float, **labels: str) -> None:
        gauges[name].add_sample(_OWN + name, labels, value)

    for model in models:
        gauge("default_version", model.default_version or 0, model_name=model.name)
        for label, number in sorted(model.labels.items()):
            gauge("label", 1, model_name=model.name, label=label, version=str(number))
        for number, weight in sorted(model.traffic.items()):
            gauge("traffic_weight", weight, model_name=model.name, version=str(number))
        for version in model.versions:
            _add_version(version, gauge, counters)
    yield from gauges.values()
    yield from counters.values()


def _add_version(version: VersionView, gauge: Callable[..., None], counters: Mapping[str, Metric]) -> None:
    state = version.state
    labels = {"model_name": state.servable_id.name, "version": str(state.servable_id.version)}
    gauge("model_version_state", 1, **labels, state=state.state.name)
    if version.servable is None:
        return
    gauge("queued_rows", version.servable.queued_rows(), **labels)
    gauge("batch_limit_rows", version.servable.batch_rows(), **labels)
    counters["inline_batches"].add_sample(f"{_OWN}inline_batches_total", labels, version.servable.runs_here())
    gauge("expected_wait_ms", version.servable.expected_wait_ms(), **labels)
    figures = version.servable.statistics.figures()
    gauge("shadow_mean_divergence", figures.mean_divergence, **labels)
    counts = {"compared": figures.compared, "diverged": figures.diverged, "failed": figures.uncompared}
    for name, value in counts.items():
        counters[f"shadow_{name}"].add_sample(f"{_OWN}shadow_{name}_total", labels, value)


def _refused_family(refused: Mapping[Reason, int]) -> Metric:
    family = Metric(f"{_OWN}access_refused", "Calls that were refused for who called.", "counter")
    for reason, count in refused.items():
        family.add_sample(f"{family.name}_total", {"reason": reason.value}, count)
    return family


def _sequence_families(told: Snapshot) -> Iterator[Metric]:
    live = Metric(f"{_OWN}live_sequences", "Sequences that have begun and not ended.", "gauge")
    held = Metric(f"{_OWN}sequence_state_bytes", "What the states of all sequences take.", "gauge")
    begun = Metric(f"{_OWN}sequences_begun", "Sequences whose first step was taken.", "counter")
    ended = Metric(f"{_OWN}sequences_ended", "Streams by why they have ended.", "counter")
    steps = Metric(f"{_OWN}sequence_steps", "Steps that were answered.", "counter")
    runs = Metric(f"{_OWN}sequence_batch_steps", "Steps of live sequences that one run answered.", "histogram")
    held.add_sample(held.name, {}, told.state_bytes)
    for name, model in sorted(told.models.items()):
        labels = {"model_name": name}
        for why, count in model.ended.items():
            ended.add_sample(f"{ended.name}_total", {**labels, "why": why.value}, count)
        if not name:
            continue
        live.add_sample(live.name, labels, model.live)
        begun.add_sample(f"{begun.name}_total", labels, model.begun)
        steps.add_sample(f"{steps.name}_total", labels, model.steps)
        histogram = Histogram(SIZES)
        for size, count in model.batches.items():
            histogram.counts[bisect_left(SIZES, size)] += count
        histogram.total = model.steps
        runs.samples += _samples(histogram, runs.name, labels)
    return iter((live, held, begun, ended, steps, runs))


def _text(families: Iterable[Metric]) -> Iterator[str]:
    """Prometheus' text format, version 0.0.4.

    Not the library's own writer: that appends `_total` to every counter, which TensorFlow Serving's don't have.
    """
    for family in families:
        kind = "untyped" if family.type == "unknown" else family.type
        name = family.samples[0].name if kind == "counter" and family.samples else family.name
        documentation = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
        yield f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"
        for sample in family.samples:
            labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
            yield f"{sample.name}{'{' + labels + '}' if labels else ''} {_number(sample.value)}\n"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
