"""The command `edge-convert`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from converter import inspection, pipeline
from converter.arguments import convert_options, convert_parser, data_spec, package_parser, pairs
from converter.artifact import PackageError
from converter.compare import compare
from converter.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_NO_VARIANT,
    EXIT_NOTHING_FITS,
    ConverterError,
    NothingFits,
    NoVariantMade,
    TaskFailed,
)
from converter.findings import Findings
from converter.report import table
from converter.result import PackageResult
from converter.terminal import shown_progress
from converter.wrap import WrapOptions, wrap

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code. Results go to stdout, progress and errors to stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    command, parser = "convert", convert_parser()
    if words and words[0] in _COMMANDS:
        command = words.pop(0)
        parser = parser if command == "convert" else package_parser(command)
    arguments = parser.parse_args(words)
    try:
        return _flushed(_COMMANDS[command](arguments))
    except BrokenPipeError:
        # Whoever read this has seen enough (`| head`); what Python would still flush at its end has no reader.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was published", EXIT_INTERRUPTED, debug=arguments.debug)
    except NothingFits as error:
        if arguments.json:
            _show(error.result, arguments)
        else:
            # What came closest is to be seen, and nothing on stdout looks like a package that was made.
            print(table(error.result, error.findings), file=sys.stderr)
        return _fail(str(error), EXIT_NOTHING_FITS, debug=arguments.debug)
    except NoVariantMade as error:
        if arguments.json:
            _show(error.result, arguments)
        return _fail(str(error), EXIT_NO_VARIANT, debug=arguments.debug)
    except (ConverterError, PackageError, OSError) as error:
        return _fail(str(error), EXIT_BAD_INPUT, debug=arguments.debug)


def _flushed(code: int) -> int:
    sys.stdout.flush()
    return code


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
    given = {name: value for name, value in vars(arguments).items() if name not in ("json", "debug")}
    options = convert_options(given)
    with shown_progress(logs=arguments.debug) as progress:
        result = pipeline.run(options, progress)
    _show(result, arguments, inspection.findings_at(result))
    return EXIT_DONE


def _inspect(arguments: argparse.Namespace) -> int:
    found = inspection.examine(arguments.package, arguments.bench, arguments.report)
    _show(found.result, arguments, found.findings)
    return EXIT_DONE


def _verify(arguments: argparse.Namespace) -> int:
    result = inspection.verify(arguments.package)
    _show(result, arguments)
    failed = [one.name for one in result.variants if one.status != "ok"]
    if failed:
        return _fail(f"{arguments.package}: does not run: {', '.join(failed)}", EXIT_NO_VARIANT, debug=False)
    if not arguments.json:
        foreign = sum(inspection.NOT_RUN in note for note in result.notes)
        ran = len(result.variants) - foreign
        what = f"each of the {ran} variants ran" + (f", {foreign} can run on an Edge TPU only" if foreign else "")
        print(f"verified: every digest matches and {what}")
    return EXIT_DONE


def _compare(arguments: argparse.Namespace) -> int:
    with shown_progress(logs=arguments.debug) as progress:
        result = compare(
            arguments.first,
            arguments.second,
            data=data_spec(arguments.evaluation),
            variants=tuple(arguments.variant or ()),
            metrics=pairs("metric", arguments.metric or ()),
            progress=progress,
        )
    print(json.dumps(result.to_dict(), indent=2) if arguments.json else result.table())
    return EXIT_DONE


def _wrap(arguments: argparse.Namespace) -> int:
    options: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name not in ("json", "debug")}
    _show(wrap(WrapOptions(**options)), arguments)
    return EXIT_DONE


def _show(result: PackageResult, arguments: argparse.Namespace, findings: Findings | None = None) -> None:
    print(json.dumps(result.to_dict(), indent=2) if arguments.json else table(result, findings))
    if result.report and not arguments.json:
        print(f"report: {Path(result.report)}")


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "convert": _convert,
    "inspect": _inspect,
    "verify": _verify,
    "compare": _compare,
    "wrap": _wrap,
}


if __name__ == "__main__":
    sys.exit(main())
