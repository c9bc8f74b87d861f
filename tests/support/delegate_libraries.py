"""Real delegate libraries that do what broken ones do, built with the system's C compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

# The declarations say no more than a delegate's ABI: its first two fields, then what this test leaves empty.
SOURCE = r"""
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct delegate {
  void *data;
  int (*prepare)(void *context, struct delegate *self);
  void *callbacks[3];
  int64_t flags;
  void *opaque;
};

static int prepare(void *context, struct delegate *self) {
#ifdef ABORT_IN_PREPARE
  abort();
#endif
#ifdef REFUSE_THE_MODEL
  return 1;
#endif
  return 0;
}

#ifndef NO_DELEGATE
struct delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
#ifdef SEGFAULT
  raise(SIGSEGV);
#endif
#ifdef EXIT
  _exit(3);
#endif
#ifdef HANG
  fprintf(stderr, "waiting for the device\n");
  for (;;) pause();
#endif
#ifdef REFUSE
  return NULL;
#endif
  printf("a library that prints, without a newline");
  struct delegate *made = calloc(1, sizeof *made);
  made->prepare = prepare;
  return made;
}

void tflite_plugin_destroy_delegate(struct delegate *made) { free(made); }
#endif
"""

COMPILER = shutil.which("cc") or shutil.which("gcc")


def build(folder: Path, *behaviour: str, name: str = "libedgetpu.so.1") -> str:
    """Compiles the library and returns its path.

    Args:
        folder: Where to put it.
        behaviour: What it does wrong: SEGFAULT, EXIT, HANG or REFUSE when it is loaded, ABORT_IN_PREPARE or
            REFUSE_THE_MODEL when it is given a model, NO_DELEGATE for a library of another kind; nothing for one that
            works and claims no operator.
        name: The file's name.
    """
    assert COMPILER, "ask COMPILER first"
    source = folder / "delegate.c"
    source.write_text(SOURCE)
    library = folder / name
    command = [COMPILER, "-shared", "-fPIC", *(f"-D{word}" for word in behaviour), "-o", str(library), str(source)]
    subprocess.run(command, check=True)
    return str(library)
