"""Whether a package that is described may come here.

A key that is trusted must vouch for it, where one has to; there must be room for it, in the store's quota and on the
disk while it is installed; and what is at its place must be nothing, or what it was before it was damaged.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from converter.artifact import SignatureRefused, SigningUnavailable, version_path
from edge_runtime.errors import InvalidConfig
from edge_runtime.installing import damage
from edge_runtime.installing.install import room_for
from edge_runtime.installing.inventory import read_quota
from edge_runtime.installing.partial import MAX_PACKAGE_BYTES, Partial, SentWrong
from edge_runtime.remote.delivery import Described
from edge_runtime.store import lease
from edge_runtime.store.quota import size_text
from edge_runtime.store.store import Store

FREE_BYTES = 64 * 2**20
"""What stays free on the disk."""


class Passed(Exception):
    """A server can't bring a package now; the text says which, and why.

    Attributes:
        cause: The same without what changes from one try to the next, so that it is not said again for that.
    """

    def __init__(self, said: str, cause: str = "") -> None:
        super().__init__(said)
        self.cause = cause or said


def signature_check(store: Store, described: Described, address: str) -> Callable[[bytes | None], None]:
    """What looks at the signature when it has come; nothing is fetched that can't have one that will do.

    Args:
        store: Where it is to come to.
        described: The package.
        address: Whose.

    Raises:
        Passed: a signature is demanded, and the server has none, or no key is trusted.
        InvalidConfig: whom the store trusts can't be read.
    """
    trust = store.trust()

    def check(signed: bytes | None) -> None:
        try:
            trust.check_signed(described.digest, signed)
        except (SignatureRefused, SigningUnavailable) as error:
            raise type(error)(f"{described} of {address}: {error}") from error.__cause__

    if trust.required and (described.signed is None or not trust.trusted.keys):
        try:
            check(None)
        except SignatureRefused as error:
            raise Passed(str(error)) from error
    return check


def bound_bytes(store: Store, described: Described) -> int:
    """What packages that come may take together.

    Raises:
        Passed: this one is larger, or the store's quota has no room for it.
    """
    quota_bytes = read_quota(store)
    found = MAX_PACKAGE_BYTES if quota_bytes is None else min(quota_bytes, MAX_PACKAGE_BYTES)
    if described.total_bytes > found:
        raise Passed(f"{described} has {size_text(described.total_bytes)}, at most {size_text(found)} are fetched")
    try:
        room_for(store, described.model, described.version, described.total_bytes)
    except InvalidConfig as error:
        raise Passed(str(error), f"{described}: the quota") from error
    return found


def check_disk(store: Store, partial: Partial, described: Described) -> None:
    """Whether the disk has room for what is to come, and for copies of it where installing makes some.

    Raises:
        Passed: it has none.
        SentWrong: the package is larger than was described.
    """
    manifest = partial.manifest()
    if manifest is not None:
        sizes = (entry.size_bytes for entry in manifest.files.values())
        if described.manifest_bytes + sum(sizes) > described.total_bytes:
            raise SentWrong(
                f"{described}: its files have more than the {described.total_bytes} bytes that were described"
            )
    needed_bytes = partial.copies * described.total_bytes - partial.held_bytes + FREE_BYTES
    free_bytes = shutil.disk_usage(store.path).free
    if free_bytes < needed_bytes:
        raise Passed(
            f"{described} needs {size_text(needed_bytes)} of the disk while it is installed, "
            f"{size_text(free_bytes)} are free",
            f"{described}: the disk",
        )


def has(store: Store, described: Described) -> bool:
    """Whether its version is installed, whole or damaged."""
    return described.version in store.versions(described.model)


def check_damaged(store: Store, described: Described, address: str) -> None:
    """Whether what lies at a version's place, which was found damaged, may be replaced: by the package that it was.

    Args:
        store: Where.
        described: What would come.
        address: From which server.

    Raises:
        Passed: it may not.
    """
    if not has(store, described):
        return
    path = version_path(store.path, described.model, described.version)
    if lease.is_open(path):
        raise Passed(f"{described} is damaged here, and open in a process: it stays until that has closed it")
    was = damage.digests(path)
    if was and described.digest not in was:
        raise Passed(
            f"{described} is damaged here, and {address} has another package of this version: it stays until one is "
            "installed with --replace"
        )
