"""Folders that another process removes just before they are looked into."""

import multiprocessing
import shutil
import sys
from pathlib import Path


def while_folders_vanish(root, look):
    """Calls `look` in a child in which each folder below `root` is gone when it is listed; the child's exit code."""
    process = multiprocessing.get_context("fork").Process(target=_look, args=(Path(root), look))
    process.start()
    process.join()
    return process.exitcode


def _look(root, look):
    removing = False

    def hook(event, arguments):
        nonlocal removing
        if event not in ("os.scandir", "os.listdir") or removing:
            return
        if root in Path(str(arguments[0])).parents:
            removing = True
            shutil.rmtree(arguments[0], ignore_errors=True)
            removing = False

    sys.addaudithook(hook)
    look()
