"""Whose packages a store takes: public keys by name, and whether a signature by one of them is demanded.

    STORE/.trust/
      NAME.pub        a public key, as `edge-convert keygen` makes them
      policy.toml     `require_signature = true`; absent or `false` where nothing is demanded

No model can be called `.trust`. Whoever may write there says what is trusted: it is the operator's, as the store is.
"""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.artifact import KeyInvalid, Package, SignatureRefused, SigningUnavailable
from converter.artifact.signing import PublicKey, Trusted, public_key, verify
from edge_runtime.errors import InvalidConfig
from edge_runtime.store import files

FOLDER = ".trust"
POLICY = "policy.toml"
SUFFIX = ".pub"

MAX_KEYS = 64

_WHAT = "the trusted keys"
_DEMAND = "require_signature"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What holds in a store.

    Attributes:
        required: Whether a package needs a signature by a key that is trusted.
        trusted: The keys; none are read where nothing is demanded.
        place: Where keys are kept, for texts.
    """

    required: bool
    trusted: Trusted
    place: Path

    def check(self, package: Package) -> None:
        """Whether the package may come in, or be run.

        Raises:
            SignatureRefused, SigningUnavailable: a signature is demanded, and see `signing.verify`.
        """
        self.check_signed(package.digest, package.signed)

    def check_signed(self, digest: str, signed: bytes | None) -> None:
        """The same for a package of this digest, with this `manifest.sig`."""
        if not self.required:
            return
        try:
            verify(digest, signed, self.trusted)
        except SignatureRefused as error:
            hint = "" if self.trusted.keys else f" in {self.place}: edge-run trust add KEY.pub puts a key there"
            raise SignatureRefused(f"{error}{hint}") from error.__cause__


def read(root: Path, *, demanded: bool = False) -> Trust:
    """What holds in a store now. One look for a file where nothing is demanded.

    Args:
        root: The store; one that is not there demands nothing, and trusts nobody.
        demanded: Whether a signature is demanded whatever the store says.

    Raises:
        InvalidConfig: what the store says of it can't be read.
    """
    required = demanded or is_required(root)
    place = root / FOLDER
    return Trust(required=required, trusted=keys(root) if required else Trusted(keys={}), place=place)


def vouches(root: Path, package: Package) -> bool:
    """Whether a key that is trusted vouches for a package, demanded or not.

    Raises:
        InvalidConfig: the folder of keys can't be read.
    """
    try:
        verify(package.digest, package.signed, keys(root))
    except (SignatureRefused, SigningUnavailable):
        return False
    return True


def is_required(root: Path) -> bool:
    """Whether the store demands signatures.

    Raises:
        InvalidConfig: its policy can't be read, or says nothing or something unknown: nothing is taken for "no".
    """
    path = root / FOLDER / POLICY
    try:
        words = tomllib.loads(files.read("the policy", path).decode())
    except FileNotFoundError:
        # A link to what is not mounted was put there for something.
        if dangling := [one for one in (path.parent, path) if one.is_symlink() and not one.exists()]:
            raise InvalidConfig(f"{dangling[0]}: a link that leads nowhere, and is not taken for no") from None
        return False
    except InvalidConfig:
        raise
    except (ValueError, RecursionError) as error:  # No UTF-8, no TOML, or a number without end.
        raise InvalidConfig(f"{path}: no valid TOML: {error}") from error
    if unknown := sorted(words.keys() - {_DEMAND}):
        raise InvalidConfig(f"{path}: unknown key {unknown[0]!r}; {_DEMAND} is known")
    if _DEMAND not in words:
        # Cut short, or never written: who demands nothing has no such file, or says so in it.
        raise InvalidConfig(
            f"{path}: says nothing of {_DEMAND}, and is not taken for no; edge-run trust require on|off writes it anew"
        )
    found = words[_DEMAND]
    if not isinstance(found, bool):
        try:
            shown = repr(found)
        except ValueError:  # Of a number that Python won't write out.
            shown = "a number that is too long"
        raise InvalidConfig(f"{path}: {_DEMAND} must be true or false, got {shown}")
    return found


def require(root: Path, *, required: bool) -> None:
    """Says whether the store demands signatures from now on. What is loaded stays so.

    Raises:
        InvalidConfig: it can't be written.
    """
    with _changing(root) as folder:
        files.write(folder / POLICY, f"{_DEMAND} = {'true' if required else 'false'}\n".encode())


def keys(root: Path) -> Trusted:
    """The keys that are trusted. One that can't be read is none, and the texts of refusals say so.

    Raises:
        InvalidConfig: the folder can't be read.
    """
    found: dict[str, PublicKey] = {}
    faults: list[str] = []
    for name in _names(root):
        path = root / FOLDER / f"{name}{SUFFIX}"
        try:
            found[name] = public_key(files.read("the key", path))
        except FileNotFoundError:
            continue  # Taken away meanwhile.
        except (KeyInvalid, InvalidConfig) as error:
            said = str(error)
            faults.append(said if str(path) in said else f"{path}: {said}")
    return Trusted(keys=found, faults=tuple(faults))


def add(root: Path, name: str, key: PublicKey) -> bool:
    """Trusts a key from now on; whether it was not trusted before.

    Raises:
        InvalidConfig: the name can't be one, or is another key's; the key has another name; there are `MAX_KEYS`; or it
            can't be written.
    """
    if not _NAME.fullmatch(name):
        raise InvalidConfig(
            f"key name {name!r}: 1 to 64 letters, digits, '.', '_' and '-' are allowed, a letter or digit first"
        )
    with _changing(root) as folder:
        known: Mapping[str, PublicKey] = keys(root).keys
        if known.get(name) == key:
            return False
        if os.path.lexists(folder / f"{name}{SUFFIX}"):
            had = f"the key {known[name].id}" if name in known else "what is no key"
            raise InvalidConfig(f"{name} is {had} here: remove it first, or give another --name")
        if other := [one for one, had in known.items() if had == key]:
            raise InvalidConfig(f"the key {key.id} is trusted already, as {other[0]}")
        if len(_names(root)) >= MAX_KEYS:
            raise InvalidConfig(f"{folder}: at most {MAX_KEYS} keys are trusted")
        files.write(folder / f"{name}{SUFFIX}", key.pem)
    return True


def remove(root: Path, name: str) -> str:
    """Trusts a key no longer; its name. What is loaded stays so.

    Args:
        root: The store.
        name: The key's id, or its name.

    Raises:
        InvalidConfig: there is none such, or it can't be removed.
    """
    with _changing(root) as folder:
        trusted = keys(root)
        # The id first: another key may have been given it for a name.
        named = [one for one, key in trusted.keys.items() if key.id == name]
        if not named and name not in _names(root):
            raise InvalidConfig(f"{folder}: there is no key {name!r}; {trusted}")
        name = named[0] if named else name
        (folder / f"{name}{SUFFIX}").unlink()
    return name


@contextlib.contextmanager
def _changing(root: Path) -> Iterator[Path]:
    """The folder, made if absent and held by this process alone; what was changed is on the disk afterwards."""
    folder = root / FOLDER
    with files.named(_WHAT, folder, missing=True):
        folder.mkdir(parents=True, exist_ok=True)
        with files.locked(folder) as descriptor:
            yield folder
            os.fsync(descriptor)


def _names(root: Path) -> list[str]:
    """What is called as keys are; more than `MAX_KEYS` nobody has added here."""
    try:
        with files.named(_WHAT, root / FOLDER):
            found = os.listdir(root / FOLDER)  # noqa: PTH208  names are all that is wanted
    except FileNotFoundError:
        return []
    names = sorted(name.removesuffix(SUFFIX) for name in found if name.endswith(SUFFIX))
    return [name for name in names if _NAME.fullmatch(name)][:MAX_KEYS]
