"""What `edge-convert --help` says beside its flags."""

DESCRIPTION = """\
Turns a TensorFlow model into a package: TFLite variants, each run and measured against the original before it counts,
the best one chosen within an accuracy budget, with labels, preprocessing and digests.

  edge-convert SAVED_MODEL ...     convert (so does: edge-convert convert SAVED_MODEL ...)
  edge-convert inspect PACKAGE     what is in a package
  edge-convert verify PACKAGE      whether it is whole, and every variant runs
  edge-convert compare A B         two packages, or a SavedModel and a package, on the same data
  edge-convert wrap MODEL.tflite   an existing TFLite file (and its Edge TPU form) becomes a package
  edge-convert keygen KEY          a key that signs packages, and KEY.pub for the devices that demand it
  edge-convert sign PACKAGE        signs a package that is there
"""

EPILOG = """\
examples:
  edge-convert saved_model/1 --name digits --version 1 --output packages/ \\
      --calibration train.npz --evaluation test.npz --labels labels.txt --preprocess preprocess.toml \\
      --target raspberry-pi-5 --target coral-usb --max-accuracy-drop 0.5 --report
  edge-convert model.keras --custom-objects my_layers:OBJECTS --name n --version 1 --output packages/
  edge-convert --config convert.toml --version 4 --json
  edge-convert saved_model/1 --name digits --version 1 --output packages/     (no data: int8 is refused)
  edge-convert ./inspect --name odd --version 1 --output packages/            (a directory called `inspect`)

data, for --calibration and --evaluation:
  train.npz          numpy.savez: one array for each input, by its name in the signature, one entry along the first
                     axis for each sample; `labels`, one integer class a sample. The arrays are what the model itself
                     takes: they are not preprocessed again.
  photos/            a directory of images, one subfolder a class; --preprocess says how each becomes an input
  train.tfrecord     tf.Example records: features by input name, and `label` or `labels`
  my_data:samples    a function in a module that yields dicts: {"image": array, "labels": 3}

preprocess.toml, what a device does to raw values, and a conversion to images:
  [inputs.image]
  decode = "image"                 # JPEG, PNG, ...; or "wav"
  resize = [224, 224]
  method = "bilinear"
  scale = 0.00392156862745098      # (raw * scale - mean) / std
  mean = [0.485, 0.456, 0.406]
  std = [0.229, 0.224, 0.225]

metrics, for --metric OUTPUT=METRIC (else chosen from what the output is):
  top1, topk:5       class scores: accuracy on labels, or agreement with the original
  agreement          class scores: agreement with the original, whatever the labels are
  recall@0.5         maps: precision and recall of the cells above the threshold
  rmse, sqnr, cosine regressions, embeddings
  iou                masks
  my_metrics:score   a function (original, variant, labels or None) -> float, higher is better

convert.toml, for --config: the flags' names as keys, flags win; paths are relative to the file
  saved_model = "saved_model/1"
  name = "digits"
  target = ["raspberry-pi-5", "coral-usb"]
  max_accuracy_drop = 0.5
  [metric]
  scores = "topk:5"

exit codes:
  0 done    2 bad input    3 nothing fits the budget    4 no variant could be made, or (verify) one does not run
  5 done (a package that was made is published), but stdout could not take the result
  130, 143, 129 ended by Ctrl-C, SIGTERM, SIGHUP
"""

PACKAGE_COMMANDS = {
    "inspect": (
        "Shows what is in a package, after checking its digests.",
        (
            "example:\n  edge-run bench packages/digits/1 --json > pi5.json      (on the device)\n"
            "  edge-convert inspect packages/digits/1 --bench pi5.json"
        ),
    ),
    "verify": (
        (
            "Checks a package's digests and runs each variant once. Exit code 0: all is well; 2: damaged, files that "
            "the manifest does not list, not signed by --key, or no package; 4: a variant does not run, or is not what "
            "the manifest says."
        ),
        "example:\n  edge-convert verify packages/digits-1.tar.gz",
    ),
    "compare": (
        "Runs two packages, or a SavedModel and a package, on the same data and shows what B gives differently from A.",
        (
            "examples:\n  edge-convert compare packages/digits/1 packages/digits/2 --evaluation test.npz\n"
            "  edge-convert compare saved_model/1 packages/digits/1 --evaluation test.npz --json"
        ),
    ),
    "wrap": (
        "Makes a package of a TFLite file that is already there, and of its form for the Edge TPU.",
        "example:\n  edge-convert wrap model.tflite model_edgetpu.tflite --name bird --version 1 --labels labels.txt",
    ),
    "keygen": (
        (
            "Makes an Ed25519 key: KEY, which signs packages and which its owner alone may read, and KEY.pub, which "
            "devices are told to trust (edge-run trust add). Never overwrites one."
        ),
        "example:\n  edge-convert keygen plant-4.pem",
    ),
    "sign": (
        (
            "Writes manifest.sig beside a package's manifest, after checking its digests: a signature over all of it. "
            "Of a version in a folder of packages the archive beside it is signed too. An earlier signature gives way."
        ),
        (
            "examples:\n  edge-convert sign packages/digits/1 --key plant-4.pem\n"
            "  edge-convert sign digits-1.tar.gz --key plant-4.pem"
        ),
    ),
}
"""By command: its description and its epilog."""
