"""What the log says of a version's stations."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from converter.artifact import Package
from edge_runtime.crew.health import Cause, Health
from edge_runtime.crew.station import Station
from edge_runtime.telemetry import event

_log = logging.getLogger(__name__)


class Journal:
    """Writes the events of one version. Thread-safe."""

    def __init__(self, package: Package) -> None:
        """Writes nothing yet."""
        self._package = package
        self._subject: dict[str, object] = {"model": package.manifest.model, "version": package.manifest.version}

    def refused(self, station: Station, level: int = logging.WARNING) -> None:
        """It will never run there."""
        text = f"{self._package} does not run on {station.name}: {station.reason}"
        event(_log, level, "engine_refused", text, **self._subject, device=station.name, reason=station.reason)

    def ready(self, station: Station, after_s: float | None) -> None:
        """It runs there.

        Args:
            station: Where.
            after_s: Since it was lost; None for the first time.
        """
        variant = station.variant.name if station.variant else ""
        text = f"{self._package}, variant {variant}, runs on {station.name}"
        fields = {**self._subject, "device": station.name, "variant": variant, "threads": station.threads}
        if after_s is None:
            event(_log, logging.INFO, "engine_ready", text, **fields, isolation=station.isolation)
        else:
            text = f"{text} again, after {after_s:.3g} s"
            event(_log, logging.WARNING, "engine_back", text, **fields, after_s=after_s)

    def lost(self, station: Station, cause: Cause, health: Health, *, first: bool) -> None:
        """It does not run there now.

        Args:
            station: Where.
            cause: Why not.
            health: What it is now.
            first: Whether it did until now: said aloud when it happens, not at each try that fails afterwards.
        """
        text = f"{self._package} does not run on {station.name} now ({cause})"
        self._lost(station, text, cause, health, level=logging.WARNING if first else logging.INFO)

    def lost_one(self, station: Station, cause: Cause, health: Health, left: int) -> None:
        """One of several interpreters is gone.

        Args:
            station: Where.
            cause: Why.
            health: That of having one more.
            left: How many there still are.
        """
        text = f"{self._package} runs on {station.name} with {left} interpreters, after one was lost ({cause})"
        self._lost(station, text, cause, health, level=logging.WARNING)

    def planned(self, new: Sequence[Station], left: Sequence[Station]) -> None:
        """What was planned for, and what gives way to it though it works."""
        for station in new:
            if station.state == "refused":
                self.refused(station, logging.INFO)
        for station in left:
            text = "%s leaves %s: Edge TPUs are seen by now, and opened by their own names"
            _log.info(text, self._package, station.name)

    def not_grown(self, error: Exception) -> None:
        """What runs goes on with the interpreters that there are."""
        _log.warning("%s: no further interpreter could be made: %s", self._package, error)

    def not_renewed(self, error: Exception) -> None:
        """What runs goes on with the times that were measured before."""
        _log.warning("%s: could not be measured anew: %s", self._package, error)

    def _lost(self, station: Station, text: str, cause: Cause, health: Health, *, level: int) -> None:
        event(
            _log,
            level,
            "engine_lost",
            f"{text}: {health.reason.rstrip('.')}. Tried again in {health.retry_s - health.changed_s:.3g} s.",
            **self._subject,
            device=station.name,
            cause=cause,
            reason=health.reason,
            losses=health.losses,
        )
