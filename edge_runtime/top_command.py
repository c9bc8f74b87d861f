"""`edge-run top`: a running application as it works, once a second."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edge_runtime.errors import InvalidConfig

if TYPE_CHECKING:
    from edge_runtime.screen_text import Line
    from edge_runtime.snapshot import Look, Snapshot
    from edge_runtime.terminal import Paper, Terminal

METRICS_VARIABLE = "EDGE_METRICS"
"""The environment variable with the address of commands that are given none."""

_ABOUT = """Shows what an application does whose runtime was opened with metrics: models and their queues, who answered
and why, servers with their breakers, engines, errors, heat. Rates and percentiles are of the last five seconds.

keys: q ends, up and down (k and j), left and right (h and l) scroll, space halts the picture
A terminal that can't be drawn on (TERM is dumb or empty) is written a picture after the other.
exit codes: 0 done; 1 no runtime answers there; 2 bad input
"""

_SHORTEST_S, _LONGEST_S = 0.1, 60.0

_PROMPT_S = 0.2
"""So long an answer is waited for without a look at the keys: nobody notices, and most take less."""

_KEY_S = 0.05
"""From one look at the keys to the next while an answer is late."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    top = commands.add_parser(
        "top",
        help="what a running application does now: models, queues, places, servers, heat",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(
        "where",
        nargs="?",
        metavar="HOST:PORT|FILE.toml",
        help="the address of the runtime's metrics, or the file that it is opened with "
        f"(default: ${METRICS_VARIABLE}, else 127.0.0.1:9101)",
    )
    top.add_argument("--once", action="store_true", help="one look, as plain text (also where the output is a file)")
    top.add_argument("--json", action="store_true", help="one look, as JSON")
    top.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks (default: 1)")
    top.set_defaults(run=top_command)


def top_command(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code.

    Raises:
        InvalidConfig: no address, or an interval out of bounds.
        NoSnapshot: nobody answers there. Once somebody has, it is shown instead, and asked again.
    """
    from edge_runtime import snapshot  # noqa: PLC0415  loads numpy, which --help has no need of

    if not _SHORTEST_S <= arguments.interval <= _LONGEST_S:
        raise InvalidConfig(f"--interval: from {_SHORTEST_S} to {_LONGEST_S:.0f} seconds, got {arguments.interval}")
    address = address_of(arguments.where)
    first = snapshot.fetch(address)
    if arguments.json:
        # In ASCII: a model's name may be of any letters, and be meant for the terminal.
        sys.stdout.write(f"{json.dumps(json.loads(snapshot.encode(first)))}\n")
        return 0
    if arguments.once or not sys.stdout.isatty():
        sys.stdout.write("".join(f"{text}\n" for text in once(first, address, sys.stdout)))
        return 0
    from edge_runtime.screen_text import can_draw  # noqa: PLC0415  likewise
    from edge_runtime.terminal import Paper, taken  # noqa: PLC0415  likewise

    try:
        if not can_draw():
            paper = Paper(sys.stdin if sys.stdin.isatty() else None, sys.stdout)
            Show(address, paper, first, interval_s=arguments.interval).run()
            return 0
        with taken(sys.stdin, sys.stdout) as terminal:
            Show(address, terminal, first, interval_s=arguments.interval).run()
    except KeyboardInterrupt:
        return 0  # Ctrl-C is how one leaves.
    return 0


def address_of(where: str | None) -> str:
    """The address that is meant: as given, of a runtime's file, of the environment, or the usual one.

    Raises:
        InvalidConfig: it is no address, or the file has none.
    """
    from edge_runtime.metrics import is_address  # noqa: PLC0415  likewise
    from edge_runtime.snapshot import DEFAULT_ADDRESS  # noqa: PLC0415  likewise

    if where is not None and where.endswith(".toml"):
        from edge_runtime.config import read_options  # noqa: PLC0415  likewise

        options = read_options(Path(where), {})
        if options.metrics is None:
            raise InvalidConfig(f'{where}: the runtime gives nothing out; add metrics = "{DEFAULT_ADDRESS}"')
        return options.metrics
    address = where or os.environ.get(METRICS_VARIABLE) or DEFAULT_ADDRESS
    if not is_address(address):
        raise InvalidConfig(f"'host:port' or a runtime's .toml is expected, got {address!r}")
    return address


def once(snapshot: Snapshot, address: str, out: TextIO) -> list[str]:
    """The lines of one look: counts since the start, as there is nothing to take a rate from."""
    from edge_runtime.screen_text import prepared, shown  # noqa: PLC0415  likewise
    from edge_runtime.top_view import view  # noqa: PLC0415  likewise

    found = view([snapshot], address, blocks=False)
    colours = prepared(out)
    return [shown(one, None, colours=colours) for one in (*found.head, *found.body)]


class Show:
    """The live picture: looks, draws, and heeds the keys until one ends it.

    Args:
        address: `host:port`.
        terminal: Drawn on; one without a size is written on.
        first: What was seen already.
        interval_s: Between two looks.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        address: str,
        terminal: Terminal | Paper,
        first: Snapshot,
        *,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from edge_runtime.screen_text import prepared  # noqa: PLC0415  likewise
        from edge_runtime.top_view import KEPT  # noqa: PLC0415  likewise

        self._address = address
        self._terminal = terminal
        self._interval_s = interval_s
        self._clock = clock
        self._history: deque[Snapshot] = deque([first], maxlen=KEPT)
        self._seen_s = clock()
        self._silence = ""
        self._halted = False
        self._scrolled = 0
        self._begin = 0
        self._colours = prepared(sys.stdout)
        self._blocks = _has_blocks(sys.stdout)

    def run(self) -> None:
        """Until `q`."""
        while True:
            self.draw()
            next_s = self._clock() + self._interval_s
            while (left_s := next_s - self._clock()) > 0:
                key = self._terminal.key(left_s)
                if key in ("q", "Q"):
                    return
                if key:
                    self.heed(key)
                    self.draw()
            if not self._halted and not self.look():
                return

    def look(self) -> bool:
        """Asks the runtime; where it does not answer, what was seen last stays, and the last line says so.

        Keys are heeded as long as the answer takes; whether none of them was `q`.
        """
        from edge_runtime.snapshot import LIMIT_S, Look  # noqa: PLC0415  loaded already

        with Look(self._address) as look:
            end_s = time.monotonic() + LIMIT_S
            late = not look.wait(_PROMPT_S)
            while late and time.monotonic() < end_s and not look.wait(0.0):
                key = self._terminal.key(_KEY_S)
                if key in ("q", "Q"):
                    return False
                if key:
                    self.heed(key)
                    self.draw()
            self._take(look)
        return True

    def _take(self, look: Look) -> None:
        from edge_runtime.snapshot import NoSnapshot  # noqa: PLC0415  likewise

        try:
            self._history.append(look.result())
        except NoSnapshot as error:
            self._silence = str(error)
        else:
            self._silence, self._seen_s = "", self._clock()

    def heed(self, key: str) -> None:
        """What a key does."""
        columns, lines = self._terminal.size or (0, 0)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -lines // 2, "page down": lines // 2}
        aside = max(columns // 2, 1)
        if key == " ":
            self._halted = not self._halted
        elif key in ("home", "g"):
            self._scrolled = self._begin = 0
        elif key in ("left", "h", "right", "l"):
            self._begin = max(self._begin + (aside if key in ("right", "l") else -aside), 0)
        else:
            self._scrolled = max(self._scrolled + steps.get(key, 0), 0)

    def draw(self) -> None:
        """Shows what is known."""
        from edge_runtime.screen_text import shown, width  # noqa: PLC0415  likewise
        from edge_runtime.top_view import view  # noqa: PLC0415  likewise

        head, body = view(tuple(self._history), self._address, blocks=self._blocks)
        if self._terminal.size is None:
            told = [*head, *body, *([self._foot(0)] if self._silence else [])]
            self._terminal.draw([shown(one, None, colours=self._colours) for one in told])
            return
        columns, lines = self._terminal.size
        room = max(lines - len(head) - 1, 0)
        self._scrolled = min(self._scrolled, max(len(body) - room, 0))
        below = len(body) - self._scrolled - room
        window = body[self._scrolled : self._scrolled + room]
        window += [()] * (room - len(window))
        beside = max(max(map(width, (*head, *body))) - columns, 0)
        self._begin = min(self._begin, beside)
        drawn = [shown(one, columns, colours=self._colours, begin=self._begin) for one in (*head, *window)]
        drawn.append(shown(self._foot(max(below, 0), aside=beside > 0), columns, colours=self._colours))
        self._terminal.draw(drawn[-lines:])

    def _foot(self, below: int, *, aside: bool = False) -> Line:
        from edge_runtime.screen_text import line  # noqa: PLC0415  likewise

        if self._silence:
            ago_s = self._clock() - self._seen_s
            return line((f"no answer for {ago_s:.0f} s, asking on: {self._silence}", "bad"))
        said = ["q quit", "space " + ("go on" if self._halted else "halt")]
        if aside:
            said.append("left, right")
        if self._scrolled or below:
            said.append(f"up, down: {below} more lines" if below else "up, down")
        return line(("   ".join(said), "dim"), ("   halted" if self._halted else "", "fair"))


def _has_blocks(out: TextIO) -> bool:
    try:
        "\N{FULL BLOCK}".encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
