"""`make fuzz`: every parser under a fuzzer that follows coverage, for as long as is said.

    python tests/fuzz/run.py --minutes 10           all targets, two at a time
    python tests/fuzz/run.py --target predict       one
    python tests/fuzz/run.py --keep                 takes what found new branches into tests/fuzz/corpus
    python tests/fuzz/run.py --blind                without atheris

Prints how many inputs each target was given. A fault's input is printed in base64, to be added to the corpus, where
`make test` gives it to the parser from then on; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz.target import Target  # noqa: E402  it is no package
from fuzz.targets import TARGETS, corpus_of, keep_corpus, starts_of  # noqa: E402  likewise

MAX_KEPT = 60
MAX_KEPT_BYTES = 600
"""Of a target: the corpus goes along with every copy of the project."""

_GRACE_S = 300.0
"""What a child may take beyond its time to load and to end, on a machine that does other things too."""

_MEMORY = Path("/dev/shm")
"""Where files are of memory: each input of some parsers is one."""

_NOTHING = {"inputs": 0, "taken": 0, "slowest_s": 0.0, "wall_s": 0.0}


@dataclass(frozen=True)
class Outcome:
    """What became of a target.

    Attributes:
        name: The target.
        inputs: How many it was given.
        taken: How many it took; it refused the others by its own error.
        slowest_s: The most CPU time that one took.
        wall_s: How long it was fuzzed.
        faults: Inputs that it answered otherwise.
        said: What the fuzzer said last, where there is a fault.
    """

    name: str
    inputs: int
    taken: int
    slowest_s: float
    wall_s: float
    faults: tuple[bytes, ...]
    said: str

    def __str__(self) -> str:
        rate = self.inputs / self.wall_s if self.wall_s else 0.0
        faults = f"{len(self.faults)} FAULTS" if self.faults or self.said else "no fault"
        return (
            f"{self.name:16} {self.inputs:>9} inputs {self.taken:>9} taken {rate:>7.0f}/s "
            f"slowest {self.slowest_s * 1e3:6.1f} ms  {faults}"
        )


def fuzz(target: Target, seconds: float, *, blind: bool, keep: bool) -> Outcome:
    """Runs one child."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        folder = Path(name)
        for each in ("corpus", "faults", "tmp"):
            (folder / each).mkdir()
        starts = starts_of(target)
        for data in starts:
            (folder / "corpus" / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        (folder / "modules.json").write_text(json.dumps(target.modules))
        program = str(Path(__file__).with_name("child.py"))
        command = [sys.executable, program, target.name, str(seconds), name, "blind" if blind else "coverage"]
        environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
        try:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, timeout=seconds + _GRACE_S, check=False, env=environment
            )
            code, said = done.returncode, _without_chatter((done.stderr + done.stdout).decode(errors="replace"))
        except subprocess.TimeoutExpired as error:
            code, said = -1, f"it did not end: {error}"
        told = folder / "told.json"
        figures = json.loads(told.read_text()) if told.exists() else _NOTHING
        faults = tuple(path.read_bytes() for path in sorted((folder / "faults").iterdir()))
        if keep:
            found = [path.read_bytes() for path in sorted((folder / "corpus").iterdir())]
            _keep(target, [data for data in found if data not in starts])
        return Outcome(name=target.name, **figures, faults=faults, said=said[-4000:] if code or faults else "")


def _without_chatter(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(("INFO:", "WARNING:")))


def _keep(target: Target, found: list[bytes]) -> None:
    """The short ones of what was found, beside what is there."""
    kept = corpus_of(target.name)
    some = sorted((data for data in found if len(data) <= MAX_KEPT_BYTES), key=len)
    step = max(1, len(some) // MAX_KEPT)
    keep_corpus(target.name, [*kept, *some[::step][: max(0, MAX_KEPT - len(kept))]])


def main() -> int:
    """Fuzzes what is asked for, and says what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together (10)")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only this one, or these")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time (2)")
    parser.add_argument("--blind", action="store_true", help="do without atheris: more inputs, none chosen by coverage")
    parser.add_argument("--keep", action="store_true", help="take what found new branches into the corpus")
    given = parser.parse_args()
    if not given.blind and importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (`make fuzz` does it, where there is a wheel); --blind does without it")
        return 2
    some = [TARGETS[name] for name in given.target or TARGETS]
    seconds = max(1.0, given.minutes * 60 * given.jobs / len(some))
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for outcome in pool.map(lambda target: fuzz(target, seconds, blind=given.blind, keep=given.keep), some):
            outcomes.append(outcome)
            print(outcome, flush=True)
    inputs, wall_s = sum(one.inputs for one in outcomes), sum(one.wall_s for one in outcomes)
    print(f"{inputs} inputs, {inputs / max(wall_s, 1e-9):.0f} a second of each process")
    for outcome in outcomes:
        if outcome.said:
            print(f"\n{outcome.name}: {outcome.said}")
        for data in outcome.faults:
            print(f"tests/fuzz/corpus/{outcome.name}.txt: {base64.b64encode(data).decode()}")
    return int(any(outcome.said for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
