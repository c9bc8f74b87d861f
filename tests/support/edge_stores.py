"""Stores that are looked at and changed, and writers that are killed at each of their steps on disk."""

import multiprocessing
import os
import signal
import sys

from converter.artifact import Package
from edge_runtime.installing.first_run import FirstRun
from edge_runtime.installing.inventory import Measured
from edge_runtime.store import labels
from edge_runtime.store.store import Store

STEPS = ("open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.utime", "os.chmod", "shutil.rmtree")
"""What Python tells audit hooks before it touches the disk."""

CRASHING = """
import ctypes
from ai_edge_litert import interpreter
interpreter.Interpreter.__init__ = lambda *_args, **_options: ctypes.string_at(0)
"""
"""A `sitecustomize` for child processes, whose interpreter falls with a segmentation fault."""

HANGING = CRASHING.replace("ctypes.string_at(0)", "__import__('time').sleep(600)")


def state(root):
    """What is seen of a store: whole packages by model and version, labels, and where they pointed before."""
    store = Store(root)
    found = {}
    for model, versions in store.installed().items():
        folder, pointed = store.folder(model), store.labels(model)
        ways = labels.history(folder)
        found[model] = (
            {version: Package.open(folder / str(version)).digest for version in versions},
            pointed,
            {label: labels.trail(ways.get(label, ()), version) for label, version in pointed.items()},
        )
    return found


def leftovers(root):
    """What a writer that was killed has left behind."""
    return sorted(str(path) for name in (".staging-*", "*/.removing-*") for path in root.glob(name))


def fake_trial(package):
    """A first run that took no time, with a file in the place of its profile."""
    profile = package.path.with_name("measured.json")
    profile.write_text('{"of": "' + package.digest + '"}')
    return FirstRun(place="device:cpu", measured=Measured(device="cpu", threads=1, seconds=0.001), profile=profile)


def killed_at(step, root, change):
    """Calls `change` in a child that is killed before the `step`th call that touches the disk; its exit code."""
    process = multiprocessing.get_context("fork").Process(target=_die_while, args=(step, str(root), change))
    process.start()
    process.join()
    return process.exitcode


def _die_while(step, root, change):
    count = 0

    def hook(event, arguments):
        nonlocal count
        if event not in STEPS:
            return
        # Below a folder that is being removed, files are named by the folder's descriptor.
        within = event in ("os.remove", "os.rmdir") and arguments[1] != -1
        if within or root in str(arguments):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    change()
