"""Rows of a data set as photos to measure: one photo with everything its experts made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..attributes import ATTRIBUTES
from .metrics import SSIM_WINDOW

COLUMNS = ("photo_id", "expert", "input", "target", "condition")


@dataclass(frozen=True)
class EvaluatedPhoto:
    """One photo with everything its experts made of it; pictures are sRGB float32 (H, W, 3) in [0, 1]."""

    photo_id: str
    picture: np.ndarray
    targets: dict[str, np.ndarray]
    conditions: dict[str, list[float]]


def photo_rows(rows: Any) -> dict[str, list[int]]:
    """Row numbers of every photo, in order of appearance. Reads no pictures."""
    is_dataset = isinstance(getattr(rows, "column_names", None), list) and hasattr(rows, "__len__")
    if not is_dataset and not (isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in rows)):
        raise TypeError(
            f"`rows` has to be a list of dicts or a datasets.Dataset of one split, got {type(rows).__name__}."
        )
    if len(rows) == 0:
        raise ValueError("`rows` has to hold at least one row, got none.")
    present = set(rows.column_names) if is_dataset else set.intersection(*(set(row) for row in rows))
    missing = [name for name in COLUMNS if name not in present]
    if missing:
        raise ValueError(f"`rows` has to have the columns {', '.join(COLUMNS)}, got none named {', '.join(missing)}.")
    photo_ids = rows["photo_id"] if is_dataset else [row["photo_id"] for row in rows]
    numbers: dict[str, list[int]] = {}
    for number, photo_id in enumerate(photo_ids):
        if not isinstance(photo_id, str):
            raise TypeError(f"`photo_id` of row {number} has to be a string, got {type(photo_id).__name__}.")
        numbers.setdefault(photo_id, []).append(number)
    return numbers


def decoded_rows(rows: Any, numbers: Sequence[int], photo_id: str) -> list[Mapping[str, Any]]:
    try:
        return [rows[number] for number in numbers]
    except (OSError, SyntaxError) as error:  # a data set decodes its pictures here, Pillow raises either
        raise ValueError(f"The pictures of photo {photo_id!r} have to be readable, got: {error}.") from error


def read_photo(photo_id: str, rows: Sequence[Mapping[str, Any]]) -> EvaluatedPhoto:
    picture = _pixels(rows[0]["input"], f"`input` of photo {photo_id!r}")
    height, width = picture.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"`input` of photo {photo_id!r} has to be at least {SSIM_WINDOW} x {SSIM_WINDOW}, got {width} x {height}."
        )
    targets: dict[str, np.ndarray] = {}
    conditions: dict[str, list[float]] = {}
    for row in rows:
        expert = row["expert"]
        if not isinstance(expert, str) or not expert:
            raise ValueError(
                f"`expert` of photo {photo_id!r} has to be a name, for a single expert any will do, got {expert!r}."
            )
        where = f"of photo {photo_id!r}, expert {expert!r}"
        if expert in targets:
            raise ValueError(f"`rows` has to hold one row per photo and expert, got two {where}.")
        target = _pixels(row["target"], f"`target` {where}")
        if target.shape != picture.shape:
            raise ValueError(
                f"`target` {where} has to be of its input's size {width} x {height}, "
                f"got {target.shape[1]} x {target.shape[0]}."
            )
        condition = np.asarray(row["condition"], dtype=np.float64)
        if condition.shape != (len(ATTRIBUTES),) or not np.isfinite(condition).all():
            raise ValueError(
                f"`condition` {where} has to hold {len(ATTRIBUTES)} finite numbers, got {row['condition']!r}."
            )
        targets[expert], conditions[expert] = target, condition.tolist()
    return EvaluatedPhoto(photo_id, picture, targets, conditions)


def _pixels(image: Any, name: str) -> np.ndarray:
    if not isinstance(image, Image.Image):
        raise TypeError(f"{name} has to be a PIL image, got {type(image).__name__}.")
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255
