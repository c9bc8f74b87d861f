"""The bench file: what a device measured of a package's variants, and takes home as JSON.

`edge-run bench PACKAGE --json` writes it on the device; `edge-convert inspect PACKAGE --bench FILE` reads it.
"""

from __future__ import annotations

import math

import msgspec

from converter.artifact.errors import ManifestInvalid
from converter.artifact.schema import check_name, check_version

BENCH_FORMAT = 1
"""The format of bench files that this program writes, and the only one that it reads.

What was added since has defaults, and readers pass over fields that they don't know: files of every release are read by
every other."""

MAX_BENCH_BYTES = 2**20
"""A bench file holds some hundred numbers; a larger one is none."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long one call with one sample takes, warm, on the host that measured it and on no other.

    Attributes:
        threads: The interpreter's threads.
        median_us: In microseconds.
        p90_us: Nine of ten calls were at most that long.
        runs: How many calls were timed.
    """

    threads: int
    median_us: float
    p90_us: float
    runs: int

    def __post_init__(self) -> None:
        if self.threads < 1 or self.runs < 1:
            raise ValueError(f"threads and runs must be 1 or more, got {self.threads} and {self.runs}")
        if not 0 < self.median_us <= self.p90_us < math.inf:
            raise ValueError(f"impossible times: a median of {self.median_us} us, a p90 of {self.p90_us} us")


class EngineTime(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine takes for a call of so many rows, called again and again by one caller, warm.

    The bare interpreter is the interpreter without a runtime around it, with the same file, rows and threads, called
    in turn with the engine: whatever else the host did met both.

    Attributes:
        device: The device string: `cpu`, `edgetpu:usb:0`.
        variant: The variant's name.
        threads: The interpreter's.
        rows: Of one call: the batch size.
        median_us: In microseconds.
        p90_us: Nine of ten calls were at most that long.
        p99_us: Ninety-nine of a hundred.
        rows_per_s: Throughput of that caller.
        runs: How many calls were timed.
        bare_median_us: The bare interpreter's median; None for an accelerator, which one process can hold only once.
        ratio: `median_us` over it.
        added_us: `median_us` less it.
    """

    device: str
    variant: str
    threads: int
    rows: int
    median_us: float
    p90_us: float
    p99_us: float
    rows_per_s: float
    runs: int
    bare_median_us: float | None = None
    ratio: float | None = None
    added_us: float | None = None

    def __post_init__(self) -> None:
        if min(self.threads, self.rows, self.runs) < 1:
            raise ValueError(
                f"threads, rows and runs must be 1 or more, got {self.threads}, {self.rows} and {self.runs}"
            )
        if not 0 < self.median_us <= self.p90_us <= self.p99_us < math.inf or not 0 < self.rows_per_s < math.inf:
            raise ValueError(
                f"impossible times: a median of {self.median_us} us, a p90 of {self.p90_us} us, a p99 of "
                f"{self.p99_us} us, {self.rows_per_s} rows a second"
            )


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that could not be timed.

    Attributes:
        device: The device string.
        variant: The variant's name; empty where the device has none that it runs.
        reason: Why.
    """

    device: str
    variant: str
    reason: str


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """One device's measurement of one package.

    Attributes:
        format: See `BENCH_FORMAT`.
        package: The model's name.
        version: Its version.
        digest: The package's, as of `Package.digest`: times of another build are another package's.
        host: The device, in words.
        variants: By variant name, one entry for each number of threads, on the kind of device that it was made for.
        failed: By variant name, why it could not be timed there; a variant whose accelerator was not asked is in
            neither.
        engines: Every engine that was timed, with every number of rows. Empty in files of release 0.2 and before.
        refused: The engines that could not be timed.
    """

    format: int
    package: str
    version: int
    digest: str
    host: str
    variants: dict[str, tuple[Latency, ...]]
    failed: dict[str, str] = {}
    engines: tuple[EngineTime, ...] = ()
    refused: tuple[Refused, ...] = ()

    def __post_init__(self) -> None:
        try:
            check_name(self.package)
            check_version(self.version)
        except ManifestInvalid as error:
            raise ValueError(str(error)) from error


def encode_bench(bench: Bench) -> bytes:
    """The bench file's bytes: indented JSON with sorted keys."""
    return msgspec.json.format(msgspec.json.encode(bench, order="sorted"), indent=1) + b"\n"


def decode_bench(data: bytes) -> Bench:
    """The bench in `data`.

    Raises:
        msgspec.DecodeError: it is no JSON, too large, of another format, or a field is missing or impossible.
    """
    if len(data) > MAX_BENCH_BYTES:
        raise msgspec.DecodeError(f"at most {MAX_BENCH_BYTES} bytes are read")
    try:
        bench = msgspec.json.decode(data, type=Bench)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    if bench.format != BENCH_FORMAT:
        raise msgspec.ValidationError(f"bench format {bench.format}; this program reads {BENCH_FORMAT}")
    return bench
