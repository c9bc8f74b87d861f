"""What can be refused before TensorFlow is loaded: places that can't be written to, files that are not there."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from converter import data, edgetpu
from converter.artifact import check_free
from converter.artifact.signing import SigningKey
from converter.choose import Needs, needs_of
from converter.config import DEFAULT_TARGET, ConvertOptions
from converter.errors import OptionInvalid
from converter.into import check_into
from converter.metrics.requests import parse_request
from converter.recipes import MIXED, RECIPES, Recipe
from converter.report_writing import check_report
from converter.sources import source
from converter.sources.saved_model import check_directory
from devices.errors import UnknownProfile
from devices.profile import DeviceProfile, load_profiles, profile


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was found in order, and what follows from the options.

    Attributes:
        kind: What the source is.
        recipes: What is to be made, the most faithful first.
        needs: What each target asks of a variant; the default first.
        threads: The numbers of interpreter threads to time with.
        key: What signs the package; None for nothing.
    """

    kind: source.Kind
    recipes: tuple[Recipe, ...]
    needs: tuple[Needs, ...]
    threads: tuple[int, ...]
    key: SigningKey | None = None


def make_plan(options: ConvertOptions) -> Plan:
    """Checks places, files and names.

    Raises:
        PackageExists: the version is there, or a package where a copy of it goes, and `replace` is False.
        KeyInvalid, SigningUnavailable: it can't be signed.
        BadInput: anything else that is wrong with what was given.
    """
    _check_targets(options)
    kind = source.check(options.saved_model)
    if options.server_model:
        check_directory(options.server_model)
    for spec in (options.calibration, options.evaluation):
        if spec is not None:
            data.check(spec)
    for path in (options.labels, options.preprocess):
        if path and not path.is_file():
            raise OptionInvalid(f"{path}: no such file")
    if edgetpu.find_compiler(options.edgetpu_compiler) is None and options.edgetpu_segments > 1:
        raise OptionInvalid(
            f"Edge TPU segments: {options.edgetpu_segments} need edgetpu_compiler, which is not on PATH"
        )
    if options.custom_objects and kind == "saved_model":
        raise OptionInvalid("custom objects: they are for Keras files, a SavedModel has its own functions")
    for name, metric in options.metrics.items():
        try:
            parse_request(metric)
        except OptionInvalid as error:
            raise OptionInvalid(f"output {name!r}: {error}") from error
    profiles = [_profile(name) for name in options.targets]
    return Plan(
        kind=kind,
        recipes=_recipes(options),
        needs=(Needs(target=DEFAULT_TARGET, full_int8=False), *map(needs_of, profiles)),
        threads=_threads(profiles),
        # Now, and not after hours of work.
        key=SigningKey.read(options.sign) if options.sign else None,
    )


def _check_targets(options: ConvertOptions) -> None:
    check_output(options.output, options.name, options.version, replace=options.replace)
    if options.report:
        check_report(options.output, options.name, options.version)
    if options.into:
        check_into(options.into, replace=options.replace)


def check_output(output: Path, name: str, version: int, *, replace: bool) -> None:
    """Whether a package can be published there.

    Raises:
        PackageExists: see `artifact.check_free`.
        OptionInvalid: the folder can't be written to.
    """
    check_free(output, name, version, replace=replace)
    place = output.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OptionInvalid(f"output: {place} is no directory that can be written to")


def _recipes(options: ConvertOptions) -> tuple[Recipe, ...]:
    known = [one.name for one in (*RECIPES, MIXED)]
    unknown = [name for name in options.variants if name not in known]
    if unknown:
        raise OptionInvalid(f"variant: {unknown[0]!r} is unknown; known are {', '.join(known)}")
    return tuple(one for one in RECIPES if not options.variants or one.name in options.variants)


def _profile(name: str) -> DeviceProfile:
    try:
        return profile(name)
    except UnknownProfile as error:
        raise OptionInvalid(f"target: {error}") from error


def _threads(profiles: list[DeviceProfile]) -> tuple[int, ...]:
    """One, and what the targets' boards would use, as far as this host has the cores; without a board, this host's."""
    cores = os.cpu_count() or 1
    boards = [one for one in profiles if one.kind == "board"]
    if not boards:
        here = f"generic-{platform.machine()}"
        boards = [one for one in load_profiles() if one.name == here]
    return tuple(sorted({1, *(board.threads_on(cores) for board in boards)}))
