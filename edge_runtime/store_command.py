"""`edge-run install`, `list`, `use`, `rollback`, `remove`, `quota`, `trust`, `label`: what is installed on a device."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import InvalidConfig
from edge_runtime.trust_command import add_command as add_trust

if TYPE_CHECKING:
    from edge_runtime.installing.inventory import Shelved
    from edge_runtime.store.store import Store

STORE_VARIABLE = "EDGE_STORE"
"""The environment variable with the store of commands that are given none."""

_INSTALL = """The package's digests are verified, and its signature where one is demanded; then a process of its own
loads it, runs it once and measures it, so that what crashes or hangs is refused before it is installed; then it appears
in the store, all at once. Versions that were used least recently make room where the store has a quota.

exit codes: 0 installed, or this very package was there; 1 the machine can't run it or write it; 2 it is damaged, not
signed by a key that is trusted, crashes, is there with another digest, or the quota has no room; 130 interrupted
"""

_REMOVE = """A version that a label points to, or that a process has open, is removed with --force only. A process that
has it open answers on from memory until it looks at the store again, and then goes over to another version.

exit codes: 0 removed; 1 the disk failed; 2 not installed, labelled, open, or no permission; 130 interrupted
"""

_CHANGE = """exit codes: 0 done; 1 the disk is full or failed; 2 refused: not installed, damaged, nothing known of
before, or no permission; 130 interrupted
"""


_LIST = """Versions with their sizes, when they were used last, what was measured of them on this device, which
labels point to them, which are open in a process, and what is amiss at first sight.

exit codes: 0 done; 2 no such store, or no permission; 130 interrupted
"""

_LABEL = """The version is verified first. A running runtime that was asked for the label goes over to it.

"""

_QUOTA = """exit codes: 0 done; 1 the disk is full or failed; 2 no size, no store, or no permission; 130 interrupted
"""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands."""
    install = _add(commands, "install", "verify a package, run it once, and put it into a store, all at once", _INSTALL)
    install.add_argument("package", type=Path, help="a .tar.gz, or a package's directory")
    install.add_argument(
        "--replace", action="store_true", help="let another build of the version that is there give way"
    )
    install.add_argument("--no-trial", action="store_true", help="neither run nor measure it")
    install.set_defaults(run=_install)

    list_ = _add(commands, "list", "what is installed in a store", _LIST)
    list_.add_argument("place", type=folder, nargs="?", metavar="STORE", help="the same as --store")
    list_.add_argument("--json", action="store_true", help="as JSON")
    list_.set_defaults(run=_list)

    use = _add(commands, "use", "point a label to an installed version; a running runtime goes over to it", _CHANGE)
    use.add_argument("model")
    use.add_argument("version", type=version)
    use.add_argument("--label", default="stable", help="(default: stable)")
    use.set_defaults(run=_use)

    rollback = _add(commands, "rollback", "point a label to where it pointed before; may be repeated", _CHANGE)
    rollback.add_argument("model")
    rollback.add_argument("--label", default="stable", help="(default: stable)")
    rollback.set_defaults(run=_rollback)

    remove = _add(commands, "remove", "take a version out of a store", _REMOVE)
    remove.add_argument("model")
    remove.add_argument("version", type=version)
    remove.add_argument("--force", action="store_true", help="also a labelled or open one; its labels go with it")
    remove.set_defaults(run=_remove)

    quota = _add(
        commands, "quota", "how much a store may hold: kept in it, and held to when something is installed", _QUOTA
    )
    quota.add_argument("size", nargs="?", help="2GiB, 500MB; or none (default: only show it)")
    quota.add_argument("--json", action="store_true", help="as JSON")
    quota.set_defaults(run=_quota)

    add_trust(commands, _add_store, _path)

    text = "as `use --label`, for a store that is named first"
    label = commands.add_parser(
        "label",
        help=text,
        description=text,
        epilog=_LABEL + _CHANGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    label.add_argument("store", type=folder)
    label.add_argument("model")
    label.add_argument("label", help="stable, canary...")
    label.add_argument("version", type=version)
    label.set_defaults(run=_label)


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, epilog: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_store(parser, made=name == "install")
    return parser


def _add_store(parser: argparse.ArgumentParser, *, made: bool = False) -> None:
    absent = "; made if absent" if made else ""
    parser.add_argument("--store", type=folder, help=f"the folder of packages{absent} (default: ${STORE_VARIABLE})")


def folder(text: str) -> Path:
    """A folder as an argument; nothing is not the current one: a variable that is not set makes it."""
    if not text:
        raise argparse.ArgumentTypeError("a folder is expected, got nothing")
    return Path(text)


def version(text: str) -> int:
    """A version as an argument, as its folder is called."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"a version is a number, got {text!r}")
    return int(text)


def _path(arguments: argparse.Namespace) -> Path:
    """The store that is meant.

    Raises:
        InvalidConfig: none was given.
    """
    given: Path | None = arguments.store
    if given is None:
        if not (named := os.environ.get(STORE_VARIABLE)):
            raise InvalidConfig(f"which store? give --store, or set {STORE_VARIABLE}")
        return Path(named)
    return given


def _open(arguments: argparse.Namespace) -> Store:
    from edge_runtime.store.store import Store  # noqa: PLC0415  what --help has no need of

    return Store(_path(arguments))


def _install(arguments: argparse.Namespace) -> int:
    from edge_runtime.installing.first_run import try_package  # noqa: PLC0415  likewise
    from edge_runtime.installing.install import install  # noqa: PLC0415  likewise

    root = _path(arguments)
    trial = None if arguments.no_trial else try_package
    done = install(arguments.package, root, replace=arguments.replace, trial=trial, say=_say)
    said = "already installed:" if done.was_there else "installed"
    _tell(f"{said} {done.package} {'in' if done.was_there else 'into'} {root} ({done.package.digest})")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from edge_runtime.installing.inventory import inventory, labels_of, read_quota  # noqa: PLC0415  likewise

    if arguments.place is not None:
        arguments.store = arguments.place
    store = _open(arguments)
    found = inventory(store)
    names = {one.model: labels_of(store, one.model)[0] for one in found}
    if arguments.json:
        _tell(json.dumps(_as_dict(found, names), indent=1))
        return 0
    if not found:
        _tell(f"{store.path}: no package is installed")
        return 0
    _tell(_as_text(found, names))
    _tell(_held_text(found, read_quota(store)))
    return 0


def _use(arguments: argparse.Namespace) -> int:
    before = _open(arguments).label(arguments.model, arguments.label, arguments.version, verify=True)
    was = f" (was {before})" if before not in (None, arguments.version) else ""
    _tell(f"{arguments.model}: {arguments.label} -> {arguments.version}{was}")
    return 0


def _rollback(arguments: argparse.Namespace) -> int:
    before, version = _open(arguments).roll_back(arguments.model, arguments.label, verify=True)
    _tell(f"{arguments.model}: {arguments.label} -> {version} (was {before})")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from edge_runtime.store.removal import remove  # noqa: PLC0415  likewise

    gone = remove(_open(arguments), arguments.model, arguments.version, force=arguments.force)
    labels = f", and with it {', '.join(gone)}" if gone else ""
    _tell(f"removed {arguments.model}/{arguments.version}{labels}")
    return 0


def _quota(arguments: argparse.Namespace) -> int:
    from edge_runtime.installing.inventory import inventory, read_quota, write_quota  # noqa: PLC0415  likewise
    from edge_runtime.store.quota import read_size  # noqa: PLC0415  likewise

    store = _open(arguments)
    found = inventory(store)  # First, since what it refuses has set nothing.
    if arguments.size is not None:
        write_quota(store, read_size(arguments.size))
    quota_bytes = read_quota(store)
    if arguments.json:
        _tell(json.dumps({"quota_bytes": quota_bytes, "held_bytes": sum(one.size_bytes for one in found)}))
        return 0
    _tell(_held_text(found, quota_bytes))
    if quota_bytes is not None and sum(one.size_bytes for one in found) > quota_bytes:
        _say("that is more than the quota: the least recently used go when the next version is installed")
    return 0


def _label(arguments: argparse.Namespace) -> int:
    return _use(arguments)


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _as_dict(found: list[Shelved], labels: dict[str, dict[str, int]]) -> dict[str, Any]:
    """By model: the versions, the labels, and of each version what is known."""
    models: dict[str, Any] = {}
    for one in found:
        model = models.setdefault(one.model, {"versions": [], "labels": labels[one.model], "details": {}})
        if one.unlabelled:
            model["labels_damage"] = one.unlabelled
        model["versions"].append(one.version)
        measured = one.measured
        model["details"][str(one.version)] = {
            "digest": one.digest,
            "size_bytes": one.size_bytes,
            "labels": list(one.labels),
            "installed": _iso(one.installed_s),
            "used": None if one.used_s is None else _iso(one.used_s),
            "open": one.open,
            "latency_ms": None if measured is None else float(f"{measured.seconds * 1e3:.4g}"),
            "device": None if measured is None else measured.device,
            "signed": one.signed or None,
            "damage": one.damage,
        }
    return models


def _as_text(found: list[Shelved], labels: dict[str, dict[str, int]]) -> str:
    """A line for each version under its model's name, and the labels that point nowhere."""
    from edge_runtime.store.quota import size_text  # noqa: PLC0415  likewise

    rows = [("version", "size", "last used", "latency", "labels")]
    for one in found:
        measured = one.measured
        latency = "not measured" if measured is None else f"{measured.seconds * 1e3:.3g} ms on {measured.device}"
        used = "never" if one.used_s is None else f"{datetime.fromtimestamp(one.used_s).astimezone():%Y-%m-%d %H:%M}"
        notes = [*one.labels, *(["(open)"] if one.open else []), *([f"(damaged: {one.damage})"] if one.damage else [])]
        rows.append((f"{one.model}/{one.version}", size_text(one.size_bytes), used, latency, " ".join(notes)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join((*map(str.ljust, row[:4], widths), row[4])).rstrip() for row in rows]
    lines += dict.fromkeys(
        f"{one.model}: its labels can't be read: {one.unlabelled}" for one in found if one.unlabelled
    )
    there = {(one.model, one.version) for one in found}
    for model, pointed in labels.items():
        for label, version in pointed.items():
            if (model, version) not in there:
                lines.append(f"{model}: label {label} points to {version}, which is not installed")
    return "\n".join(lines)


def _held_text(found: list[Shelved], quota_bytes: int | None) -> str:
    from edge_runtime.store.quota import size_text  # noqa: PLC0415  likewise

    held = size_text(sum(one.size_bytes for one in found))
    return f"{held} held, {'no quota' if quota_bytes is None else f'the quota is {size_text(quota_bytes)}'}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
