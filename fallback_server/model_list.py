"""Gathers the models of a list part by part, so that one mistake in it doesn't hide the others. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fallback_server.config import ConfigInvalid
from fallback_server.core.errors import ConfigRefused
from fallback_server.core.model_config import ModelConfig, check_configs
from fallback_server.local_paths import uri_fault

_NAME, _BASE_PATH = "\0", Path("/\0")
"""Stand for name and base path while other parts are tried, and are never shown."""


class ModelDraft:
    """One model, whose parts are set one after another.

    Args:
        name: Of the model.
        where: What a fault begins with that doesn't say it itself.
    """

    def __init__(self, name: str, where: str) -> None:
        self.name = name
        self.faults: list[str] = []
        self._where = where
        self._parts: dict[str, Any] = {}
        self._written_path = ""

    def add(self, error: ConfigRefused) -> None:
        """Gathers what is wrong."""
        for text in error.faults if isinstance(error, ConfigInvalid) else (str(error),):
            named = text.replace(str(_BASE_PATH), self._written_path).replace(_NAME, self.name or "without a name")
            told = named if self._where in named else f"{self._where}: {named}"
            if told not in self.faults:
                self.faults.append(told)

    def set(self, part: str, make: Callable[[], Any]) -> None:
        """Sets a field of `ModelConfig`, or gathers why it can't be so."""
        before = len(self.faults)
        value = self._try(make)
        if len(self.faults) > before:
            return
        for piece in (*_pieces(part, value), value):
            if piece is not value or len(self.faults) == before:
                self._try(functools.partial(_check, **{part: piece}))
        self._parts[part] = value

    def set_base_path(self, text: str, *, below: Path | None = None) -> None:
        """Sets the base path.

        Args:
            text: As it is written.
            below: What a relative path is below; None where there can't be one.
        """
        self._written_path = text
        if fault := uri_fault(text):
            self.add(ConfigRefused(f"base_path {fault}"))
        elif not text:
            # TensorFlow Serving's text for a relative one; an empty `Path` would show as a dot.
            self.add(ConfigRefused(f"Expected model {_NAME} to have an absolute path or URI; got base_path()="))
        else:
            self.set("base_path", lambda: Path(text) if below is None else below.absolute() / text)

    def config(self) -> ModelConfig | None:
        """The model; None where something is wrong with it."""
        self._try(functools.partial(_check, name=self.name))
        return None if self.faults else ModelConfig(name=self.name, **self._parts)

    def _try(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ConfigRefused as error:
            self.add(error)
            return None


class ModelList:
    """A complete list.

    Attributes:
        configs: The models with which nothing is wrong.
        faults: What is wrong with the others, a line each.
    """

    def __init__(self) -> None:
        self.configs: list[ModelConfig] = []
        self.faults: list[str] = []
        self._times: dict[str, int] = {}

    def add(self, draft: ModelDraft) -> None:
        """Takes a model whose parts are set."""
        config = draft.config()
        self.faults += draft.faults
        times = self._times[draft.name] = self._times.get(draft.name, 0) + 1
        if times == 1 and config is not None:
            self.configs.append(config)
        elif times == 2 and draft.name:
            twin = ModelConfig(name=draft.name, base_path=Path("/"))
            try:
                check_configs([twin, twin])
            except ConfigRefused as error:
                # With the name at fault its own refusal comes first, and is there already.
                self.faults += [] if str(error) in self.faults else [str(error)]

    def told(self) -> list[str]:
        """All that is wrong, with the list as a whole too."""
        try:
            check_configs(self.configs)
        except ConfigRefused as error:
            return [*self.faults, str(error)]
        return self.faults


def _pieces(part: str, value: Any) -> Iterator[Mapping[Any, Any]]:
    """The entries of labels and of a split, each alone; a weight of 0 is wrong only where all have it."""
    if part == "labels":
        yield from ({label: version} for label, version in value.items())
    elif part == "traffic":
        yield from ({version: weight or 1.0} for version, weight in value.items())


def _check(**part: Any) -> None:
    parts: dict[str, Any] = {"name": _NAME, "base_path": _BASE_PATH, **part}
    check_configs([ModelConfig(**parts)])
