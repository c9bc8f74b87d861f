"""The samples on which a variant is furthest off."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

from converter.findings import WorstSample
from converter.report_html.markup import Markup, tag

MAX_SAMPLES = 10

MAX_PICTURE_BYTES = 2**18
"""A thumbnail has some kilobytes; what is larger is left out, so that the report stays one that opens."""

_PNG = b"\x89PNG\r\n\x1a\n"


def cards(output: str, worst: Sequence[WorstSample], thumbnails: Mapping[tuple[str, int], bytes]) -> Markup:
    """One for each sample, the worst first."""
    shown = worst[:MAX_SAMPLES]
    return tag("ul", *(_card(one, thumbnails.get((output, one.sample))) for one in shown), class_="samples")


def _card(one: WorstSample, picture: bytes | None) -> Markup:
    rows = (("sample", str(one.sample)), ("original", one.original), ("variant", one.variant))
    said = [item for term, text in rows for item in (tag("dt", term), tag("dd", text))]
    said += [tag("dt", "error"), tag("dd", f"{one.error:.3g}")]
    return tag("li", _image(one.sample, picture), tag("dl", *said))


def _image(sample: int, picture: bytes | None) -> Markup | None:
    if picture is None or not picture.startswith(_PNG) or len(picture) > MAX_PICTURE_BYTES:
        return None
    source = Markup(f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}")
    return tag("img", src=source, alt=f"Sample {sample} of the evaluation data")
