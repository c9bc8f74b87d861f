"""What a server tells of its models, as tables and as JSON, for an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.tables import aligned

Statuses = Mapping[str, Sequence[pb.ModelVersionStatus]]
"""Model -> its versions' statuses, as a TensorFlow Serving tells them."""

_COLOURS = {"AVAILABLE": "32", "START": "33", "LOADING": "33", "UNLOADING": "33", "END": "31"}

_SHADOW = "SHADOW"
"""A column that is left out where no model has one."""

_EXECUTOR = "EXECUTOR"
"""Likewise, as with servers of before, which don't tell it."""

_SHOWN = 10
"""Of a split's versions that are not available."""

_PLAIN = "the server tells states alone, as TensorFlow Serving does: labels, traffic, queues and packages are not known"


def catalog_json(update: edge.CatalogUpdate) -> dict[str, Any]:
    """A catalog as JSON shows it: numbers as numbers, versions of maps as texts."""
    return {
        "server_id": update.server_id,
        "revision": update.revision,
        "models": [_model_json(model) for model in update.models],
    }


def catalog_lines(update: edge.CatalogUpdate, *, colours: bool) -> list[str]:
    """A catalog as a table: a line for each version; below it what is amiss, and what was rolled back."""
    heading = ("MODEL", "VERSION", "STATE", "LABELS", "TRAFFIC", _SHADOW, "QUEUE", "WAIT", _EXECUTOR, "PACKAGE")
    rows: list[tuple[str, ...]] = [heading]
    notes = []
    for model in update.models:
        if not model.versions:
            rows.append((model.name, *("-" for _ in heading[1:])))
        if model.note or not model.versions:
            notes.append(f"{model.name}: {model.note or 'no version'}")
        shares = _shares(model)
        for version in sorted(model.versions, key=lambda one: one.version, reverse=True):
            rows.append(_row(model, version, shares))
            notes += [f"{model.name} {version.version}: {told}" for told in (version.error, version.choice) if told]
        notes += _absent_lines(model, shares)
        if model.HasField("hold"):
            notes.append(_hold_line(model))
        notes += [
            f"{model.name}: label {label} waits for version {version}"
            for label, version in sorted(model.waiting_labels.items())
        ]
    if len(rows) == 1:
        return [f"{update.server_id or 'the server'} serves no model", *notes]
    absent = _absent_columns(update)
    kept = [index for index, title in enumerate(heading) if title not in absent]
    shown = [[row[index] for index in kept] for row in rows]
    right = [at for at, index in enumerate(kept) if heading[index] in ("VERSION", "TRAFFIC", _SHADOW, "QUEUE", "WAIT")]
    return [*aligned(shown, paint=_paint(colours=colours), right=right), *notes]


def _absent_columns(update: edge.CatalogUpdate) -> set[str]:
    absent = set()
    if not any(model.HasField("shadow") for model in update.models):
        absent.add(_SHADOW)
    if not any(version.executor for model in update.models for version in model.versions):
        absent.add(_EXECUTOR)
    return absent


def plain_json(found: Statuses) -> dict[str, Any]:
    """What a TensorFlow Serving tells, as JSON."""
    name = pb.ModelVersionStatus.State.Name
    return {
        "models": [
            {
                "name": model,
                "versions": [
                    {"version": one.version, "state": name(one.state), "error": one.status.error_message}
                    for one in versions
                ],
            }
            for model, versions in found.items()
        ]
    }


def plain_lines(found: Statuses, *, colours: bool) -> list[str]:
    """What a TensorFlow Serving tells, as a table."""
    name = pb.ModelVersionStatus.State.Name
    rows = [("MODEL", "VERSION", "STATE")]
    rows += [(model, str(one.version), name(one.state)) for model, versions in found.items() for one in versions]
    errors = [
        f"{model} {one.version}: {one.status.error_message}"
        for model, versions in found.items()
        for one in versions
        if one.status.error_message
    ]
    return [*aligned(rows, paint=_paint(colours=colours), right=(1,)), *errors, _PLAIN]


def shares_text(shares: Mapping[int, float]) -> str:
    """Who answers: a version, or several with their parts."""
    if not shares:
        return "no version"
    if len(shares) == 1:
        return f"version {next(iter(shares))}"
    return ", ".join(f"version {version} {share * 100:.3g} %" for version, share in sorted(shares.items()))


def _model_json(model: edge.Model) -> dict[str, Any]:
    hold, shadow = model.hold, model.shadow
    return {
        "name": model.name,
        "default_version": model.default_version,
        "labels": dict(sorted(model.labels.items())),
        "waiting_labels": dict(sorted(model.waiting_labels.items())),
        "note": model.note,
        "traffic": {str(version): weight for version, weight in sorted(model.traffic.items())},
        "shares": {str(version): share for version, share in sorted(_shares(model).items())},
        "rolled_back": {"version": hold.version, "above": hold.above or None} if model.HasField("hold") else None,
        "shadow": {"version": shadow.version, "share": shadow.share} if model.HasField("shadow") else None,
        "versions": [
            {
                "version": version.version,
                "state": edge.Version.State.Name(version.state),
                "error": version.error,
                "package_fingerprint": version.package_fingerprint,
                "preprocessing_fingerprint": version.preprocessing_fingerprint,
                "queued_rows": version.queued_rows,
                "expected_wait_ms": version.expected_wait_ms,
                "executor": version.executor,
                "choice": version.choice,
            }
            for version in model.versions
        ],
    }


def _row(model: edge.Model, version: edge.Version, shares: Mapping[int, float]) -> tuple[str, ...]:
    number = version.version
    share = shares.get(number)
    labels = sorted(label for label, target in model.labels.items() if target == number)
    shadowed = model.HasField("shadow") and model.shadow.version == number
    return (
        model.name,
        str(number),
        edge.Version.State.Name(version.state),
        ", ".join(labels) or "-",
        f"{share * 100:.3g} %" if share else "-",
        f"{model.shadow.share * 100:.3g} %" if shadowed else "-",
        f"{version.queued_rows} rows" if version.queued_rows else "-",
        f"{version.expected_wait_ms:.1f} ms" if version.expected_wait_ms else "-",
        version.executor or "-",
        version.package_fingerprint.removeprefix("sha256:")[:12] or "-",
    )


def _shares(model: edge.Model) -> dict[int, float]:
    """Version -> its part of the requests that name neither version nor label: of a split, those that are available."""
    answering = {version.version for version in model.versions if version.state == edge.Version.AVAILABLE}
    weights = {number: weight for number, weight in model.traffic.items() if weight > 0 and number in answering}
    if weights:
        total = sum(weights.values())
        return {number: weight / total for number, weight in weights.items()}
    return {model.default_version: 1.0} if model.default_version in answering else {}


def _absent_lines(model: edge.Model, shares: Mapping[int, float]) -> list[str]:
    """One for each version of a split that should answer and is not available."""
    weights = sorted(model.traffic.items())
    absent = [number for number, weight in weights if weight > 0 and number not in shares]
    instead = f"requests that name no version get {shares_text(shares)}"
    return [f"{model.name}: version {number} of the split is not available: {instead}" for number in absent[:_SHOWN]]


def _hold_line(model: edge.Model) -> str:
    until = f", until a version above {model.hold.above} is available" if model.hold.above else ""
    return f"{model.name}: rolled back to version {model.hold.version}{until}"


def _paint(*, colours: bool) -> Callable[[str], str]:
    def paint(cell: str) -> str:
        colour = _COLOURS.get(cell) if colours else None
        return f"\x1b[{colour}m{cell}\x1b[0m" if colour else cell

    return paint
