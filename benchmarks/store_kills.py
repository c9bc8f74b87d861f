"""Whether a store stays whole whenever its writers are killed.

    python benchmarks/store_kills.py

Installs (new versions and replaced ones, every tenth with its first run), `use` and `rollback` are done by processes
that are killed with SIGKILL at a random moment of what they take undisturbed. After each kill the store is looked at:
every version must be whole by its digests, and versions, labels and what a rollback would go to must be those before or
those that the change leads to. The next writer has to succeed, and to leave nothing behind.
"""

from __future__ import annotations

import argparse
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

from edge_runtime.store.first_run import try_package  # noqa: E402
from edge_runtime.store.install import install  # noqa: E402
from edge_runtime.store.store import Store  # noqa: E402

CHANGES = ("install", "replace", "use", "rollback")
WITH_TRIAL = 10
RUNS = 3
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


def fresh(base: Path, filled: Path) -> Path:
    """A copy of the store to change."""
    root = base / "store"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(filled, root)
    return root


def main() -> None:
    """Kills, looks, and prints how often the store was whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)  # noqa: S311  no secret
    whole, killed, outcomes = 0, 0, Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        packages, filled = base / "packages", base / "filled"
        for version in (1, 2, 3, 4):
            publish_scale(packages, version, float(version))
        publish_scale(packages / "other", 2, 20.0)
        for version in (1, 2, 3):
            install(packages / "scale" / str(version), filled, trial=None)
            Store(filled).label("scale", "stable", version)
        before = state(filled)
        after: dict[str, Any] = {}
        takes_s: dict[tuple[str, bool], float] = {}
        for name in CHANGES:
            for trial in (False, True):
                took_s = []
                for _ in range(1 if trial else RUNS):
                    root = fresh(base, filled)

                    def work(name: str = name, root: Path = root, *, trial: bool = trial) -> None:
                        change(name, root, packages, trial=trial)

                    took_s.append(killed_after(None, work)[1])
                takes_s[name, trial] = max(took_s)
                after[name] = state(root)
        while killed < arguments.kills:
            name = CHANGES[killed % len(CHANGES)]
            trial = killed % (WITH_TRIAL * len(CHANGES)) < len(CHANGES)
            root = fresh(base, filled)

            def work(name: str = name, root: Path = root, *, trial: bool = trial) -> None:
                change(name, root, packages, trial=trial)

            code, _ = killed_after(chance.uniform(0, takes_s[name, trial]), work)
            if code != -signal.SIGKILL:
                continue  # It was done before.
            killed += 1
            outcome = look(root, before, after[name])
            outcomes[f"{name}: {outcome}"] += 1
            Store(root).label("scale", "canary", 3)
            install(packages / "scale" / "4", root, trial=None)
            whole += outcome in ("old", "new") and not leftovers(root)
    for outcome, count in sorted(outcomes.items()):
        print(f"  {outcome} {count}")
    print(f"store whole {whole} of {arguments.kills} (target: {arguments.kills})")
    sys.exit(0 if whole == arguments.kills else 1)


def look(root: Path, before: Any, after: Any) -> str:
    """What is there: `old`, `new`, or what is wrong."""
    try:
        found = state(root)
    except Exception as error:  # noqa: BLE001  whatever it is, the store is not whole
        return f"broken, {type(error).__name__}: {error}"
    return "old" if found == before else "new" if found == after else f"neither: {found}"


if __name__ == "__main__":
    main()
