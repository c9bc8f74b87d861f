"""Reads our own configuration file: any flag by its name, and a table for each model, in TOML."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fallback_server.config import ConfigInvalid
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import ModelConfig, PolicyKind, Shadow, StepConfig, VersionPolicy
from fallback_server.flag_table import FLAGS, Kind, Value
from fallback_server.flags import check_value, unknown
from fallback_server.model_list import ModelDraft, ModelList
from fallback_server.text_file import digest_of, parse_toml, read_text

K = TypeVar("K")
V = TypeVar("V")

_LATEST = re.compile(r"latest(?:\(\s*([0-9]{1,9})\s*\))?")
_VERSIONS = re.compile(r"[0-9]{1,19}(?:\s*,\s*[0-9]{1,19})*")


@dataclass(frozen=True, slots=True)
class Listed:
    """The models of a file.

    Attributes:
        configs: Those with which nothing is wrong.
        faults: All that is wrong with the others, a line each.
        digest: Of the file as it was read; see `digest_of`.
    """

    configs: tuple[ModelConfig, ...] = ()
    faults: tuple[str, ...] = ()
    digest: bytes = b""

    @classmethod
    def of(cls, models: ModelList, path: Path) -> Listed:
        """What a list comes to, its faults with the file's name."""
        return cls(tuple(models.configs), tuple(f"{path}: {fault}" for fault in models.told()))


@dataclass(frozen=True, slots=True)
class TomlFile:
    """What our own file says.

    Attributes:
        values: Flag name -> value, of the flags with which nothing is wrong.
        models: Those of the tables `[models.NAME]`.
        listed: Whether there is such a table.
        faults: All that is wrong with the flags, a line each.
    """

    values: Mapping[str, Value]
    models: Listed
    listed: bool
    faults: tuple[str, ...]


def read_toml(path: Path) -> TomlFile:
    """What our own file says. Paths in it are below its folder.

    Raises:
        ConfigInvalid: it can't be read at all.
    """
    text = read_text(path)
    try:
        document = parse_toml(text)
    except ValueError as error:
        hint = "" if path.suffix == ".toml" else f"; is it TensorFlow Serving's? --model_config_file={path}"
        raise ConfigInvalid(f"{path}: no TOML: {error}{hint}") from error
    faults: list[str] = []
    values: dict[str, Value] = {}
    tables = document.pop("models", None)
    for key, given in document.items():
        name = key.replace("-", "_")
        try:
            values[name] = _flag_value(name, given, path.parent)
        except ValueError as error:
            faults.append(f"{path}: {error}")
    models = Listed() if tables is None else _tables(tables, path)
    models = dataclasses.replace(models, digest=digest_of(text))
    return TomlFile(values, models, listed=tables is not None, faults=tuple(faults))


def version_policy(given: Any) -> VersionPolicy:
    """`latest(2)`, `latest`, `all`, `1,3` or a list of numbers, as a policy.

    Raises:
        ConfigInvalid: it is none of these.
    """
    text = ",".join(map(str, given)) if _is_list_of(given, int) else given
    if isinstance(text, str):
        text = text.strip()
        if text == "all":
            return VersionPolicy(kind=PolicyKind.ALL)
        if found := _LATEST.fullmatch(text):
            return VersionPolicy(num_versions=int(found[1] or 1))
        if _VERSIONS.fullmatch(text):
            return VersionPolicy(kind=PolicyKind.SPECIFIC, versions=tuple(map(int, text.split(","))))
    raise ConfigInvalid(f"must be latest(N), all, or versions such as 1,3, got {given!r}")


def _flag_value(name: str, given: Any, folder: Path) -> Value:
    flag = FLAGS.get(name)
    if flag is None:
        raise ValueError(unknown(name))
    if not flag.in_file:
        raise ValueError(f"--{name} belongs on the command line")
    value = check_value(flag, given)
    return str(folder.absolute() / str(value)) if flag.kind is Kind.PATH and value else value


def _tables(tables: Any, path: Path) -> Listed:
    if not isinstance(tables, dict):
        return Listed(faults=(f"{path}: models must be tables [models.NAME], got {tables!r}",))
    models = ModelList()
    for name, table in tables.items():
        draft = ModelDraft(name, f"models.{name}")
        _ModelTable(draft, path.parent).read(table)
        models.add(draft)
    return Listed.of(models, path)


class _ModelTable:
    """One `[models.NAME]`."""

    def __init__(self, draft: ModelDraft, folder: Path) -> None:
        self._draft = draft
        self._where = f"models.{draft.name}"
        self._folder = folder

    def read(self, given: Any) -> None:
        """Sets the parts of the draft."""
        draft = self._draft
        if not isinstance(given, dict):
            draft.add(ConfigInvalid(f"{self._where} must be a table, got {given!r}"))
            return
        keys: tuple[str, ...] = ("base_path", "platform", "version_policy", "labels", "traffic", "shadow", "executor")
        keys += ("weight", "target_latency_ms", "sequence")
        others = [key for key in given if key not in keys]
        draft.add(ConfigInvalid(*(f"{self._where}.{key} is not known; {', '.join(keys)} are" for key in others)))
        try:
            base_path = _of(f"{self._where}.base_path", given["base_path"], str)
        except KeyError:
            draft.add(ConfigInvalid(f"{self._where}.base_path is missing"))
        except ConfigInvalid as error:
            draft.add(error)
        else:
            draft.set_base_path(base_path, below=self._folder)
        draft.set("platform", lambda: _of(f"{self._where}.platform", given.get("platform", "tensorflow"), str))
        draft.set("version_policy", lambda: self._policy(given.get("version_policy", "latest")))
        draft.set("labels", lambda: self._labels(given.get("labels", {})))
        draft.set("traffic", lambda: self._traffic(given.get("traffic", {})))
        draft.set("shadow", lambda: self._shadow(given.get("shadow")))
        if "target_latency_ms" in given:
            where = f"{self._where}.target_latency_ms"
            draft.set("target_latency_ms", lambda: _number(where, given["target_latency_ms"]))
        draft.set("weight", lambda: _number(f"{self._where}.weight", given.get("weight", 1.0)))
        draft.set("sequence", lambda: self._sequence(given.get("sequence", {})))
        draft.set("executor", lambda: _of(f"{self._where}.executor", given.get("executor", ""), str))

    def _policy(self, given: Any) -> VersionPolicy:
        try:
            return version_policy(given)
        except ConfigRefused as error:
            raise ConfigInvalid(f"{self._where}.version_policy {error}") from error

    def _labels(self, given: Any) -> dict[str, int]:
        where = f"{self._where}.labels"
        return _each(_table_of(where, given), lambda key, value: (key, _of(f"{where}.{key}", value, int)))

    def _traffic(self, given: Any) -> dict[int, float]:
        where = f"{self._where}.traffic"
        return _each(
            _table_of(where, given), lambda key, value: (self._version(where, key), _number(f"{where}.{key}", value))
        )

    def _shadow(self, given: Any) -> Shadow | None:
        if given is None:
            return None
        where = f"{self._where}.shadow"
        table = _table_of(where, given, ("version", "share"))
        if missing := [key for key in ("version", "share") if key not in table]:
            raise ConfigInvalid(f"{where}.{missing[0]} is missing")
        version = _of(f"{where}.version", table["version"], int)
        return Shadow(version=version, share=_number(f"{where}.share", table["share"]))

    def _sequence(self, given: Any) -> StepConfig:
        where = f"{self._where}.sequence"
        table = _table_of(where, given, ("signature", "state"))
        signature = _of(f"{where}.signature", table.get("signature", ""), str)
        state = _table_of(f"{where}.state", table.get("state", {}))
        pairs = _each(state, lambda key, value: (key, _of(f"{where}.state.{key}", value, str)))
        return StepConfig(signature=signature, state=pairs)

    def _version(self, where: str, key: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", key):
            raise ConfigInvalid(f"{where}: a version's number is expected before the =, got {key!r}")
        return int(key)


def _table_of(where: str, given: Any, keys: Sequence[str] | None = None) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ConfigInvalid(f"{where} must be a table, got {given!r}")
    if keys is not None and (others := [key for key in given if key not in keys]):
        raise ConfigInvalid(*(f"{where}.{key} is not known; {', '.join(keys)} are" for key in others))
    return given


def _each(table: Mapping[str, Any], read: Callable[[str, Any], tuple[K, V]]) -> dict[K, V]:
    """All entries of a table; where some are at fault, all that is wrong."""
    entries: list[tuple[K, V]] = []
    faults: list[str] = []
    for key, value in table.items():
        try:
            entries.append(read(key, value))
        except ConfigInvalid as error:
            faults += error.faults
    if faults:
        raise ConfigInvalid(*faults)
    return dict(entries)


T = TypeVar("T", int, str)

_WORDS = {int: "a whole number", str: "a text"}


def _of(where: str, given: Any, kind: type[T]) -> T:
    if type(given) is not kind:
        raise ConfigInvalid(f"{where} must be {_WORDS[kind]}, got {given!r}")
    return given


def _number(where: str, given: Any) -> float:
    if type(given) not in (int, float):
        raise ConfigInvalid(f"{where} must be a number, got {given!r}")
    return float(given)


def _is_list_of(given: Any, kind: type) -> bool:
    return isinstance(given, (list, tuple)) and bool(given) and all(type(item) is kind for item in given)
