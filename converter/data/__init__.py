"""Samples for calibration and evaluation: arrays by input name, one entry along the first axis for each sample.

They come from one of four kinds of source:

- `train.npz`: one array for each input, by its name, and maybe `labels`. The values are what the model takes: the
  preprocessing is not applied again.
- `photos/`: a directory of images, one subfolder a class (`photos/cat/1.jpg`); the subfolders in sorted order are the
  classes 0, 1, ..., or, where all of them are class names of the package, the places of those names. Without
  subfolders there are no labels. Each file goes through the package's preprocessing, which has to decode it.
- `train.tfrecord`: tf.Example records, also gzipped; features by input name (numbers are what the model takes, bytes
  go through the preprocessing where that decodes them), and maybe an int64 `label` or `labels`.
- `module:function`: a Python function without arguments that yields a dict for each sample, {input name: array}, and
  maybe an integer `labels`; found in the current directory too. Arrays may have the batch axis, and then several
  samples; bytes and records (dicts) go through the preprocessing where that takes them.

All of them are checked against the signature sample by sample and laid out as `.npy` files, which child processes
map instead of receiving copies: however many samples there are, they are never all in memory.
"""

from converter.data.dataset import LABELS, MAX_BATCH_ROWS, MAX_SAMPLES, Array, Batch, Dataset
from converter.data.loading import check, load
from converter.data.npz import check_npz, load_npz
from converter.data.values import cast

__all__ = [
    "LABELS",
    "MAX_BATCH_ROWS",
    "MAX_SAMPLES",
    "Array",
    "Batch",
    "Dataset",
    "cast",
    "check",
    "check_npz",
    "load",
    "load_npz",
]
