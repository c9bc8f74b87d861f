"""Tries a delegate in a process of its own, where a library that crashes or hangs harms nobody.

The child is `trial_child.py`. One that dies or hangs has given its answer as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import subprocess

TRIAL_LIMIT_S = 30.0
"""An Edge TPU that is stuck says so after 12 s at the earliest; loading the interpreter on a slow board takes a few."""

_REAP_LIMIT_S = 2.0
"""A killed process ends at once unless a driver holds it in the kernel; then it is left behind."""

_MAX_TAIL_BYTES = 2**14
_MAX_PRINTED_CHARACTERS = 2000
"""The end of what a library printed, where its reason stands."""

_CHATTER = re.compile(
    r"INFO: |I\d{4} |WARNING: (Logging before|All log messages)|=== Source Location|third_party/|\s+at .*\.c\w*:\d+\)$"
)
_OTHERS_CHATTER = re.compile(r"npu_registry\.cc|compiler_plugin\.cc|CompilerPlugin")
"""LiteRT looks for NPUs whatever it is asked for, and warns of not finding any."""

_ADAPTER = re.compile(r"Selected adapter: (?P<name>.*), arch=.*adapterType=(?P<type>.*)")

Failure = Literal["", "refused", "crashed", "stuck"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of it.

    Attributes:
        name: The delegate.
        ok: Whether all that can be tried worked.
        ran_model: Whether a model was run on the delegate itself, and gave the right result.
        detail: What was done; empty unless `ok`.
        error: The raw text, with what the library printed; empty if `ok`.
        failure: How it failed: `refused` with an error, `crashed` its process, `stuck` past the limit; empty if `ok`.
        library: The library that was tried, as it was named; empty for a delegate that has none.
    """

    name: str
    ok: bool
    ran_model: bool = False
    detail: str = ""
    error: str = ""
    failure: Failure = ""
    library: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a child process said.

    Attributes:
        fields: What it answered; empty for one that failed.
        failure: See `Trial`.
        error: The raw text; may be empty, as the reason may be among what was printed.
        printed: The end of what it wrote to standard error, without what is always written there.
    """

    fields: dict[str, Any]
    failure: Failure
    error: str
    printed: str


def try_delegate(
    name: str,
    *,
    library: str | None = None,
    options: Mapping[str, str] | None = None,
    limit_s: float = TRIAL_LIMIT_S,
) -> Trial:
    """Loads a delegate in a child process. Takes half a second; blocks the calling thread only.

    Args:
        name: `cpu`, `gpu` and `npu` run a model; `edgetpu` and `external` load the library and hand it a model, which
            an Edge TPU's can't take and another's may.
        library: The shared library, by name or path; only `edgetpu` and `external` have one.
        options: What the library is given.
        limit_s: How long the child may take before it is killed.
    """
    answer = ask_child(name, library=library or "", options=options or {}, limit_s=limit_s)
    library = library or ""
    if answer.failure:
        error = f"{answer.error}\n{answer.printed}".strip() or "refused without a text"
        return Trial(name=name, ok=False, error=error, failure=answer.failure, library=library)
    ran_model, detail = bool(answer.fields.get("ran_model")), str(answer.fields.get("detail", ""))
    adapter = _ADAPTER.search(answer.printed) if name == "gpu" else None
    if adapter:
        slow = ", in software: slower than the CPU" if "Software" in adapter["type"] else ""
        detail = f"{detail}, on {adapter['name']}{slow}"
    return Trial(name=name, ok=True, ran_model=ran_model, detail=detail, library=library)


def ask_child(
    what: str, *, library: str = "", options: Mapping[str, str] | None = None, limit_s: float = TRIAL_LIMIT_S
) -> Answer:
    """Has a child process do what may end it.

    Args:
        what: One of those that `trial_child` knows.
        library: For it.
        options: Likewise.
        limit_s: How long it may take before it is killed.
    """
    import subprocess  # noqa: PLC0415  with tempfile 10 ms, which an application without an accelerator need not pay
    import tempfile  # noqa: PLC0415  likewise

    request = {"what": what, "library": library, "options": dict(options or {}), "limit_s": limit_s}
    child_file = str(Path(__file__).resolve().with_name("trial_child.py"))
    command = [sys.executable, "-P", child_file, json.dumps(request)]
    # The child finds the interpreter wherever the parent found it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}  # noqa: PTH100 - "" means the current directory here
    # Files, not pipes: a library's own child that lives on would keep a pipe open.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment)
        status = _wait(child, limit_s)
        return _answer(status, limit_s, said=_end_of(stdout), printed=_telling(_end_of(stderr), what))


def _wait(child: subprocess.Popen[bytes], limit_s: float) -> int | None:
    """The exit status, negative for a signal; None for a child that had to be killed."""
    from subprocess import TimeoutExpired  # noqa: PLC0415  loaded by now

    try:
        return child.wait(limit_s)
    except TimeoutExpired:
        return None
    finally:  # also when the wait is interrupted
        if child.returncode is None:
            child.kill()
            with contextlib.suppress(TimeoutExpired):
                child.wait(_REAP_LIMIT_S)


def _end_of(file: IO[bytes]) -> str:
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - _MAX_TAIL_BYTES))
    return file.read().decode("utf-8", errors="replace").strip()


def _telling(printed: str, what: str) -> str:
    """Without what is printed whether it works or not; with the line that names a GPU."""
    kept = (
        line
        for line in printed.splitlines()
        if _ADAPTER.search(line)
        or not (_CHATTER.match(line) or (what != "npu" and _OTHERS_CHATTER.search(line)) or not line.strip())
    )
    return "\n".join(kept)[-_MAX_PRINTED_CHARACTERS:]


def _answer(status: int | None, limit_s: float, *, said: str, printed: str) -> Answer:
    if status is None:
        return Answer(fields={}, failure="stuck", error=f"no answer within {limit_s:g} s", printed=printed)
    if status < 0:
        return Answer(fields={}, failure="crashed", error=f"killed by {_signal_name(-status)}", printed=printed)
    try:
        fields = json.loads(said.splitlines()[-1])
        good, error = fields.pop("ok"), fields.get("error", "")
    except (IndexError, TypeError, ValueError, KeyError, AttributeError):
        error = f"ended with status {status} and no answer"
        return Answer(fields={}, failure="crashed", error=error, printed=printed)
    return Answer(fields=fields if good else {}, failure="" if good else "refused", error=error, printed=printed)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
