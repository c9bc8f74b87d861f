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
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from edge_runtime.trial_memory import LOOK_S, MIB, own_bytes

if TYPE_CHECKING:
    import subprocess

TRIAL_LIMIT_S = 30.0
"""An Edge TPU that is stuck says so after 12 s at the earliest; loading the interpreter on a slow board takes a few."""

_REAP_LIMIT_S = 2.0
"""A killed process ends at once unless a driver holds it in the kernel; then it is left behind."""

_LOOK_S = 0.25
"""How often to look whether a trial is called off whose killed process does not end."""

_OWN_DEATHS = frozenset(
    (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)
)
"""Signals that a process brings upon itself. Any other one came from somebody: a user, a service manager, the kernel
that was out of memory; it says nothing of the library."""

_NO_MEMORY = re.compile(r"^(terminat|\s*what\(\):).*std::bad_alloc", re.MULTILINE)
"""What C++ prints before it ends a process for which there is no memory; a signature may be called so, too."""

CALLED_OFF = "the runtime was closed"

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
            A process that was ended from outside counts as refused: nobody is to blame for it.
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
        from_outside: Whether it was ended from outside: by the kernel that was out of memory, say, or for its own.
    """

    fields: dict[str, Any]
    failure: Failure
    error: str
    printed: str
    from_outside: bool = False


def try_delegate(
    name: str,
    *,
    library: str | None = None,
    options: Mapping[str, str] | None = None,
    limit_s: float = TRIAL_LIMIT_S,
    trials: Trials | None = None,
) -> Trial:
    """Loads a delegate in a child process. Takes half a second; blocks the calling thread only.

    Args:
        name: `cpu`, `gpu` and `npu` run a model; `edgetpu` and `external` load the library and hand it a model, which
            an Edge TPU's can't take and another's may.
        library: The shared library, by name or path; only `edgetpu` and `external` have one.
        options: What the library is given.
        limit_s: How long the child may take before it is killed.
        trials: Where it can be called off, by another thread; None for nowhere.

    Raises:
        OSError: no process can be started.
    """
    answer = ask_child(name, library=library or "", options=options or {}, limit_s=limit_s, trials=trials)
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


class Trials:
    """The children that are under way, to be called off together. Thread-safe."""

    def __init__(self) -> None:
        """Knows none yet."""
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self.called_off = False

    def __repr__(self) -> str:
        return f"<Trials {len(self._children)} under way{', called off' if self.called_off else ''}>"

    def call_off(self) -> None:
        """Kills and reaps all, and those that would begin later. Their callers are told at once."""
        with self._lock:
            self.called_off = True
            children = list(self._children)
        for child in children:
            child.kill()
        for child in children:
            _reap(child)

    @contextlib.contextmanager
    def holding(self, child: subprocess.Popen[bytes]) -> Iterator[None]:
        """Knows a child meanwhile; one that comes too late is not waited for."""
        with self._lock:
            self._children.add(child)
        try:
            yield
        finally:
            with self._lock:
                self._children.discard(child)


def ask_child(
    what: str,
    *,
    library: str = "",
    options: Mapping[str, str] | None = None,
    limit_s: float = TRIAL_LIMIT_S,
    limit_bytes: int | None = None,
    trials: Trials | None = None,
) -> Answer:
    """Has a child process do what may end it. It ends with this thread at the latest.

    Args:
        what: One of those that `trial_child` knows.
        library: For it.
        options: Likewise.
        limit_s: How long it may take before it is killed.
        limit_bytes: How much memory of its own it may hold before it is killed; None for any.
        trials: Where it can be called off; None for nowhere.

    Raises:
        OSError: no process can be started.
    """
    import subprocess  # noqa: PLC0415  with tempfile 10 ms, which an application without an accelerator need not pay
    import tempfile  # noqa: PLC0415  likewise

    trials = trials or Trials()
    request = {
        "what": what,
        "library": library,
        "options": dict(options or {}),
        "limit_s": limit_s,
        "parent": os.getpid(),
    }
    child_file = str(Path(__file__).resolve().with_name("trial_child.py"))
    command = [sys.executable, "-P", child_file, json.dumps(request)]
    # The child finds the interpreter wherever the parent found it.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in sys.path)}  # noqa: PTH100 - "" means the current directory here
    # Files, not pipes: a library's own child that lives on would keep a pipe open.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        # A group of its own: Ctrl-C in the application's terminal is for the application.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment, process_group=0
        )
        try:
            status = _wait(child, limit_s, limit_bytes, trials)
        except _TooLarge as error:
            printed = _telling(_end_of(stderr), what)
            return Answer(fields={}, failure="refused", error=str(error), printed=printed, from_outside=True)
        if trials.called_off:
            return Answer(fields={}, failure="refused", error=CALLED_OFF, printed="")
        return _answer(status, limit_s, said=_end_of(stdout), printed=_telling(_end_of(stderr), what))


class _TooLarge(Exception):
    """The child holds more memory than it may."""


def _wait(child: subprocess.Popen[bytes], limit_s: float, limit_bytes: int | None, trials: Trials) -> int | None:
    """The exit status, negative for a signal; None for a child that had to be killed for its time.

    Raises:
        _TooLarge: it had to be for its memory.
    """
    from subprocess import TimeoutExpired  # noqa: PLC0415  loaded by now

    until_s, look_s = time.monotonic() + limit_s, _LOOK_S if limit_bytes is None else LOOK_S
    try:
        with trials.holding(child):
            while not trials.called_off and (left_s := until_s - time.monotonic()) > 0:
                with contextlib.suppress(TimeoutExpired):
                    return child.wait(min(left_s, look_s))
                if limit_bytes is not None and (held_bytes := own_bytes(child.pid)) > limit_bytes:
                    raise _TooLarge(
                        f"needs more than {limit_bytes // MIB} MiB to run: it had {held_bytes // MIB} MiB when it was"
                        " ended, and may have no more than suits its files and is available here"
                    )
        return None
    finally:  # also when the wait is interrupted
        if child.returncode is None:
            child.kill()
            _reap(child)


def _reap(child: subprocess.Popen[bytes]) -> None:
    from subprocess import TimeoutExpired  # noqa: PLC0415  likewise

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
    if status is None or status == -signal.SIGALRM:  # its own alarm, past the limit: this process was stopped meanwhile
        return Answer(fields={}, failure="stuck", error=f"no answer within {limit_s:g} s", printed=printed)
    if status < 0 and -status not in _OWN_DEATHS:
        error = f"ended from outside, by {_signal_name(-status)}, before it had an answer"
        return Answer(fields={}, failure="refused", error=error, printed=printed, from_outside=True)
    if status == -signal.SIGABRT and _NO_MEMORY.search(printed):
        error = "needs more memory to run than this machine gives: std::bad_alloc"
        return Answer(fields={}, failure="refused", error=error, printed=printed, from_outside=True)
    if status < 0:
        return Answer(fields={}, failure="crashed", error=f"killed by {_signal_name(-status)}", printed=printed)
    fields = _last_answer(said)
    if fields is None:
        untold = status == os.EX_IOERR
        no_room = "its answer could not be written: there is no room for temporary files"
        error = no_room if untold else f"ended with status {status} and no answer"
        return Answer(fields={}, failure="refused" if untold else "crashed", error=error, printed=printed)
    good, error = fields.pop("ok"), fields.get("error", "")
    return Answer(fields=fields if good else {}, failure="" if good else "refused", error=error, printed=printed)


def _last_answer(said: str) -> dict[str, Any] | None:
    """The child's answer. A library may print after it: what C's streams hold comes out when the child ends."""
    for line in reversed(said.splitlines()):
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict) and isinstance(fields.get("ok"), bool):
                return fields
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
