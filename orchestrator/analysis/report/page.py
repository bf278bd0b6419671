"""The report as one self-contained HTML file: no network, no script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from orchestrator.analysis.report.chart import draw_chart
from orchestrator.analysis.report.ensemble_section import Chosen, draw_chosen
from orchestrator.analysis.report.html import STYLE, element, make_rows, write_html
from orchestrator.analysis.report.table import ReportLine, ReportTable
from orchestrator.analysis.report.terminal import (
    explain,
    write_gain,
    write_interval,
    write_miou,
    write_rank,
    write_short,
)

_STEEPEST = 0.55  # of a cell's colour: the text on it stays readable


def write_page(table: ReportTable, picture: SamplePicture | None, chosen: Chosen | None = None) -> str:
    """The whole page as text. chosen: the ensemble that ``best-ensemble`` chose last."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{table.sweep} – orchestrate"),
        element("style", STYLE),
    )
    parts = [element("h1", table.sweep), element("p", _summarize(table), class_="soft"), _draw_cards(table)]
    if any(line.miou is not None for line in table.lines):
        parts += [element("h2", "mIoU and 95 % CIs"), _draw_key(table), draw_chart(table.lines)]
    parts += [element("h2", "Table"), element("div", _draw_table(table), class_="scroll")]
    parts += [element("ul", *(element("li", note) for note in explain(table)), class_="notes")]
    if any(line.is_ensemble for line in table.lines):
        parts += [element("h2", "Ensembles"), _draw_ensembles(table)]
    if chosen is not None:
        parts += draw_chosen(chosen)
    if picture is not None and table.best is not None:
        parts += _draw_picture(table.best, picture)
    failures = [failure for line in table.lines for failure in line.failures]
    if failures:
        parts += [element("h2", "Not included"), make_rows(("trial", "reason"), failures, wrapped=("trial", "reason"))]
    return write_html(element("html", head, element("body", *parts), lang="en"))


def _summarize(table: ReportTable) -> str:
    singles = [line for line in table.lines if not line.is_ensemble]
    num_trials = sum(len(line.seeds) for line in singles)
    num_failed = sum(len(line.failures) for line in singles)
    num_ensembles = len(table.lines) - len(singles)
    parts = [f"{len(singles)} configurations", f"{num_trials} finished trainings"]
    parts += [f"{num_failed} not included"] * bool(num_failed) + [f"{num_ensembles} ensembles"] * bool(num_ensembles)
    return ", ".join(parts)


def _draw_cards(table: ReportTable) -> Element:
    cards: list[Element] = []
    if (best := table.best) is not None:
        cards.append(_draw_card("best single configuration", write_miou(best), best))
        num_tied = sum(line.is_tied for line in table.lines) - 1
        cards.append(_draw_card("tied with it", str(num_tied), None))
    if (ensemble := table.best_ensemble) is not None:
        cards.append(_draw_card("best ensemble", write_miou(ensemble), ensemble))
        if ensemble.gain is not None:
            cards.append(_draw_card("gain over its best member", write_short(ensemble.gain.value, signed=True), None))
    return element("div", *cards, class_="cards")


def _draw_card(what: str, value: str, line: ReportLine | None) -> Element:
    below = [] if line is None else [element("span", _name(line)), element("span", f"95 %: {write_interval(line.ci95) or '–'}")]
    return element("div", element("span", what), element("b", value), *below, class_="card")


def _draw_key(table: ReportTable) -> Element:
    lines = table.lines
    kinds = (
        ("best single configuration", "best", any(line.rank == 1 for line in lines)),
        ("tied with it", "tied", any(line.is_tied and line.rank != 1 for line in lines)),
        ("others", "open", any(line.rank is not None and not line.is_tied for line in lines)),
        ("ensemble", "ensemble", any(line.is_ensemble for line in lines)),
        ("reported", "diamond", any(line.reported is not None for line in lines)),
    )
    shown = [element("span", element("i", class_=kind), name) for name, kind, is_here in kinds if is_here]
    bars = "bar: 95 % CI" + ("; thin line: ± standard deviation over seeds" if any(line.spread for line in lines) else "")
    return element("div", *shown, bars, class_="key")


def _draw_table(table: ReportTable) -> Element:
    lines = table.lines
    columns = [
        ("row", any(line.row is not None for line in lines)),
        ("rank", True),
        ("trained", True),
        ("mIoU", True),
        ("95 % CI", True),
        *((name, True) for name in table.class_names),
        ("reported", any(line.reported is not None for line in lines)),
        ("network", True),
        ("augmentation, sampling", any(line.what.augmentation for line in lines)),
        ("training", True),
        ("seeds", any(len(line.seeds) > 1 for line in lines)),
    ]
    numbers = {"row", "rank", "mIoU", "reported", *table.class_names}
    shown = [name for name, is_shown in columns if is_shown]
    heads = [element("th", name, class_="number" if name in numbers else None) for name in shown]
    highest = max((iou for line in lines for iou in line.class_iou.values()), default=1.0) or 1.0
    rows = [_draw_line(line, shown, table.class_names, highest=highest) for line in lines]
    return element("table", element("thead", element("tr", *heads)), element("tbody", *rows))


def _draw_line(line: ReportLine, columns: Sequence[str], class_names: Sequence[str], *, highest: float) -> Element:
    network = f"mean of rows {', '.join(line.members)}" if line.is_ensemble else f"{line.what.arch} {line.what.encoder}"
    cells = {
        "row": element("td", line.row or "", class_="number"),
        "rank": element("td", write_rank(line), class_="number"),
        "trained": element("td", line.name or "+".join(line.members), class_="title"),
        "network": element("td", network, class_="text"),
        "augmentation, sampling": element("td", line.what.augmentation, class_="text"),
        "training": element("td", line.what.training, class_="text"),
        "seeds": element("td", ", ".join(map(str, line.seeds)), class_="nowrap"),
        "mIoU": element("td", write_miou(line), class_="number figure"),
        "95 % CI": element("td", write_interval(line.ci95), class_="nowrap"),
        "reported": element("td", "–" if line.reported is None else write_short(line.reported), class_="number reported"),
    }
    cells |= {name: _draw_iou(line.class_iou.get(name), highest) for name in class_names}
    kind = "ensemble" if line.is_ensemble else "best" if line.rank == 1 else None
    return element("tr", *(cells[name] for name in columns), class_=kind)


def _draw_iou(iou: float | None, highest: float) -> Element:
    if iou is None:
        return element("td", "–", class_="number")
    return element("td", write_short(iou), class_="number iou", style=f"--share: {_STEEPEST * iou / highest:.3f}")


def _draw_ensembles(table: ReportTable) -> Element:
    titles = {line.row: line.title for line in table.lines if line.row is not None}
    rows = []
    for line in table.lines:
        if line.is_ensemble:
            members = "; ".join(f"{row}: {titles[row]}" if row in titles else row for row in line.members)
            numbers = [
                write_miou(line),
                write_interval(line.ci95),
                line.best_member or "",
                "" if line.gain is None else write_gain(line.gain.value, line.gain.ci95),
            ]
            rows.append([_name(line), members, *numbers, _judge(line)])
    columns = ("ensemble", "members", "mIoU", "95 % CI", "best member", "gain over it", "evidence of")
    return make_rows(columns, rows, wrapped=("members", "best member"))


def _judge(line: ReportLine) -> str:
    if line.gain is None:
        return ""
    return "none" if not line.gain.is_significant else "a gain" if line.gain.value > 0 else "a loss"


def _draw_picture(best: ReportLine, picture: SamplePicture) -> list[Element]:
    name = best.best_trial.name if best.best_trial else best.title
    source = "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
    swatches = [element("span", element("i", class_="square", style=f"background: {c}"), n) for n, c in picture.legend]
    if swatches:
        swatches.append(element("span", element("i", class_="square", style="background: #000"), "not scored (in the truth)"))
    return [
        element("h2", "Image, truth and prediction"),
        element("p", f"Validation images of {name}: image, truth, prediction.", class_="soft"),
        element("div", *swatches, class_="key"),
        element("img", src=source, alt=f"image, truth and prediction of {name}"),
    ]


def _name(line: ReportLine) -> str:
    return f"{line.row}: {line.title}" if line.row is not None else line.title


@dataclass(frozen=True)
class SamplePicture:
    """A trial's grid of sample images. png: the file; legend: name and colour, ``#rrggbb``, of each scored class."""

    png: bytes
    legend: tuple[tuple[str, str], ...]
