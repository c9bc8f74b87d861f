"""The first run of a package that is to be installed, in a child process: what crashes or hangs is never installed.

It is loaded as a running runtime loads it, and measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converter.artifact import Package
from edge_runtime.errors import EngineFailed, PackageRefused
from edge_runtime.installing.inventory import Measured, fastest
from edge_runtime.store.settling import PROFILE
from edge_runtime.trial import Trials, ask_child

FIRST_RUN_LIMIT_S = 180.0
"""A slow board packs the weights of a large model for tens of seconds; a stuck Edge TPU says so after 12 s."""

_FOLDER = "first-run"

DEED = "package"
"""What the child is asked for; see `edge_runtime.trial_child`."""


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
    """Loads and runs a package once with zeros in a child process, and measures it.

    Args:
        package: It; the folder that its directory is in can be written.
        limit_s: How long the child may take before it is killed.
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
    answer = ask_child(
        DEED, options={"path": str(folder.absolute() / package.path.name)}, limit_s=limit_s, trials=trials
    )
    printed = f"; it printed: {' '.join(answer.printed.split())}" if answer.printed else ""
    if answer.failure in ("crashed", "stuck"):
        how = "crashes its process" if answer.failure == "crashed" else "hangs"
        raise PackageRefused(f"{package} {how} on its first run, so it is not installed: {answer.error}{printed}")
    if answer.failure:
        raise EngineFailed(f"{package}: no first run, so it is not installed: {answer.error}{printed}")
    if refused := str(answer.fields.get("refused", "")):
        kind = PackageRefused if answer.fields.get("damaged") else EngineFailed
        raise kind(f"{package} can't be run here, so it is not installed: {refused}")
    profile = folder / f"{package.path.name}{PROFILE}"
    measured = fastest(profile, package.digest)
    return FirstRun(place=str(answer.fields["place"]), measured=measured, profile=profile if measured else None)
