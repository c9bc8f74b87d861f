"""What clients of the Open Inference Protocol ask of a model beside its answers, as Triton tells it.

Documents are Triton's JSON: what REST sends as it is, and gRPC as the messages of the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from fallback_server.core.errors import InvalidInput, ModelNotFound, NotReady, PreconditionFailed, Unimplemented
from fallback_server.core.handle import ServableHandle
from fallback_server.core.servable import ServableId, ServableState, State
from fallback_server.core.target import ModelTarget
from fallback_server.dataplane import DEFAULT_SIGNATURE
from fallback_server.executors.base import VARIABLE, Signature, TensorSpec
from fallback_server.protocol.open_inference import datatype_of
from fallback_server.protocol.tensors import TensorCodecError
from fallback_server.served_model import ServedModel
from fallback_server.statistics import Work

SERVER_NAME = "edge-fallback-server"

EXTENSIONS = ("model_repository", "model_configuration", "statistics", "binary_tensor_data", "parameters")
"""Of those that Triton has a name for, the ones that are here."""

SIGNATURE_PARAMETER = "signature_name"
"""A request's parameter that names a signature: the protocol has no other place for it."""

CLIENT_PARAMETER = "client_id"
"""A request's parameter that says who calls: where traffic is split, one client gets one version."""

PRIORITY_PARAMETER = "priority"
"""A request's parameter: 1 comes before others of its model's signature, 2 is what those are that say nothing, and 3
comes after them: as in Triton where a model has three levels, of which the second is its default."""

_PRIORITIES = {1: 1, 3: -1}
"""As `PredictCall` has them; Triton takes a level that a model doesn't have for its default."""

REFUSED_PARAMETERS = {
    "shared_memory_region": "tensors in shared memory",
    "classification": "outputs as classifications",
    "sequence_id": "sequences of requests",
}
"""Parameters that change what is asked: passing over them would give another answer than was meant."""

_STATES = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}
"""As Triton names them."""

_PLATFORMS = {"tensorflow": "tensorflow_savedmodel"}
"""TensorFlow Serving's name of a platform -> Triton's, which tells the format too."""

Document = dict[str, Any]

Seen = Callable[[str], bool]
"""Tells by a model's name whether whoever asks may see it."""


class Models(Protocol):
    """The models as a whole; see `Control`."""

    def acquire(self, target: ModelTarget, client_key: bytes = b"") -> ServableHandle[ServedModel]:
        """Holds the version that a request means."""
        ...

    def states(self, target: ModelTarget) -> tuple[ServableState, ...]:
        """The states of a model's versions."""
        ...

    def index(self) -> tuple[ServableState, ...]:
        """Every model's every version."""
        ...


def entry_point(name: str, signatures: Mapping[str, Signature]) -> Signature:
    """The signature that is meant where none is named: the protocol knows but one.

    Raises:
        PreconditionFailed: the model has several, and none is the default.
    """
    signature = signatures.get(DEFAULT_SIGNATURE)
    if signature is not None:
        return signature
    if len(signatures) != 1:
        raise PreconditionFailed(
            f"model {name} has no signature {DEFAULT_SIGNATURE}: "
            f"a request must name one of {', '.join(sorted(signatures))} in its parameter {SIGNATURE_PARAMETER}"
        )
    (signature,) = signatures.values()
    return signature


def check_unload(parameters: Mapping[str, object]) -> None:
    """Refuses parameters of an unload that ask for something. No model here depends on another.

    Raises:
        InvalidInput: `unload_dependents` is no bool.
        Unimplemented: another parameter.
    """
    for name, value in parameters.items():
        if name != "unload_dependents":
            raise Unimplemented(f"unload parameters are not supported: {name}")
        if not isinstance(value, bool):
            raise InvalidInput("unload_dependents must be true or false")


def priority_of(parameters: Mapping[str, object]) -> int:
    """How soon a request is to be run, by its parameters: see `PredictCall.priority`.

    Raises:
        InvalidInput: what they say of it is no number of a level.
    """
    value = parameters.get(PRIORITY_PARAMETER, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        said = value if isinstance(value, int) and value > -(2**63) else type(value).__name__
        raise InvalidInput(f"parameter {PRIORITY_PARAMETER} must be a whole number of at least 0, got {said}")
    return _PRIORITIES.get(value, 0)


def metadata(models: Models, target: ModelTarget) -> Document:
    """A ModelMetadataResponse: what the entry point takes and gives, and the versions that answer.

    Raises:
        ServerError: nothing answers for the target.
        PreconditionFailed: see `entry_point`.
    """
    with models.acquire(target) as handle:
        signature = entry_point(target.name, handle.servable.signatures)
        platform = _platform(handle.servable)
    states = models.states(ModelTarget(name=target.name))
    return {
        "name": target.name,
        "versions": [str(servable_id.version) for servable_id in _available(states)],
        "platform": platform,
        "inputs": [_metadata_of(spec) for spec in signature.inputs.values()],
        "outputs": [_metadata_of(spec) for spec in signature.outputs.values()],
    }


def all_seen(name: str) -> bool:
    """Where nobody is told apart: every model may be seen."""
    del name
    return True


def repository(models: Models, *, ready: bool, seen: Seen = all_seen) -> list[Document]:
    """The models of a RepositoryIndexResponse: every version and its state.

    Args:
        models: Asked.
        ready: Whether only those are wanted that answer.
        seen: Tells by a model's name whether it is told of.
    """
    return [
        {
            "name": state.servable_id.name,
            "version": str(state.servable_id.version),
            "state": _STATES[state.state],
            "reason": state.error or "",
        }
        for state in models.index()
        if (state.state is State.AVAILABLE or not ready) and seen(state.servable_id.name)
    ]


def configuration(name: str, model: ServedModel) -> Document:
    """A ModelConfig: what the entry point takes and gives, and how its requests are merged.

    Where they are, `max_batch_size` is above 0 and the dimensions are those of one row, as Triton has it.

    Raises:
        PreconditionFailed: see `entry_point`.
    """
    signature = entry_point(name, model.signatures)
    queue = model.queues[signature.name]
    options = queue.options
    config: Document = {
        "name": name,
        "platform": _platform(model),
        "backend": model.platform,
        "max_batch_size": options.max_batch_size_rows if queue.merges else 0,
        "input": [
            {
                **_tensor(spec, of_row=queue.merges),
                "format": "FORMAT_NONE",
                "is_shape_tensor": False,
                "allow_ragged_batch": False,
                "optional": False,
            }
            for spec in signature.inputs.values()
        ],
        "output": [
            {**_tensor(spec, of_row=queue.merges), "label_filename": "", "is_shape_tensor": False}
            for spec in signature.outputs.values()
        ],
        "model_transaction_policy": {"decoupled": False},
    }
    if queue.merges:
        config["dynamic_batching"] = {
            "preferred_batch_size": list(options.allowed_batch_sizes),
            "max_queue_delay_microseconds": options.batch_timeout_us,
            "preserve_ordering": False,
        }
    return config


def statistics(models: Models, target: ModelTarget | None, seen: Seen = all_seen) -> Document:
    """A ModelStatisticsResponse: of one version, of a model's versions that answer, or of all models'.

    Args:
        models: Asked; each version is held for a moment.
        target: Which; None for all.
        seen: Tells by a model's name whether it is among all.

    Raises:
        ServerError: the model isn't known, or the version that is named doesn't answer.
    """
    if target is not None and (target.version is not None or target.label is not None):
        with models.acquire(target) as handle:
            return {"model_stats": [_version_statistics(handle)]}
    states = (
        models.states(target)
        if target is not None
        else filter(lambda each: seen(each.servable_id.name), models.index())
    )
    told: list[Document] = []
    for servable_id in _available(states):
        try:
            with models.acquire(ModelTarget(name=servable_id.name, version=servable_id.version)) as handle:
                told.append(_version_statistics(handle))
        except (ModelNotFound, NotReady):
            continue  # It went while this was put together.
    return {"model_stats": told}


def _available(states: Iterable[ServableState]) -> list[ServableId]:
    return sorted(state.servable_id for state in states if state.state is State.AVAILABLE)


def _version_statistics(handle: ServableHandle[ServedModel]) -> Document:
    work = handle.servable.statistics.work()
    return {
        "name": handle.servable_id.name,
        "version": str(handle.servable_id.version),
        "last_inference": round(work.last_run_s * 1e3),
        "inference_count": work.rows,
        "execution_count": work.runs,
        "inference_stats": _inference_stats(work),
        "batch_stats": _batch_stats(work.sizes.items()),
    }


def _inference_stats(work: Work) -> Document:
    """What is not measured apart is 0: merging inputs is in the queue's time, splitting outputs in success's."""
    return {
        "success": _duration(work.answered, work.answered_s),
        "fail": _duration(work.failed, work.failed_s),
        "queue": _duration(work.requests, work.queued_s),
        "compute_input": _duration(0, 0.0),
        "compute_infer": _duration(work.requests, work.run_s),
        "compute_output": _duration(0, 0.0),
        "cache_hit": _duration(0, 0.0),
        "cache_miss": _duration(0, 0.0),
    }


def _batch_stats(sizes: Iterable[tuple[int, tuple[int, float]]]) -> list[Document]:
    return [
        {
            "batch_size": rows,
            "compute_input": _duration(0, 0.0),
            "compute_infer": _duration(runs, run_s),
            "compute_output": _duration(0, 0.0),
        }
        for rows, (runs, run_s) in sorted(sizes)
    ]


def _duration(count: int, total_s: float) -> Document:
    return {"count": count, "ns": round(total_s * 1e9)}


def _platform(model: ServedModel) -> str:
    return _PLATFORMS.get(model.platform, model.platform)


def _metadata_of(spec: TensorSpec) -> Document:
    """What can't be sent can at least be seen: a dtype that the protocol hasn't is told by numpy's name."""
    return {"name": spec.name, "datatype": _datatype(spec) or spec.dtype.name, "shape": _dims(spec)}


def _tensor(spec: TensorSpec, *, of_row: bool) -> Document:
    datatype = _datatype(spec) or "INVALID"
    dims = _dims(spec)
    return {
        "name": spec.name,
        "data_type": f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}",
        "dims": dims[1:] if of_row else dims,
    }


def _datatype(spec: TensorSpec) -> str | None:
    try:
        return datatype_of(spec.dtype)
    except TensorCodecError:
        return None


def _dims(spec: TensorSpec) -> list[int]:
    """One that is variable stands for any number of them: the protocol has nothing else for that."""
    return [VARIABLE] if spec.shape is None else list(spec.shape)
