"""Finds out whether an archive can be unpacked, without writing anything."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath

from fallback_server.core.completeness import GRAPHS
from fallback_server.core.errors import ArchiveRefused
from fallback_server.core.members import read_members

MAX_CHECKED_BYTES = 64 << 20
"""So much of an archive's content is read, which takes some tenths of a second. What is no archive shows at once."""

_MEMBER_BYTES = 512
"""What a member counts for beside its content, so that empty ones come to an end too."""


def archive_fault(archive: Path) -> str:
    """Why an archive can't be unpacked, or holds no graph, as far as its first `MAX_CHECKED_BYTES` tell; else empty.

    Where the reader of its format is not installed nothing is found; the server, which needs that, says so itself.
    """
    left_bytes, graph = MAX_CHECKED_BYTES, False
    try:
        with contextlib.closing(read_members(archive)) as members:
            for member in members:
                graph |= PurePosixPath(member.name).name in GRAPHS
                left_bytes -= _MEMBER_BYTES
                for chunk in member.chunks:
                    left_bytes -= len(chunk)
                    if left_bytes < 0:
                        return ""
                if left_bytes < 0:
                    return ""
    except ArchiveRefused as error:
        return str(error)
    except OSError as error:
        return f"{archive} can't be read: {error.strerror or error}"
    except ImportError:
        return ""
    return "" if graph else f"{archive}: saved_model.pb is missing"
