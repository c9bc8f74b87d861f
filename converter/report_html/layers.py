"""What quantizing each operator costs, as bars."""

from __future__ import annotations

from collections.abc import Sequence

from converter.findings import LayerError
from converter.report_html.markup import Markup, join, measured, scrolling, tag

MAX_LAYERS = 40


def section(variant: str, layers: Sequence[LayerError]) -> Markup:
    """A table, the worst first, of at most `MAX_LAYERS` operators."""
    shown = layers[:MAX_LAYERS]
    kept = sum(one.kept_float for one in layers)
    head = tag(
        "thead",
        tag(
            "tr",
            tag("th", "layer", scope="col"),
            tag("th", "operator", scope="col"),
            tag("th", "relative error of its output", scope="col"),
            tag("th", "SQNR", scope="col", class_="n"),
            tag("th", "RMSE, steps", scope="col", class_="n"),
        ),
    )
    left = f" {len(layers) - len(shown)} more with smaller errors are not shown." if layers[MAX_LAYERS:] else ""
    mixed = f" {kept} of {len(layers)} are left in float, and marked." if kept else ""
    caption = f"{variant}: {len(layers)} operators, the worst first.{mixed}{left}"
    rows = [_row(one, max(map(relative_error, shown))) for one in shown]
    return join(
        (
            scrolling(
                f"Error of each layer of {variant}", tag("table", head, tag("tbody", *rows), class_="dense"), caption
            ),
            tag(
                "p",
                "Each operator is quantized by itself, with all before it in float, and compared with float: the "
                "error is of its inputs' ranges, its weights and its output's range. The relative error is the root "
                "mean square of the difference over that of the output, averaged over the channels. An RMSE of 0.29 "
                "quantization steps is the rounding of the output alone.",
                class_="muted",
            ),
        )
    )


def relative_error(layer: LayerError) -> float:
    """RMS of the error over RMS of the output: 10^(-SQNR/20)."""
    return float(10.0 ** (-layer.sqnr_db / 20.0))


def short_name(name: str) -> str:
    """The first of the names that the converter joins by semicolons where it fuses layers."""
    first, semicolon, _ = name.partition(";")
    return f"{first}…" if semicolon else first


def _row(layer: LayerError, largest: float) -> Markup:
    error = relative_error(layer)
    mark = [tag("div", tag("span", "kept in float", class_="tag warn"), class_="tags")] if layer.kept_float else []
    text = f"{error:.2%}" if error < 10 else f"{error:.3g}x"
    share = error / largest if largest > 0 else 0.0
    return tag(
        "tr",
        tag("th", tag("span", short_name(layer.name), class_="name", title=layer.name), *mark, scope="row"),
        tag("td", layer.operator, class_="code"),
        tag("td", measured(text, share, kind="warn" if layer.kept_float else "")),
        tag("td", f"{layer.sqnr_db:.1f} dB", class_="n"),
        tag("td", f"{layer.rmse_per_scale:.2f}", class_="n"),
    )
