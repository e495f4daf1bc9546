"""The training curve of a model card, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

_COLOURS = ("#1f4e8c", "#c1440e", "#2f7d32", "#7b4397")


def training_curve(records: Sequence[Mapping[str, Any]]) -> PIL.Image.Image:
    """Losses (left) and validation errors (right) over the steps, as a picture.

    Args:
        records: lines of log.jsonl, by step; each has `step` and some numbers.
    """
    losses = _series(records, lambda name: name in ("noise", "pixel", "contrastive"))
    errors = _series(records, lambda name: name.startswith("delta_e_"))
    charts = [_chart("training loss", losses), _chart("validation, Delta E 2000", errors)]
    charts = [chart for chart, series in zip(charts, (losses, errors), strict=True) if series]
    sheet = PIL.Image.new("RGB", (sum(chart.width for chart in charts), charts[0].height), "white")
    for number, chart in enumerate(charts):
        sheet.paste(chart, (number * charts[0].width, 0))
    return sheet


_Line = list[tuple[float, float]]


def _series(records: Sequence[Mapping[str, Any]], wanted: Callable[[str], bool]) -> dict[str, _Line]:
    series: dict[str, _Line] = {}
    for record in records:
        for name, value in record.items():
            if wanted(name):
                series.setdefault(name, []).append((record["step"], value))
    return series


def _chart(title: str, series: Mapping[str, _Line]) -> PIL.Image.Image:
    """A line chart from zero, drawn at twice its size and reduced, which smooths the lines."""
    scale, width, height, left, top, right, bottom = 2, 560, 340, 60, 40, 20, 40
    picture = PIL.Image.new("RGB", (width * scale, height * scale), "white")
    draw = PIL.ImageDraw.Draw(picture)
    font = PIL.ImageFont.load_default(size=13 * scale)
    points = [point for line in series.values() for point in line]
    last_step = max((x for x, _ in points), default=1) or 1
    # One early spike should not flatten the rest.
    common = sorted(y for _, y in points)[int(0.98 * (len(points) - 1))] if points else 1
    highest = 4 * _round_up(common / 4)

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + x / last_step * (width - left - right)
        up = height - bottom - min(y / highest, 1) * (height - top - bottom)
        return across * scale, up * scale

    for value in (highest * tick / 4 for tick in range(5)):
        draw.line([place(0, value), place(last_step, value)], fill="#dddddd", width=scale)
        draw.text((place(0, value)[0] - 6 * scale, place(0, value)[1]), f"{value:.3g}", "#444444", font, anchor="rm")
    for tick in range(int(last_step / _round_up(last_step / 5)) + 1):
        step = tick * _round_up(last_step / 5)
        draw.text((place(step, 0)[0], place(step, 0)[1] + 8 * scale), f"{step:g}", "#444444", font, anchor="mt")
    draw.text((left * scale, 12 * scale), title, "black", font, anchor="lt")
    end = float((width - right) * scale)
    for (name, line), colour in zip(reversed(list(series.items())), _COLOURS, strict=False):
        draw.line([place(*point) for point in line], fill=colour, width=2 * scale, joint="curve")
        draw.text((end, 12 * scale), name, colour, font, anchor="rt")
        end -= draw.textlength(f"{name}   ", font)
    return picture.resize((width, height), PIL.Image.Resampling.LANCZOS)


def _round_up(value: float) -> float:
    """The next 1, 2, 2.5, 5 times a power of ten: what reads well on an axis."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value)
