import base64
import itertools
import re
from html.parser import HTMLParser

import pytest
from support import report_results

from converter.config import Budget
from converter.findings import Findings, LayerError, OutputFindings, VariantFindings
from converter.report_html import render
from converter.report_html.classes import label_text
from converter.report_html.layers import MAX_LAYERS
from converter.result import PackageResult, VariantResult

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser would build: elements that are properly nested, their attributes, and the texts in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", data))

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def body(self):
        return [text for where, text in self.texts if where not in ("title", "style")]


def good(**options):
    result, findings = report_results.good()
    return render(result, findings, labels=report_results.LABELS, **options)


def test_the_decision_is_the_first_line():
    """Size, loss and speed of what was chosen, for whom."""
    heading = good().partition("<h1>")[2].partition("</h1>")[0]
    assert re.sub("<[^>]*>", "", heading) == (
        "int8 for coral-usb and raspberry-pi-5: 3.9x smaller, 0.12 points less accurate, 2.3x faster on this host."
    )
    assert Page(good()).body()[0] == "int8 for "


def test_where_nothing_fits_the_first_line_says_so():
    """And what came closest; the command's own words come first where there are any."""
    result, findings = report_results.nothing_fits()
    assert "".join(Page(render(result, findings)).body()).startswith(
        "No variant is within 0.1 points. int8 came closest: 0.12 points less accurate. Nothing was published."
    )
    told = Page(render(result, findings, refusal="nothing was published: coral: int8 loses 7 points")).body()
    assert told[0] == "Nothing was published: coral: int8 loses 7 points"


@pytest.mark.parametrize("kind", ["good", "nothing_fits", "hostile"])
def test_the_file_stands_alone(kind):
    """Nothing is fetched, nothing is run: no script, no address, no source but data of its own."""
    html = render(*getattr(report_results, kind)(), labels=[report_results.HOSTILE] * 10)
    page = Page(html)
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "input", "use", "image"}
    for name, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")], name
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert "url(" not in attributes.get("style", "")
    style = "".join(text for where, text in page.texts if where == "style")
    assert not re.search(r"url\(|@import|https?:|//", style)
    assert html.count("<script") == 0
    assert "default-src 'none'" in page.of("meta")[1]["content"]


def test_characters_that_change_how_others_are_read_are_replaced():
    """Text direction, control and half characters never reach the file, which is valid UTF-8."""
    html = render(*report_results.hostile(), labels=["\ud800", "\u202eevil", *"abcdefgh"])
    assert not set(html) & set("\u202e\u0000\ud800")
    assert html.encode("utf-8").decode("utf-8") == html


@pytest.mark.parametrize("kind", ["good", "nothing_fits", "hostile"])
def test_the_structure_is_that_of_a_document(kind):
    """One title and language, headings in order, figures and pictures described, links that lead somewhere."""
    page = Page(render(*getattr(report_results, kind)()))
    assert page.of("html") == [{"lang": "en"}]
    assert len(page.of("title")) >= 1
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for attributes in page.of("a")} <= set(ids)
    assert {attributes["aria-labelledby"] for attributes in page.of("section")} <= set(ids)
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in page.of("svg"))
    assert all(one["alt"] for one in page.of("img"))
    assert all(one.get("scope") for one in page.of("th"))
    assert all(one["aria-label"] and one["tabindex"] == "0" for one in page.of("div") if one.get("class") == "scroll")


def test_every_section_is_there_once_there_is_something_to_show():
    """In the order in which people ask."""
    page = Page(good(tools={"tensorflow": "2.21.0"}))
    assert [one["id"] for one in page.of("section")] == [
        *("variants", "trade-off", "layers", "classes", "confusion", "edge-tpu", "gpu", "worst", "notes", "how"),
    ]
    assert "2.21.0" in page.body()


def test_what_is_not_known_has_no_section():
    """A package that was only made, and never measured, gives a short page that says so."""
    variant = VariantResult(name="float32", status="ok", size_bytes=10)
    result = PackageResult(
        package="p/1", name="toy", version=1, chosen={"default": "float32"}, variants=(variant,), notes=("A note.",)
    )
    page = Page(render(result, Findings()))
    assert [one["id"] for one in page.of("section")] == ["variants", "notes", "how"]
    assert page.body()[0] == "float32: 10 B, accuracy not measured."


def test_the_same_result_gives_the_same_bytes():
    """Nothing of when or where it was written is in it."""
    assert good() == good()


def test_latency_is_marked_as_this_hosts():
    """Whose times they are stands in the table's head and above it."""
    text = " ".join(Page(good()).body())
    assert "latency, this host" in text
    assert "on the host that made this report (Intel Xeon 2.2 GHz, x86_64, 2 cores)" in text
    assert "measured on Raspberry Pi 5 Model B Rev 1.0" in text


def test_many_layers_are_cut_and_counted():
    """At most forty bars, and how many are left; those that were kept in float are marked."""
    result, _ = report_results.good()
    layers = tuple(
        LayerError(name=f"layer{i}", operator="CONV_2D", sqnr_db=10.0 + i, rmse_per_scale=1.0, kept_float=i == 2)
        for i in range(100)
    )
    text = " ".join(Page(render(result, Findings(variants={"int8": VariantFindings(layers=layers)}))).body())
    assert "60 more with smaller errors are not shown" in text
    assert "layer39" in text
    assert "layer40" not in text
    assert text.count("kept in float") == 1
    assert MAX_LAYERS == 40


def test_many_classes_are_cut_and_their_confusion_listed():
    """A thousand classes make no table of a million cells."""
    result, findings = report_results.good(labels=200)
    html = render(result, findings)
    assert "160 more are not shown" in html
    assert "The pairs that differ most often" in html
    assert len(html) < 400_000


def test_losses_beyond_the_budget_are_marked():
    """By a word, and not only by colour."""
    assert "over 0.5" in Page(good()).body()
    assert "over 0.5" not in Page(good(budget=Budget(points=50.0))).body()


def test_thumbnails_are_inside_the_file():
    """A worst sample shows the picture that was given for it, and nothing that is no PNG."""
    picture = report_results.picture()
    page = Page(good(thumbnails={("scores", 17): picture, ("scores", 48): b"<svg onload=alert(1)>"}))
    assert [base64.b64decode(one["src"].partition(",")[2]) for one in page.of("img")] == [picture]
    assert "T-shirt (0.47)" in page.body()


def test_findings_without_losses_draw_no_plot():
    """Numeric error on calibration data is no loss that a budget knows."""
    result, findings = report_results.good()
    blind = {
        name: VariantFindings(outputs={"scores": OutputFindings(kind="scores", primary="top1_agreement")})
        for name in findings.variants
    }
    page = Page(render(result, Findings(variants=blind)))
    assert "trade-off" not in [one["id"] for one in page.of("section")]


@pytest.mark.parametrize(("index", "text"), [(0, "cat"), (1, "1"), (2, "2"), (-1, "-1")])
def test_classes_without_a_name_are_numbers(index, text):
    """An empty label is none."""
    assert label_text(index, ("cat", " ")) == text
