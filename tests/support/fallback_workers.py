"""Workers and nurseries to test with: what waits for processes, and files that a load hangs on."""

import os
import struct
import threading
import time
from pathlib import Path

from fallback_server.executors.saved_model import SavedModelOptions
from fallback_server.executors.worker.executor import open_in_worker
from fallback_server.warmup_records import crc32c, masked

LIMIT_S = 60.0
"""For broken code only."""


def wait_until(condition, limit_s=LIMIT_S):
    """Polls until something is so."""
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it never came to be"
        time.sleep(0.01)


def alive(pid):
    """Whether a process runs; one that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def opened(nursery, path, on_lost=lambda how: None):
    """A version in a worker."""
    title = f"{path.parent.name}/{path.name}"
    return open_in_worker(path, options=SavedModelOptions(), nursery=nursery, title=title, on_lost=on_lost)


class HangingLoad:
    """A load of a folder whose graph is a pipe that nobody writes: it hangs until it is ended."""

    def __init__(self, nursery, path):
        path.mkdir()
        os.mkfifo(path / "saved_model.pb")
        self.error = None
        self._thread = threading.Thread(target=self._load, args=(nursery, path), daemon=True)
        self._thread.start()

    def _load(self, nursery, path):
        try:
            opened(nursery, path)
        except Exception as error:  # noqa: BLE001  it is what the test asks for
            self.error = error

    def result(self):
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        return self.error


def record(content, *, damage=b""):
    """One record of a TFRecord file."""
    length = struct.pack("<Q", len(content))
    checksum = struct.pack("<I", masked(crc32c(content)))
    return length + struct.pack("<I", masked(crc32c(length))) + content + (damage or checksum)
