"""`fallback-server status|reload|label|rollback HOST:PORT ...`: what an operator asks of a server that runs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fallback_server.config import MAX_WAIT_S
from fallback_server.flag_table import Flag, Group, Kind
from fallback_server.flags import Parsed, Settings, parse
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.protocol.proto import serving_pb2 as pb
from fallback_server.tables import aligned
from fallback_server.transport.operator_client import CallFailed, ClientTls, OperatorClient

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

USAGE = """\
usage: {program} status HOST:PORT [MODEL...] [--watch] [--json]
       {program} reload HOST:PORT
       {program} label HOST:PORT MODEL LABEL=VERSION     moves the label; LABEL= takes it away
       {program} rollback HOST:PORT MODEL [--label=LABEL]

  --timeout_s=X     for the answer (default: 5)
  --tls_ca=FILE     speaks TLS; the PEM of who has signed the server's certificate
  --tls_cert=FILE   shown to a server that verifies its clients, with --tls_key=FILE
  --json            prints JSON
  --watch           with status: again at every change, until interrupted"""

_PLAIN = "the server tells states alone, as TensorFlow Serving does: labels, traffic, queues and packages are not known"


def _flag(name: str, kind: Kind, default: Any = None) -> Flag:
    return Flag(name=name, kind=kind, default=default, help="", group=Group.PROCESS)


_FLAGS: Mapping[str, Flag] = {
    flag.name: flag
    for flag in (
        _flag("timeout_s", Kind.FLOAT, 5.0),
        _flag("tls_ca", Kind.PATH),
        _flag("tls_cert", Kind.PATH),
        _flag("tls_key", Kind.PATH),
        _flag("label", Kind.TEXT, ""),
        _flag("json", Kind.BOOL, default=False),
        _flag("watch", Kind.BOOL, default=False),
        _flag("help", Kind.BOOL, default=False),
    )
}

_COLOURS = {"AVAILABLE": "32", "START": "33", "LOADING": "33", "UNLOADING": "33", "END": "31"}
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


class _UsageFault(Exception):
    """The command line is at fault."""


def operate(words: Sequence[str], *, program: str) -> int:
    """Runs one command; prints its result, or one line of why not.

    Args:
        words: The command and what follows it.
        program: How it is called.

    Returns:
        0; 1 when the server refuses or can't be reached; 2 when the command line is at fault.
    """
    command, *rest = words
    parsed = parse(rest, flags=_FLAGS)
    if parsed.values.get("help"):
        print(USAGE.format(program=program))  # noqa: T201  a command's output is its product
        return EXIT_OK
    settings = Settings(parsed.values, flags=_FLAGS)
    try:
        _check_words(command, parsed, settings)
        target, *arguments = parsed.arguments
        with OperatorClient(target, timeout_s=settings.number("timeout_s"), tls=_tls(settings)) as client:
            for text in _COMMANDS[command](client, arguments, settings):
                print(text, flush=True)  # noqa: T201  likewise
    except _UsageFault as fault:
        _complain(program, f"{fault}; {program} {command} --help")
        return EXIT_USAGE
    except CallFailed as error:
        _complain(program, str(error))
        return EXIT_FAILED
    except BrokenPipeError:  # Whoever read has read enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    return EXIT_OK


def catalog_json(update: edge.CatalogUpdate) -> dict[str, Any]:
    """A catalog as JSON shows it: numbers as numbers, versions of maps as texts."""
    return {
        "server_id": update.server_id,
        "revision": update.revision,
        "models": [
            {
                "name": model.name,
                "default_version": model.default_version,
                "labels": dict(sorted(model.labels.items())),
                "traffic": {str(version): weight for version, weight in sorted(model.traffic.items())},
                "versions": [
                    {
                        "version": version.version,
                        "state": edge.Version.State.Name(version.state),
                        "error": version.error,
                        "package_fingerprint": version.package_fingerprint,
                        "preprocessing_fingerprint": version.preprocessing_fingerprint,
                        "queued_rows": version.queued_rows,
                        "expected_wait_ms": version.expected_wait_ms,
                    }
                    for version in model.versions
                ],
            }
            for model in update.models
        ],
    }


def catalog_lines(update: edge.CatalogUpdate, *, colours: bool) -> list[str]:
    """A catalog as a table: a line for each version, and below it why loads have failed."""
    rows = [("MODEL", "VERSION", "STATE", "LABELS", "TRAFFIC", "QUEUE", "WAIT", "PACKAGE")]
    errors = []
    for model in update.models:
        total = sum(model.traffic.values())
        for version in sorted(model.versions, key=lambda one: one.version, reverse=True):
            number = version.version
            weight = model.traffic.get(number, 0.0) / total if total else float(number == model.default_version)
            labels = sorted(label for label, target in model.labels.items() if target == number)
            rows.append(
                (
                    model.name,
                    str(number),
                    edge.Version.State.Name(version.state),
                    ", ".join(labels) or "-",
                    f"{weight * 100:.3g} %" if weight else "-",
                    f"{version.queued_rows} rows" if version.queued_rows else "-",
                    f"{version.expected_wait_ms:.1f} ms" if version.expected_wait_ms else "-",
                    version.package_fingerprint.removeprefix("sha256:")[:12] or "-",
                )
            )
            if version.error:
                errors.append(f"{model.name} {number}: {version.error}")
    if len(rows) == 1:
        return [f"{update.server_id or 'the server'} serves no model"]
    return [*aligned(rows, paint=_paint(colours=colours), right=(1, 4, 5, 6)), *errors]


def _status(client: OperatorClient, models: Sequence[str], settings: Settings) -> Iterator[str]:
    as_json, colours = settings.switch("json"), _may_colour()
    if settings.switch("watch"):
        for update in client.watch():
            text = _shown(_only(update, models, strict=False), as_json=as_json, colours=colours)
            yield _CLEAR + text if colours and not as_json else text
        raise CallFailed("the server has ended the watch")
    try:
        update = client.catalog()
    except CallFailed as error:
        if not error.unimplemented:
            raise
        if not models:
            raise CallFailed(
                f"{error}, and TensorFlow Serving can't list its models; name them: status HOST:PORT MODEL"
            ) from error
        yield _plain(client, models, as_json=as_json, colours=colours)
    else:
        yield _shown(_only(update, models, strict=True), as_json=as_json, colours=colours)


def _plain(client: OperatorClient, models: Sequence[str], *, as_json: bool, colours: bool) -> str:
    """What a TensorFlow Serving tells."""
    found = {model: client.status(model).model_version_status for model in models}
    name = pb.ModelVersionStatus.State.Name
    if as_json:
        shown = [
            {
                "name": model,
                "versions": [
                    {"version": one.version, "state": name(one.state), "error": one.status.error_message}
                    for one in versions
                ],
            }
            for model, versions in found.items()
        ]
        return json.dumps({"models": shown})
    rows = [("MODEL", "VERSION", "STATE")]
    rows += [(model, str(one.version), name(one.state)) for model, versions in found.items() for one in versions]
    errors = [
        f"{model} {one.version}: {one.status.error_message}"
        for model, versions in found.items()
        for one in versions
        if one.status.error_message
    ]
    return "\n".join([*aligned(rows, paint=_paint(colours=colours), right=(1,)), *errors, _PLAIN])


def _reload(client: OperatorClient, _: Sequence[str], settings: Settings) -> Iterator[str]:
    models = client.reload()
    yield json.dumps({"models": models}) if settings.switch("json") else f"reloaded: {', '.join(models) or 'no model'}"


def _label(client: OperatorClient, arguments: Sequence[str], settings: Settings) -> Iterator[str]:
    model, assignment = arguments
    label, _, number = assignment.partition("=")
    version = int(number or 0)
    before = client.set_label(model, label, version)
    if settings.switch("json"):
        yield json.dumps({"model": model, "label": label, "version": version, "previous": before})
    elif number:
        yield f"{model}: label {label} points to version {version}; before: {before or 'nowhere'}"
    else:
        yield f"{model}: label {label} is taken away; before: {before or 'nowhere'}"


def _rollback(client: OperatorClient, arguments: Sequence[str], settings: Settings) -> Iterator[str]:
    (model,) = arguments
    done = client.rollback(model, settings.text("label"))
    before, after = done.from_version, done.to_version
    if settings.switch("json"):
        yield json.dumps({"model": model, "label": done.label, "from_version": before, "to_version": after})
    else:
        what = f"label {done.label}" if done.label else "requests that name no version"
        yield f"{model}: {what}: version {before} -> {after}"


_COMMANDS = {"status": _status, "reload": _reload, "label": _label, "rollback": _rollback}


def _check_words(command: str, parsed: Parsed, settings: Settings) -> None:
    """Refuses a command line that can't be meant."""
    words = parsed.arguments
    if parsed.faults:
        raise _UsageFault("; ".join(parsed.faults))
    counts = {"status": (1, None), "reload": (1, 1), "label": (3, 3), "rollback": (2, 2)}
    least, most = counts[command]
    if not words:
        raise _UsageFault("HOST:PORT is missing")
    if not re.fullmatch(r"unix:.+|(\[[^\]]+\]|[^:\[\]]+):[0-9]{1,5}", words[0]):
        raise _UsageFault(f"HOST:PORT is expected, got {words[0]!r}")
    if len(words) < least:
        raise _UsageFault(f"{('MODEL', 'LABEL=VERSION')[len(words) - 1]} is missing")
    if most is not None and len(words) > most:
        raise _UsageFault(f"{words[most]!r} is one word too many")
    if command == "label":
        _check_assignment(words[2])
    for name, of in (("watch", "status"), ("label", "rollback")):
        if settings.given(name) and command != of:
            raise _UsageFault(f"--{name} belongs to {of}")
    if not 0 < settings.number("timeout_s") <= MAX_WAIT_S:
        raise _UsageFault(
            f"--timeout_s must be over 0 and at most {MAX_WAIT_S:.0f}, got {settings.number('timeout_s')}"
        )


def _check_assignment(text: str) -> None:
    if not re.fullmatch(r"[^=]+=[0-9]{0,18}", text):
        raise _UsageFault(f"LABEL=VERSION is expected, got {text!r}")
    number = text.partition("=")[2]
    if number and int(number) == 0:
        raise _UsageFault("a label can't point to version 0: on the wire that takes it away; write LABEL=")


def _tls(settings: Settings) -> ClientTls | None:
    files: dict[str, bytes] = {}
    for name in ("tls_ca", "tls_cert", "tls_key"):
        path = settings.path(name)
        if path is not None:
            files[name] = _bytes_of(path, name)
    if not files:
        return None
    if "tls_ca" not in files or ("tls_cert" in files) != ("tls_key" in files):
        raise _UsageFault("TLS needs --tls_ca, and --tls_cert goes with --tls_key")
    return ClientTls(ca=files["tls_ca"], certificate=files.get("tls_cert"), key=files.get("tls_key"))


def _bytes_of(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _UsageFault(f"--{name}={path}: {error.strerror or error}") from error


def _only(update: edge.CatalogUpdate, names: Sequence[str], *, strict: bool) -> edge.CatalogUpdate:
    """The catalog of the named models; of all where none is named."""
    if not names:
        return update
    models = [model for model in update.models if model.name in names]
    missing = [name for name in names if name not in {model.name for model in models}]
    if missing and strict:
        there = ", ".join(sorted(model.name for model in update.models)) or "none"
        raise CallFailed(f"no model {', '.join(missing)} here; there is: {there}")
    return edge.CatalogUpdate(server_id=update.server_id, revision=update.revision, models=models)


def _shown(update: edge.CatalogUpdate, *, as_json: bool, colours: bool) -> str:
    return json.dumps(catalog_json(update)) if as_json else "\n".join(catalog_lines(update, colours=colours))


def _paint(*, colours: bool) -> Any:
    def paint(cell: str) -> str:
        colour = _COLOURS.get(cell) if colours else None
        return f"\x1b[{colour}m{cell}\x1b[0m" if colour else cell

    return paint


def _may_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _complain(program: str, text: str) -> None:
    print(f"{program}: error: {text}", file=sys.stderr)  # noqa: T201  a command's output is its product
