"""The first run of a package that is to be installed, in a child process: what crashes or hangs is never installed.

It is loaded as a running runtime loads it, and measured. Where it has more than one variant or signature more children
run each of them on the CPU, a child for each variant: the application says which it wants later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converter.artifact import Package
from converter.artifact.schema import Variant
from edge_runtime.errors import EngineFailed, PackageRefused
from edge_runtime.installing.inventory import Measured, fastest
from edge_runtime.store.settling import PROFILE
from edge_runtime.trial import Answer, Trials, ask_child
from edge_runtime.trial_memory import limit_bytes as usual_limit_bytes

_log = logging.getLogger(__name__)

FIRST_RUN_LIMIT_S = 180.0
"""A slow board packs the weights of a large model for tens of seconds; a stuck Edge TPU says so after 12 s."""

ALL_LIMIT_S = 3600.0
"""For all children together: nobody waits half a day for a package of 256 variants."""

_FOLDER = "first-run"

DEED, VARIANT_DEED = "package", "variant"
"""What the children are asked for; see `edge_runtime.trial_child`."""


@dataclass(frozen=True, kw_only=True)
class FirstRun:
    """What came of it.

    Attributes:
        place: Where it ran: `device:cpu`.
        measured: What its runs take there; None where that could not be kept.
        profile: The file with all that was measured, likewise.
    """

    place: str
    measured: Measured | None = None
    profile: Path | None = None


def try_package(
    package: Package,
    *,
    limit_s: float = FIRST_RUN_LIMIT_S,
    limit_bytes: int | None = None,
    trials: Trials | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FirstRun:
    """Loads and runs a package once with zeros in a child process, and measures it; then all its parts in other ones.

    Args:
        package: It; the folder that its directory is in can be written.
        limit_s: How long each child may take before it is killed; all together have `ALL_LIMIT_S`.
        limit_bytes: How much memory each child may come to hold before it is killed; None for what
            `trial_memory.limit_bytes` says as it starts.
        trials: Where it can be called off; None for nowhere.
        clock: Monotonic seconds.

    Raises:
        PackageRefused: it crashes its process, is not done by then, or is not what its manifest says.
        EngineFailed: nothing here can run it, a part could not be tried, or the child was ended from outside or
            for its memory.
        OSError: no process can be started.
    """
    until_s = clock() + ALL_LIMIT_S
    files_bytes = sum(entry.size_bytes for entry in package.manifest.files.values())
    # A profile is written beside what was opened, under a lock on that folder; the staging folder is locked already.
    folder = package.path.with_name(_FOLDER)
    folder.mkdir()
    (folder / package.path.name).symlink_to(package.path.absolute(), target_is_directory=True)
    path = str(folder.absolute() / package.path.name)

    def ask(deed: str, **part: str) -> Answer:
        if (left_s := until_s - clock()) <= 0:
            raise PackageRefused(f"{package} is not installed: its first runs take more than {ALL_LIMIT_S:g} s")
        answer = ask_child(
            deed,
            options={"path": path, **part},
            limit_s=min(limit_s, left_s),
            limit_bytes=usual_limit_bytes(files_bytes) if limit_bytes is None else limit_bytes,
            trials=trials,
        )
        _check_lived(package, answer)
        return answer

    answer = ask(DEED)
    if answer.failure:
        raise EngineFailed(f"{package}: no first run, so it is not installed: {answer.error}{_printed(answer)}")
    if refused := str(answer.fields.get("refused", "")):
        kind = PackageRefused if answer.fields.get("damaged") else EngineFailed
        raise kind(f"{package} can't be run here, so it is not installed: {refused}")
    if len(package.manifest.variants) > 1 or len(package.manifest.signatures) > 1:
        for variant in package.manifest.variants:
            _try_variant(package, variant, ask)
    profile = folder / f"{package.path.name}{PROFILE}"
    measured = fastest(profile, package.digest)
    return FirstRun(place=str(answer.fields["place"]), measured=measured, profile=profile if measured else None)


def _try_variant(package: Package, variant: Variant, ask: Callable[..., Answer]) -> None:
    """Refuses a package of which a variant could not be tried, but where its process was ended from outside.

    Then memory lacked for one of its signatures, perhaps, as it will for whoever asks for that, and each has a process
    of its own: the others are tried all the same.

    Raises:
        PackageRefused, EngineFailed: as `try_package` does.
    """
    answer = ask(VARIANT_DEED, variant=variant.name)
    if not answer.from_outside:
        _check_tried(package, answer)
        return
    for signature in variant.signatures:
        answer = ask(VARIANT_DEED, variant=variant.name, signature=signature.name)
        if answer.from_outside:
            _log.warning("%s: not tried: %s, %s: %s", package, variant.name, signature.name, answer.error)
        else:
            _check_tried(package, answer)


def _check_tried(package: Package, answer: Answer) -> None:
    if answer.failure:
        raise EngineFailed(f"{package}: no whole first run, so it is not installed: {answer.error}{_printed(answer)}")


def _check_lived(package: Package, answer: Answer) -> None:
    """Refuses a package that ended its process, or that had to be ended."""
    if answer.failure in ("crashed", "stuck"):
        how = "crashes its process" if answer.failure == "crashed" else "hangs"
        raise PackageRefused(
            f"{package} {how} on its first run, so it is not installed: {answer.error}{_printed(answer)}"
        )


def _printed(answer: Answer) -> str:
    return f"; it printed: {' '.join(answer.printed.split())}" if answer.printed else ""
