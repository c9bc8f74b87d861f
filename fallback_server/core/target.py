"""Which version a request means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTarget:
    """A model, and which of its versions.

    Attributes:
        name: The model.
        version: None for the one that answers those who name none.
        label: A movable name in place of a version.
    """

    name: str
    version: int | None = None
    label: str | None = None
