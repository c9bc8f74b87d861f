"""What a measured conversion costs over plain TFLiteConverter calls, and what the mixed search gains.

(a) wall time and (c) peak memory of `edge-convert` for three variants (float32, dynamic, int8), measured on real
inputs, against the same three TFLiteConverter calls in one process: bounds 1.3 and 1.3. Both sides are whole programs,
started one after the other, with TensorFlow's import in them; memory is the proportional set size of the program and
all its children, sampled every 50 ms, so that pages shared by forks count once.

(b) a depthwise net with outlier channels, trained so that plain int8 loses over 5 points: the mixed search's variant
is to be within 0.5 point of float at no more than half of float's size.

(d) a net with skip connections in int8: error against float32, with ranges read from a run that keeps tensors apart,
and with plain TFLiteConverter.

Run: python benchmarks/converter.py [--part a|b|d] [--rounds N] [--samples N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
# Not this folder first: there this file would be the package `converter`.
sys.path[0] = str(ROOT)
sys.path += [str(ROOT / "tests"), str(ROOT / "benchmarks")]
import outlier_net  # noqa: E402
from support import lowerings, residual_net  # noqa: E402

from converter.isolation import ForkServer  # noqa: E402
from converter.quantize import lower  # noqa: E402
from converter.recipes import recipe  # noqa: E402

SAMPLE_EVERY_S = 0.05

LIMIT_S = 120.0

EXPORT = """
import sys, keras
keras.utils.set_random_seed(0)
keras.applications.MobileNetV2(weights=None, classes=100).export(sys.argv[1], verbose=False)
"""

PLAIN = """
import sys
import numpy as np
import tensorflow as tf
model, samples, folder = sys.argv[1:]
data = np.load(samples)
name = next(iter(data.files))
def make(optimize, full):
    converter = tf.lite.TFLiteConverter.from_saved_model(model)
    if optimize:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if full:
        converter.representative_dataset = lambda: ({name: sample[None]} for sample in data[name])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()
for index, (optimize, full) in enumerate([(False, False), (True, False), (True, True)]):
    with open(f"{folder}/{index}.tflite", "wb") as file:
        file.write(make(optimize, full))
"""


def timed(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak MiB of a program and its children."""
    with tempfile.TemporaryFile() as log:
        start_s, peak = time.monotonic(), 0
        process = psutil.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        while process.poll() is None:
            peak = max(peak, pss(process))
            time.sleep(SAMPLE_EVERY_S)
        wall_s = time.monotonic() - start_s
        if process.returncode:
            log.seek(0)
            sys.exit(f"{command[:4]} ended with {process.returncode}:\n{log.read().decode(errors='replace')[-2000:]}")
    return wall_s, peak / 2**20


def pss(process: psutil.Process) -> int:
    total = 0
    try:
        every = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for one in every:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def cost(rounds: int, samples: int, folder: Path) -> None:
    """Parts (a) and (c)."""
    model = folder / "mobilenet_v2"
    subprocess.run([sys.executable, "-c", EXPORT, str(model)], check=True, capture_output=True)
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", INPUT, str(model)], check=True, capture_output=True, text=True
        ).stdout.splitlines()[-1]
    )
    random = np.random.default_rng(0)
    data = folder / "samples.npz"
    np.savez(data, **{found: random.uniform(-1, 1, size=(samples, 224, 224, 3)).astype(np.float32)})
    rows: dict[str, list[tuple[float, float]]] = {"plain": [], "edge-convert": []}
    for round_ in range(rounds):
        out = folder / f"out{round_}"
        out.mkdir()
        rows["plain"].append(timed([sys.executable, "-c", PLAIN, str(model), str(data), str(out)]))
        command = [sys.executable, "-m", "converter.cli", str(model), "--name", "mobilenet", "--version", "1"]
        command += ["--output", str(out / "packages"), "--calibration", str(data), "--evaluation", str(data)]
        command += [word for name in ("float32", "dynamic", "int8") for word in ("--variant", name)]
        rows["edge-convert"].append(timed(command))
        shutil.rmtree(out)
    print(f"MobileNetV2, three variants, {samples} samples, {rounds} rounds (median)")
    for name, figures in rows.items():
        wall_s, peak_mib = (statistics.median(column) for column in zip(*figures, strict=True))
        print(f"  {name:13} {wall_s:6.1f} s   peak {peak_mib:7.0f} MiB")
    walls = [ours[0] / plain[0] for plain, ours in zip(rows["plain"], rows["edge-convert"], strict=True)]
    peaks = [ours[1] / plain[1] for plain, ours in zip(rows["plain"], rows["edge-convert"], strict=True)]
    print(f"  (a) wall time ratio   {statistics.median(walls):.2f}  (bound 1.3; {spread(walls)})")
    print(f"  (c) peak memory ratio {statistics.median(peaks):.2f}  (bound 1.3; {spread(peaks)})")


INPUT = """
import sys
from tensorflow.core.protobuf import saved_model_pb2
model = saved_model_pb2.SavedModel()
model.ParseFromString(open(sys.argv[1] + "/saved_model.pb", "rb").read())
print('"%s"' % next(iter(model.meta_graphs[0].signature_def["serving_default"].inputs)))
"""


def spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def search(folder: Path) -> None:
    """Part (b)."""
    data = fashion()
    build = [sys.executable, "-c", BUILD, str(Path(__file__).parent), str(folder), str(data)]
    subprocess.run(build, check=True, capture_output=True)
    command = [sys.executable, "-m", "converter.cli", str(folder / "saved_model"), "--name", "outliers"]
    command += ["--version", "1", "--output", str(folder / "packages"), "--max-accuracy-drop", "0.5"]
    command += ["--calibration", str(folder / "train.npz"), "--evaluation", str(folder / "test.npz"), "--json"]
    start_s = time.monotonic()
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout)
    wall_s = time.monotonic() - start_s
    variants = {one["name"]: one for one in result["variants"] if one["status"] == "ok"}
    accuracy = {name: 100 * one["metrics"]["scores"]["accuracy"] for name, one in variants.items()}
    original = 100 * result["source_metrics"]["scores"]["accuracy"]
    print(f"Fashion-MNIST net with outlier channels, {result['evaluation_samples']} test images, {wall_s:.0f} s in all")
    for name, one in variants.items():
        share = one["size_bytes"] / variants["float32"]["size_bytes"]
        print(f"  {name:13} {accuracy[name]:6.2f} %  {one['size_bytes'] / 1e3:7.1f} kB  {share:5.2f} of float32")
    print(f"  (b) plain int8 loses {original - accuracy['int8']:.2f} points (the net is made to lose over 5)")
    if "mixed" not in variants:
        sys.exit("no mixed variant was made")
    size = variants["mixed"]["size_bytes"] / variants["float32"]["size_bytes"]
    print(
        f"      mixed loses {original - accuracy['mixed']:.2f} points (bound 0.5) at {size:.2f} of float32 (bound 0.5)"
    )
    print(f"      chosen: {result['chosen']}")


BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import outlier_net
outlier_net.build(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def residual(folder: Path) -> None:
    """Part (d)."""
    folder.mkdir()
    with ForkServer(("tensorflow",)) as server:
        server.run(residual_net.build, LIMIT_S, folder / "model")
        task = lowerings.task(folder / "model", recipe("int8-float-io"), folder)
        server.run(lower, LIMIT_S, task)
        data = task.calibration.files["image"]
        server.run(lowerings.plain_conversion, LIMIT_S, folder / "model", folder / "plain", "int8-float-io", data)
        inputs = {"image": np.load(data)}
        files = {"float32": task.float_file, "plain": folder / "plain", "edge-convert": task.file}
        answers = {name: server.run(lowerings.answers, LIMIT_S, file, "scores", inputs) for name, file in files.items()}
    error = {name: float(np.sqrt(np.square(found - answers["float32"]).mean())) for name, found in answers.items()}
    spread_ = float(answers["float32"].std())
    print(f"residual net, int8 with float inputs and outputs, {len(inputs['image'])} samples, spread {spread_:.1f}")
    for name in ("plain", "edge-convert"):
        print(f"  {name:13} RMSE {error[name]:6.2f}")
    print(f"  (d) error ratio {error['edge-convert'] / error['plain']:.2f}")


def fashion() -> Path:
    """Where Fashion-MNIST lies; `requirements/test-data.sh` puts it there."""
    places = [os.environ.get("EDGE_FASHION_MNIST", ""), str(ROOT / ".venv/share/fashion-mnist"), str(outlier_net.DATA)]
    for place in places:
        if place and (Path(place) / "train-images-idx3-ubyte.gz").is_file():
            return Path(place)
    sys.exit("Fashion-MNIST is not here: run requirements/test-data.sh, or apt install dataset-fashion-mnist")


def main() -> None:
    """Both parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("a", "b", "d"), help="only this; (c) comes with (a)")
    parser.add_argument("--rounds", type=int, default=3, help="of part (a)")
    parser.add_argument("--samples", type=int, default=64, help="of part (a), for calibration and evaluation each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.part in (None, "a"):
            cost(arguments.rounds, arguments.samples, Path(folder))
        if arguments.part in (None, "b"):
            search(Path(folder) / "outliers")
        if arguments.part in (None, "d"):
            residual(Path(folder) / "residual")


if __name__ == "__main__":
    main()
