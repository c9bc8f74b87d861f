"""A child process that prints and then ends as it is told: `python -m support.printing_child LINES ENDING`."""

import ctypes
import os
import sys
import time

lines, ending = int(sys.argv[1]), sys.argv[2]
for number in range(lines):
    sys.stdout.write(f"line {number} {'x' * 60}\n")
sys.stdout.flush()
if ending == "abort":
    os.write(2, b"the reason why\n")
    os.abort()
if ending == "exit":
    sys.exit(3)
if ending == "grandchild":
    # It holds the pipe open, and prints on.
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(1, 9)
        time.sleep(20)
    os.kill(os.getpid(), 9)
time.sleep(60)
