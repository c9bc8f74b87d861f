"""The bench file: what a device measured of a package's variants, and takes home as JSON.

`edge-run bench PACKAGE --json` writes it on the device; `edge-convert inspect PACKAGE --bench FILE` reads it.
"""

from __future__ import annotations

import math

import msgspec

from converter.artifact.errors import ManifestInvalid
from converter.artifact.schema import check_name, check_version

BENCH_FORMAT = 1
"""The format of bench files that this program writes, and the only one that it reads."""

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


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """One device's measurement of one package.

    Attributes:
        format: See `BENCH_FORMAT`.
        package: The model's name.
        version: Its version.
        digest: The package's, as of `Package.digest`: times of another build are another package's.
        host: The device, in words.
        variants: By variant name, one entry for each number of threads.
        failed: By variant name, why it could not be timed; variants for an accelerator are in neither.
    """

    format: int
    package: str
    version: int
    digest: str
    host: str
    variants: dict[str, tuple[Latency, ...]]
    failed: dict[str, str] = {}

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
