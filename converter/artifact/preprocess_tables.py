"""Tables: records by field name -> vectors in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from converter.artifact.errors import ManifestInvalid, RawInvalid
from converter.artifact.preprocess_raw import numbers, sample

_MOST = float(np.finfo(np.float32).max)

_SHOWN = 50
"""Characters of a value that a message repeats."""


class TableField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One field of a record.

    Attributes:
        name: Its key.
        default: The value where a record lacks the field or has None for it: a number, or one of `categories`. None
            refuses such a record.
        categories: For text: the value is the index in this list. Empty for numbers.
    """

    name: str
    default: float | str | None = None
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise ManifestInvalid("preprocessing: a field has no name")
        if len(set(self.categories)) != len(self.categories):
            raise ManifestInvalid(f"preprocessing: field {self.name!r}: categories has one twice: {self.categories}")
        if self.default is None:
            return
        if self.categories and self.default not in self.categories:
            raise ManifestInvalid(
                f"preprocessing: field {self.name!r}: default {self.default!r} is not one of {list(self.categories)}"
            )
        if not self.categories and (not _fits(self.default)):
            raise ManifestInvalid(
                f"preprocessing: field {self.name!r}: default must be a finite number without categories, "
                f"got {self.default!r}"
            )

    def number(self, value: Any) -> float:
        """The value as it goes into the vector; None is a value that is missing.

        Raises:
            RawInvalid: it is missing without a default, unknown, or no finite number.
        """
        if value is None:
            if self.default is None:
                raise RawInvalid(f"field {self.name!r} is missing, and has no default")
            value = self.default
        if self.categories:
            if not isinstance(value, str) or value not in self.categories:
                raise RawInvalid(f"field {self.name!r} is {_said(value)}, not one of {list(self.categories)}")
            return float(self.categories.index(value))
        if not _fits(value):
            raise RawInvalid(f"field {self.name!r} must be a finite number, as float32 too, got {_said(value)}")
        return float(value)


def _fits(value: Any) -> bool:
    """Whether it is a number that float32 holds, however roughly."""
    return isinstance(value, int | float | np.integer | np.floating | np.bool_) and bool(-_MOST <= value <= _MOST)


def _said(value: Any) -> str:
    # Python refuses to write integers of thousands of digits.
    return f"an integer of {value.bit_length()} bits" if isinstance(value, int) else repr(value)[:_SHOWN]


def vectors_of(raw: Any, fields: Sequence[TableField]) -> npt.NDArray[np.float32]:
    """One record, a list of records, or an array whose last axis has the fields in order -> float32 [records, fields].

    Raises:
        RawInvalid: a field is missing, unknown or of a wrong kind; an array has another last axis.
    """
    if isinstance(raw, Mapping):
        return np.array([_vector(raw, fields)], np.float32)
    if isinstance(raw, list | tuple) and raw and isinstance(raw[0], Mapping):
        rows = []
        for index, record in enumerate(raw):
            with sample(index):
                rows.append(_vector(record, fields))
        return np.array(rows, np.float32)
    array = numbers(raw, "it takes records by field name, or arrays of numbers")
    if array.ndim not in (1, 2) or array.shape[-1] != len(fields):
        raise RawInvalid(f"there are {len(fields)} fields, the array has the shape {list(array.shape)}")
    return array.astype(np.float32).reshape(-1, len(fields))


def _vector(record: Any, fields: Sequence[TableField]) -> list[float]:
    if not isinstance(record, Mapping):
        raise RawInvalid(f"a record is a dict by field name, got {type(record).__name__}")
    unknown = sorted(str(name) for name in set(record) - {field.name for field in fields})
    if unknown:
        raise RawInvalid(f"field {unknown[0]!r} is not known; there are {[field.name for field in fields]}")
    return [field.number(record.get(field.name)) for field in fields]
