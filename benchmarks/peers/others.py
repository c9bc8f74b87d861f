"""What other benchmarks here measure of our server alone, run as programs, for rows of the same table."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.peers.loads import Load
from benchmarks.peers.processes import ROOT
from benchmarks.peers.rounds import Rounds
from benchmarks.peers.suite import FLOOD, GRUS

_LIMIT_S = 1800.0


def measure_flood(rounds: Rounds, *, times: int, seconds: float) -> None:
    """Two models, of which one gets ten times what it can answer: what the other's requests take."""
    try:
        said = _run("fair_models", [f"--rounds={times}", f"--seconds={seconds}"])
        rounds.loads["alone", FLOOD] = [_percentiles(said, "alone")]
        rounds.loads["beside a flood", FLOOD] = [_percentiles(said, "the other flooded")]
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        _broken(rounds, FLOOD, error)


def measure_sequences(rounds: Rounds, *, times: int, length: int) -> None:
    """Live streams of recurrent models, on a server that merges their steps and on one that doesn't."""
    for name, (layers, units) in GRUS.items():
        load = f"GRU {name}"
        try:
            options = [f"--sizes={layers}x{units}", f"--rounds={times}", f"--length={length}", "--json"]
            told = json.loads(_run("sequences", options))[name]
            for way in ("batched", "unbatched", "bare echo", "executor"):
                rounds.loads[way, load] = [_rate(rate) for rate in told[way]]
        except (RuntimeError, OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError) as error:
            _broken(rounds, load, error)


def _run(name: str, options: Sequence[str]) -> str:
    print(f"benchmarks/{name}.py {' '.join(options)}", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks/{name}.py ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _percentiles(said: str, row: str) -> Load:
    """A row of the table that `fair_models.py` prints: median, p90 and p99 in ms."""
    found = re.search(rf"^{row} +([0-9.]+) +([0-9.]+) +([0-9.]+)", said, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"benchmarks/fair_models.py has printed no row {row!r}")
    return Load(rate=0.0, p50_ms=float(found[1]), p95_ms=float(found[2]), p99_ms=float(found[3]))


def _rate(rate: float) -> Load:
    return Load(rate=rate, p50_ms=0.0, p95_ms=0.0, p99_ms=0.0)


def _broken(rounds: Rounds, load: str, error: Exception) -> None:
    print(f"{load}: {error}", file=sys.stderr)
    rounds.left_out[load] = f"FAILED: {str(error).splitlines()[0][:200]}"
    rounds.failed = True
