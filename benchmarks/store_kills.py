"""Whether a store stays whole whenever its writers are killed.

    python benchmarks/store_kills.py

Installs (new versions and replaced ones, every tenth with its first run), `use` and `rollback` are done by processes
that are killed with SIGKILL at a random moment of what they take undisturbed. After each kill the store is looked at:
every version must be whole by its digests, and versions, labels and what a rollback would go to must be those before or
those that the change leads to. The next writer has to succeed, and to leave nothing behind.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Not this folder, where a benchmark has the name of the package `converter`.
sys.path[0] = str(Path(__file__).parents[1] / "tests")
sys.path.append(str(Path(__file__).parents[1]))
from support.edge_models import publish_scale  # noqa: E402
from support.edge_stores import leftovers, state  # noqa: E402

from edge_runtime.installing.first_run import try_package  # noqa: E402
from edge_runtime.installing.install import install  # noqa: E402
from edge_runtime.store.store import Store  # noqa: E402

CHANGES = ("install", "replace", "use", "rollback")
WITH_TRIAL = 10
RUNS = 3
TIDIED_S = 5.0
FORK = multiprocessing.get_context("fork")


def change(name: str, root: Path, packages: Path, *, trial: bool) -> None:
    """Does it."""
    run = try_package if trial else None
    if name == "install":
        install(packages / "scale" / "4", root, trial=run)
    elif name == "replace":
        install(packages / "other" / "scale" / "2", root, trial=run, replace=True)
    elif name == "use":
        Store(root).label("scale", "stable", 1)
    else:
        Store(root).roll_back("scale")


def child(pipe: Any, work: Callable[[], None]) -> None:
    """Says that it begins, does it, and ends without a word."""
    pipe.send_bytes(b"go")
    work()
    os._exit(0)


def killed_after(seconds: float | None, work: Callable[[], None]) -> tuple[int, float]:
    """The exit code of a process that does the work and is killed after so long, and how long it was there."""
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=child, args=(there, work))
    process.start()
    here.recv_bytes()
    begun_s = time.perf_counter()
    process.join(seconds)
    if process.exitcode is None and process.pid:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode or 0, time.perf_counter() - begun_s


class Bench:
    """A store that is filled once, and copied for every change.

    Attributes:
        before: What is seen of it.
        after: What is seen of it after each change.
        takes_s: How long each change takes, by its name and whether packages are run.
    """

    def __init__(self, base: Path) -> None:
        self._packages, self._filled, self._base = base / "packages", base / "filled", base
        for version in (1, 2, 3, 4):
            publish_scale(self._packages, version, float(version))
        publish_scale(self._packages / "other", 2, 20.0)
        for version in (1, 2, 3):
            install(self._packages / "scale" / str(version), self._filled, trial=None)
            Store(self._filled).label("scale", "stable", version)
        self.before = state(self._filled)
        self.after: dict[str, Any] = {}
        self.takes_s: dict[tuple[str, bool], float] = {}
        for name, trial in itertools.product(CHANGES, (False, True)):
            took_s = [self.killed_after(None, name, trial=trial)[1] for _ in range(RUNS)]
            self.takes_s[name, trial] = max(took_s)
            self.after[name] = state(self.root)

    @property
    def root(self) -> Path:
        """The copy."""
        return self._base / "store"

    def killed_after(self, seconds: float | None, name: str, *, trial: bool) -> tuple[int, float]:
        """Makes the change to a fresh copy; see `killed_after`."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self._filled, self.root)
        return killed_after(seconds, lambda: change(name, self.root, self._packages, trial=trial))

    def is_tidied(self) -> bool:
        """Whether those who come after the one that was killed leave nothing of it behind.

        A first run's process may outlive the one that was killed by the moment in which it is told, and write into the
        folder that is being removed: then it is gone after the next one.
        """
        until_s = time.perf_counter() + TIDIED_S
        while True:
            Store(self.root).label("scale", "canary", 3)
            install(self._packages / "scale" / "4", self.root, trial=None)
            if not leftovers(self.root):
                return True
            if time.perf_counter() > until_s:
                return False
            time.sleep(0.05)

    def look(self, name: str) -> str:
        """What is there: `old`, `new`, or what is wrong."""
        try:
            found = state(self.root)
        except Exception as error:  # noqa: BLE001  whatever it is, the store is not whole
            return f"broken, {type(error).__name__}: {error}"
        return "old" if found == self.before else "new" if found == self.after[name] else f"neither: {found}"


def main() -> None:
    """Kills, looks, and prints how often the store was whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    whole, killed, outcomes = 0, 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        while killed < arguments.kills:
            name = CHANGES[killed % len(CHANGES)]
            trial = killed % (WITH_TRIAL * len(CHANGES)) < len(CHANGES)
            code, _ = bench.killed_after(chance.uniform(0, bench.takes_s[name, trial]), name, trial=trial)
            if code != -signal.SIGKILL:
                continue  # It was done before.
            killed += 1
            outcome = bench.look(name)
            outcomes[f"{name}: {outcome}"] += 1
            tidied = bench.is_tidied()
            if not tidied:
                outcomes[f"{name}: not tidied"] += 1
            whole += outcome in ("old", "new") and tidied
    for outcome, count in sorted(outcomes.items()):
        print(f"  {outcome} {count}")
    print(f"store whole {whole} of {arguments.kills} (target: {arguments.kills})")
    sys.exit(0 if whole == arguments.kills else 1)


if __name__ == "__main__":
    main()
