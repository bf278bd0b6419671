"""Elements of HTML and SVG as text, and the page's style sheet: light, dark, print."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element, tostring

Child = Element | str


def element(tag: str, *children: Child, **attributes: str | float | None) -> Element:
    """An element with attributes and, in order, texts and elements inside.

    ``class_`` becomes ``class``, other underscores hyphens; an attribute that is None is left out.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_").replace("_", "-"), f"{value:g}" if isinstance(value, float) else str(value))
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif last is None:
            made.text = (made.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return made


def make_rows(titles: Sequence[str], rows: Sequence[Sequence[str]], *, wrapped: Sequence[str] = ()) -> Element:
    """A table of texts. wrapped: titles of columns that may be broken into lines."""
    head = element("tr", *(element("th", title) for title in titles))
    classes = [None if title in wrapped else "nowrap" for title in titles]
    body = (
        element("tr", *(element("td", cell, class_=class_) for class_, cell in zip(classes, row, strict=True))) for row in rows
    )
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="scroll")


def write_html(root: Element) -> str:
    """The document as text. Style sheets must not hold ``<``: they are written as they are."""
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


STYLE = """
:root {
  --ink: #1d2329; --soft: #5d6873; --faint: #e3e7eb; --paper: #ffffff; --card: #f6f8fa;
  --trial: #3b6ea5; --tied: #3b6ea5; --best: #b4431f; --ensemble: #21806a; --reported: #8a6d1f; --heat: 59, 110, 165;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e6e9ec; --soft: #9aa5b1; --faint: #323a43; --paper: #14181c; --card: #1c2228;
    --trial: #7fb0e3; --tied: #7fb0e3; --best: #f08a5d; --ensemble: #5fc7ab; --reported: #d9b954; --heat: 127, 176, 227;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 40px 32px 64px; max-width: 1480px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 19px; margin: 44px 0 12px; }
p { max-width: 78ch; }
.soft { color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: 14px; margin: 24px 0 8px; }
.card { background: var(--card); border-radius: 8px; padding: 14px 18px; min-width: 190px; flex: 1; }
.card b { display: block; font-size: 26px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.card span { display: block; color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 2px solid var(--faint); padding: 6px 7px;
     vertical-align: bottom; }
td { border-bottom: 1px solid var(--faint); padding: 5px 7px; vertical-align: top; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.figure { font-weight: 600; }
td.text { overflow-wrap: anywhere; min-width: 105px; }
td.nowrap { white-space: nowrap; }
tr.best td { background: var(--card); }
tr.best td.figure, tr.best td.title { color: var(--best); }
tr.ensemble td.title, tr.ensemble td.figure { color: var(--ensemble); }
td.title { font-weight: 600; min-width: 165px; }
tr td.iou, tr.best td.iou { background: rgba(var(--heat), var(--share)); }
.reported, td.reported { color: var(--reported); }
ul.notes { color: var(--soft); font-size: 13.5px; padding-left: 18px; max-width: 90ch; }
svg.chart { width: 100%; max-width: 1100px; height: auto; font: 12.5px system-ui, -apple-system, "Segoe UI", sans-serif; }
svg .grid { stroke: var(--faint); }
svg .tick { fill: var(--soft); text-anchor: middle; }
svg .name { fill: var(--ink); text-anchor: end; }
svg .figure { fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .interval { stroke-width: 7; stroke-opacity: 0.28; stroke-linecap: round; }
svg .spread { stroke-width: 2; }
svg .trial, svg .tied { stroke: var(--trial); }
svg .best { stroke: var(--best); }
svg .ensemble { stroke: var(--ensemble); }
svg text { stroke: none !important; }
svg text.name.best, svg text.figure.best { fill: var(--best); font-weight: 600; }
svg text.name.ensemble, svg text.figure.ensemble { fill: var(--ensemble); }
svg circle.trial { fill: var(--paper); stroke-width: 2; }
svg circle.tied { fill: var(--tied); }
svg circle.best { fill: var(--best); }
svg circle.ensemble { fill: var(--ensemble); }
svg path.reported { fill: none; stroke: var(--reported); stroke-width: 1.6; }
.key { display: flex; flex-wrap: wrap; gap: 6px 20px; font-size: 13px; color: var(--soft); margin: 0 0 10px; }
.key i { display: inline-block; width: 12px; height: 12px; border-radius: 50%; margin-right: 6px; vertical-align: -1px; }
.key i.best { background: var(--best); }
.key i.tied { background: var(--tied); }
.key i.ensemble { background: var(--ensemble); }
.key i.square { border-radius: 2px; }
.key i.open { background: none; border: 2px solid var(--trial); }
.key i.diamond { border-radius: 0; transform: rotate(45deg) scale(0.75); border: 2px solid var(--reported); }
img { max-width: 100%; border-radius: 6px; image-rendering: pixelated; }
@media print { body { padding: 0; max-width: none; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
"""
