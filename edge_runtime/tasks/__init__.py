"""What a reply means: classes, objects and masks, in the terms of pycoral's adapters.

from edge_runtime.tasks import classify, detect, segment

for found in classify(model.predict(image), top_k=3, labels=model.labels):
    print(found.label, found.score)

Only numpy is needed. Every function takes a `Reply`, its outputs by name, or one array, and looks at one row (image) of
it. What an output means is said by its name and by options; nothing is guessed from sizes.
"""

from edge_runtime.tasks.bbox import BBox
from edge_runtime.tasks.classes import Class, classify
from edge_runtime.tasks.detection import Object, detect
from edge_runtime.tasks.forms import Boxes, Postprocessed, Ssd, Yolo
from edge_runtime.tasks.labels import read_labels
from edge_runtime.tasks.masks import resize_mask, segment
from edge_runtime.tasks.nms import nms

__all__ = [
    "BBox",
    "Boxes",
    "Class",
    "Object",
    "Postprocessed",
    "Ssd",
    "Yolo",
    "classify",
    "detect",
    "nms",
    "read_labels",
    "resize_mask",
    "segment",
]
