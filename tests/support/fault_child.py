"""A device under load in a process of its own: with a clock, limits or a network of its own.

    python -m support.fault_child SEED STORE OPTIONS LOAD

OPTIONS and LOAD are JSON objects: the runtime's options, and what `Load` takes beside what asks, and `label`. It obeys
lines of stdin, each with a line of JSON: `await COUNT WITHIN_S [PLACE]` as `Load.await_answers`, `version NUMBER
WITHIN_S` (until that answers, and no other), `time` (its wall clock), `said` (the words of the latest error) and
`stop`, with what became of all requests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TESTS = Path(__file__).parents[1]

RECENT_S = 0.1
"""A version that has not answered for so long under load answers no more."""


class FaultChild:
    """One, from the test's side.

    Args:
        store: The packages.
        options: The runtime's.
        load: What `Load` takes.
        seed: Of what is drawn.
        before: What its command line begins with, such as `ip netns exec NAME`.
        environment: What is added to this process's.
    """

    def __init__(
        self,
        store: Path,
        options: Mapping[str, object],
        load: Mapping[str, object],
        seed: int,
        *,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        paths = os.pathsep.join((str(TESTS / "support" / "absent"), str(TESTS), str(TESTS.parent)))
        arguments = [str(seed), str(store), json.dumps(options), json.dumps(load)]
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "support.fault_child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": paths} | (environment or {}),
        )

    def ask(self, *words: object) -> object:
        """Says a line, and gives its answer; an error of its own fails the test."""
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or '{"error": "it has ended"}')
        assert not (isinstance(answer, dict) and "error" in answer), answer["error"]
        return answer

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()


def main() -> None:
    """Asks until it is told to stop."""
    from support.fault_load import Load
    from support.fault_scenes import places, since

    from edge_runtime import Runtime
    from edge_runtime.config import read_options

    seed, store, options, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
    seen: list[tuple[float, str]] = []
    label = given.pop("label", None)

    def obey(word: str, count: str = "", within_s: str = "", place: str = "") -> object:
        asked_s = time.monotonic()
        if word == "await":
            return load.await_answers(int(count), float(within_s), lambda: not place or place in since(seen, asked_s))
        if word == "version":
            return load.await_answers(
                10, float(within_s), lambda: versions(time.monotonic() - RECENT_S) == {int(count)}
            )
        if word == "said":
            return load.ledger.said
        return time.time() if word == "time" else dict(load.stop(quiet=True).refused)

    def versions(since_s: float) -> set[int]:
        return {getattr(one, "version", 0) for _, one in load.ledger.since(since_s)}

    with (
        Runtime(read_options(store, options)) as runtime,
        Load(places(runtime.model("lite", label=label), seen), seed, **given) as load,
    ):
        for line in sys.stdin:
            try:
                answer = obey(*line.split())
            except AssertionError as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)  # noqa: T201  this is how it speaks


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
