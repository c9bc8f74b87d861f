"""The samples on which a variant is furthest off."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence

from converter.findings import WorstSample
from converter.report_html.classes import label_text
from converter.report_html.markup import Markup, tag

MAX_SAMPLES = 10

MAX_PICTURE_BYTES = 2**18
"""A thumbnail has some kilobytes; what is larger is left out, so that the report stays one that opens."""

_PNG = b"\x89PNG\r\n\x1a\n"


_CLASS = re.compile(r"class (\d{1,9})(?= \()")
"""How the answer of a classifier begins."""


def cards(
    output: str, worst: Sequence[WorstSample], thumbnails: Mapping[tuple[str, int], bytes], labels: Sequence[str] = ()
) -> Markup:
    """One for each sample, the worst first; classes by their names where there are any."""
    shown = worst[:MAX_SAMPLES]
    return tag("ul", *(_card(one, thumbnails.get((output, one.sample)), labels) for one in shown), class_="samples")


def _card(one: WorstSample, picture: bytes | None, labels: Sequence[str]) -> Markup:
    answers = (
        _CLASS.sub(lambda found: label_text(int(found[1]), labels), said, 1) for said in (one.original, one.variant)
    )
    rows = zip(("sample", "original", "variant"), (str(one.sample), *answers), strict=True)
    said = [item for term, text in rows for item in (tag("dt", term), tag("dd", text))]
    said += [tag("dt", "error"), tag("dd", f"{one.error:.3g}")]
    return tag("li", _image(one.sample, picture), tag("dl", *said))


def _image(sample: int, picture: bytes | None) -> Markup | None:
    if picture is None or not picture.startswith(_PNG) or len(picture) > MAX_PICTURE_BYTES:
        return None
    source = Markup(f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}")
    return tag("img", src=source, alt=f"Sample {sample} of the evaluation data")
