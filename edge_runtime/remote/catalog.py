"""What a server has said that it serves. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from edge_runtime.remote.bounds import wait_ms
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb

MAX_MODELS = 4096
"""Models of one server that are kept; of further ones it is not known whether it has them."""

MAX_VERSIONS = 256
"""Of one model that are kept, the first ones that it tells; a server loads a few."""

MAX_LABELS = 256
"""Of a model with more than these it is not known where any points."""

_AVAILABLE = 30
_COMING = frozenset({10, 20})
"""START and LOADING; the numbers are one enumeration's in both protocols, ModelVersionStatus's."""


class Serves(enum.Enum):
    """YES now; SOON: it is loading; NO; UNKNOWN: it hasn't been said."""

    YES = "yes"
    SOON = "soon"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class ServedVersion:
    """One version.

    Attributes:
        state: `AVAILABLE`, `LOADING`..., as in TensorFlow Serving's ModelVersionStatus.
        serves: Whether it answers.
        wait_s: Seconds that a request of one row would wait and run; 0 where that is not known.
        queued_rows: Rows that wait.
        package_fingerprint: Of its package; empty where there is none.
        preprocessing_fingerprint: Of its package's preprocessing; empty where there is none.
    """

    state: str
    serves: Serves
    wait_s: float = 0.0
    queued_rows: int = 0
    package_fingerprint: str = ""
    preprocessing_fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model.

    Attributes:
        versions: By number.
        labels: The version by label; None where labels are not told of.
        default: What answers a request that names no version; 0 for none.
        split: Whether it is only the one that most of these get.
    """

    versions: Mapping[int, ServedVersion]
    labels: Mapping[str, int] | None
    default: int
    split: bool = False


@dataclass(frozen=True, kw_only=True)
class ServedCatalog:
    """What one server serves.

    Attributes:
        server_id: Which server it is; empty where it doesn't say.
        revision: Grows with every change while the server lives.
        models: By name.
        complete: Whether what is not in it is not served; otherwise that is not known.
    """

    server_id: str = ""
    revision: int = 0
    models: Mapping[str, ServedModel] = field(default_factory=lambda: MappingProxyType({}))
    complete: bool = False


def read_update(update: edge.CatalogUpdate | None) -> ServedCatalog:
    """The catalog that `edge.v1.Catalog` told.

    Raises:
        ValueError: it listed too much, and was not read.
    """
    if update is None:
        raise ValueError("it lists too much")
    models = {model.name: _read_model(model) for model in update.models[:MAX_MODELS]}
    return ServedCatalog(
        server_id=update.server_id,
        revision=update.revision,
        models=models,
        complete=len(update.models) <= MAX_MODELS,
    )


def with_status(catalog: ServedCatalog, name: str, response: pb.GetModelStatusResponse | None) -> ServedCatalog:
    """A catalog of a server that is asked for each model: what it has said of one of them is put in.

    Args:
        catalog: What is known so far.
        name: The model.
        response: What TensorFlow Serving's ModelService said; None if it has no such model, or tells too much of it.
    """
    told = [] if response is None else response.model_version_status[:MAX_VERSIONS]
    versions = {one.version: _read_status(one) for one in told}
    available = [version for version, one in versions.items() if one.serves is Serves.YES]
    model = ServedModel(versions=versions, labels=None, default=max(available, default=0))
    models = {**catalog.models, name: model}
    while len(models) > MAX_MODELS:
        del models[next(iter(models))]
    return replace(catalog, models=models)


def find(catalog: ServedCatalog | None, name: str, version: int | None, label: str | None) -> ServedVersion | None:
    """The version that would answer; None if there is none, or it is not known."""
    model = None if catalog is None else catalog.models.get(name)
    return None if model is None else model.versions.get(_number(model, version, label))


def resolved(catalog: ServedCatalog | None, name: str, version: int | None, label: str | None) -> int:
    """The number of the version that would answer now for a label, or for none; 0 where that is not known.

    0 too where the version is named: then all servers that have it answer as the same.
    """
    model = None if version is not None or catalog is None else catalog.models.get(name)
    if model is None:
        return 0
    number = _number(model, None, label)
    found = model.versions.get(number)
    return number if found is not None and found.serves is Serves.YES else 0


def serves(catalog: ServedCatalog | None, name: str, version: int | None, label: str | None) -> Serves:
    """Whether a server answers for a version: the one that is named, or the label's, or its latest."""
    if catalog is None:
        return Serves.UNKNOWN
    model = catalog.models.get(name)
    if model is None:
        return Serves.NO if catalog.complete else Serves.UNKNOWN
    found = find(catalog, name, version, label)
    if found is not None:
        return found.serves
    if version is None and label is not None and model.labels is None and model.default:
        return Serves.UNKNOWN  # Its labels are its own secret.
    # A label or a default may move to what is loading.
    coming = version is None and any(one.serves is Serves.SOON for one in model.versions.values())
    return Serves.SOON if coming else Serves.NO


def _number(model: ServedModel, version: int | None, label: str | None) -> int:
    if version is not None:
        return version
    return model.default if label is None else (model.labels or {}).get(label, 0)


def _read_model(model: edge.Model) -> ServedModel:
    return ServedModel(
        versions={one.version: _read_version(one) for one in model.versions[:MAX_VERSIONS]},
        labels=dict(model.labels) if len(model.labels) <= MAX_LABELS else None,
        default=model.default_version,
        split=len(model.traffic) > 1,
    )


def _read_version(version: edge.Version) -> ServedVersion:
    return ServedVersion(
        state=_name_of(version.state),
        serves=_serves_in(version.state),
        wait_s=wait_ms(version.expected_wait_ms) / 1e3,
        queued_rows=max(version.queued_rows, 0),
        package_fingerprint=version.package_fingerprint,
        preprocessing_fingerprint=version.preprocessing_fingerprint,
    )


def _read_status(status: pb.ModelVersionStatus) -> ServedVersion:
    return ServedVersion(state=_name_of(status.state), serves=_serves_in(status.state))


def _serves_in(state: int) -> Serves:
    if state == _AVAILABLE:
        return Serves.YES
    return Serves.SOON if state in _COMING else Serves.NO


def _name_of(state: int) -> str:
    return edge.Version.State.Name(state) if state in edge.Version.State.values() else str(state)
