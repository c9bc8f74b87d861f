"""What can be refused before TensorFlow is loaded: places that can't be written to, files that are not there."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from converter import data, edgetpu
from converter.artifact import PackageExists, version_path
from converter.choose import Needs, needs_of
from converter.config import DEFAULT_TARGET, ConvertOptions
from converter.errors import OptionInvalid
from converter.metrics.requests import parse_request
from converter.packing import check_into
from converter.recipes import MIXED, RECIPES, Recipe
from converter.sources import source
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
    """

    kind: source.Kind
    recipes: tuple[Recipe, ...]
    needs: tuple[Needs, ...]
    threads: tuple[int, ...]


def make_plan(options: ConvertOptions) -> Plan:
    """Checks places, files and names.

    Raises:
        PackageExists: the version is there, and `replace` is False.
        BadInput: anything else that is wrong with what was given.
    """
    check_output(options.output, options.name, options.version, replace=options.replace)
    if options.into and (why := check_into(options.into)):
        raise OptionInvalid(f"into: {why}")
    kind = source.check(options.saved_model)
    for spec in (options.calibration, options.evaluation):
        if spec is not None:
            data.check(spec)
    for path in (options.labels, options.preprocess):
        if path and not path.is_file():
            raise OptionInvalid(f"{path}: no such file")
    edgetpu.find_compiler(options.edgetpu_compiler)
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
    )


def check_output(output: Path, name: str, version: int, *, replace: bool) -> None:
    """Whether a package can be published there.

    Raises:
        PackageExists: the version is there, and `replace` is False.
        OptionInvalid: the folder can't be written to.
    """
    target = version_path(output, name, version)
    if target.exists() and not replace:
        raise PackageExists(f"{target}: this version is already there; give --replace, or another version")
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


def report_path(options: ConvertOptions) -> Path:
    """Where the HTML report goes: beside the package, since its times are no part of what is reproducible."""
    return options.output / f"{options.name}-{options.version}.html"
