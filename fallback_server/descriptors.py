"""How many files and sockets the process may have open: each connection is one."""

from __future__ import annotations

import contextlib
import resource

MAX_DESCRIPTORS = 2**16
"""Some systems set no bound worth the name, and programs that are started from here may walk through all numbers."""


def descriptor_limit() -> int:
    """How many the process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> int:
    """Lifts the limit as far as the system allows, but not beyond `MAX_DESCRIPTORS`; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # Where it is not allowed, what there is must do.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()
