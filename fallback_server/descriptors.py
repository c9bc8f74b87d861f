"""How many files and sockets the process may have open: each connection is one."""

from __future__ import annotations

import contextlib
import resource

MAX_DESCRIPTORS = 2**16
"""Some systems set no bound worth the name, and programs that are started from here may walk through all numbers."""

_REST_SHARE = 2
"""Of the descriptors every second one at most is a REST connection: gRPC and the models' processes need theirs."""

_MAX_REST_CONNECTIONS = 4096

_MAX_GRPC_CONNECTIONS = 16384
"""An idle one takes 15 KB."""


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


def rest_connections() -> int:
    """How many of them may be connections of REST."""
    return min(_MAX_REST_CONNECTIONS, descriptor_limit() // _REST_SHARE)


def grpc_connections() -> int:
    """How many of them may be connections of gRPC: three quarters of what REST leaves. The rest is for models."""
    return min(_MAX_GRPC_CONNECTIONS, (descriptor_limit() - rest_connections()) * 3 // 4)
