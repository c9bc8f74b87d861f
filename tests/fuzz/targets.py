"""All parsers that are fuzzed, by name, and the corpus that is kept of each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from fuzz import (
    browse_targets,
    config_targets,
    device_targets,
    file_targets,
    given_targets,
    header_targets,
    rest_targets,
    wire_targets,
)
from fuzz.target import Target

_ALL = (
    *(wire_targets, device_targets, browse_targets, rest_targets, config_targets, file_targets, header_targets),
    given_targets,
)

TARGETS: dict[str, Target] = {target.name: target for one in _ALL for target in one.TARGETS}

CORPUS = Path(__file__).parent / "corpus"
"""A file for each target, an input a line in base64: those that found another branch, and those that found a fault."""


def corpus_of(name: str) -> list[bytes]:
    """What is kept of a target's inputs."""
    path = CORPUS / f"{name}.txt"
    return list(map(base64.b64decode, path.read_text("ascii").split())) if path.exists() else []


def keep_corpus(name: str, inputs: Sequence[bytes]) -> None:
    """Keeps these inputs of a target, in place of those that are there."""
    CORPUS.mkdir(exist_ok=True)
    lines = sorted({base64.b64encode(data).decode() for data in inputs}, key=lambda line: (len(line), line))
    (CORPUS / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), "ascii")


def starts_of(target: Target) -> list[bytes]:
    """What is mutated: sound inputs, and the corpus."""
    return [*target.seeds(), *corpus_of(target.name)]
