"""Building blocks of reports: one HTML file each, readable from disk, on a phone, in light and dark.

    write_report(path, "My run", "What this is.", [section("Pictures", tiles([figure(picture, alt="...")]))])

Everything is inside the file: pictures as data, charts as SVG, no scripts; a content security policy keeps it from
asking any host. Every function that takes text escapes it; parameters called `parts` take HTML from these functions.

A sheet is how pictures wait for a report: one JPEG of equal cells whose comment says what is where, so that it can be
looked at with any viewer and taken apart again.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import PIL.Image

from .attributes import ATTRIBUTES
from .files import write_atomically

# Pictures (h, w, 3) uint8 by photo, then by what each shows; those of one photo are of equal size.
Sheet = Mapping[str, Mapping[str, np.ndarray]]
Line = Sequence[tuple[float, float]]

JPEG_QUALITY = 90

# ---- sheets ---------------------------------------------------------------------------------------------------------


def save_sheet(path: Path, sheet: Sheet) -> None:
    """Write a sheet as JPEG: a photo per row, its pictures from left to right.

    Raises:
        OSError: if it cannot be written; `path` is then as it was.
    """
    rows = [{"photo": photo, "size": _size(pictures), "shows": list(pictures)} for photo, pictures in sheet.items()]
    buffer = io.BytesIO()
    canvas = PIL.Image.fromarray(contact_sheet(sheet))
    # At full chroma resolution blocks are 8 x 8, and cells of whole blocks do not leak into their neighbours.
    canvas.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=json.dumps(rows).encode())
    write_atomically(path, buffer.getvalue())


def load_sheet(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Take apart what `save_sheet` wrote.

    Raises:
        OSError: if the file is missing or no picture.
        ValueError: if it is a picture, but no sheet.
    """
    with PIL.Image.open(path) as file:
        canvas, comment = np.asarray(file.convert("RGB")), file.info.get("comment", b"")
    try:
        rows = [(row["photo"], *row["size"], row["shows"]) for row in json.loads(comment)]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"`path` has to be a sheet of pictures, got {path} without its description.") from error
    width, height = _cell((w, h) for _, w, h, _ in rows)
    return {
        photo: {name: canvas[y * height : y * height + h, x * width : x * width + w] for x, name in enumerate(shows)}
        for y, (photo, w, h, shows) in enumerate(rows)
    }


def contact_sheet(sheet: Sheet) -> np.ndarray:
    """All pictures of a sheet on white, (H, W, 3) uint8: a photo per row, in equal cells."""
    width, height = _cell(_size(pictures) for pictures in sheet.values())
    columns = max(len(pictures) for pictures in sheet.values())
    canvas = np.full((len(sheet) * height, columns * width, 3), 255, np.uint8)
    for y, pictures in enumerate(sheet.values()):
        for x, picture in enumerate(pictures.values()):
            # Its edge fills the last blocks of a picture, so that JPEG does not blend it with the white.
            h, w = (_whole_blocks(side) for side in picture.shape[:2])
            filled = np.pad(picture, ((0, h - picture.shape[0]), (0, w - picture.shape[1]), (0, 0)), mode="edge")
            canvas[y * height : y * height + h, x * width : x * width + w] = filled
    return canvas


def _size(pictures: Mapping[str, np.ndarray]) -> tuple[int, int]:
    height, width = next(iter(pictures.values())).shape[:2]
    return width, height


def _cell(sizes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    width, height = np.max(list(sizes), axis=0)
    return _whole_blocks(width), _whole_blocks(height)


def _whole_blocks(side: int) -> int:
    """The next multiple of 8, the side of a JPEG block."""
    return 8 * math.ceil(side / 8)


# ---- text and tables ------------------------------------------------------------------------------------------------


def section(title: str, *parts: str, note: str = "") -> str:
    """A heading with its parts below, and a note in smaller type that says how to read them."""
    lead = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{''.join(parts)}</section>"


def heading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def link(text: str, url: str) -> str:
    """A paragraph of plain text with an address at its end; one that is no web address is shown as text."""
    shown = escape(url)
    anchor = f'<a href="{shown}">{shown}</a>' if url.startswith(("https://", "http://")) else shown
    return f"<p>{escape(text)}{anchor}</p>"


def key_figures(figures: Iterable[tuple[str, str, str]]) -> str:
    """The few numbers that matter, large: (what, value, remark) each."""
    cells = (
        f"<div><dt>{escape(what)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for what, value, remark in figures
    )
    return f'<dl class="key">{"".join(cells)}</dl>'


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], strong: Iterable[int] = ()) -> str:
    """A table whose first column names the row; scrolls sideways where it is too wide.

    Args:
        strong: numbers of rows to stress.
    """
    stressed = set(strong)
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr{" class=strong" if number in stressed else ""}><th scope="row">{escape(first)}</th>'
        f"{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for number, (first, *rest) in enumerate(rows)
    )
    return _scrolling(caption, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def heat_table(caption: str, header: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> str:
    """A table of signed numbers, each on a ground as strong as its size is beside the largest; None shows as -."""
    largest = max((abs(value) for row in rows.values() for value in row if value is not None), default=0.0) or 1.0
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_heat_cell(value, largest) for value in row)}</tr>'
        for name, row in rows.items()
    )
    return _scrolling(caption, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")


def _heat_cell(value: float | None, largest: float) -> str:
    if value is None:
        return "<td>-</td>"
    ground = "heat" if value >= 0 else "cold"
    return f'<td class="{ground}" style="--share:{100 * abs(value) / largest:.0f}%">{value:+.2f}</td>'


def _scrolling(caption: str, content: str) -> str:
    name = escape(caption, quote=True)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">'
        f"<table><caption>{escape(caption)}</caption>{content}</table></div>"
    )


# ---- pictures -------------------------------------------------------------------------------------------------------


def figure(picture: np.ndarray, alt: str, caption: str = "") -> str:
    """A picture (H, W, 3) uint8 inside the page; `alt` says what it shows to those who cannot see it."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    height, width = picture.shape[:2]
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(alt, quote=True)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def tiles(parts: Iterable[str]) -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="tiles">{"".join(parts)}</div>'


def pair(upper: str, lower: str) -> str:
    """Two figures above each other, which stay together."""
    return f'<div class="pair">{upper}{lower}</div>'


def strip(parts: Iterable[str]) -> str:
    """Figures in one row that stays one on a phone: for what is compared from left to right."""
    return f'<div class="strip">{"".join(parts)}</div>'


# ---- what training and evaluation both show, from sheets whose pictures are called as below ------------------------


def before_and_after(title: str, sheet: Sheet) -> str:
    """Inputs above their retouches at c = 0, experts' pictures above the retouches that were told about them."""
    parts = []
    for photo, pictures in sheet.items():
        experts = [name.removeprefix("target ") for name in pictures if name.startswith("target ")]
        pairs = [("input", "c = 0"), *((f"target {expert}", f"oracle {expert}") for expert in experts)]
        stacked = (pair(photo_figure(photo, pictures, a), photo_figure(photo, pictures, b)) for a, b in pairs)
        parts += [heading(photo), tiles(stacked)]
    note = (
        "The input above its retouch at c = 0; each expert's picture (target) above the retouch that was told what "
        "this picture measures (oracle)."
    )
    return section(title, *parts, note=note)


def sliders(sheet: Sheet, most: int = 2) -> str:
    """Each slider at -1, 0 and +1 on the first photos of a sheet."""
    parts = []
    for photo, pictures in list(sheet.items())[:most]:
        parts.append(heading(photo))
        for slider in ATTRIBUTES:
            shown = {f"{slider} -1": f"{slider} -1", "c = 0": "0", f"{slider} +1": "+1"}
            parts.append(strip(photo_figure(photo, pictures, name, caption) for name, caption in shown.items()))
    return section("Sliders", *parts, note="One slider at a time, the same seed throughout.")


def seeds(sheet: Sheet) -> str:
    """The retouches at c = 0 that differ in nothing but their noise."""
    parts = []
    for photo, pictures in sheet.items():
        names = [name for name in pictures if name.startswith("seed ")]
        first = photo_figure(photo, pictures, "c = 0", "seed 1")
        parts.append(strip([first, *(photo_figure(photo, pictures, name) for name in names)]))
    return section("Seeds", *parts, note="All sliders at 0: another seed is another expert's taste.")


def photo_figure(photo: str, pictures: Mapping[str, np.ndarray], name: str, caption: str | None = None) -> str:
    """One picture of a photo; what is read aloud names the photo and what was done to it."""
    caption = name if caption is None else caption
    alt = f"{photo}: {name}" if caption in name else f"{photo}: {name}, {caption}"
    return figure(pictures[name], alt, caption)


# ---- charts ---------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 440, 260  # user units; small, so that type stays readable when a phone shrinks them
_LEFT, _TOP, _RIGHT, _BOTTOM = 66, 8, 24, 42
_MOST_MARKS = 40  # more would be a caterpillar


def line_chart(
    title: str,
    series: Mapping[str, Line],
    x_label: str,
    y_label: str,
    *,
    from_zero: bool = False,
) -> str:
    """Lines over a common axis, as SVG with its legend.

    Args:
        title: what the chart shows; also what a screen reader says, with every line's first and last value.
        series: points (x, y) of each line, by x; empty lines are left out.
        from_zero: let the y axis hold 0.
    """
    lines = {name: line for name, line in series.items() if line}
    if not lines:
        return ""
    xs = [x for line in lines.values() for x, _ in line]
    ys = sorted(y for line in lines.values() for _, y in line)
    # An axis that starts near 0 starts at 0; one early spike should not flatten the rest.
    x_ticks = ticks(0.0 if 0 < min(xs) < max(xs) / 2 else min(xs), max(xs))
    y_ticks = ticks(min(0.0, ys[0]) if from_zero else ys[0], ys[-1 - len(ys) // 50])
    frame = _Frame((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    drawn = "".join(_polyline(frame, number, name, line) for number, (name, line) in enumerate(lines.items()))
    spoken = "; ".join(f"{name} from {line[0][1]:.4g} to {line[-1][1]:.4g}" for name, line in lines.items())
    legend = "".join(
        f'<li><i class="c{number % _COLOURS}"></i>{escape(name)} <b>{line[-1][1]:.4g}</b></li>'
        for number, (name, line) in enumerate(lines.items())
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{title}: {spoken}.", quote=True)}">'
        f"{_axes(frame, x_ticks, y_ticks, x_label, y_label)}{drawn}</svg><ul>{legend}</ul></figure>"
    )


class _Frame:
    """From values to the chart's coordinates; what lies above the frame is drawn at its edge."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]):
        self._x, self._y = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        share = min(max((value - low) / (high - low), 0), 1)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _axes(frame: _Frame, x_ticks: list[float], y_ticks: list[float], x_label: str, y_label: str) -> str:
    bottom, middle = _HEIGHT - _BOTTOM, (_HEIGHT - _BOTTOM) / 2
    parts = [
        f'<path class="grid" d="M{_LEFT} {frame.y(tick):.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 5}" y="{frame.y(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
        for tick in y_ticks
    ]
    parts += [
        f'<text x="{frame.x(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{_number(tick)}</text>'
        for tick in x_ticks
    ]
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(y_label)}</text>'
    )
    return "".join(parts)


def _polyline(frame: _Frame, number: int, name: str, line: Line) -> str:
    colour = f"c{number % _COLOURS}"
    points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line)
    marks = "".join(
        f'<circle class="{colour}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5">'
        f"<title>{escape(name)}: {y:.4g} at {_number(x)}</title></circle>"
        for x, y in (line if len(line) <= _MOST_MARKS else ())
    )
    return f'<polyline class="{colour}" points="{points}"/>{marks}'


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that span [low, high] evenly, at least two."""
    span = high - low if high > low else max(abs(high), 1.0) * 0.1
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * about >= span * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"


# ---- the page -------------------------------------------------------------------------------------------------------

_COLOURS = 6
# Light, dark; distinguishable with colour-blindness too, after Okabe and Ito (2008).
_PALETTE = [
    ("#0b62a4", "#6cb6f0"),
    ("#c84a00", "#f0995c"),
    ("#007a5a", "#3fcf9f"),
    ("#a23b7d", "#e58fc4"),
    ("#7a6000", "#e5c542"),
    ("#555555", "#b5b5b5"),
]
_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1b1b1b;--soft:#5b5b5b;--line:#dcdcdc;--panel:#f5f5f3;LIGHT}
@media (prefers-color-scheme:dark){
:root{--ground:#161616;--ink:#ececec;--soft:#a8a8a8;--line:#3a3a3a;--panel:#222;DARK}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1160px;padding:16px;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.5em 0 .2em;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:2em 0 .3em}
h3{font-size:1rem;margin:1.4em 0 .5em;overflow-wrap:anywhere}
p{max-width:75ch;margin:.4em 0 .8em}.note,figcaption,caption,small{color:var(--soft);font-size:.875rem}
.key{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:1em 0}
.key div{background:var(--panel);border-radius:8px;padding:10px 14px}.key dt{color:var(--soft);font-size:.875rem}
.key dd{margin:0;font-size:1.5rem;font-weight:600;line-height:1.3}.key small{display:block;font-weight:400}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:18px}
figure{margin:0}.chart{background:var(--panel);border-radius:8px;padding:10px}
.chart figcaption{font-size:.95rem;font-weight:600;color:var(--ink);margin-bottom:4px}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:14px}
.grid{stroke:var(--line);stroke-width:1}polyline{fill:none;stroke-width:2;stroke-linejoin:round}
.chart ul{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;margin:4px 0 0;padding:0;font-size:.875rem}
.chart i{display:inline-block;width:14px;height:4px;margin-right:6px;vertical-align:middle;border-radius:2px}
.scroll{overflow-x:auto;margin:.8em 0}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:4px}th,td{padding:4px 12px 4px 0;border-bottom:1px solid var(--line)}
td{text-align:right;white-space:nowrap}th{text-align:left;font-weight:500}thead th:not(:first-child){text-align:right}
tbody th{white-space:nowrap}.strong th,.strong td{font-weight:700}
.heat,.cold{padding-left:10px;padding-right:10px}
.heat{background:color-mix(in srgb,var(--c0) calc(var(--share)*.55),transparent)}
.cold{background:color-mix(in srgb,var(--c1) calc(var(--share)*.55),transparent)}
img{display:block;width:100%;height:auto;border-radius:4px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(46%,165px),1fr));gap:10px}
.tiles figcaption,.strip figcaption{overflow-wrap:anywhere;line-height:1.25;margin:2px 0 4px}
.strip{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(0,210px);gap:6px;margin-bottom:8px}
footer{margin:3em 0 1em;color:var(--soft);font-size:.875rem}
""".strip()


def charts(parts: Iterable[str]) -> str:
    """Charts side by side where there is room."""
    return f'<div class="charts">{"".join(parts)}</div>'


def page(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """A whole HTML document."""
    light, dark = (";".join(f"--c{n}:{pair[i]}" for n, pair in enumerate(_PALETTE)) for i in (0, 1))
    colours = "".join(
        f"polyline.c{n}{{stroke:var(--c{n})}}circle.c{n}{{fill:var(--c{n})}}i.c{n}{{background:var(--c{n})}}"
        for n in range(_COLOURS)
    )
    style = _STYLE.replace("LIGHT", light).replace("DARK", dark) + colours
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>"
        f"<header><h1>{escape(title)}</h1>{paragraph(subtitle)}</header>\n<main>"
        + "\n".join(parts)
        + "</main>\n<footer>Made by DiffRetouch. This file holds everything it shows.</footer></body></html>\n"
    )


def write_report(path: Path, title: str, subtitle: str, parts: Iterable[str]) -> None:
    """Write a page as one HTML file, whole or not at all.

    Raises:
        OSError: if it cannot be written; `path` is then as it was.
    """
    write_atomically(path, page(title, subtitle, parts).encode())
