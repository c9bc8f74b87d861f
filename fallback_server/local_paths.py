"""Tells paths of this machine from URIs, which a `Path` would mangle: `s3://a` becomes `s3:/a`. Pure."""

from __future__ import annotations

import re

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def uri_fault(text: str) -> str:
    """Why a text that stands for a path can't be one; empty if it can."""
    found = _URI.fullmatch(text)
    if found is None:
        return ""
    if found[1].lower() == "file":
        return f"{text} is a URI, and a path is expected: {found[2] or '/'}"
    return (
        f"{text} is a URI, and remote file systems are not read here: mount it, sync it to a folder of this machine, "
        "or have versions dropped there as archives (N.tar.gz)"
    )
