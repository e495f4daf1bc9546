"""From one good photo and a teacher's answer to it: a scene, and its rows of the synthetic set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..look.lut import fit_lut
from ..photo import PhotoError
from .build import BadPhoto, open_srgb, resize, schema_row
from .dataset import CONDITIONS, encode, scores_of
from .experts import EXPERTS, natural
from .light import quantise
from .synthetic import Scene, finished, photo_to_retouch, vary

_LABEL_LUT_SIZE = 17  # nodes a side: finer tables follow the teacher's stripes


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
    """A photo's linear light (H, W, 3) and the teacher's answer to it, of any size, as a scene.

    The answer is carried to the photo's own pixels by a table of colours: a teacher works at 256 pixels, leaves
    stripes in smooth areas, and its taste is nearly the same everywhere. Without an answer the photo is its own
    natural retouch.

    Raises:
        BadPhoto: if the label cannot be read.
    """
    photo = finished(light)
    if label is None:
        return Scene(light, photo, photo)
    try:
        answer = open_srgb(label).astype(np.float32) / 255
    except PhotoError as error:
        raise BadPhoto(str(error)) from error
    height, width = answer.shape[:2]
    small = resize(quantise(photo), (width, height)).astype(np.float32) / 255
    table = fit_lut(small.reshape(-1, 3), answer.reshape(-1, 3), _LABEL_LUT_SIZE)
    return Scene(light, photo, natural(photo, table.apply(photo)).astype(np.float32))
