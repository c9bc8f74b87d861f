"""The command line of `edge-convert`, and the TOML file that can hold all of it."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from converter.config import (
    DEFAULT_CALIBRATION_SAMPLES,
    DEFAULT_SEARCH_TIME_S,
    DEFAULT_SIGNATURE,
    DEFAULT_TIME_LIMIT_S,
    Budget,
    ConvertOptions,
    DataSpec,
)
from converter.errors import OptionInvalid
from converter.help_texts import DESCRIPTION, EPILOG, PACKAGE_COMMANDS
from converter.recipes import MIXED, RECIPES

_REQUIRED = ("saved_model", "name", "version", "output")

_MIB = 2**20


def convert_parser() -> argparse.ArgumentParser:
    """Of the command itself, and of `edge-convert convert`.

    What is not given is not set, so that a configuration file can say it; see `convert_options`.
    """
    parser = _parser("edge-convert", DESCRIPTION, EPILOG, argument_default=argparse.SUPPRESS)
    add = parser.add_argument
    add("saved_model", metavar="SAVED_MODEL", nargs="?", help="SavedModel directory, or a .keras, .h5 or .hdf5 file")
    add("--config", type=_path, metavar="TOML", help="a file with these options (flags win); see below")
    add("--name", help="the model's name")
    add("--version", type=int, metavar="N", help="its version, a positive integer; a version never changes")
    add("--output", metavar="DIR", help="folder of packages; NAME/VERSION/ and NAME-VERSION.tar.gz are made in it")
    group = parser.add_argument_group("data, see below")
    add = group.add_argument
    add("--calibration", metavar="DATA", help="real samples for int8, from the training data")
    add("--evaluation", metavar="DATA", help="held-out samples, and labels, to measure on")
    add("--labels", metavar="TXT", help="class names, one a line, to go into the package")
    add("--preprocess", metavar="TOML", help="how raw values become inputs, to go into the package")
    _number(group, "--calibration-samples", int, DEFAULT_CALIBRATION_SAMPLES, "use at most this many, evenly spread")
    group = parser.add_argument_group("the model")
    add = group.add_argument
    add("--signature", action="append", metavar="NAME", help=f"which to convert; repeat it ({DEFAULT_SIGNATURE})")
    add("--shape", action="append", metavar="INPUT=DIMS", help="fix dimensions: --shape input=1,20,8 (-1: variable)")
    add("--custom-objects", metavar="MODULE:NAME", help="a Keras model's own layers: a class, or a dict of them")
    add("--server-model", metavar="DIR", help="SavedModel that servers answer the unsure ones with, if it is another")
    group = parser.add_argument_group("what is made, and chosen")
    add = group.add_argument
    add(
        "--variant",
        action="append",
        metavar="NAME",
        help=f"make only these: {', '.join(one.name for one in (*RECIPES, MIXED))}",
    )
    add(
        "--target",
        action="append",
        metavar="PROFILE",
        help="choose for this device too: raspberry-pi-5, coral-usb, ...",
    )
    add(
        "--max-accuracy-drop", metavar="DROP", help="percentage points a variant may lose, or relative:1%%; else exit 3"
    )
    add("--optimize", choices=("size", "latency"), help="what the choice among those that fit goes by (size)")
    add("--metric", action="append", metavar="OUTPUT=METRIC", help="how an output is measured; see below")
    _number(group, "--search-time", float, DEFAULT_SEARCH_TIME_S, "bound of the mixed search in seconds, 0 for none")
    _switch(group, "--uint8-input", "fold preprocessing into int8's input: it takes a camera's bytes")
    add("--edgetpu-compiler", metavar="PATH", help="edgetpu_compiler, if it is not on PATH")
    add("--edgetpu-segments", type=int, metavar="N", help="cut the model for a pipeline of N Edge TPUs")
    group = parser.add_argument_group("where it goes")
    add = group.add_argument
    _switch(group, "--report", "write NAME-VERSION.html beside the package: plots, classes, layers")
    add("--into", metavar="DIR", help="lay the package into a SavedModel's version directory too, for the server")
    _switch(group, "--only-chosen", "leave variants that nothing chose out of the package")
    _switch(group, "--replace", "replace a version that is already there")
    add("--sign", metavar="KEY", help="sign the package with this key, see edge-convert keygen")
    group = parser.add_argument_group("how it runs")
    add = group.add_argument
    _switch(group, "--latency", "time the variants on this host, as is done unless told", dest="measure_latency")
    _number(group, "--jobs", int, 1, "conversions at once; each needs memory for the model")
    _number(group, "--time-limit-s", float, DEFAULT_TIME_LIMIT_S, "kill a step that takes longer, in seconds")
    add("--memory-limit-mib", type=int, metavar="N", help="kill a step that takes more memory (90 %% of what is free)")
    _common(parser)
    return parser


def package_parser(command: str) -> argparse.ArgumentParser:
    """Of each of the others."""
    parser = _parser(f"edge-convert {command}", *PACKAGE_COMMANDS[command])
    add = parser.add_argument
    if command in ("inspect", "verify"):
        add("package", metavar="PACKAGE", type=_path, help="a package's directory, or its .tar.gz")
    if command == "inspect":
        add("--bench", type=_path, metavar="JSON", help="what `edge-run bench PACKAGE --json` wrote on a device")
        add("--report", type=_path, metavar="HTML", help="write the HTML report there")
    if command == "verify":
        add("--key", type=_path, metavar="KEY.pub", help="it must be signed with this key too")
    if command == "keygen":
        add("key", metavar="KEY", type=_path, help="the file to make; KEY.pub is made beside it")
    if command == "sign":
        add("package", metavar="PACKAGE", type=_path, help="a package's directory, or its .tar.gz")
        add("--key", type=_path, required=True, metavar="KEY", help="as edge-convert keygen made it")
    if command == "compare":
        add("first", metavar="A", type=_path, help="a package, or a SavedModel")
        add("second", metavar="B", type=_path, help="a package")
        add("--evaluation", metavar="DATA", required=True, help="what both are run on, as for a conversion")
        add("--variant", action="append", metavar="NAME", help="of the packages, in their order (the chosen ones)")
        add("--metric", action="append", metavar="OUTPUT=METRIC", help="how an output is measured")
    if command == "wrap":
        add("model", metavar="MODEL.tflite", type=_path)
        add("edgetpu_model", metavar="MODEL_edgetpu.tflite", type=_path, nargs="?", help="the same, compiled")
        add("--name", required=True, help="the model's name")
        add("--version", required=True, type=int, metavar="N", help="its version, a positive integer")
        add("--output", type=_path, default=Path("packages"), metavar="DIR", help="folder of packages (packages)")
        add("--labels", type=_path, metavar="TXT", help="class names, one a line")
        add("--preprocess", type=_path, metavar="TOML", help="how raw values become inputs")
        add("--sign", type=_path, metavar="KEY", help="sign the package with this key")
        add("--replace", action="store_true", help="replace a version that is already there")
    _common(parser)
    return parser


def convert_options(given: Mapping[str, Any]) -> ConvertOptions:
    """Flags over the configuration file over the defaults.

    Args:
        given: What was parsed, without `json` and `debug`.

    Raises:
        OptionInvalid: the file can't be read or says something unknown, or an option is missing or out of bounds.
    """
    flags = dict(given)
    file = flags.pop("config", None)
    values = {**(read_config(file) if file else {}), **_from_flags(flags)}
    if missing := [name for name in _REQUIRED if name not in values]:
        named = ", ".join("SAVED_MODEL" if name == "saved_model" else f"--{name}" for name in missing)
        raise OptionInvalid(f"required: {named}")
    return ConvertOptions(**values)


def _from_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags -> fields of `ConvertOptions`."""
    for flag in ("shape", "metric"):
        if flag in flags:
            flags[flag] = pairs(flag, flags[flag])
    return _fields(flags, Path())


def pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` words -> a dict; OptionInvalid where one is none, or names a thing twice."""
    found: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise OptionInvalid(f"{flag}: {word!r} is not NAME=VALUE")
        if name in found:
            raise OptionInvalid(f"{flag}: {name!r} is given twice")
        found[name] = value
    return found


def read_config(path: Path) -> dict[str, Any]:
    """A TOML file -> fields of `ConvertOptions`; its relative paths are relative to the file.

    Raises:
        OptionInvalid: it can't be read, is no TOML, or has an unknown key or a value of a wrong type.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # No UTF-8, no TOML, or a number without end.
        raise OptionInvalid(f"{path}: {error}") from error
    except RecursionError as error:
        raise OptionInvalid(f"{path}: nested too deeply to be a configuration") from error
    words = {key.replace("-", "_"): value for key, value in table.items()}
    if "latency" in words:
        words["measure_latency"] = words.pop("latency")
    unknown = sorted(set(words) - set(_KINDS))
    if unknown:
        raise OptionInvalid(f"{path}: unknown key {unknown[0]!r}; known are: {', '.join(sorted(_KINDS))}")
    for key, value in words.items():
        kinds = _KINDS[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            said = kinds.__name__ if isinstance(kinds, type) else " or ".join(kind.__name__ for kind in kinds)
            raise OptionInvalid(f"{path}: {key} must be {said}, got {value!r}")
    try:
        return _fields(words, path.parent)
    except OptionInvalid as error:
        raise OptionInvalid(f"{path}: {error}") from error


_KINDS: dict[str, Any] = {
    **dict.fromkeys(("saved_model", "name", "output", "calibration", "evaluation", "labels", "preprocess"), str),
    **dict.fromkeys(("custom_objects", "optimize", "edgetpu_compiler", "into", "server_model", "sign"), str),
    **dict.fromkeys(("version", "calibration_samples", "edgetpu_segments", "jobs", "memory_limit_mib"), int),
    **dict.fromkeys(("search_time", "time_limit_s"), (int, float)),
    **dict.fromkeys(("uint8_input", "report", "only_chosen", "replace", "measure_latency"), bool),
    **dict.fromkeys(("signature", "variant", "target"), (str, list)),
    **dict.fromkeys(("shape", "metric"), dict),
    "max_accuracy_drop": (int, float, str),
}
"""What a configuration file may say, and of what type."""


def _fields(words: Mapping[str, Any], base: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in words.items():
        name, make = _FIELDS.get(key, (key, None))
        if value == "":
            raise OptionInvalid(f"{key.replace('_', ' ')}: must not be empty")
        if key in _PATHS:
            fields[key] = base / value
        elif key in ("calibration", "evaluation"):
            fields[key] = data_spec(value, base)
        else:
            fields[name] = make(value) if make else value
    return fields


def data_spec(text: str, base: Path = Path()) -> DataSpec:
    """A path, or `module:function`: words with a colon that are no path."""
    path = base / text
    if ":" in text and not path.exists():
        return text
    return path


def parse_shape(given: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """`{"input": "1,20,8"}` (or a list of integers) -> dimensions; OptionInvalid where one is none."""
    shapes = {}
    for name, dims in given.items():
        words = dims.split(",") if isinstance(dims, str) else dims
        try:
            if any(isinstance(dim, bool | float) for dim in words):
                raise ValueError  # noqa: TRY301  int() would take them
            shape = tuple(int(dim) for dim in words)
        except (TypeError, ValueError) as error:
            raise OptionInvalid(f"shape of {name!r}: {dims!r} is not a list of integers, as 1,20,8") from error
        if any(dim < -1 or dim == 0 for dim in shape):
            raise OptionInvalid(f"shape of {name!r}: {dims!r}: each dimension must be 1 or more, or -1 for variable")
        shapes[name] = shape
    return shapes


def _words(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(one) for one in value)


_PATHS = frozenset({"saved_model", "output", "labels", "preprocess", "into", "server_model", "sign"})

_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "signature": ("signatures", _words),
    "variant": ("variants", _words),
    "target": ("targets", _words),
    "shape": ("shapes", parse_shape),
    "metric": ("metrics", lambda value: {name: str(metric) for name, metric in value.items()}),
    "max_accuracy_drop": ("budget", lambda value: Budget.parse(f"{value}")),
    "search_time": ("search_time_s", float),
    "time_limit_s": ("time_limit_s", float),
    "memory_limit_mib": ("memory_limit_bytes", lambda value: value * _MIB),
}
"""Words whose field has another name or type."""


def _parser(prog: str, description: str, epilog: str, **options: Any) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )


def _path(text: str) -> Path:
    """A path that is typed; an empty one, of an unset variable say, would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def _switch(parser: Any, flag: str, says: str, **options: Any) -> None:
    """With `--no-...`, so that a flag can win over a configuration file both ways."""
    parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=says, **options)


def _number(parser: Any, flag: str, kind: type[Any], default: float, says: str) -> None:
    parser.add_argument(flag, type=kind, metavar="N", help=f"{says} ({default:g})")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=False, help="print the result as JSON")
    parser.add_argument(
        "--debug", action="store_true", default=False, help="show tracebacks, and what failed steps wrote"
    )
