"""The command `edge-convert`: what must hold before anything heavy is imported. What it does is in `commands`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from converter.endings import Endings

_STDERR = 2
"""Its descriptor."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code. Results go to stdout, progress and errors to stderr."""
    _open_standard_streams()
    with Endings() as endings:
        from converter import commands  # noqa: PLC0415  half a second, in which Ctrl-C may come already

        try:
            endings.unwind()
            code = commands.run(list(sys.argv[1:] if argv is None else argv))
        except Exception:
            # Whatever went wrong while it unwound (a terminal that is gone) is not what ended it.
            if endings.received is None:
                raise
            code = endings.exit_code
        except KeyboardInterrupt:
            code = endings.exit_code or commands.EXIT_INTERRUPTED
        # What is done when the signal comes is done.
        return (endings.exit_code or code) if code else code


def _open_standard_streams() -> None:
    """Whoever started this may have closed them; the next file or socket that is opened would be taken for them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  for as long as the program lasts


if __name__ == "__main__":
    sys.exit(main())
