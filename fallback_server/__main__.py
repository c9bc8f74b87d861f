"""`python -m fallback_server` is `fallback-server`."""

import sys

from fallback_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
