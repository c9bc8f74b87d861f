"""One engine in a batcher's use: where it runs, what it costs, and when it is stuck."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edge_runtime.engine.engine import Engine
from edge_runtime.scheduling.cost import CostTable
from edge_runtime.scheduling.fairness import Share
from edge_runtime.scheduling.gate import Gate

if TYPE_CHECKING:
    from edge_runtime.scheduling.queue import Entry

STALLED_FACTOR = 2.0
STALLED_MARGIN_S = 0.002
"""A run is stalled when it has taken so many times what it should, and so much more: runs of a device are even, and
what delays them by less is over before anything could be done about it."""

ANY_WORKER = -1
"""The holder of a slot that a caller left to a worker, with its permits."""


class Slot:
    """A place in which one request or batch runs at a time. Its state is the batcher's, under the batcher's lock.

    Several slots may share an engine that takes several callers (`Engine.slots`): then each is one of them.

    Attributes:
        engine: What runs.
        gate: The device's permits; slots of one gate are slots of one device.
        costs: What a run takes; slots of the same kind may share a table.
        rank: Only the slots of the lowest rank that has any are used; the others stand by.
        solo: Whether it is for a request that has the device to itself, and not for the queue.
        left: Whether a caller leaves a run when its deadline has passed, as one that may hang: then a worker makes it.
        permits: Of the gate: all of them for a solo slot, whose threads fill the device; else 1.
        share: The version's share of the gate; set by the batcher.
        busy: Whether it is taken. With it go its permits, but while a worker waits for them.
        holder: The thread that has it, or is about to; 0 for none, `ANY_WORKER` for the worker that comes next.
        given: The request of the sleeping caller that has it, until that caller is awake.
        rows: What runs on it.
        started_s: When its run began; infinite where none is under way, or one that nothing is predicted of.
        usable: Whether it belongs to a batcher and its engine is not lost.
        lease_until_s: When the lease of the caller that has it ends; minus infinity without one.
        uses: How often callers came back for it: see `leases`.
    """

    __slots__ = (
        "busy",
        "costs",
        "engine",
        "gate",
        "given",
        "holder",
        "lease_until_s",
        "left",
        "limit_factor",
        "limit_min_s",
        "permits",
        "rank",
        "rows",
        "share",
        "solo",
        "started_s",
        "usable",
        "uses",
    )

    def __init__(  # noqa: PLR0917  usually by name
        self,
        engine: Engine,
        gate: Gate,
        costs: CostTable,
        rank: int = 0,
        solo: bool = False,  # noqa: FBT001, FBT002  as the other four, usually by name
        limit_factor: float = 10.0,
        limit_min_s: float = 1.0,
        *,
        left: bool = False,
    ) -> None:
        """Takes an engine that is ready, and the factors of `limit_s`."""
        self.engine = engine
        self.gate = gate
        self.costs = costs
        self.rank = rank
        self.solo = solo
        self.limit_factor = limit_factor
        self.limit_min_s = limit_min_s
        self.left = left
        self.permits = gate.capacity if solo else 1
        self.share: Share = gate.join()
        self.busy = False
        self.holder = 0
        self.given: Entry | None = None
        self.rows = 0
        self.started_s = math.inf
        self.usable = False
        self.lease_until_s = -math.inf
        self.uses = 0

    def __repr__(self) -> str:
        state = ("busy" if self.busy else "idle") if self.usable else "out of use"
        solo = " solo" if self.solo else ""
        return f"<Slot{solo} rank {self.rank} {state}, {self.engine.place}, {self.costs!r}>"

    def stalled_s(self, now_s: float) -> float:
        """Seconds that a run under way has taken, where it is stalled; 0 where it is not."""
        age_s = now_s - self.started_s
        if age_s <= STALLED_MARGIN_S or not self.rows:
            return 0.0
        return age_s if age_s > self.costs.seconds(self.rows) * STALLED_FACTOR + STALLED_MARGIN_S else 0.0

    def limit_s(self, rows: int) -> float:
        """Seconds after which a run of these rows is stuck."""
        limit_s = self.limit_factor * self.costs.seconds(rows)
        return max(self.limit_min_s, limit_s)
