"""A module whose import lasts until a file `.go` is there, beside the one that says it has begun."""

import os
import time
from pathlib import Path

BEGUN = Path(os.environ["LONG_IMPORT"])
BEGUN.with_suffix(".part").write_text(str(os.getpid()))
BEGUN.with_suffix(".part").rename(BEGUN)
while not BEGUN.with_suffix(".go").exists():
    time.sleep(0.01)
