"""What `edge-convert` does: runs its commands, shows their results and tells of errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from converter import inspection, pipeline, signing
from converter.arguments import convert_options, convert_parser, data_spec, package_parser, pairs
from converter.artifact import PackageError
from converter.artifact.signing import SigningKey
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
from converter.interrupts import holding_interrupts
from converter.report import table
from converter.result import PackageResult
from converter.terminal import forget, shown_progress, told_if_possible
from converter.wrap import WrapOptions, wrap

EXIT_INTERRUPTED = 130

EXIT_NOT_WRITTEN = 5
"""It was done, but stdout could not take the result."""


class ResultNotWritten(Exception):
    """Stdout is closed, full or can't hold the text; the message says which."""


def run(arguments: Sequence[str]) -> int:
    """Runs the command with these arguments; returns its exit code."""
    words = list(arguments)
    command, parser = "convert", convert_parser()
    if words and words[0] in _COMMANDS:
        command = words.pop(0)
        parser = parser if command == "convert" else package_parser(command)
    given = parser.parse_args(words)
    return _told(command, given)


def _told(command: str, arguments: argparse.Namespace) -> int:
    """The command's exit code, whatever it ends with."""
    try:
        return _COMMANDS[command](arguments)
    except ResultNotWritten as error:
        return _fail(str(error), EXIT_NOT_WRITTEN, debug=arguments.debug)
    except KeyboardInterrupt as error:
        said = str(error) or "interrupted"
        nothing = "; nothing was published" if command in ("convert", "wrap") else ""
        return _fail(f"{said}{nothing}", EXIT_INTERRUPTED, debug=arguments.debug)
    except NothingFits as error:
        if arguments.json:
            _show_refused(error.result, arguments)
        else:
            # What came closest is to be seen, and nothing on stdout looks like a package that was made.
            _complain(table(error.result, error.findings))
        return _fail(str(error), EXIT_NOTHING_FITS, debug=arguments.debug)
    except NoVariantMade as error:
        if arguments.json:
            _show_refused(error.result, arguments)
        return _fail(str(error), EXIT_NO_VARIANT, debug=arguments.debug)
    except (ConverterError, PackageError, OSError) as error:
        return _fail(str(error), EXIT_BAD_INPUT, debug=arguments.debug)


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        _complain(traceback.format_exc().rstrip())
        error = sys.exception()
        while error:
            if isinstance(error, TaskFailed) and error.log:
                _complain(f"the process wrote:\n{error.log}")
            error = error.__cause__
    _complain(f"edge-convert: {' '.join(message.split())}")
    return code


def _complain(text: str) -> None:
    with told_if_possible(sys.stderr):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _convert(arguments: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(arguments).items() if name not in ("json", "debug")}
    options = convert_options(given)
    # Once the package is published, the command can only end as done.
    with holding_interrupts(forget=True):
        with shown_progress(logs=arguments.debug) as progress:
            result = pipeline.run(options, progress)
        with _published(result):
            _show(result, arguments, inspection.findings_at(result))
        return EXIT_DONE


def _inspect(arguments: argparse.Namespace) -> int:
    found = inspection.examine(arguments.package, arguments.bench, arguments.report)
    _show(found.result, arguments, found.findings)
    return EXIT_DONE


def _verify(arguments: argparse.Namespace) -> int:
    result = inspection.verify(arguments.package, key=arguments.key)
    _show(result, arguments)
    failed = [one for one in result.variants if one.status != "ok"]
    if failed:
        names = ", ".join(one.name for one in failed)
        said = f"{arguments.package}: does not run as the manifest says: {names}: {failed[0].error}"
        return _fail(said, EXIT_NO_VARIANT, debug=False)
    if not arguments.json:
        foreign = sum(inspection.NOT_RUN in note for note in result.notes)
        ran = len(result.variants) - foreign
        what = f"each of the {ran} variants ran" + (f", {foreign} can run on an Edge TPU only" if foreign else "")
        signed = f", {arguments.key} vouches for it" if arguments.key else ""
        _write(f"verified: every digest matches{signed} and {what}")
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
    _write(json.dumps(result.to_dict(), indent=2) if arguments.json else result.table())
    return EXIT_DONE


def _wrap(arguments: argparse.Namespace) -> int:
    options: dict[str, Any] = {name: value for name, value in vars(arguments).items() if name not in ("json", "debug")}
    with holding_interrupts(forget=True):
        result = wrap(WrapOptions(**options))
        with _published(result):
            _show(result, arguments)
        return EXIT_DONE


def _keygen(arguments: argparse.Namespace) -> int:
    key, public = signing.keygen(arguments.key)
    found = {"key": key.public.id, "private": str(arguments.key), "public": str(public)}
    said = (
        f"made the key {key.public.id}: {arguments.key} signs, keep it to yourself; {public} is for devices:\n"
        f"  edge-run trust add {public} --store STORE"
    )
    _write(json.dumps(found, indent=2) if arguments.json else said)
    return EXIT_DONE


def _sign(arguments: argparse.Namespace) -> int:
    done = signing.sign(arguments.package, SigningKey.read(arguments.key))
    found = {
        "package": done.package,
        "digest": done.digest,
        "key": done.key,
        "files": [str(path) for path in done.files],
    }
    said = f"signed {done.package} with the key {done.key}: {', '.join(found['files'])}"
    _write(json.dumps(found, indent=2) if arguments.json else said)
    return EXIT_DONE


def _show(result: PackageResult, arguments: argparse.Namespace, findings: Findings | None = None) -> None:
    text = json.dumps(result.to_dict(), indent=2) if arguments.json else table(result, findings)
    if result.report and not arguments.json:
        text += f"\nreport: {Path(result.report)}"
    _write(text)


def _show_refused(result: PackageResult, arguments: argparse.Namespace) -> None:
    with contextlib.suppress(ResultNotWritten):  # The exit code says what matters more.
        _show(result, arguments)


@contextlib.contextmanager
def _published(result: PackageResult) -> Iterator[None]:
    """Nobody is to take a result that can't be shown for a package that was not made."""
    try:
        yield
    except (ResultNotWritten, PackageError, OSError) as error:
        raise ResultNotWritten(f"{result.package} was published, but the result can't be shown: {error}") from error


def _write(text: str) -> None:
    """Writes to stdout, and has it arrive.

    Raises:
        ResultNotWritten: it does not.
    """
    if sys.stdout is None:
        raise ResultNotWritten("stdout is closed")
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        forget(sys.stdout)  # Whoever read this has seen enough (`| head`).
    except (OSError, ValueError) as error:  # ValueError: closed, or of an encoding that lacks a character.
        forget(sys.stdout)
        raise ResultNotWritten(f"stdout: {getattr(error, 'strerror', None) or error}") from error


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "convert": _convert,
    "inspect": _inspect,
    "verify": _verify,
    "compare": _compare,
    "wrap": _wrap,
    "keygen": _keygen,
    "sign": _sign,
}
