"""Whether a version's folder holds all of its files: told by their names and sizes, without loading anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
"""One of them is a SavedModel's graph."""

SINGLE_FILES = ("model.tflite", "model.py", "model.onnx")
"""One of them is a whole model by itself, where nothing else tells of a SavedModel."""

PACKAGE = "manifest.json"
"""Tells a package of the converter's, and lists its files."""

INDEX = "variables/variables.index"

HEADER_BYTES = 64
"""More of the index than its header takes."""

_FOLDER = "variables/"
_BESIDE_GRAPHS = ("fingerprint.pb", "keras_metadata.pb")
_OPERATIONS = (
    "RestoreV2",
    "Restore",
    "RestoreSlice",
    "VarHandleOp",
    "VariableV2",
    "Variable",
    "AutoReloadVariable",
)
"""Of every graph that is saved with variables; one that is frozen has none of them. TensorFlow 2 restores in graphs
without a variable too: it saves the objects' own table beside them."""

_OP_TAG = 2 << 3 | 2
_MARKS = tuple(bytes([_OP_TAG, len(name)]) + name.encode() for name in _OPERATIONS)
_TEXT_MARKS = tuple(f'op: "{name}"'.encode() for name in _OPERATIONS)
_LONGEST = max(map(len, _MARKS + _TEXT_MARKS)) - 1
_SHARD = re.compile(r"variables/variables\.data-(\d{5,9})-of-(\d{5,9})")
_SHOWN = 3
_MAX_SHARDS = 100_000


def missing(files: Mapping[str, int], num_shards: int | None, *, restores: bool = False) -> str | None:
    """What a SavedModel lacks, or a model of one file; None where it is complete, or a package (`missing_of_package`).

    Args:
        files: Path relative to the version's folder, with `/` -> size in bytes.
        num_shards: How many shards its index tells of; None where that could not be read, and the shards' own names
            are believed.
        restores: Whether its graph reads variables; asked of one that has none, see `has_no_variables`.
    """
    graphs = [files[name] for name in GRAPHS if name in files]
    if not graphs:
        return _missing_single(files)
    if not any(graphs):
        return f"{GRAPHS[0]} is empty"
    if has_no_variables(files) and not restores:
        return None
    if not files.get(INDEX):
        return f"{INDEX} is {'empty' if INDEX in files else 'missing'}"
    return _missing_shards(files, num_shards)


def missing_of_package(files: Mapping[str, int], listed: Mapping[str, int]) -> str | None:
    """What a package lacks; None where it is complete.

    Args:
        files: As in `missing`.
        listed: What its manifest lists: path -> size in bytes.
    """
    absent = [name for name, size_bytes in sorted(listed.items()) if files.get(name) != size_bytes]
    if not absent:
        return None
    more = f" and {len(absent) - _SHOWN} others" if len(absent) > _SHOWN else ""
    return f"{', '.join(absent[:_SHOWN])}{more} {'is' if len(absent) == 1 else 'are'} missing, or not whole"


def is_package(files: Mapping[str, int]) -> bool:
    """Whether a folder is a package, and nothing that its version is loaded from besides."""
    return PACKAGE in files and not any(name in files for name in (*GRAPHS, *SINGLE_FILES))


def has_no_variables(files: Mapping[str, int]) -> bool:
    """Whether nothing is in the folder for variables, as with a frozen graph, or at the beginning of a copy."""
    return not any(name.startswith(_FOLDER) for name in files)


def restores(name: str, chunks: Iterable[bytes]) -> bool:
    """Whether a graph reads variables, told by the operations in it that have or restore one.

    A serialized graph has an operation's name as a field of its own: its tag, its length, and the name (NodeDef.op = 2
    in tensorflow/core/framework/node_def.proto); in a text it stands after `op:`. A name that only stands in a constant
    would have to have both before it.

    Args:
        name: Of the file: one of `GRAPHS`.
        chunks: What is in it, in order.
    """
    marks = _TEXT_MARKS if name.endswith(".pbtxt") else _MARKS
    before = b""
    for chunk in chunks:
        data = before + chunk
        if any(mark in data for mark in marks):
            return True
        before = data[-_LONGEST:]
    return False


def read_num_shards(head: bytes) -> int | None:
    """How many shards an index of variables tells of; None where that can't be read.

    The index is a table of sorted keys and values. Its first key is the empty string, whose value is a
    `BundleHeaderProto` with num_shards=1; each key and value follow three varints: the bytes that the key shares with
    the one before, those that it does not, and the value's (tensorflow/core/protobuf/tensor_bundle.proto).

    Args:
        head: The file's first `HEADER_BYTES` bytes, or more.
    """
    try:
        shared, at = _varint(head, 0)
        unshared, at = _varint(head, at)
        size, at = _varint(head, at)
        if shared or unshared:
            return None
        end = at + size
        while at < end:
            tag, at = _varint(head, at)
            if tag & 7:
                # The header's other fields come after this one, and none has been seen yet.
                return None
            value, at = _varint(head, at)
            if tag >> 3 == 1:
                return value if 1 <= value <= _MAX_SHARDS else None
    except IndexError:
        return None
    return None


def _missing_single(files: Mapping[str, int]) -> str | None:
    """What a folder without a graph lacks."""
    if is_package(files):
        return None
    begun = not has_no_variables(files) or any(name in files for name in _BESIDE_GRAPHS)
    single = [name for name in SINGLE_FILES if name in files]
    if begun or not single:
        return f"{GRAPHS[0]} is missing"
    empty = [name for name in single if not files[name]]
    return f"{empty[0]} is empty" if empty else None


def _missing_shards(files: Mapping[str, int], num_shards: int | None) -> str | None:
    found: dict[int, set[int]] = {}
    for name in files:
        if match := _SHARD.fullmatch(name):
            found.setdefault(int(match[2]), set()).add(int(match[1]))
    total = num_shards
    if total is None:
        if not found:
            return "variables/variables.data-* is missing"
        total = max(found)
        if total > _MAX_SHARDS:
            return f"variables/variables.data-* tells of {total} shards; at most {_MAX_SHARDS} are believed"
    absent = [index for index in range(total) if index not in found.get(total, ())]
    if not absent:
        return None
    shown = ", ".join(f"variables/variables.data-{index:05d}-of-{total:05d}" for index in absent[:_SHOWN])
    more = f" and {len(absent) - _SHOWN} others" if len(absent) > _SHOWN else ""
    return f"{shown}{more} {'is' if len(absent) == 1 else 'are'} missing"


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A base-128 number and where it ends. IndexError where the data ends first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError
