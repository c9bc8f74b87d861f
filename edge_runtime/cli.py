"""`edge-run`: what this machine is, what is installed on it, and a prediction from the command line."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from converter.artifact import PackageError
from edge_runtime import standard_files
from edge_runtime.errors import EdgeRuntimeError, InvalidConfig, InvalidInput, PackageRefused
from edge_runtime.servers_command import add_command as add_servers
from edge_runtime.store_command import add_commands as add_store_commands
from edge_runtime.store_command import folder
from edge_runtime.store_command import version as number
from edge_runtime.tls_flags import add_flags
from edge_runtime.top_command import add_command as add_top

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""The disk is full or fails, which no other input mends; whatever the error is called that came of it."""

_BAD_INPUT = (InvalidConfig, InvalidInput, PackageError, PackageRefused, NotADirectoryError)

_EXAMPLES = """examples:
  edge-run doctor                                     what this machine is, and which delegates load
  edge-run doctor --delegate external:/opt/lib.so     try one more delegate
  edge-run install digits-1.tar.gz --store packages/  verify a package, run it once, and put it into a store
  edge-run list packages/                             what is installed, open, used and measured
  edge-run use digits 2 --store packages/             stable is version 2 now; running runtimes go over
  edge-run rollback digits --store packages/          stable is what it was before
  edge-run remove digits 1 --store packages/          take a version out
  edge-run quota 2GiB --store packages/               the least recently used make room from now on
  edge-run trust require on --store packages/         only signed packages; edge-run trust add KEY.pub
  edge-run predict packages/ digits image.npy         answer one input, with labels where the package has them
  edge-run predict packages/ emotions face.jpg --raw  a photograph, through the package's preprocessing
  edge-run predict packages/emotions/1 a.jpg b.jpg    several, straight from a package, a line each
  edge-run predict model.tflite image.npy             a bare file, without labels
  edge-run bench packages/digits/1 --threads 1,4      how long each engine takes on this device
  edge-run bench model.tflite --delegate edgetpu      a bare file, on an Edge TPU
  edge-run bench digits --store packages/ --save      and have the runtime use what was measured
  edge-run bench digits --store packages/ --json      as a file, for edge-convert inspect
  edge-run top                                        what a running application does now, once a second
  edge-run top camera.toml --once                     the same, one look, where its file says
  edge-run servers                                    which servers there are, and what each serves

exit codes: 0 done, 1 the machine or a server could not do it, 2 bad input, 130 interrupted
"""

_DOCTOR_CODES = """exit codes: 0 models run here, also where a line says PROBLEM, which has its cure below it;
1 none does, or a --delegate fails; 2 bad input; 130 interrupted
"""


_PREDICT = """exit codes: 0 answered; 1 no engine or server could; 2 bad input: no such model, version or file, an input
that does not fit, a damaged package; 130 interrupted
"""

_BENCH = """exit codes: 0 measured; 1 an engine failed; 2 bad input: no such package, variant or device, or a damaged
one; 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    standard_files.have()
    arguments = _parse(argv)
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.WARNING, format="%(levelname)s %(message)s")
    code = _run(arguments)
    error = standard_files.finish()
    return code if error is None else _fail(error, code or EXIT_FAILED, debug=arguments.debug)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; what there may be any number of may come before options and after them."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    name: str = getattr(arguments, "many", "")
    if rest and (not name or any(one.startswith("-") for one in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        setattr(arguments, name, [*getattr(arguments, name), *rest])
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    interrupts: list[int] = []
    try:
        with _noting(interrupts):
            return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        # What is interrupted while it is imported says that it can't be loaded, and not why.
        if interrupts:
            return _interrupted()
        if isinstance(error, BrokenPipeError) and standard_files.nobody_reads():
            return EXIT_DONE  # As `head` does: it has what it wanted.
        if isinstance(error, _BAD_INPUT) and not _of_disk(error):
            return _fail(error, EXIT_BAD_INPUT, debug=arguments.debug)
        if isinstance(error, (*_BAD_INPUT, EdgeRuntimeError, OSError)):
            return _fail(error, EXIT_FAILED, debug=arguments.debug)
        raise


@contextlib.contextmanager
def _noting(interrupts: list[int]) -> Iterator[None]:
    """Notes each SIGINT, which raises KeyboardInterrupt as ever."""

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        signal.default_int_handler(number, frame)

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _of_disk(error: Exception) -> bool:
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _DISK


def _interrupted() -> int:
    print("edge-run: interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED


def _fail(error: Exception, code: int, *, debug: bool) -> int:
    logging.getLogger(__name__).debug("the command failed", exc_info=error if debug else None)
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print(f"edge-run: {' '.join(said.split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-run",
        description="Runs packages on this device.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="log everything, and show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for add in (_add_doctor, add_store_commands, _add_predict, _add_bench, add_top, add_servers):
        add(commands)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    epilog: str,
    usage: str | None = None,
) -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    return commands.add_parser(name, help=text, description=text, epilog=epilog, usage=usage, formatter_class=form)


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "what this machine is, which delegates load, and what to do otherwise"
    doctor = commands.add_parser(
        "doctor",
        help=about,
        description=about.capitalize() + ".",
        epilog=_DOCTOR_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("--store", type=folder, default=Path(), help="where packages are or will be: is there room?")
    doctor.add_argument(
        "--delegate",
        action="append",
        default=[],
        metavar="DEVICE",
        help="try this one too, as external:/path/lib.so?option=value; may be repeated",
    )
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.set_defaults(run=_doctor)


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    predict = _add(
        commands,
        "predict",
        "answer a request of an installed model, or one for each file that a package is given",
        _PREDICT,
        usage="edge-run predict STORE MODEL INPUT... [options]\n       edge-run predict PACKAGE FILE... [options]",
    )
    predict.add_argument(
        "source",
        metavar="STORE|PACKAGE",
        help="a folder of packages or a runtime's .toml; or one package: its directory (with a manifest.json), its "
        ".tar.gz, or a bare .tflite",
    )
    predict.add_argument(
        "input",
        nargs="+",
        metavar="[MODEL] INPUT",
        help="after a store the model's name, and files for one request: for the only input .npy, batch axis first; "
        "with --raw also an image, a .wav, a .json of records by field; a .npz by input name; or NAME=@FILE for each "
        "input. After a package a request for each file: .npy and .npz as they are, anything else preprocessed",
    )
    predict.add_argument("--version", type=number, help="only this version may answer")
    predict.add_argument("--label", help="the version that this label points to")
    predict.add_argument("--signature", help="instead of serving_default")
    predict.add_argument("--deadline-ms", type=float, help="give up after so many milliseconds")
    predict.add_argument("--fallback", help="mdns, or host:port of a server")
    predict.add_argument("--raw", action="store_true", help="arrays are raw too: apply the package's preprocessing")
    predict.add_argument(
        "--delegate",
        action="append",
        default=[],
        metavar="DEVICE",
        help="run there: cpu, edgetpu:usb:0...; may be repeated",
    )
    predict.add_argument("--top", type=int, default=5, metavar="N", help="classes to show of each row (default: 5)")
    predict.add_argument("--labels", type=Path, metavar="FILE", help="a line for each class, as `3 cat` or `cat`")
    predict.add_argument(
        "--json",
        action="store_true",
        help='as JSON, a line a request: every output value ("NaN" and "Infinity" as strings)',
    )
    add_flags(predict)
    predict.set_defaults(run=_predict, many="input")


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = _add(commands, "bench", "time a package's engines on this device, against the bare interpreter", _BENCH)
    bench.add_argument(
        "package", help="a package's directory or .tar.gz, a bare .tflite; with --store, NAME or NAME/VERSION in it"
    )
    bench.add_argument("--store", type=folder, help="the folder of packages that PACKAGE is installed in")
    bench.add_argument("--variant", action="append", default=[], help="only this one; may be repeated")
    bench.add_argument(
        "--delegate",
        action="append",
        metavar="DEVICE",
        help="where: cpu, gpu, npu, edgetpu, edgetpu:usb:0, external:/path/lib.so?option=value; may be repeated "
        "(default: cpu, and the accelerators that are attached)",
    )
    bench.add_argument(
        "--threads", metavar="N[,N...]", help="the interpreter's threads on a CPU (default: 1, 2 and up to 4)"
    )
    bench.add_argument("--batch", default="1,2,4,8", metavar="N[,N...]", help="rows of a call (default: 1,2,4,8)")
    bench.add_argument("--seconds", type=float, default=0.5, help="for each line of the table (default: 0.5)")
    bench.add_argument("--save", action="store_true", help="keep it beside the package: the runtime goes by it")
    bench.add_argument("--json", action="store_true", help="as JSON, which `edge-convert inspect --bench FILE` shows")
    bench.set_defaults(run=_bench)


def _doctor(arguments: argparse.Namespace) -> int:
    from edge_runtime import doctor  # noqa: PLC0415  loads the interpreter, which the other commands may not need

    report = doctor.examine(packages=arguments.store, delegates=arguments.delegate)
    print(json.dumps(doctor.as_dict(report), indent=1) if arguments.json else doctor.render(report, _columns()))
    return report.exit_code


def _columns() -> int:
    """How wide the output is; of a file as wide as is easy to read."""
    return shutil.get_terminal_size((sys.maxsize, 24)).columns


def _predict(arguments: argparse.Namespace) -> int:
    from edge_runtime.notes import without_notes  # noqa: PLC0415  with what follows
    from edge_runtime.predict_command import predict  # noqa: PLC0415  loads numpy and the interpreter

    with without_notes(debug=arguments.debug) as stderr:
        try:
            for text in predict(arguments):
                stderr.show()
                print(text, flush=True)
        except EdgeRuntimeError as error:
            stderr.drop(str(error))
            raise
    return EXIT_DONE


def _bench(arguments: argparse.Namespace) -> int:
    from edge_runtime.bench_command import bench  # noqa: PLC0415  likewise

    print(bench(arguments))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
