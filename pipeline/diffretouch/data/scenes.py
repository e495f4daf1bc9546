"""From one good photo and a teacher's answer to it: a scene, and its rows of the synthetic set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..look.lut import Lut, LutError
from ..photo import PhotoError
from .build import BadPhoto, open_srgb, schema_row
from .dataset import CONDITIONS, encode, scores_of
from .experts import EXPERTS, natural
from .synthetic import Scene, finished, photo_to_retouch, vary
from .teacher import TABLE_SIZE


def synthetic_rows(
    scene: Scene,
    photo_id: str,
    num_inputs: int,
    seed: int,
    rule: str = "quantile",
    num_scenes: int = 1,
    drawn: Callable[[Scene, np.random.Generator], tuple[np.ndarray, np.ndarray]] = photo_to_retouch,
) -> list[dict[str, Any]]:
    """Rows of one good photo: `num_scenes` scenes x `num_inputs` inputs (`drawn` from them) x the five experts.

    The first scene is the photo itself, the others are made from it (`vary`). What is random depends on `seed`,
    `photo_id` and the scene's number alone, not on the order of photos.
    """
    rows = []
    for number in range(num_scenes):
        key = f"{seed}/{photo_id}" if number == 0 else f"{seed}/{photo_id}/{number}"
        rng = np.random.default_rng(np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype=np.uint32))
        chosen = scene if number == 0 else vary(scene, rng)
        answers: dict[bytes, Any] = {}  # inputs of one scene often share them
        for index in range(num_inputs):
            picture, wanted = drawn(chosen, rng)
            if (which := wanted.tobytes()) not in answers:
                answers[which] = _answers(wanted, rule)
            name, source = f"{photo_id}#{number * num_inputs + index}", encode(picture)
            rows += [
                schema_row(name, expert.name, source, *answer)
                for expert, answer in zip(EXPERTS, answers[which], strict=True)
            ]
    return rows


def _answers(wanted: np.ndarray, rule: str) -> list[tuple[bytes, torch.Tensor, torch.Tensor]]:
    """Every expert's picture, encoded, with its scores and c, of a natural retouch (H, W, 3) in [0, 1]."""
    targets = [expert.retouch(wanted) for expert in EXPERTS]
    scores = scores_of(targets)
    return list(zip(map(encode, targets), scores, CONDITIONS[rule](scores), strict=True))


def scene_of(light: np.ndarray, label: Path | None) -> Scene:
    """A photo's linear light (H, W, 3) and the file of the teacher's answer to it (`answer_table`) as a scene.

    Without an answer the photo is its own natural retouch.

    Raises:
        BadPhoto: if the label cannot be read.
    """
    photo = finished(light)
    if label is None:
        return Scene(light, photo, photo)
    try:
        table = open_srgb(label)
    except PhotoError as error:
        raise BadPhoto(str(error)) from error
    if table.shape != (TABLE_SIZE**2, TABLE_SIZE, 3):
        raise BadPhoto(f"{label} has to be a label of {TABLE_SIZE} x {TABLE_SIZE**2} pixels, got {table.shape[1::-1]}")
    lut = Lut(table.reshape(TABLE_SIZE, TABLE_SIZE, TABLE_SIZE, 3).astype(np.float32) / 255, LutError(0, 0))
    return Scene(light, photo, natural(photo, lut.apply(photo)).astype(np.float32))
