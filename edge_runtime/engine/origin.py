"""Which process something was made in: of its threads and connections, a fork inherits nothing that is of use."""

from __future__ import annotations

import os

from edge_runtime.errors import EngineLost


class Origin:
    """The process that its owner was made in. Thread-safe.

    A forked child has copies of the parent's objects: their threads do not run there, their locks may be held for
    ever, and what it sent over their sockets would be answered to whoever reads first.

    Attributes:
        pid: The process's id.
    """

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Origin {self.pid}{'' if self.is_here else ', another process'}>"

    @property
    def is_here(self) -> bool:
        """Whether this process is the one. Takes a tenth of a microsecond."""
        return os.getpid() == self.pid

    def check(self, subject: str) -> None:
        """Refuses what must not be used here; comes before any lock is taken.

        Args:
            subject: What the error calls it.

        Raises:
            EngineLost: this is another process.
        """
        if os.getpid() != self.pid:
            raise EngineLost(f"{subject}: {self.refusal}", "vanished")

    @property
    def refusal(self) -> str:
        """What is said in another process."""
        return f"was opened in another process ({self.pid}): open a Runtime in each process, after the fork"
