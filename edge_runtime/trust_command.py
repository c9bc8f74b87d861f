"""`edge-run trust`: whose packages a store takes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ABOUT = """A store that demands signatures installs, fetches and loads no package but those that one of its keys
vouches for (edge-convert convert --sign). Packages are looked at when they are installed and whenever they are loaded;
what is loaded stays so. Verifying needs the extra `signed`: pip install 'edge-runtime[signed]'.

examples:
  edge-run trust add plant-4.pem.pub --name plant-4 --store packages/
  edge-run trust require on --store packages/
  edge-run trust list --store packages/
  edge-run trust remove plant-4 --store packages/

exit codes: 0 done; 1 the disk is full or failed; 2 no such key or store, or no permission; 130 interrupted
"""

_PUB = ".pub"
_PEM = ".pem"


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    add_store: Callable[[argparse.ArgumentParser], None],
    root: Callable[[argparse.Namespace], Path],
) -> None:
    """Adds the command.

    Args:
        commands: To these.
        add_store: Gives a parser the option for the store.
        root: The store that is meant.
    """
    text = "whose packages a store takes: keys, and whether a signature by one of them is demanded"
    trust = commands.add_parser(
        "trust", help=text, description=text, epilog=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    deeds = trust.add_subparsers(required=True, metavar="add|list|remove|require")

    def deed(
        name: str, says: str, run: Callable[[Path, argparse.Namespace], int], *, json: bool = False
    ) -> argparse.ArgumentParser:
        parser = deeds.add_parser(name, help=says, description=says)
        add_store(parser)
        if json:
            parser.add_argument("--json", action="store_true", help="as JSON")
        parser.set_defaults(run=lambda arguments: run(root(arguments), arguments))
        return parser

    add = deed("add", "trust a key from now on; the store is made if absent", _add)
    add.add_argument("key", type=Path, metavar="KEY.pub", help="as edge-convert keygen made it")
    add.add_argument("--name", help="what it is called here (the file's name, without .pub and .pem)")
    deed("list", "the keys that are trusted, and whether a signature is demanded", _list, json=True)
    deed("remove", "trust a key no longer", _remove).add_argument("name", help="the key's name, or its id")
    require = deed("require", "whether a signature by a key that is trusted is demanded", _require)
    require.add_argument("demand", choices=("on", "off"))


def _add(root: Path, arguments: argparse.Namespace) -> int:
    from converter.artifact.signing import read_public_key  # noqa: PLC0415  what --help has no need of
    from edge_runtime.store import trust  # noqa: PLC0415  likewise

    key = read_public_key(arguments.key)
    name = arguments.name or arguments.key.name.removesuffix(_PUB).removesuffix(_PEM)
    said = "trusted" if trust.add(root, name, key) else "trusted already:"
    _tell(f"{said} {name} ({key.id}) in {root}")
    if not trust.is_required(root):
        _warn(f"no signature is demanded there: edge-run trust require on --store {root}")
    return 0


def _list(root: Path, arguments: argparse.Namespace) -> int:
    from edge_runtime.store import trust  # noqa: PLC0415  likewise
    from edge_runtime.store.store import Store  # noqa: PLC0415  likewise

    Store(root)  # Says what is wrong with it.
    found, required = trust.keys(root), trust.is_required(root)
    if arguments.json:
        keys = {name: key.id for name, key in sorted(found.keys.items())}
        _tell(json.dumps({"require_signature": required, "keys": keys, "faults": list(found.faults)}, indent=1))
        return 0
    width = max(map(len, found.keys), default=0)
    for name, key in sorted(found.keys.items()):
        _tell(f"{name.ljust(width)}  {key.id}")
    for fault in found.faults:
        _tell(f"no key: {fault}")
    _tell(f"{root}: {_demand(required=required, keys=len(found.keys))}")
    return 0


def _remove(root: Path, arguments: argparse.Namespace) -> int:
    from edge_runtime.store import trust  # noqa: PLC0415  likewise
    from edge_runtime.store.store import Store  # noqa: PLC0415  likewise

    Store(root)
    _tell(f"trusted no longer: {trust.remove(root, arguments.name)}")
    _warn_of_none(root)
    return 0


def _require(root: Path, arguments: argparse.Namespace) -> int:
    from edge_runtime.store import trust  # noqa: PLC0415  likewise

    required = arguments.demand == "on"
    trust.require(root, required=required)
    _tell(f"{root}: {_demand(required=required, keys=len(trust.keys(root).keys))}")
    _warn_of_none(root)
    return 0


def _warn_of_none(root: Path) -> None:
    from edge_runtime.store import trust  # noqa: PLC0415  likewise

    if trust.is_required(root) and not trust.keys(root).keys:
        _warn("no key is trusted: nothing can be installed, and what is installed can't be loaded")
    if trust.is_required(root) and not _has_library():
        _warn("signatures can't be verified here: pip install 'edge-runtime[signed]'")


def _has_library() -> bool:
    from importlib.util import find_spec  # noqa: PLC0415  likewise

    return find_spec("cryptography") is not None


def _demand(*, required: bool, keys: int) -> str:
    if not required:
        return "no signature is demanded"
    return f"a signature is demanded, by {'the one key' if keys == 1 else f'one of {keys} keys'} that is trusted"


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")
