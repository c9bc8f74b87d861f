"""The first run of a package that is to be installed, in a child process: what crashes or hangs is never installed.

It is loaded as a running runtime loads it, and measured. Where it has more than one variant or signature another child
runs each of them on the CPU: the application says which it wants later.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from converter.artifact import Package
from edge_runtime.errors import EngineFailed, PackageRefused
from edge_runtime.installing.inventory import Measured, fastest
from edge_runtime.store.settling import PROFILE
from edge_runtime.trial import Answer, Trials, ask_child

_log = logging.getLogger(__name__)

FIRST_RUN_LIMIT_S = 180.0
"""A slow board packs the weights of a large model for tens of seconds; a stuck Edge TPU says so after 12 s."""

_FOLDER = "first-run"

DEED, PARTS_DEED = "package", "parts"
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


def try_package(package: Package, *, limit_s: float = FIRST_RUN_LIMIT_S, trials: Trials | None = None) -> FirstRun:
    """Loads and runs a package once with zeros in a child process, and measures it; then all its parts in another one.

    Args:
        package: It; the folder that its directory is in can be written.
        limit_s: How long each child may take before it is killed.
        trials: Where it can be called off; None for nowhere.

    Raises:
        PackageRefused: it crashes its process, is not done by then, or is not what its manifest says.
        EngineFailed: nothing here can run it, or the child was ended from outside.
        OSError: no process can be started.
    """
    # A profile is written beside what was opened, under a lock on that folder; the staging folder is locked already.
    folder = package.path.with_name(_FOLDER)
    folder.mkdir()
    (folder / package.path.name).symlink_to(package.path.absolute(), target_is_directory=True)
    options = {"path": str(folder.absolute() / package.path.name)}
    answer = ask_child(DEED, options=options, limit_s=limit_s, trials=trials)
    _check_lived(package, answer)
    if answer.failure:
        raise EngineFailed(f"{package}: no first run, so it is not installed: {answer.error}{_printed(answer)}")
    if refused := str(answer.fields.get("refused", "")):
        kind = PackageRefused if answer.fields.get("damaged") else EngineFailed
        raise kind(f"{package} can't be run here, so it is not installed: {refused}")
    if len(package.manifest.variants) > 1 or len(package.manifest.signatures) > 1:
        parts = ask_child(PARTS_DEED, options=options, limit_s=limit_s, trials=trials)
        _check_lived(package, parts)
        if parts.failure and trials is not None and trials.called_off:
            raise EngineFailed(f"{package}: no whole first run, so it is not installed: {parts.error}")
        if parts.failure:  # Ended from outside, perhaps for want of memory, which what is used here need not have.
            _log.warning("%s: not all of its variants were tried: %s", package, parts.error)
    profile = folder / f"{package.path.name}{PROFILE}"
    measured = fastest(profile, package.digest)
    return FirstRun(place=str(answer.fields["place"]), measured=measured, profile=profile if measured else None)


def _check_lived(package: Package, answer: Answer) -> None:
    """Refuses a package that ended its process, or that had to be ended."""
    if answer.failure in ("crashed", "stuck"):
        how = "crashes its process" if answer.failure == "crashed" else "hangs"
        raise PackageRefused(
            f"{package} {how} on its first run, so it is not installed: {answer.error}{_printed(answer)}"
        )


def _printed(answer: Answer) -> str:
    return f"; it printed: {' '.join(answer.printed.split())}" if answer.printed else ""
