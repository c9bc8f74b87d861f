"""How the report looks: two palettes, and the style sheet that uses them.

Blue and vermilion are the pair that Okabe and Ito's colour-blind safe palette tells apart best; nothing is said by
colour alone.
"""

from __future__ import annotations

LIGHT = {
    "page": "#fafaf8",
    "surface": "#ffffff",
    "text": "#1b1f24",
    "muted": "#565e67",
    "line": "#dcdfe2",
    "mark": "#0a5fa8",
    "warn": "#a83b00",
    "soft": "#e8f1fa",
    "warn-soft": "#fcede4",
    "blue-1": "#e3eefa",
    "blue-2": "#bcd7f1",
    "blue-3": "#8fbbe4",
    "blue-4": "#0a5fa8",
    "red-1": "#fcebe1",
    "red-2": "#f8cfb5",
    "red-3": "#f0a97c",
    "red-4": "#a83b00",
    "on-strong": "#ffffff",
}

DARK = {
    "page": "#14171a",
    "surface": "#1b1f23",
    "text": "#e7e9eb",
    "muted": "#a3abb3",
    "line": "#363c43",
    "mark": "#6db3f2",
    "warn": "#f5a36b",
    "soft": "#1a2c3d",
    "warn-soft": "#3a2414",
    "blue-1": "#16283a",
    "blue-2": "#1a3d5e",
    "blue-3": "#205484",
    "blue-4": "#6db3f2",
    "red-1": "#38230f",
    "red-2": "#573314",
    "red-3": "#7a4519",
    "red-4": "#f5a36b",
    "on-strong": "#14171a",
}

TEXT_PAIRS = (
    *((text, ground) for text in ("text", "muted") for ground in ("page", "surface", "soft", "warn-soft")),
    *((text, ground) for text in ("mark", "warn") for ground in ("page", "surface")),
    ("mark", "soft"),
    ("warn", "soft"),
    ("warn", "warn-soft"),
    *(("text", f"{hue}-{step}") for hue in ("blue", "red") for step in (1, 2, 3)),
    ("on-strong", "blue-4"),
    ("on-strong", "red-4"),
)
"""Every colour of text with every ground that it stands on: at least 4.5 to 1 (WCAG 2.2, 1.4.3)."""

GRAPHIC_PAIRS = (("mark", "surface"), ("warn", "surface"), ("muted", "surface"), ("mark", "soft"), ("warn", "soft"))
"""Marks and bars with their grounds: at least 3 to 1 (WCAG 2.2, 1.4.11)."""


def _variables(palette: dict[str, str]) -> str:
    return ":root{" + "".join(f"--{name}:{value};" for name, value in palette.items()) + "}"


_RULES = """
*{box-sizing:border-box}
html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:72rem;padding:2.5rem 1.5rem 4rem;background:var(--page);color:var(--text);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Noto Sans","Liberation Sans",
sans-serif;overflow-wrap:anywhere}
h1{font-size:clamp(1.35rem,1.05rem + 1.6vw,2.1rem);line-height:1.22;font-weight:650;letter-spacing:-.015em;margin:0;
max-width:54rem}
.whole{white-space:nowrap}
h2{font-size:1.3rem;line-height:1.3;font-weight:650;letter-spacing:-.01em;margin:0 0 .35rem}
h3{font-size:1.02rem;font-weight:650;margin:1.75rem 0 .5rem}
p{margin:.4rem 0;max-width:46rem}
a{color:var(--mark)}
code,.name{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:.92em}
th .name{font-weight:500}
section{margin-top:3.25rem;padding-top:1.5rem;border-top:1px solid var(--line)}
.byline,.muted,figcaption,.caption{color:var(--muted)}
.byline{margin-top:.75rem}
.warn{color:var(--warn)}
.refused h1::before{content:"";display:block;width:3.5rem;height:.3rem;background:var(--warn);margin-bottom:1rem}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1.25rem;margin:1.5rem 0 0;padding:0;font-size:.92rem}
nav a{text-decoration:none;display:inline-block;padding:.3rem 0}
nav a:hover{text-decoration:underline}
dl.key{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:1px;margin:1.75rem 0 0;
background:var(--line);border:1px solid var(--line);border-radius:.5rem;overflow:hidden}
dl.key div{background:var(--surface);padding:.85rem 1rem}
dl.key dt{font-size:.8rem;color:var(--muted)}
dl.key dd{margin:0;font-size:1.55rem;line-height:1.25;font-weight:600;font-variant-numeric:tabular-nums;
letter-spacing:-.01em}
dl.key dd.sub{font-size:.83rem;line-height:1.4;font-weight:400;color:var(--muted);letter-spacing:0;margin-top:.15rem}
.scroll{overflow-x:auto;margin:1rem 0;background:var(--surface);border:1px solid var(--line);border-radius:.5rem}
.scroll:focus-visible,a:focus-visible{outline:2px solid var(--mark);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.9rem;line-height:1.4;font-variant-numeric:tabular-nums}
.caption{font-size:.9rem;max-width:52rem;margin:.4rem 0 0}
.scroll{margin-top:.7rem}
th,td{text-align:left;vertical-align:top;padding:.5rem .9rem;border-top:1px solid var(--line)}
thead th{font-weight:600;font-size:.8rem;color:var(--muted);vertical-align:bottom;border-top:0}
thead tr+tr th{padding-top:0}
tbody th{font-weight:600;min-width:9rem}
thead th{overflow-wrap:break-word}
td.words{min-width:10rem}
.n{text-align:right}
td.n,td.code{white-space:nowrap}
tr.chosen>*{background:var(--soft)}
.tag{display:inline-block;font-size:.76rem;font-weight:600;line-height:1.35;padding:.08rem .45rem;border-radius:.25rem;
border:1px solid currentColor;color:var(--mark);white-space:normal}
.tag.warn{color:var(--warn)}
.tags{display:flex;flex-wrap:wrap;gap:.2rem;margin-top:.25rem}
td small,th small{font-size:.82em;color:var(--muted);font-weight:400;display:block}
td.over,td.over small{color:var(--warn)}
.bar{display:block;height:.7rem;background:var(--line);border-radius:.15rem;overflow:hidden}
.measure{display:grid;grid-template-columns:4rem minmax(6rem,1fr);gap:.75rem;align-items:center;text-align:right}
table.dense th,table.dense td{padding:.26rem .9rem}
table.dense tbody th{min-width:14rem}
.fill{display:block;height:100%;background:var(--mark)}
.fill.warn{background:var(--warn)}
.meter{display:grid;grid-template-columns:minmax(9rem,16rem) 1fr;gap:.25rem 1rem;align-items:center;max-width:46rem;
margin:.75rem 0;font-size:.92rem}
figure{margin:1rem 0 0}
figcaption{font-size:.87rem;max-width:46rem;margin-top:.6rem}
.plot{background:var(--surface);border:1px solid var(--line);border-radius:.5rem;padding:.75rem}
.plot>div>svg{display:block;width:100%;height:auto}
svg text{fill:var(--text);font-size:12px}
svg .quiet{fill:var(--muted)}
svg .strong{font-weight:650}
svg .grid{stroke:var(--line)}
svg .axis,svg .leader{stroke:var(--muted)}
svg .budget{stroke:var(--warn);stroke-width:1.5;stroke-dasharray:6 4}
svg .warn-text{fill:var(--warn)}
svg .dot{stroke:var(--mark);stroke-width:2;fill:var(--surface);fill-opacity:.65}
svg .dot.front{fill:var(--mark);fill-opacity:.38}
svg .ring{stroke:var(--warn);stroke-width:2;fill:none}
svg .core{fill:var(--mark)}
.narrow{display:none}
ul.legend{list-style:none;display:flex;flex-wrap:wrap;align-items:center;gap:.3rem 1.4rem;margin:.6rem 0 0;
padding:0;font-size:.85rem;color:var(--muted)}
ul.legend svg{vertical-align:middle;margin-right:.45rem}
ol.map{list-style:none;margin:1rem 0;padding:0;display:flex;flex-wrap:wrap;gap:3px;font-size:.68rem;line-height:1.2}
ol.map li{padding:.28rem .4rem;border-radius:.2rem;border:1px solid var(--mark);background:var(--blue-1)}
ol.map li.cpu{border:1px dashed var(--warn);background:var(--red-1)}
ol.map li.first{border:2px solid var(--warn);font-weight:700}
ol.map li.more{border-color:transparent;background:none;color:var(--muted)}
.heat td,.heat th{padding:.3rem .4rem;text-align:center}
.heat td{white-space:nowrap}
.heat tbody th{text-align:left;min-width:6rem}
.heat thead th{min-width:2.4rem}
.heat thead span{display:inline-block;writing-mode:vertical-rl;transform:rotate(180deg);max-height:9rem;overflow:hidden;
white-space:nowrap;text-align:left}
.b1{background:var(--blue-1)}.b2{background:var(--blue-2)}.b3{background:var(--blue-3)}
.b4{background:var(--blue-4);color:var(--on-strong)}
.r1{background:var(--red-1)}.r2{background:var(--red-2)}.r3{background:var(--red-3)}
.r4{background:var(--red-4);color:var(--on-strong)}
ul.samples{list-style:none;display:grid;grid-template-columns:repeat(auto-fill,minmax(12.5rem,1fr));gap:.75rem;
margin:1rem 0;padding:0}
ul.samples li{display:flex;gap:.8rem;background:var(--surface);border:1px solid var(--line);border-radius:.5rem;
padding:.75rem;font-size:.85rem;line-height:1.4;min-width:0}
ul.samples img{width:72px;height:72px;object-fit:contain;image-rendering:pixelated;flex:none;border-radius:.2rem;
background:var(--line)}
ul.samples dl{margin:0;min-width:0}
ul.samples dt{color:var(--muted);font-size:.92em}
ul.samples dd{margin:0 0 .25rem}
dl.terms{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.3rem 1.25rem;font-size:.9rem;
max-width:52rem;margin:.75rem 0}
dl.terms dt{font-weight:600}
dl.terms dd{margin:0;color:var(--muted)}
ul.notes{padding-left:1.2rem;max-width:46rem}
ul.notes li{margin:.3rem 0}
@media (max-width:40rem){body{padding:1.5rem 1rem 3rem}.wide{display:none}.narrow{display:block}
th,td{padding:.45rem .6rem}section{margin-top:2.25rem;padding-top:1.25rem}.meter{grid-template-columns:1fr}
dl.key{grid-template-columns:1fr 1fr}dl.key dd{font-size:1.25rem}dl.terms{grid-template-columns:1fr;gap:0}
dl.terms dd{margin-bottom:.5rem}ul.samples{grid-template-columns:1fr}}
@media print{body{max-width:none;padding:0;font-size:10pt}nav{display:none}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}.scroll{overflow:visible}
section{margin-top:1.5rem}tr,li,figure,.plot{break-inside:avoid}h2,h3{break-after:avoid}@page{margin:16mm}}
"""


def sheet() -> str:
    """The style sheet: light, dark where the reader prefers it, and light again on paper."""
    dark = f"@media (prefers-color-scheme:dark){{{_variables(DARK)}}}"
    return f"{_variables(LIGHT)}{dark}@media print{{{_variables(LIGHT)}}}{_RULES}"
