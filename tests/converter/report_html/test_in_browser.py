"""The report in a real browser: what no look at the markup can tell."""

import functools

import pytest
from support import browser, report_results

from converter.report_html import render

pytestmark = pytest.mark.slow

PROBE = r"""
const numbers = text => (text.match(/[\d.]+/g) || []).map(Number);
const shown = element => element.getClientRects().length > 0;
function ground(element) {
  for (let one = element; one; one = one.parentElement) {
    const [r, g, b, a = 1] = numbers(window.getComputedStyle(one).backgroundColor);
    if (a > 0.99) return [r, g, b];
  }
  return [255, 255, 255];
}
const linear = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}
const faint = [];
const walker = document.createTreeWalker(document.body, window.NodeFilter.SHOW_TEXT);
let texts = 0;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
  if (!text || !shown(element) || element.closest("title")) continue;
  texts += 1;
  const style = window.getComputedStyle(element);
  const colour = numbers(element.closest("svg") ? style.fill : style.color).slice(0, 3);
  const ratio = contrast(colour, ground(element));
  if (ratio < 4.5) faint.push([text.slice(0, 40), Number(ratio.toFixed(2))]);
}
const boxes = [...document.querySelectorAll("svg text")].filter(shown)
  .map(one => [one.textContent, one.getBoundingClientRect()]);
const overlapping = [];
boxes.forEach(([name, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
  if (a.left < b.right - 0.5 && b.left < a.right - 0.5 && a.top < b.bottom - 2 && b.top < a.bottom - 2)
    overlapping.push([name, other]);
}));
const frames = [...document.querySelectorAll(".plot svg")].filter(shown).map(one => one.getBoundingClientRect());
const cut = boxes.filter(([, box]) => frames.every(frame => box.left < frame.left - 1 || box.right > frame.right + 1))
  .map(([name]) => name);
const root = document.documentElement;
const wide = [...document.body.querySelectorAll("*")].filter(shown)
  .filter(one => !one.closest(".scroll, svg") && one.getBoundingClientRect().right > root.clientWidth + 1)
  .map(one => one.tagName + " " + one.textContent.slice(0, 30));
const reachable = [...document.querySelectorAll(".scroll")].every(one => one.tabIndex === 0);
return {
  texts, faint, overlapping, cut, wide, reachable, labels: boxes.length,
  scroll: [root.scrollWidth, root.clientWidth],
  page: window.getComputedStyle(document.body).backgroundColor,
  active: document.querySelectorAll("script, iframe, object, embed, link, [onerror], [onload]").length,
  pictures: [...document.images].filter(one => one.naturalWidth > 0).length,
};
"""


@functools.cache
def page(kind):
    result, findings = getattr(report_results, kind)()
    labels = [report_results.HOSTILE] * 10 if kind == "hostile" else report_results.LABELS
    thumbnails = {("scores", 17 + 31 * index): report_results.picture(index) for index in range(10)}
    return render(result, findings, labels=labels, thumbnails=thumbnails, tools={"tensorflow": "2.21.0"})


@functools.cache
def found(kind, width, dark):
    return browser.probe(page(kind), PROBE, width, dark=dark)


VIEWS = [
    ("good", 1280, False),
    ("good", 360, True),
    ("nothing_fits", 360, False),
    ("hostile", 360, False),
    ("hostile", 1280, True),
]


@pytest.mark.parametrize(("kind", "width", "dark"), VIEWS)
def test_the_page_never_scrolls_sideways(kind, width, dark):
    """Down to 360 px, and whatever names a model has: wide tables scroll inside their boxes."""
    seen = found(kind, width, dark)
    assert seen["scroll"][1] == width
    assert seen["scroll"][0] <= width
    assert seen["wide"] == []
    assert seen["reachable"]


@pytest.mark.parametrize(("kind", "width", "dark"), VIEWS)
def test_every_text_can_be_read(kind, width, dark):
    """WCAG AA: each text that is shown has a contrast of 4.5 to 1 or more with what is behind it."""
    seen = found(kind, width, dark)
    assert seen["texts"] > 50
    assert seen["faint"] == []


@pytest.mark.parametrize(("kind", "width", "dark"), VIEWS)
def test_the_labels_of_the_plot_do_not_touch(kind, width, dark):
    """No text of the drawing lies over another, or is cut off."""
    seen = found(kind, width, dark)
    assert seen["labels"] > 8
    assert seen["overlapping"] == []
    assert seen["cut"] == []


def test_the_reader_chooses_light_or_dark():
    """The page follows what the reader prefers, without a script."""
    assert found("good", 1280, False)["page"] == "rgb(250, 250, 248)"
    assert found("good", 360, True)["page"] == "rgb(20, 23, 26)"


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_nothing_of_a_hostile_model_becomes_alive(width, dark):
    """Names that are markup stay text."""
    assert found("hostile", width, dark)["active"] == 0


def test_the_thumbnails_are_shown():
    """Each worst sample has its picture, out of the file itself."""
    assert found("good", 1280, False)["pictures"] == 10


def test_a_picture_can_be_taken():
    """The page draws something that is not one colour; the picture is as wide as was asked."""
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(browser.screenshot(page("good"), 800)))
    assert picture.size[0] == 800
    assert len(picture.convert("RGB").getcolors(1 << 20) or [0] * 50) > 20
