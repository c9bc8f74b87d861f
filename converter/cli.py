"""The command `edge-convert`."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from converter import inspection, pipeline
from converter.artifact import PackageError
from converter.config import DEFAULT_CALIBRATION_SAMPLES, DEFAULT_TIME_LIMIT_S
from converter.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_NO_VARIANT,
    ConverterError,
    NoVariantMade,
    TaskFailed,
)
from converter.report import table
from converter.result import PackageResult
from converter.terminal import shown_progress

EXIT_INTERRUPTED = 130

_DESCRIPTION = """\
Turns a TensorFlow SavedModel into a package: TFLite variants (float32, dynamic, int8), each run and measured against
the original before it counts, with a manifest, labels, preprocessing and digests.

  edge-convert SAVED_MODEL ...     convert (so does: edge-convert convert SAVED_MODEL ...)
  edge-convert inspect PACKAGE     what is in a package
  edge-convert verify PACKAGE      whether it is whole, and every variant runs
"""

_EPILOG = """\
examples:
  edge-convert saved_model/1 --name digits --version 1 --output packages/ \\
      --calibration train.npz --evaluation test.npz --labels labels.txt
  edge-convert saved_model/1 --name digits --version 1 --output packages/     (no data: int8 is refused)
  edge-convert inspect packages/digits/1 --json
  edge-convert verify packages/digits-1.tar.gz
  edge-convert ./inspect --name odd --version 1 --output packages/            (a directory called `inspect`)

data:
  A .npz (numpy.savez) holds one array for each input, by its name in the signature, and one entry along the first
  axis for each sample; evaluation data may also hold `labels`, one integer class a sample. The arrays are what the
  model itself takes: they are not preprocessed again. --preprocess says how a device makes such values from raw ones:
      [inputs.image]
      scale = 0.00392156862745098      # (raw * scale - mean) / std
      mean = [0.485, 0.456, 0.406]
      std = [0.229, 0.224, 0.225]

exit codes:
  0 done    2 bad input    4 no variant could be made, or (verify) one does not run
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code. Results go to stdout, progress and errors to stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    command, parser = "convert", _convert_parser()
    if words and words[0] in _COMMANDS:
        command = words.pop(0)
        parser = parser if command == "convert" else _package_parser(command)
    arguments = parser.parse_args(words)
    try:
        return _COMMANDS[command](arguments)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was published", EXIT_INTERRUPTED, debug=arguments.debug)
    except NoVariantMade as error:
        if arguments.json:
            _show(error.result, arguments)
        return _fail(str(error), EXIT_NO_VARIANT, debug=arguments.debug)
    except (ConverterError, PackageError, OSError) as error:
        return _fail(str(error), EXIT_BAD_INPUT, debug=arguments.debug)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
        error = sys.exception()
        while error:
            if isinstance(error, TaskFailed) and error.log:
                print(f"the process wrote:\n{error.log}", file=sys.stderr)
            error = error.__cause__
    print(f"edge-convert: {' '.join(message.split())}", file=sys.stderr)
    return code


def _convert(arguments: argparse.Namespace) -> int:
    options = {name: value for name, value in vars(arguments).items() if name not in ("json", "debug")}
    with shown_progress(logs=arguments.debug) as progress:
        result = pipeline.convert(**options, progress=progress)
    _show(result, arguments)
    return EXIT_DONE


def _inspect(arguments: argparse.Namespace) -> int:
    _show(inspection.inspect(arguments.package), arguments)
    return EXIT_DONE


def _verify(arguments: argparse.Namespace) -> int:
    result = inspection.verify(arguments.package)
    _show(result, arguments)
    failed = [one.name for one in result.variants if one.status != "ok"]
    if failed:
        return _fail(f"{arguments.package}: does not run: {', '.join(failed)}", EXIT_NO_VARIANT, debug=False)
    if not arguments.json:
        print(f"verified: every digest matches and each of the {len(result.variants)} variants ran")
    return EXIT_DONE


def _show(result: PackageResult, arguments: argparse.Namespace) -> None:
    print(json.dumps(result.to_dict(), indent=2) if arguments.json else table(result))


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "convert": _convert,
    "inspect": _inspect,
    "verify": _verify,
}


def _convert_parser() -> argparse.ArgumentParser:
    parser = _parser("edge-convert", _DESCRIPTION, _EPILOG)
    add = parser.add_argument
    add("saved_model", metavar="SAVED_MODEL", type=Path, help="directory with saved_model.pb")
    add("--name", required=True, help="the model's name")
    add("--version", required=True, type=int, help="its version, a positive integer; a version never changes")
    add("--output", required=True, type=Path, metavar="DIR", help="folder of packages; NAME/VERSION/ is made in it")
    add("--calibration", type=Path, metavar="NPZ", help="real samples for int8, from the training data")
    add("--evaluation", type=Path, metavar="NPZ", help="held-out samples, and labels, to measure on")
    add("--labels", type=Path, metavar="TXT", help="class names, one a line, to go into the package")
    add("--preprocess", type=Path, metavar="TOML", help="how raw values become inputs, to go into the package")
    add("--signature", default="serving_default", help="which signature to convert (default: %(default)s)")
    add("--replace", action="store_true", help="replace a version that is already there")
    _add_number(
        parser, "--calibration-samples", int, DEFAULT_CALIBRATION_SAMPLES, "use at most this many, evenly spread"
    )
    _add_number(parser, "--time-limit-s", float, DEFAULT_TIME_LIMIT_S, "kill a step that takes longer, in seconds")
    _add_common(parser)
    return parser


def _package_parser(command: str) -> argparse.ArgumentParser:
    says = {
        "inspect": "Shows what is in a package, after checking its digests.",
        "verify": "Checks a package's digests and runs each variant once. Exit code 0: all is well; 2: damaged or no "
        "package; 4: a variant does not run.",
    }
    parser = _parser(f"edge-convert {command}", says[command], "")
    parser.add_argument("package", metavar="PACKAGE", type=Path, help="a package's directory, or its .tar.gz")
    _add_common(parser)
    return parser


def _parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_number(parser: argparse.ArgumentParser, flag: str, kind: type[Any], default: float, says: str) -> None:
    parser.add_argument(flag, type=kind, default=default, metavar="N", help=f"{says} (default: %(default)g)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks, and what failed steps wrote")


if __name__ == "__main__":
    sys.exit(main())
