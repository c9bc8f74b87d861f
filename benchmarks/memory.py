"""What a runtime with one model needs of memory, beside bare LiteRT with the same model.

    python benchmarks/memory.py

Fresh processes in turn: one runs the file with LiteRT's interpreter alone, one opens it with `Runtime` and predicts.
Each answers a few times, and reads its resident set then. The median difference counts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

# Not this folder, where a benchmark has the name of the package `converter`.
FOLDER = str(Path(__file__).parent)
sys.path[0] = str(Path(__file__).parents[1])
sys.path.append(FOLDER)
from real_models import model_file  # noqa: E402

TARGET_ADDED_MIB = 25.0

RSS = """
def rss_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024
"""

BARE = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
given, = interpreter.get_input_details()
found = interpreter.get_output_details()
for _ in range(5):
    interpreter.set_tensor(given["index"], np.zeros(given["shape"], given["dtype"]))
    interpreter.invoke()
    outputs = [interpreter.get_tensor(one["index"]) for one in found]
print(rss_mib())
"""

OURS = """
import sys
import numpy as np
from edge_runtime import Runtime
with Runtime.open(sys.argv[1], threads=1, delegates=["cpu"], cache=None) as runtime:
    model = runtime.model()
    given, = model.signature.inputs
    for _ in range(5):
        model.predict(np.zeros([max(size, 1) for size in given.shape], given.numpy_dtype))
    print(rss_mib())
"""


def resident_mib(program: str, model: Path) -> float:
    """What a fresh process that runs the program says of itself, in MiB."""
    command = [sys.executable, "-c", RSS + program, str(model)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(done.stdout)


def main() -> None:
    """Prints the figures beside their target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of processes (default 7)")
    arguments = parser.parse_args()
    print(f"{'':20}{'bare':>10}{'runtime':>10}{'added':>10}   MiB resident, median of {arguments.rounds} pairs")
    for name in ("digits-cnn", "mobilenet-v2-int8", "mobilenet-v2"):
        path = model_file(name)
        pairs = [(resident_mib(BARE, path), resident_mib(OURS, path)) for _ in range(arguments.rounds)]
        bare, ours = (statistics.median(one) for one in zip(*pairs, strict=True))
        added = statistics.median(two - one for one, two in pairs)
        print(f"{name:20}{bare:10.1f}{ours:10.1f}{added:10.1f}   (target: at most {TARGET_ADDED_MIB:.0f} added)")


if __name__ == "__main__":
    main()
