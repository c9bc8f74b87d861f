"""Asking a forked copy of this process, as an application that forks would."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable
from typing import Any

LIMIT_S = 30
"""After which a copy that hangs is ended; for broken code only."""


def forked(function: Callable[[], Any]) -> Any:
    """What the function returns in a forked copy of this process, as JSON can carry it; an error as its text."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the point
        pid = os.fork()
    if pid == 0:
        signal.alarm(LIMIT_S)
        try:
            answer = function()
        except BaseException as error:  # noqa: BLE001  it is the answer
            answer = f"{type(error).__name__}: {error}"
        os.write(writable, json.dumps(answer).encode())
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as file:
        content = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the copy ended with {status}"
    return json.loads(content)
