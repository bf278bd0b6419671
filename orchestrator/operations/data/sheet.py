"""Draws images beside their masks, with captions: a contact sheet as PNG or as one HTML file."""

import base64
import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from orchestrator.errors import DataError, SpecError
from orchestrator.state.files import replacing
from trainers.config import VOID
from trainers.data import DataSet
from trainers.pictures import encode_png, join_pictures, make_palette

NUM_COLUMNS = 4
NUM_SHOWN = 120
"""At most so many cells per section."""
MIN_WIDTH, MAX_WIDTH = 192, 384
"""Pixels of one image on the sheet: smaller ones are enlarged by a whole factor, larger ones reduced."""
FONT_SIZE, LINE_HEIGHT = 12, 15
OVERLAY = 0.45
"""Weight of the mask's colours over the image."""

RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class Cell:
    """One image of the data set, and the text below it."""

    index: int
    text: str


@dataclass(frozen=True)
class Section:
    """A finding with its images."""

    title: str
    cells: Sequence[Cell]


def write_sheet(out: Path, data: DataSet, sections: Sequence[Section], *, title: str) -> None:
    """Draw the non-empty sections into ``out``, a .png or .html.

    Raises:
        SpecError: ``out`` has another suffix.
        DataError: it cannot be written.
    """
    writers = {".png": _as_png, ".html": _as_html, ".htm": _as_html}
    if out.suffix.lower() not in writers:
        raise SpecError(f"--out {out}: is of type {out.suffix or 'none'!r}. Allowed: .png, .html.")
    filled = [section for section in sections if section.cells]
    write_file(out, writers[out.suffix.lower()](data, filled, title))


def write_file(out: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with replacing(out) as scratch:
            scratch.write_bytes(content)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}. Name a file in a folder that exists.") from error


def draw_image(data: DataSet, index: int, *, parts: Sequence[str]) -> RGB:
    """Image, mask and overlay side by side, as named in ``parts``: (h, w, 3) uint8."""
    image = np.broadcast_to(data.images[index], (*data.images.shape[1:3], 3))
    mask = data.masks[index]
    color = make_palette(data.num_classes)[mask]
    blend = np.where((mask == VOID)[..., None], image, (1 - OVERLAY) * image + OVERLAY * color).astype(np.uint8)
    drawn = {"image": image, "mask": color, "overlay": blend}
    return join_pictures([_fit(drawn[part], is_label=part == "mask") for part in parts])


def write_text(lines: Sequence[str], width: int) -> RGB:
    """Black lines on white: (h, width, 3) uint8."""
    canvas = Image.new("RGB", (width, LINE_HEIGHT * len(lines) + 3), "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        draw.text((2, number * LINE_HEIGHT), line, fill="black", font=ImageFont.load_default(FONT_SIZE))
    return np.asarray(canvas, np.uint8)


def draw_legend(data: DataSet, width: int) -> RGB:
    """Colour and name of each class: (h, width, 3) uint8."""
    palette = make_palette(data.num_classes)
    canvas = Image.new("RGB", (width, (data.num_classes + 1) * (LINE_HEIGHT + 2)), "white")  # cropped below
    draw, font, x, y = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE), 4, 2
    for number, name in enumerate(data.class_names):
        text = title_class(number, name)
        needed = 22 + int(draw.textlength(text, font=font)) + 16
        if x + needed > width and x > 4:
            x, y = 4, y + LINE_HEIGHT + 2
        draw.rectangle((x, y, x + 16, y + LINE_HEIGHT - 3), fill=tuple(map(int, palette[number])), outline="black")
        draw.text((x + 22, y), text, fill="black", font=font)
        x += needed
    return np.asarray(canvas, np.uint8)[: y + LINE_HEIGHT + 4]


def title_class(number: int, name: str) -> str:
    """Number and name, once if they are the same."""
    return name if name == str(number) else f"{number} {name}"


def _fit(image: RGB, *, is_label: bool) -> RGB:
    """Enlarge by a whole factor to MIN_WIDTH, or reduce to MAX_WIDTH."""
    height, width = image.shape[:2]
    if width < MIN_WIDTH:
        factor = -(-MIN_WIDTH // width)
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    if width <= MAX_WIDTH:
        return np.ascontiguousarray(image)
    size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
    method = cv2.INTER_NEAREST if is_label else cv2.INTER_AREA
    return np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=method), np.uint8)


def _caption(data: DataSet, cell: Cell) -> str:
    position, name = int(data.positions[cell.index]), data.names[cell.index]
    return f"{position}{'' if name.lstrip('0') == str(position) or name == '00000' else f' {name}'}: {cell.text}"


def _shown(section: Section) -> tuple[str, Sequence[Cell]]:
    more = f"; the first {NUM_SHOWN} are shown" if len(section.cells) > NUM_SHOWN else ""
    return f"{section.title}: {len(section.cells)}{more}", section.cells[:NUM_SHOWN]


def _as_png(data: DataSet, sections: Sequence[Section], title: str) -> bytes:
    width = NUM_COLUMNS * draw_image(data, 0, parts=("image", "overlay")).shape[1]
    parts = [write_text([title], width), draw_legend(data, width)]
    for section in sections:
        heading, cells = _shown(section)
        parts.append(np.minimum(write_text([heading], width), np.array([205, 220, 240], np.uint8)))  # coloured, unlike captions
        for start in range(0, len(cells), NUM_COLUMNS):
            parts.append(_draw_row(data, cells[start : start + NUM_COLUMNS], width))
    if not sections:
        parts.append(write_text(["Nothing was found."], width))
    return encode_png(np.concatenate(parts))


def _draw_row(data: DataSet, cells: Sequence[Cell], width: int) -> RGB:
    """Cells side by side on white, each an image above its caption."""
    drawn = []
    for cell in cells:
        image = draw_image(data, cell.index, parts=("image", "overlay"))
        lines = textwrap.wrap(_caption(data, cell), width=max(20, image.shape[1] * 2 // (FONT_SIZE + 1)))
        drawn.append(np.concatenate([image, write_text(lines[:3], image.shape[1])]))
    row = np.full((max(tile.shape[0] for tile in drawn), width, 3), 255, np.uint8)
    for number, tile in enumerate(drawn):
        row[: tile.shape[0], number * tile.shape[1] : (number + 1) * tile.shape[1]] = tile
    return row


def _as_html(data: DataSet, sections: Sequence[Section], title: str) -> bytes:
    legend = "".join(
        f'<span><i style="background:rgb({color[0]},{color[1]},{color[2]})"></i>{html.escape(title_class(number, name))}</span>'
        for number, (name, color) in enumerate(zip(data.class_names, make_palette(data.num_classes), strict=False))
    )
    body = "".join(_html_section(data, section) for section in sections) or "<p>Nothing was found.</p>"
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{html.escape(title)}</h1><p>{legend}</p>{body}</html>\n"
    )
    return page.encode()


def _html_section(data: DataSet, section: Section) -> str:
    heading, cells = _shown(section)
    figures = []
    for cell in cells:
        png = base64.b64encode(encode_png(draw_image(data, cell.index, parts=("image", "overlay")))).decode()
        caption = html.escape(_caption(data, cell))
        figures.append(
            f'<figure><img alt="{caption}" src="data:image/png;base64,{png}"><figcaption>{caption}</figcaption></figure>'
        )
    return f"<h2>{html.escape(heading)}</h2><div>{''.join(figures)}</div>"


_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:1.5em}h1{font-size:1.2em}h2{font-size:1em;background:#cddcf0;padding:.3em}"
    "div{display:flex;flex-wrap:wrap;gap:.6em}figure{margin:0;width:min-content}figcaption{font-size:12px}"
    "span{margin-right:1em}i{display:inline-block;width:1em;height:1em;margin-right:.3em;border:1px solid;vertical-align:middle}"
)
