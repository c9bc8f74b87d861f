"""How a graph is loaded into a session, beside others that answer meanwhile."""

from __future__ import annotations

from typing import Any

from fallback_server.executors.heap import touched

CALLERS = -1
"""The calling thread in place of a thread pool, as RunOptions has it."""


class LoadingSession:
    """A session that is being loaded: its runs disturb others as little as they can.

    They stay in the thread that calls: variables are read by whoever loads, not by those who serve. Reading a large
    variable is shared out among threads all the same, which that operation makes itself. Where there are variables, the
    first run is the one that reads them; their memory is touched before.

    Args:
        session: Of TensorFlow.
        variables_bytes: What the variables take.
    """

    def __init__(self, session: Any, *, variables_bytes: int) -> None:
        self._session = session
        self._variables_bytes = variables_bytes

    def run(self, fetches: Any, feed_dict: Any = None) -> Any:
        """As a session's own."""
        from tensorflow.core.protobuf import config_pb2  # noqa: PLC0415  as in saved_model

        options = config_pb2.RunOptions(inter_op_thread_pool=CALLERS)
        size_bytes, self._variables_bytes = self._variables_bytes, 0
        with touched(size_bytes):
            return self._session.run(fetches, feed_dict, options=options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)
