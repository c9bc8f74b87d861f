"""`fallback-server status|reload|label|split|rollback HOST:PORT ...`: what an operator asks of a server that runs."""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fallback_server.catalog_tables import catalog_json, catalog_lines, plain_json, plain_lines, shares_text
from fallback_server.config import MAX_WAIT_S
from fallback_server.flag_table import Flag, Group, Kind
from fallback_server.flags import Parsed, Settings, parse
from fallback_server.local_token import Dialled, dialled, places, read_token
from fallback_server.protocol.proto import edge_pb2 as edge
from fallback_server.transport.operator_client import CallFailed, ClientTls, OperatorClient

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

USAGE = """\
usage: {program} status HOST:PORT [MODEL...] [--watch] [--json]
       {program} reload HOST:PORT
       {program} label HOST:PORT MODEL LABEL=VERSION     moves the label; LABEL= takes it away
       {program} split HOST:PORT MODEL VERSION=WEIGHT... shares out the requests that name no version
       {program} split HOST:PORT MODEL --clear           the highest version answers them
       {program} rollback HOST:PORT MODEL                the version before answers: whoever names none, or `stable`
       {program} rollback HOST:PORT MODEL --label=LABEL  moves that label alone
       {program} rollback HOST:PORT MODEL --undo         takes the latest rollback back

  --timeout_s=X     for the answer (default: 5; of reload, which waits for loads: 60)
  --tls_ca=FILE     speaks TLS; the PEM of who has signed the server's certificate
  --tls_cert=FILE   shown to a server that verifies its clients, with --tls_key=FILE
  --token_file=FILE holds a token that is shown, as EDGE_TOKEN_FILE names one; else that of a server on this machine
  --json            prints JSON
  --watch           with status: again at every change, with the time, until interrupted

exit code: 0 done; 1 the server refuses, or can't be reached; 2 the command line or a file that it names is at fault"""


def _flag(name: str, kind: Kind, default: Any = None) -> Flag:
    return Flag(name=name, kind=kind, default=default, help="", group=Group.PROCESS)


_FLAGS: Mapping[str, Flag] = {
    flag.name: flag
    for flag in (
        _flag("timeout_s", Kind.FLOAT, 5.0),
        _flag("tls_ca", Kind.PATH),
        _flag("tls_cert", Kind.PATH),
        _flag("tls_key", Kind.PATH),
        _flag("token_file", Kind.PATH),
        _flag("label", Kind.TEXT, ""),
        _flag("clear", Kind.BOOL, default=False),
        _flag("undo", Kind.BOOL, default=False),
        _flag("json", Kind.BOOL, default=False),
        _flag("watch", Kind.BOOL, default=False),
        _flag("help", Kind.BOOL, default=False),
    )
}

MAX_PORT = 65_535

_TOKEN_FILE = "EDGE_TOKEN_FILE"  # noqa: S105  a variable's name

MAX_PEM_BYTES = 1 << 20
"""A bundle of all authorities of the web takes a quarter of it."""

_RELOAD_TIMEOUT_S = 60.0
"""For the looks at the disk and for loads; a model that takes longer goes on loading."""

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
    hint = ""
    try:
        _check_words(command, parsed, settings)
        target, *arguments = parsed.arguments
        tls = _tls(settings)
        to = dialled(target)
        token = _token(to, settings, secure=tls is not None)
        hint = _no_token(to) if token is None else ""
        with OperatorClient(
            target, timeout_s=_timeout_s(command, settings), tls=tls, token=token, dials=to.target if to.local else ""
        ) as client:
            for text in _COMMANDS[command](client, arguments, settings):
                print(text, flush=True)  # noqa: T201  likewise
    except _UsageFault as fault:
        _complain(program, f"{fault}; {program} {command} --help")
        return EXIT_USAGE
    except CallFailed as error:
        _complain(program, f"{error}{hint if 'UNAUTHENTICATED' in str(error) else ''}")
        return EXIT_FAILED
    except BrokenPipeError:  # Whoever read has read enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass
    return EXIT_OK


def _timeout_s(command: str, settings: Settings) -> float:
    waits = command == "reload" and not settings.given("timeout_s")
    return _RELOAD_TIMEOUT_S if waits else settings.number("timeout_s")


def _status(client: OperatorClient, models: Sequence[str], settings: Settings) -> Iterator[str]:
    as_json, colours = settings.switch("json"), _may_colour()
    if settings.switch("watch"):
        yield from _watched(client, models, as_json=as_json, colours=colours)
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
        found = {model: client.status(model).model_version_status for model in models}
        yield json.dumps(plain_json(found)) if as_json else "\n".join(plain_lines(found, colours=colours))
    else:
        yield _shown(_only(update, models, strict=True), as_json=as_json, colours=colours)


def _watched(client: OperatorClient, models: Sequence[str], *, as_json: bool, colours: bool) -> Iterator[str]:
    """What is asked for, whenever it has changed: updates tell of other models too."""
    before = None
    for update in client.watch():
        shown = _only(update, models, strict=False)
        if before is not None and shown.models == before.models:
            continue
        before = shown
        text = _shown(shown, as_json=as_json, colours=colours)
        if models and not shown.models and not as_json:
            text = f"no model {', '.join(models)} here"
        if as_json:
            yield text
        else:
            stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n{text}"
            yield _CLEAR + stamped if colours else stamped


def _reload(client: OperatorClient, _: Sequence[str], settings: Settings) -> Iterator[str]:
    done = client.reload()
    if settings.switch("json"):
        yield json.dumps({"models": list(done.models), "removed": list(done.removed)})
        return
    removed = f"; removed: {', '.join(done.removed)}" if done.removed else ""
    yield f"reloaded: {', '.join(done.models) or 'no model'}{removed}"


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


def _split(client: OperatorClient, arguments: Sequence[str], settings: Settings) -> Iterator[str]:
    model, *weights = arguments
    move = client.set_traffic(model, dict(map(_weight, weights)))
    if settings.switch("json"):
        yield json.dumps({"model": model, **_move_json(move)})
    else:
        yield f"{model}: {_whose(move.label)}: {shares_text(move.after)}; before: {shares_text(move.before)}"


def _rollback(client: OperatorClient, arguments: Sequence[str], settings: Settings) -> Iterator[str]:
    (model,) = arguments
    undo = settings.switch("undo")
    done = client.rollback(model, settings.text("label"), undo=undo)
    if settings.switch("json"):
        yield json.dumps(
            {
                "model": model,
                "label": done.label,
                "from_version": done.from_version,
                "to_version": done.to_version,
                "moves": [_move_json(move) for move in done.moves],
            }
        )
        return
    if not done.moves:
        yield f"{model}: requests get what they got before"
    elif all(move.label for move in done.moves):
        yield f"{model}: {', '.join(_whose(move.label) for move in done.moves)} alone"
    else:
        yield f"{model}: version {done.from_version} -> {done.to_version}"
    for move in done.moves:
        yield f"  {_whose(move.label)}: {shares_text(move.before)} -> {shares_text(move.after)}"
    if not undo:
        yield "  --undo takes it back"


def _whose(label: str) -> str:
    return f"label {label}" if label else "requests that name no version"


def _move_json(move: edge.Move) -> dict[str, Any]:
    def shares(parts: Mapping[int, float]) -> dict[str, float]:
        return {str(version): share for version, share in sorted(parts.items())}

    return {"label": move.label, "before": shares(move.before), "after": shares(move.after)}


_COMMANDS = {"status": _status, "reload": _reload, "label": _label, "split": _split, "rollback": _rollback}


_COUNTS = {"status": (1, None), "reload": (1, 1), "label": (3, 3), "split": (2, None), "rollback": (2, 2)}
"""How many words a command takes, HOST:PORT counted: at least, and at most."""

_BELONG = {"watch": "status", "label": "rollback", "undo": "rollback", "clear": "split"}


def _check_words(command: str, parsed: Parsed, settings: Settings) -> None:
    """Refuses a command line that can't be meant."""
    words = parsed.arguments
    if parsed.faults:
        raise _UsageFault("; ".join(parsed.faults))
    least, most = _COUNTS[command]
    if not words:
        raise _UsageFault("HOST:PORT is missing")
    _check_address(words[0])
    if len(words) < least:
        raise _UsageFault(f"{('MODEL', 'LABEL=VERSION')[len(words) - 1]} is missing")
    if most is not None and len(words) > most:
        raise _UsageFault(f"{words[most]!r} is one word too many")
    if "" in words:
        raise _UsageFault("a model needs a name")
    _check_flags(command, settings)
    if command == "label":
        _check_assignment(words[2])
    elif command == "split":
        _check_weights(words[2:], clear=settings.switch("clear"))


def _check_flags(command: str, settings: Settings) -> None:
    for name, of in _BELONG.items():
        if settings.given(name) and command != of:
            raise _UsageFault(f"--{name} belongs to {of}")
    if settings.switch("undo") and settings.given("label"):
        raise _UsageFault("--undo takes the latest rollback back, whatever it moved: --label does not go with it")
    if not 0 < settings.number("timeout_s") <= MAX_WAIT_S:
        raise _UsageFault(
            f"--timeout_s must be over 0 and at most {MAX_WAIT_S:.0f}, got {settings.number('timeout_s')}"
        )


def _check_address(text: str) -> None:
    if text.startswith("unix:") and text != "unix:":
        return
    match = re.fullmatch(r"(?:\[[^\]]+\]|[^:\[\]/]+):([0-9]{1,5})", text)
    if match is None:
        raise _UsageFault(f"HOST:PORT is expected, got {text!r}")
    if not 0 < int(match[1]) <= MAX_PORT:
        raise _UsageFault(f"a port must be from 1 to {MAX_PORT}, got {match[1]}")


def _check_weights(words: Sequence[str], *, clear: bool) -> None:
    if clear and words:
        raise _UsageFault(f"--clear takes no weights, got {words[0]!r}")
    if not clear and not words:
        raise _UsageFault("VERSION=WEIGHT is missing; --clear ends a split")
    versions = set()
    for word in words:
        if not re.fullmatch(r"[0-9]{1,18}=([0-9]+\.?[0-9]*|\.[0-9]+)", word):
            raise _UsageFault(f"VERSION=WEIGHT is expected, such as 12=95, got {word!r}")
        version, _ = _weight(word)
        if version in versions:
            raise _UsageFault(f"version {version} is given two weights")
        versions.add(version)


def _weight(word: str) -> tuple[int, float]:
    version, _, weight = word.partition("=")
    return int(version), float(weight)


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
    try:
        # gRPC would complain of it in lines of its own, and then not say what it is.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=files["tls_ca"].decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise _UsageFault(f"--tls_ca={settings.path('tls_ca')} holds no PEM certificate") from error
    return ClientTls(ca=files["tls_ca"], certificate=files.get("tls_cert"), key=files.get("tls_key"))


def _token(to: Dialled, settings: Settings, *, secure: bool) -> str | None:
    """What is shown to the server: the token that was named, else the one that a server on this machine has left."""
    named = settings.path("token_file") or (Path(os.environ[_TOKEN_FILE]) if _TOKEN_FILE in os.environ else None)
    if named is None:
        return to.token
    try:
        token = read_token(named)
    except (OSError, ValueError) as error:
        raise _UsageFault(f"--token_file={named}: {getattr(error, 'strerror', None) or error}") from error
    if not secure and to.others:
        raise _UsageFault(
            f"a token would go in plain text to whoever listens at {to.target}, and another may be meant: "
            f"name that, or {' or '.join(to.others)}"
        )
    if not secure and not to.local:
        raise _UsageFault(
            f"a token would go to {to.target} in plain text, for everybody on the way to use: give --tls_ca"
        )
    return token


def _no_token(to: Dialled) -> str:
    """Where a token would have been found."""
    if not to.local:
        return ""
    found_in = ", ".join(map(str, places()))
    return f"; user {os.getuid()} has no token of a server at {to.target} in any of {found_in}: run this as its user"


def _bytes_of(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise _UsageFault(f"--{name}={path}: {error.strerror or error}") from error
    if len(content) > MAX_PEM_BYTES:
        raise _UsageFault(f"--{name}={path}: larger than {MAX_PEM_BYTES} bytes, the most that is read")
    return content


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


def _may_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _complain(program: str, text: str) -> None:
    print(f"{program}: error: {text}", file=sys.stderr)  # noqa: T201  a command's output is its product
