"""A model -> a package, in fixed stages.

Read, lower to float, load the data, ask the original, make and measure the variants, time them, search, look at them
for accelerators, choose, pack, report.

This process never imports TensorFlow or LiteRT: whatever runs them runs in a child (`isolation`), so that a crash is
a failed variant. The stages themselves are in `conversion`, `searching` and `packing`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from converter.arguments import data_spec, parse_shape
from converter.config import (
    DEFAULT_CALIBRATION_SAMPLES,
    DEFAULT_SEARCH_TIME_S,
    DEFAULT_SIGNATURE,
    DEFAULT_TIME_LIMIT_S,
    Budget,
    ConvertOptions,
    DataSpec,
    Optimize,
)
from converter.conversion import Conversion
from converter.deciding import decide
from converter.errors import NoVariantMade, OperatorsUnsupported
from converter.isolation import ForkServer
from converter.places import make_plan
from converter.process_memory import available_bytes
from converter.progress import Counter, Progress, silent
from converter.result import PackageResult, VariantResult
from converter.searching import search
from converter.workspace import working_folder

PRELOAD = ("tensorflow", "ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated")

_StrPath = str | os.PathLike[str]


def convert(
    *,
    saved_model: _StrPath,
    name: str,
    version: int,
    output: _StrPath,
    calibration: _StrPath | None = None,
    evaluation: _StrPath | None = None,
    labels: _StrPath | None = None,
    preprocess: _StrPath | None = None,
    signature: str | Sequence[str] = DEFAULT_SIGNATURE,
    shapes: Mapping[str, Sequence[int]] | None = None,
    custom_objects: str = "",
    server_model: _StrPath | None = None,
    targets: Sequence[str] = (),
    variants: Sequence[str] = (),
    max_accuracy_drop: float | str | None = None,
    optimize: Optimize = "size",
    metrics: Mapping[str, str] | None = None,
    search_time_s: float = DEFAULT_SEARCH_TIME_S,
    uint8_input: bool = False,
    edgetpu_compiler: str | None = None,
    edgetpu_segments: int = 1,
    report: bool = False,
    into: _StrPath | None = None,
    sign: _StrPath | None = None,
    measure_latency: bool = True,
    only_chosen: bool = False,
    replace: bool = False,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    memory_limit_bytes: int | None = None,
    jobs: int = 1,
    calibration_samples: int = DEFAULT_CALIBRATION_SAMPLES,
    progress: Progress = silent,
) -> PackageResult:
    """Makes `output/name/version/` and `output/name-version.tar.gz`; all of it or nothing.

    Args: as of `config.ConvertOptions`. `max_accuracy_drop` is in percentage points, or `relative:1%`; `progress` is
        called as steps begin and end, never twice at once.

    Raises:
        BadInput: an option, the model, the data, the labels or the preprocessing can't be worked with.
        PackageError: the version is there, and `replace` is False; or it can't be signed.
        NothingFits, NoVariantMade: none is within the budget for one of the targets; all failed or were refused.
        OSError: the disk is full, or `output` can't be written.
    """
    options = ConvertOptions(
        saved_model=Path(saved_model),
        name=name,
        version=version,
        output=Path(output),
        calibration=_data(calibration),
        evaluation=_data(evaluation),
        labels=_path(labels),
        preprocess=_path(preprocess),
        signatures=(signature,) if isinstance(signature, str) else tuple(signature),
        shapes=parse_shape(shapes or {}),
        custom_objects=custom_objects,
        server_model=_path(server_model),
        targets=tuple(targets),
        variants=tuple(variants),
        budget=None if max_accuracy_drop is None else Budget.parse(str(max_accuracy_drop)),
        optimize=optimize,
        metrics=dict(metrics or {}),
        search_time_s=search_time_s,
        uint8_input=uint8_input,
        edgetpu_compiler=edgetpu_compiler,
        edgetpu_segments=edgetpu_segments,
        report=report,
        into=_path(into),
        sign=_path(sign),
        measure_latency=measure_latency,
        only_chosen=only_chosen,
        replace=replace,
        time_limit_s=time_limit_s,
        memory_limit_bytes=memory_limit_bytes,
        jobs=jobs,
        calibration_samples=calibration_samples,
    )
    return run(options, progress)


def _path(path: _StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _data(data: _StrPath | None) -> DataSpec | None:
    return data_spec(data) if isinstance(data, str) else _path(data)


def run(options: ConvertOptions, progress: Progress = silent, server: ForkServer | None = None) -> PackageResult:
    """`convert`, from checked options; several models in turn can share a server that has `PRELOAD` imported."""
    plan = make_plan(options)
    counter = Counter(progress, total=5 + 2 * len(plan.recipes))
    with (
        # Around the server: what runs when this is interrupted writes into the folder until it is killed.
        working_folder() as folder,
        contextlib.nullcontext(server) if server else ForkServer(PRELOAD) as running,
    ):
        running.memory_limit_bytes = _memory_limit_bytes(options)
        conversion = Conversion(options=options, plan=plan, server=running, folder=folder, counter=counter)
        model = conversion.read()
        try:
            conversion.check_operators(model)
        except OperatorsUnsupported as error:
            raise _nothing_runs(options, [one.name for one in plan.recipes], error) from error
        loaded = conversion.load(model)
        reference = conversion.ask_original(loaded)
        made = conversion.make_all(loaded, reference)
        made = conversion.time(made, loaded, reference)
        made = conversion.time(search(conversion, loaded, reference, made), loaded, reference)
        made = conversion.look_at(made)
        return decide(conversion, loaded, reference, made)


def _memory_limit_bytes(options: ConvertOptions) -> int | None:
    if options.memory_limit_bytes is not None:
        return options.memory_limit_bytes
    available = available_bytes()
    return available and available // options.jobs


def _nothing_runs(options: ConvertOptions, names: Sequence[str], error: OperatorsUnsupported) -> NoVariantMade:
    text = " ".join(str(error).split())
    variants = tuple(VariantResult(name=name, status="refused", error=text) for name in names)
    result = PackageResult(package=None, name=options.name, version=options.version, chosen={}, variants=variants)
    return NoVariantMade(f"no variant can run, so nothing was published: {text}", result)
