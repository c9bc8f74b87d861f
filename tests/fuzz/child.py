"""Fuzzes one target until its time is up or a fault is found. Started by `run.py`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import os
import secrets
import sys
import time
import warnings
from pathlib import Path
from random import Random

_TOLD_EVERY = 256
"""Inputs between two words of how many there were."""


class Child:
    """One target, and where its fuzzer works.

    Args:
        name: The target.
        seconds: How long.
        folder: `corpus` in it is read and grows, a fault's input goes into `faults`, and `told.json` says how many.
    """

    def __init__(self, name: str, seconds: float, folder: Path) -> None:
        from fuzz.mutation import mutated
        from fuzz.target import Feeder
        from fuzz.targets import TARGETS, starts_of

        self.target = TARGETS[name]
        self._mutated = mutated
        self._starts = starts_of(self.target)
        self._feeder = Feeder(self.target)
        self._told = folder / "told.json"
        self.folder = folder
        self.seconds = seconds
        for start in self._starts:  # What is loaded or kept at the first ones is no memory that they take.
            self._feeder.feed(start)
        self._begin_s = time.monotonic()
        self._tell()

    @property
    def over(self) -> bool:
        """Whether its time is up."""
        return time.monotonic() - self._begin_s > self.seconds

    def feed(self, data: bytes) -> None:
        """Gives it an input; ends the process when its time is up."""
        self._feeder.feed(data)
        if not self._feeder.inputs % _TOLD_EVERY:
            self._tell()
            if self.over:
                os._exit(0)  # Of `SystemExit` a fuzzer thinks that it was found.

    def changed(self, random: Random, data: bytes | None = None) -> bytes:
        """A sound input, or the one that is given, with changes."""
        some = self._starts if data is None else [data, *self._starts]
        return self._mutated(random, some, words=self.target.words, message=self.target.message)[
            : self.target.max_bytes
        ]

    def _tell(self) -> None:
        feeder = self._feeder
        figures = {"inputs": feeder.inputs, "taken": feeder.accepted, "slowest_s": feeder.slowest_s}
        self._told.write_text(json.dumps({**figures, "wall_s": time.monotonic() - self._begin_s}))


def follow_coverage(name: str, seconds: float, folder: Path) -> None:
    """By atheris: what reaches another branch is kept, and changed further."""
    import atheris

    modules = json.loads((folder / "modules.json").read_text())
    with atheris.instrument_imports(include=modules, enable_loader_override=False):
        importlib.import_module("fuzz.targets")
    child = Child(name, seconds, folder)

    def change(data: bytes, max_bytes: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.4:
            return atheris.Mutate(data, max_bytes)
        return child.changed(random, bytes(data))[:max_bytes]

    options = [sys.argv[0], str(folder / "corpus"), f"-artifact_prefix={folder / 'faults'}/", "-timeout=30"]
    options += [f"-max_len={child.target.max_bytes}", "-rss_limit_mb=4096", "-verbosity=0"]
    options += ["-report_slow_units=1000000"]  # By the clock on the wall, that is: a machine that rests is no fault.
    atheris.Setup(options, child.feed, custom_mutator=change)
    atheris.Fuzz()


def change_blindly(name: str, seconds: float, folder: Path) -> None:
    """Without atheris: many more inputs a second, and none is kept."""
    child = Child(name, seconds, folder)
    seed = secrets.randbits(64)
    random = Random(seed)
    while True:
        data = child.changed(random)
        try:
            child.feed(data)
        except Exception:
            print(f"seed {seed}")
            (folder / "faults" / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
            raise


def main() -> None:
    """`child.py NAME SECONDS FOLDER coverage|blind`."""
    name, seconds, folder, how = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root), str(root / "tests")]
    logging.disable()
    warnings.simplefilter("ignore")
    with contextlib.suppress(KeyboardInterrupt):
        (follow_coverage if how == "coverage" else change_blindly)(name, seconds, folder)


if __name__ == "__main__":
    main()
