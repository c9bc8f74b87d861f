"""Which server each label of a model follows, so that it is the same one after a restart.

    NAME/followed.json    {"server": "192.168.1.20:8500"}: by the device's label that goes where the server's does

It is replaced by one rename, like the labels, and says nothing of a label that is gone.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from edge_runtime.errors import InvalidConfig
from edge_runtime.store import files, labels

FOLLOWED = "followed.json"
"""Beside a model's versions."""

_MAX_CHARACTERS = 300
"""Of an address: a name has at most 253, and a port follows."""


def read(folder: Path) -> dict[str, str]:
    """The addresses by label in a model's folder; empty where there are none.

    Raises:
        InvalidConfig: the file can't be read as `{"label": "host:port"}`.
    """
    path = folder / FOLLOWED
    try:
        found = msgspec.json.decode(files.read("followed servers", path), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidConfig(f"{path}: followed servers must be a JSON object of addresses: {error}") from error
    return {label: address for label, address in found.items() if len(address) <= _MAX_CHARACTERS}


def write(folder: Path, label: str, address: str) -> None:
    """Has a label follow a server from now on.

    Raises:
        InvalidConfig: the file, or the labels, can't be read or written.
    """
    path = folder / FOLLOWED
    with files.named("followed servers", path, missing=True), files.locked(folder) as descriptor:
        try:
            before = read(folder)
        except InvalidConfig:
            before = {}  # Of a file that can't be read nothing is lost.
        if before.get(label) == address:
            return
        kept = {one: where for one, where in before.items() if one in labels.read(folder)}
        files.write(path, msgspec.json.encode({**kept, label: address}, order="sorted"))
        os.fsync(descriptor)
