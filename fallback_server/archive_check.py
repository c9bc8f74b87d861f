"""Finds out whether an archive can be unpacked, without writing anything beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fallback_server.core.archive import check
from fallback_server.core.errors import ArchiveRefused
from fallback_server.core.servable import ServableId
from fallback_server.core.unpacking import UnpackOptions

MAX_CHECKED_BYTES = 64 << 20
"""So much of an archive's content is read, which takes some tenths of a second. What is no archive shows at once."""


def archive_fault(servable_id: ServableId, archive: Path, options: UnpackOptions | None = None) -> str:
    """Why a server would refuse an archive, as far as its first `MAX_CHECKED_BYTES` tell; else empty.

    The server's own rules are tried in a temporary folder, without the files' content. Where the reader of its format
    is not installed nothing is found; the server, which needs that, says so itself.

    Args:
        servable_id: The version that it is to hold.
        archive: The archive.
        options: What it may unpack to.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="archive-check-") as folder:
            check(servable_id, archive, Path(folder), options or UnpackOptions(), max_bytes=MAX_CHECKED_BYTES)
    except ArchiveRefused as error:
        return str(error)
    except OSError as error:
        return f"{archive} can't be checked: {error}"
    except ImportError:
        return ""
    return ""
