"""`python -m edge_runtime` is `edge-run`."""

import sys

from edge_runtime.cli import main

if __name__ == "__main__":
    sys.exit(main())
