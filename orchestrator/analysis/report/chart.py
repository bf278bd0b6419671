"""The lines of a report as an SVG chart: per line a dot with its 95 % CI, and the published value."""

import math
from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

from orchestrator.analysis.report.html import element
from orchestrator.analysis.report.table import ReportLine
from orchestrator.analysis.report.terminal import write_interval, write_miou, write_short

Scale = Callable[[float], float]
"""Value -> x."""

_LABELS, _PLOT, _VALUES = 320, 560, 120
_ROW, _TOP, _BOTTOM = 24, 8, 34


def draw_chart(lines: Sequence[ReportLine]) -> Element:
    """One line for each scored line; bars are 95 % CIs, thin lines ± the standard deviation over seeds."""
    shown = [line for line in lines if line.miou is not None]
    low, high = _find_range(shown)
    width, height = _LABELS + _PLOT + _VALUES, _TOP + _ROW * len(shown) + _BOTTOM

    def scale(value: float) -> float:
        return _LABELS + (value - low) / (high - low) * _PLOT

    parts = _draw_axis(low, high, height, scale)
    for i, line in enumerate(shown):
        parts += _draw_line(line, _TOP + _ROW * i + _ROW / 2, scale)
    label = "mIoU of each line with its 95 % CI"
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", class_="chart", role="img", aria_label=label)


def _find_range(lines: Sequence[ReportLine]) -> tuple[float, float]:
    """Whole tenths around all that is drawn."""
    values = [v for line in lines for v in (line.miou, line.reported, *(line.ci95 or ())) if v is not None and math.isfinite(v)]
    low, high = math.floor(min(values, default=0) * 10) / 10, math.ceil(max(values, default=1) * 10) / 10
    return low, max(high, low + 0.1)


def _draw_axis(low: float, high: float, height: float, scale: Scale) -> list[Element]:
    parts = []
    bottom = height - _BOTTOM
    for tenth in range(round(low * 10), round(high * 10) + 1):
        x = scale(tenth / 10)
        parts.append(element("line", x1=x, x2=x, y1=float(_TOP), y2=bottom, class_="grid"))
        parts.append(element("text", f"{tenth / 10:.1f}", x=x, y=bottom + 18, class_="tick"))
    return parts


def _draw_line(line: ReportLine, y: float, scale: Scale) -> list[Element]:
    assert line.miou is not None, "only scored lines are drawn"
    kind = "ensemble" if line.is_ensemble else "best" if line.rank == 1 else "tied" if line.is_tied else "trial"
    title = f"{line.row}  {_shorten(line.title)}" if line.row else _shorten(line.title)
    parts = [element("text", title, x=float(_LABELS - 12), y=y + 4, class_=f"name {kind}")]
    if line.ci95 is not None and all(map(math.isfinite, line.ci95)):
        x1, x2 = map(scale, line.ci95)
        parts.append(element("line", x1=x1, x2=x2, y1=y, y2=y, class_=f"interval {kind}"))
    if line.spread is not None:
        x1, x2 = scale(line.miou - line.spread), scale(line.miou + line.spread)
        parts.append(element("line", x1=x1, x2=x2, y1=y, y2=y, class_=f"spread {kind}"))
    if line.reported is not None:
        x = scale(line.reported)
        diamond = f"M{x - 5:.1f} {y:g}L{x:.1f} {y - 5:g}L{x + 5:.1f} {y:g}L{x:.1f} {y + 5:g}Z"
        parts.append(element("path", element("title", f"reported {write_short(line.reported)}"), d=diamond, class_="reported"))
    tip = f"{line.title}: {write_miou(line)} ({write_interval(line.ci95)})"
    parts.append(element("circle", element("title", tip), cx=scale(line.miou), cy=y, r=4.5, class_=f"dot {kind}"))
    parts.append(element("text", write_miou(line), x=float(_LABELS + _PLOT + 24), y=y + 4, class_=f"figure {kind}"))
    return parts


def _shorten(text: str, length: int = 44) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
