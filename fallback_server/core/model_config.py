"""What a model is configured with: where it stands, which of its versions are served, and who gets which."""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fallback_server.core.errors import ConfigRefused

PLATFORMS = ("tensorflow",)
"""As TensorFlow Serving names them."""

EXECUTORS = ("auto", "tensorflow", "litert", "python", "onnx")
"""What may run a model; `auto` is what its files say, and of several what is faster."""

MAX_MODELS = 10_000
"""More are a mistake: each is looked at on disk at every poll."""

MAX_ENTRIES = 1_000
"""Labels, shares of the traffic, or versions by number, of one model."""

MAX_LABEL_CHARS = 128

MIN_WEIGHT, MAX_WEIGHT = 0.001, 1000.0
"""Further apart, one model would wait for the other as if it had no share."""

MAX_TARGET_LATENCY_MS = 3_600_000
"""An hour, as for a batch timeout."""

MAX_VERSION = 2**63 - 1
"""A version travels as an int64."""


class PolicyKind(enum.Enum):
    """How the versions to be served are chosen of those that are there."""

    LATEST = "latest"
    ALL = "all"
    SPECIFIC = "specific"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionPolicy:
    """Which versions of a model are served.

    Attributes:
        kind: How they are chosen.
        num_versions: How many of the highest, for LATEST.
        versions: Which, for SPECIFIC.

    Raises:
        ConfigRefused: a number is out of its bounds, or SPECIFIC names none.
    """

    kind: PolicyKind = PolicyKind.LATEST
    num_versions: int = 1
    versions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_versions < 1:
            raise ConfigRefused(f"num_versions must be at least 1, got {self.num_versions}")
        if self.kind is PolicyKind.SPECIFIC and not self.versions:
            raise ConfigRefused("the specific version policy names no version")
        if len(self.versions) > MAX_ENTRIES:
            raise ConfigRefused(f"at most {MAX_ENTRIES} specific versions can be named, got {len(self.versions)}")
        for version in self.versions:
            _check_version(version, "specific version")

    def select(self, available: Collection[int]) -> frozenset[int]:
        """Those of the available versions that are to be served."""
        if self.kind is PolicyKind.LATEST:
            return frozenset(sorted(available)[-self.num_versions :])
        if self.kind is PolicyKind.SPECIFIC:
            return frozenset(self.versions).intersection(available)
        return frozenset(available)

    def __str__(self) -> str:
        if self.kind is PolicyKind.LATEST:
            return f"latest({self.num_versions})"
        if self.kind is PolicyKind.SPECIFIC:
            return f"specific({', '.join(map(str, self.versions))})"
        return "all"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shadow:
    """A second version that runs requests too; its answers are compared, and thrown away.

    Attributes:
        version: Which.
        share: The part of the model's requests that it gets as well, in (0, 1].
    """

    version: int
    share: float

    def __post_init__(self) -> None:
        _check_version(self.version, "shadow version")
        if not 0 < self.share <= 1:
            raise ConfigRefused(f"the shadow's share must be over 0 and at most 1, got {self.share}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepConfig:
    """How a model is run step by step, where its names don't tell.

    Attributes:
        signature: Of a step; empty: as `sequences.pairing` finds it.
        state: Input -> the output that is its value in the next step, of that signature alone; empty: as the names say.
    """

    signature: str = ""
    state: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.state) > MAX_ENTRIES:
            raise ConfigRefused(f"a sequence has {len(self.state)} states; at most {MAX_ENTRIES} are allowed")
        seen: dict[str, str] = {}
        for into, out in self.state.items():
            if out in seen:
                raise ConfigRefused(f"state: output {out!r} is the next value of both {seen[out]!r} and {into!r}")
            seen[out] = into


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """One model.

    Attributes:
        name: What requests call it.
        base_path: Holds a folder or an archive for each version, named by its number.
        platform: One of `PLATFORMS`.
        version_policy: Which of them are served.
        labels: Label -> version.
        traffic: Version -> weight, for requests that name neither version nor label; empty: the highest answers.
        shadow: A version that is tried beside those that answer; None for none.
        executor: What runs its versions, one of `EXECUTORS`; empty: what the server has for all.
        weight: The share of the run time that its signatures get beside other models'. For versions that are loaded
            from then on, as is the next.
        target_latency_ms: How long its requests may take, which the size of batches is to hold; 0 for as large as may
            be, None for what the server has for all.
        sequence: How it is run step by step.

    Raises:
        ConfigRefused: a value is out of its bounds.
    """

    name: str
    base_path: Path
    platform: str = "tensorflow"
    version_policy: VersionPolicy = field(default_factory=VersionPolicy)
    labels: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[int, float] = field(default_factory=dict)
    shadow: Shadow | None = None
    executor: str = ""
    weight: float = 1.0
    target_latency_ms: float | None = None
    sequence: StepConfig = field(default_factory=StepConfig)

    def __post_init__(self) -> None:
        if not MIN_WEIGHT <= self.weight <= MAX_WEIGHT:
            raise ConfigRefused(
                f"model {self.name}: weight must be from {MIN_WEIGHT} to {MAX_WEIGHT}, got {self.weight}"
            )
        target_ms = self.target_latency_ms
        if target_ms is not None and not 0 <= target_ms <= MAX_TARGET_LATENCY_MS:
            raise ConfigRefused(
                f"model {self.name}: target_latency_ms must be from 0 to {MAX_TARGET_LATENCY_MS}, got {target_ms}"
            )
        if self.executor and self.executor not in EXECUTORS:
            raise ConfigRefused(f"model {self.name}: executor {self.executor!r} is not one of {', '.join(EXECUTORS)}")
        _check_count(self.name, "labels", self.labels)
        for label, version in self.labels.items():
            check_label(self.name, label)
            _check_version(version, f"label {label} of model {self.name}")
        check_traffic(self.name, self.traffic)


def check_configs(configs: Sequence[ModelConfig]) -> None:
    """Whether a complete set of models can be served together; touches no disk.

    Raises:
        ConfigRefused: with TensorFlow Serving's text where it has one.
    """
    if len(configs) > MAX_MODELS:
        raise ConfigRefused(f"at most {MAX_MODELS} models can be listed, got {len(configs)}")
    seen: set[str] = set()
    for config in configs:
        if not config.name:
            raise ConfigRefused(f"a model of the config list has no name; its base_path is {config.base_path}")
        if "/" in config.name:
            raise ConfigRefused(f"the name of model {config.name} must not hold a slash")
        if config.name in seen:
            raise ConfigRefused(f"Illegal to list model {config.name} multiple times in config list")
        seen.add(config.name)
        if not config.base_path.is_absolute():
            raise ConfigRefused(
                f"Expected model {config.name} to have an absolute path or URI; got base_path()={config.base_path}"
            )
        if config.platform not in PLATFORMS:
            raise ConfigRefused(
                f"model {config.name}: platform {config.platform!r} is not one of {', '.join(PLATFORMS)}"
            )


def check_label(name: str, label: str) -> None:
    """Whether a label of a model can be told from a version, in a path of REST too.

    Raises:
        ConfigRefused: it is empty, too long, a number, or has characters that a path or a log would not carry.
    """
    if not label:
        raise ConfigRefused(f"model {name} has a version label without a name")
    if len(label) > MAX_LABEL_CHARS:
        raise ConfigRefused(f"a label of model {name} has {len(label)} characters; at most {MAX_LABEL_CHARS} can be")
    if not label.isprintable() or "/" in label or ":" in label:
        raise ConfigRefused(f"label {label!r} of model {name} has a slash, a colon, or what can't be printed")
    if label.isdecimal():
        raise ConfigRefused(f"label {label!r} of model {name} would be taken for a version: it must not be a number")


def check_traffic(name: str, traffic: Mapping[int, float]) -> None:
    """Whether a model's traffic can be split so; an empty split splits nothing.

    Raises:
        ConfigRefused: a version or a weight is out of its bounds, or no weight is over 0.
    """
    _check_count(name, "traffic", traffic)
    for version, weight in traffic.items():
        _check_version(version, f"traffic of model {name}")
        if not 0 <= weight < math.inf:
            raise ConfigRefused(f"traffic of model {name}: version {version} has the weight {weight}")
    if traffic and not any(traffic.values()):
        raise ConfigRefused(f"traffic of model {name}: no version has a weight over 0")


def _check_count(name: str, what: str, entries: Mapping[Any, Any]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise ConfigRefused(f"model {name} has {len(entries)} {what}; at most {MAX_ENTRIES} are allowed")


def _check_version(version: int, what: str) -> None:
    if not 0 <= version <= MAX_VERSION:
        raise ConfigRefused(f"{what}: a version must be from 0 to {MAX_VERSION}, got {version}")
