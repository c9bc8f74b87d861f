import re

import pytest

from converter.report_html.style import DARK, GRAPHIC_PAIRS, LIGHT, TEXT_PAIRS, sheet


def luminance(colour):
    """Relative luminance of `#rrggbb`, WCAG 2.2."""
    values = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in values]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("pairs", "least"), [(TEXT_PAIRS, 4.5), (GRAPHIC_PAIRS, 3.0)], ids=["text", "graphics"])
def test_colours_are_told_apart(palette, pairs, least):
    """WCAG AA: 4.5 to 1 for text, 3 to 1 for marks and bars."""
    low = {pair: contrast(palette[pair[0]], palette[pair[1]]) for pair in pairs}
    assert {pair: round(ratio, 2) for pair, ratio in low.items() if ratio < least} == {}


def test_both_palettes_name_the_same_colours():
    """And the sheet uses no other."""
    assert set(LIGHT) == set(DARK)
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", sheet())) <= set(LIGHT)


def test_the_sheet_follows_the_reader_and_the_paper():
    """Dark where it is preferred, light when printed, and braces that match."""
    text = sheet()
    assert "prefers-color-scheme:dark" in text
    assert text.count("@media print") == 2
    assert text.count("{") == text.count("}")
