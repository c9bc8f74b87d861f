"""The options of a conversion, checked once."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from converter.artifact import ManifestInvalid
from converter.artifact.schema import check_name, check_version
from converter.errors import OptionInvalid

DEFAULT_TIME_LIMIT_S = 1_800.0
"""For each step; a large model's calibration takes minutes, a hang takes for ever."""

MAX_TIME_S = 30 * 86_400.0
"""A month: nobody waits longer, and clocks take it."""

DEFAULT_CALIBRATION_SAMPLES = 512
"""Ranges settle after a few hundred samples, which is also what TensorFlow's guide recommends."""

MAX_CALIBRATION_SAMPLES = 1_000_000

DEFAULT_SEARCH_TIME_S = 600.0
"""A search that has not found anything better after ten minutes is one to start on purpose."""

DEFAULT_SIGNATURE = "serving_default"

DEFAULT_TARGET = "default"

MAX_SEGMENTS = 16
"""As many Edge TPUs as fit into one machine with PCIe cards."""

Optimize = Literal["size", "latency"]

DataSpec = Path | str
"""A file or directory with samples, or `module:function`."""

_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:e-?\d+)?")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a variant may lose of each output's primary metric.

    Attributes:
        points: Percentage points, or percent of the original's own metric where `relative`.
        relative: Which of them.
    """

    points: float = 1.0
    relative: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.points) and 0 <= self.points <= 100):
            raise OptionInvalid(f"max accuracy drop: must be from 0 to 100, got {self.points:g}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """`0.5` and `relative:1%` -> a budget; OptionInvalid for anything else."""
        number, relative = text.strip(), False
        if number.startswith("relative:"):
            number, relative = number.removeprefix("relative:").removesuffix("%"), True
        if not _NUMBER.fullmatch(number):
            raise OptionInvalid(
                f"max accuracy drop: {text!r} is neither percentage points, as 0.5, nor relative, as relative:1%"
            )
        return cls(points=float(number), relative=relative)

    def allows(self, loss_points: float, reference_points: float) -> bool:
        """Whether a loss is within it; both as of `findings.OutputFindings`."""
        # A thousandth of a point, so that a drop of just the bound is not refused for a rounding.
        return loss_points <= self.in_points(reference_points) + 1e-3

    def in_points(self, reference_points: float) -> float:
        """The bound in percentage points for an output whose original metric is `reference_points`.

        Where a relative bound's reference is 0, nothing may be lost.
        """
        return self.points * abs(reference_points) / 100.0 if self.relative else self.points

    def __str__(self) -> str:
        if self.relative:
            return f"{self.points:g} % of the original's metric"
        return f"{self.points:g} point{'' if self.points == 1 else 's'}"


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What to convert, and how.

    Attributes:
        saved_model: The SavedModel's directory, or a `.keras`, `.h5` or `.hdf5` file.
        name: The model's name in the package.
        version: Its version, at least 1.
        output: The folder of packages.
        calibration: Samples, see `data`; without them, full int8 is refused.
        evaluation: Likewise, and labels; without it nothing is measured but numeric error on the calibration data.
        labels: A text file with one class name a line.
        preprocess: A TOML file with `[inputs.NAME]` tables.
        signatures: The SavedModel's signatures to convert, the one that the data are for first.
        shapes: By input name, the dimensions to fix; -1 keeps one variable.
        custom_objects: `module:name` of a dict of Keras objects; empty for none.
        server_model: The SavedModel that servers answer with, where it is another, say a larger one: the threshold
            of the cascade is found against it. None for this one.
        targets: Device profiles to choose a variant for, beside the default.
        variants: Names of the recipes to make; empty for all.
        budget: What a variant may lose; None is `Budget()`, without a search and without "nothing fits": where
            nothing is within it, float32 is chosen.
        optimize: What the choice among those that fit goes by.
        metrics: By output name, how it is measured, as `topk:5`; see `metrics`.
        search_time_s: How long the mixed search may go on; 0 for none.
        uint8_input: Fold the preprocessing into the quantized inputs of the int8 variants.
        edgetpu_compiler: The compiler's path or name; one that is not found is refused only where it was given.
        edgetpu_segments: Into how many files it is to cut the model, 1 to `MAX_SEGMENTS`.
        replace: Whether a version that is already there gives way.
        into: A SavedModel's version directory that gets the package under `assets.extra/edge_package/` too.
        sign: The file with the key that signs the package; None for no signature.
        report: Whether to write the HTML report.
        measure_latency: Whether to time the variants on this host.
        only_chosen: Leave variants that no target chose out of the package.
        time_limit_s: For each step that runs in a child process.
        memory_limit_bytes: For each such process, above what it has when it starts; None for nine tenths of what is
            free, shared by the jobs.
        jobs: How many of them run at once.
        calibration_samples: How many samples are used at most, spread evenly over the data.
    """

    saved_model: Path
    name: str
    version: int
    output: Path
    calibration: DataSpec | None = None
    evaluation: DataSpec | None = None
    labels: Path | None = None
    preprocess: Path | None = None
    signatures: tuple[str, ...] = (DEFAULT_SIGNATURE,)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    custom_objects: str = ""
    server_model: Path | None = None
    targets: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    budget: Budget | None = None
    optimize: Optimize = "size"
    metrics: dict[str, str] = field(default_factory=dict)
    search_time_s: float = DEFAULT_SEARCH_TIME_S
    uint8_input: bool = False
    edgetpu_compiler: str | None = None
    edgetpu_segments: int = 1
    replace: bool = False
    into: Path | None = None
    sign: Path | None = None
    report: bool = False
    measure_latency: bool = True
    only_chosen: bool = False
    time_limit_s: float = DEFAULT_TIME_LIMIT_S
    memory_limit_bytes: int | None = None
    jobs: int = 1
    calibration_samples: int = DEFAULT_CALIBRATION_SAMPLES

    def __post_init__(self) -> None:
        try:
            check_name(self.name)
            check_version(self.version)
        except ManifestInvalid as error:
            raise OptionInvalid(str(error)) from error
        if not self.signatures or not all(self.signatures):
            raise OptionInvalid("signature: must not be empty")
        _unique("signature", self.signatures)
        _unique("target", self.targets)
        _unique("variant", self.variants)
        if self.optimize not in ("size", "latency"):
            raise OptionInvalid(f"optimize: {self.optimize!r} is neither size nor latency")
        if not 0 <= self.search_time_s <= MAX_TIME_S:
            raise OptionInvalid(f"search time: must be 0 s or more, up to {MAX_TIME_S:g} s, got {self.search_time_s}")
        if not 1 <= self.edgetpu_segments <= MAX_SEGMENTS:
            raise OptionInvalid(f"Edge TPU segments: must be from 1 to {MAX_SEGMENTS}, got {self.edgetpu_segments}")
        if not 0 < self.time_limit_s <= MAX_TIME_S:
            raise OptionInvalid(f"time limit: must be above 0 s, up to {MAX_TIME_S:g} s, got {self.time_limit_s}")
        if self.memory_limit_bytes is not None and self.memory_limit_bytes <= 0:
            raise OptionInvalid(f"memory limit: must be above 0 bytes, got {self.memory_limit_bytes}")
        self._check_data()
        cores = os.cpu_count() or 1
        if not 1 <= self.jobs <= cores:
            raise OptionInvalid(f"jobs: must be from 1 to this machine's {cores} cores, got {self.jobs}")
        if not 1 <= self.calibration_samples <= MAX_CALIBRATION_SAMPLES:
            raise OptionInvalid(
                f"calibration samples: must be from 1 to {MAX_CALIBRATION_SAMPLES}, got {self.calibration_samples}"
            )

    def _check_data(self) -> None:
        """What is about data must not be passed over in silence where there are none."""
        if self.metrics and self.calibration is None and self.evaluation is None:
            raise OptionInvalid("metric: there are no data to measure on; give --evaluation")
        if self.server_model is not None and self.evaluation is None:
            raise OptionInvalid("server model: no threshold can be found against it without --evaluation")
        if self.budget is not None and self.evaluation is None:
            raise OptionInvalid("max accuracy drop: nothing can be held against it without --evaluation")


def _unique(what: str, names: tuple[str, ...]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OptionInvalid(f"{what}: {twice[0]!r} is given twice")
