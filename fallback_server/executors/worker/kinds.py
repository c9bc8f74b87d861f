"""What a worker opens a version with, by its kind. Each library is imported by whoever needs it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from fallback_server.executors.base import Executor, RunSizes
from fallback_server.executors.worker.messages import Load


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How a load makes room for others; see `priority`.

    Attributes:
        make: Makes it. Called once the library's own threads are there, before anything is read.
        lifted: All cores meanwhile.
    """

    make: Callable[[], None]
    lifted: Callable[[], AbstractContextManager[None]]


def opened(load: Load, fds: Sequence[int], *, room: Room) -> Executor:
    """Loads a version, and runs it once.

    Args:
        load: What, and how.
        fds: What came with it.
        room: For others.

    Raises:
        Exception: whatever is wrong with it.
    """
    return _OPENERS[load.kind](load, fds, room)


def _tensorflow(load: Load, fds: Sequence[int], room: Room) -> Executor:
    from fallback_server.executors.saved_model import SavedModelOptions, open_saved_model  # noqa: PLC0415

    del fds
    options = SavedModelOptions(
        intra_op_parallelism=load.intra_op_parallelism, inter_op_parallelism=load.inter_op_parallelism, tags=load.tags
    )
    return open_saved_model(Path(load.path), options, on_session=room.make, all_cores=room.lifted, known=load.known)


def _litert(load: Load, fds: Sequence[int], room: Room) -> Executor:
    from fallback_server.executors.litert import open_litert  # noqa: PLC0415
    from fallback_server.executors.litert_files import SealedFile  # noqa: PLC0415

    file, step = fds

    def progress() -> None:
        with contextlib.suppress(BlockingIOError):  # Nobody has read those before, which say the same.
            os.write(step, b".")

    room.make()
    try:
        return open_litert(
            SealedFile(file),
            sizes=RunSizes(rows=load.rows, threads=load.threads),
            whole=frozenset(load.whole),
            threads=load.intra_op_parallelism,
            progress=progress,
            all_cores=room.lifted,
        )
    finally:
        os.close(step)


def _python(load: Load, fds: Sequence[int], room: Room) -> Executor:
    from fallback_server.executors.python_servable import open_python  # noqa: PLC0415

    del fds
    room.make()
    return open_python(Path(load.path))


def _onnx(load: Load, fds: Sequence[int], room: Room) -> Executor:
    from fallback_server.executors.onnx import open_onnx  # noqa: PLC0415

    del fds
    room.make()
    return open_onnx(Path(load.path), threads=load.intra_op_parallelism)


_OPENERS: dict[str, Callable[[Load, Sequence[int], Room], Executor]] = {
    "tensorflow": _tensorflow,
    "litert": _litert,
    "python": _python,
    "onnx": _onnx,
}
