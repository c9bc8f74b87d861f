"""What a model handle is pinned to: a version, a label, or the latest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converter.artifact import ManifestInvalid, check_name, check_version
from edge_runtime.errors import InvalidConfig
from edge_runtime.store.labels import check_label

Pin = int | str | None
"""A version, a label, or None for the latest, which is followed."""


def checked_pin(name: str, version: int | None, label: str | None) -> Pin:
    """The version or label that a model is pinned to; None to follow the latest.

    Raises:
        InvalidConfig: a name, version or label that can't be.
    """
    if version is not None and label is not None:
        raise InvalidConfig(f"model {name!r}: version {version!r} and label {label!r} exclude each other")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise InvalidConfig(f"model {name!r}: version must be an int, got {version!r}")
    if label is not None and not isinstance(label, str):
        raise InvalidConfig(f"model {name!r}: label must be a str, got {label!r}")
    try:
        check_name(name)
        if label is not None:
            check_label(label)  # As strictly as where one is set: what can't be set is never answered by.
        if version is not None:
            check_version(version)
    except (ManifestInvalid, TypeError) as error:
        raise InvalidConfig(str(error)) from error
    return version if version is not None else label


def why_none(store: Path, pin: Pin) -> str:
    """Why no installed version may answer for a pin that one answered for before; empty where it was taken away."""
    if not store.exists():
        return f"the store {store} is gone"
    return f"label {pin!r} points to no installed version" if isinstance(pin, str) else ""


def labels_text(labels: Mapping[str, int]) -> str:
    """The labels, for a message."""
    return ", ".join(f"{label} -> {version}" for label, version in labels.items()) or "none"
