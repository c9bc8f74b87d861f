"""The options of a conversion, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converter.artifact import ManifestInvalid
from converter.artifact.schema import check_name, check_version
from converter.errors import OptionInvalid

DEFAULT_TIME_LIMIT_S = 1_800.0
"""For each step; a large model's calibration takes minutes, a hang takes for ever."""

DEFAULT_CALIBRATION_SAMPLES = 512
"""Ranges settle after a few hundred samples, which is also what TensorFlow's guide recommends."""

MAX_CALIBRATION_SAMPLES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What to convert, and how.

    Attributes:
        saved_model: The SavedModel's directory.
        name: The model's name in the package.
        version: Its version, at least 1.
        output: The folder of packages.
        calibration: `.npz` with arrays by input name, one entry along the first axis for each sample; without it,
            full int8 is refused.
        evaluation: Likewise, and `labels`; without it nothing is measured but numeric error on the calibration data.
        labels: A text file with one class name a line.
        preprocess: A TOML file with `[inputs.NAME]` tables.
        signature: The SavedModel's signature to convert.
        replace: Whether a version that is already there gives way.
        time_limit_s: For each step that runs in a child process.
        calibration_samples: How many samples are used at most, spread evenly over the data.
    """

    saved_model: Path
    name: str
    version: int
    output: Path
    calibration: Path | None = None
    evaluation: Path | None = None
    labels: Path | None = None
    preprocess: Path | None = None
    signature: str = "serving_default"
    replace: bool = False
    time_limit_s: float = DEFAULT_TIME_LIMIT_S
    calibration_samples: int = DEFAULT_CALIBRATION_SAMPLES

    def __post_init__(self) -> None:
        try:
            check_name(self.name)
            check_version(self.version)
        except ManifestInvalid as error:
            raise OptionInvalid(str(error)) from error
        if not self.signature:
            raise OptionInvalid("signature: must not be empty")
        if not self.time_limit_s > 0:
            raise OptionInvalid(f"time limit: must be above 0 s, got {self.time_limit_s}")
        if not 1 <= self.calibration_samples <= MAX_CALIBRATION_SAMPLES:
            raise OptionInvalid(
                f"calibration samples: must be from 1 to {MAX_CALIBRATION_SAMPLES}, got {self.calibration_samples}"
            )
