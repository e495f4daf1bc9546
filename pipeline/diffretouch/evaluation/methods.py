"""What a figure is given for: models at c = 0, and beside them retouches that anyone can have.

    methods = Methods(baselines={"no change": no_change}, models={"c = 0": Model(pipe)})
    for name, retouch in methods.single().items(): ...

All pictures are sRGB float32 (H, W, 3) in [0, 1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..look.lut import Lut, LutError
from ..section_tables import MODEL
from .baselines import BASELINES, Baseline
from .measure import evenly_spaced
from .one_photo import DEFAULT_SEED
from .photos import EvaluatedPhoto, decoded_rows, photo_rows, read_photo

TEACHER = "teacher"
_TEACHER_SIDE = 256
COMMON = ("no change", "auto-contrast")

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Model:
    """A pipeline at c = 0; called with a picture it is a baseline like any other: one retouch, of `DEFAULT_SEED`.

    Args:
        pipe: a `DiffRetouchPipeline`, used on the device it is on.
        num_inference_steps: None for the checkpoint's default.
    """

    pipe: Any
    num_inference_steps: int | None = None

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The picture as users get it who ask for nothing."""
        return self.variants(picture, [DEFAULT_SEED])[0]

    def variants(self, picture: np.ndarray, seeds: Sequence[int]) -> list[np.ndarray]:
        """One retouch per seed, unrounded."""
        return [grid.apply(picture) for grid in self.grids([picture], seeds)]

    def grids(self, pictures: Sequence[np.ndarray], seeds: Sequence[int]) -> list[Any]:
        """One `AffineGrid` per seed in a single call, `len(seeds) // len(pictures)` for each picture."""
        photos = [quantised(picture) for picture in pictures]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        output = self.pipe(
            photos,
            num_variants=len(seeds) // len(photos),
            num_inference_steps=self.num_inference_steps,
            generator=generators,
            output_type="grid",
        )
        return output.grids


@dataclass(frozen=True)
class Methods:
    """Everything that is measured side by side.

    Args:
        baselines: retouches that know no seeds, "no change" among them.
        models: the model as `MODEL`, then those beside it.
    """

    baselines: Mapping[str, Baseline]
    models: Mapping[str, Model]

    def single(self) -> dict[str, Baseline]:
        """Each method's one answer to a picture, in the order of the tables."""
        return {**self.baselines, **self.models}


@dataclass(frozen=True)
class Split:
    """The photos of a split that are measured; pictures are decoded when they are asked for.

    Args:
        photo_ids: in the order of the rows.
        read: photo_id -> the photo.
    """

    photo_ids: tuple[str, ...]
    read: Callable[[str], EvaluatedPhoto] = field(repr=False)


def open_split(rows: Any, num_photos: int | None = None) -> Split:
    """The photos of rows in the data set schema, at most `num_photos`, evenly spaced: those that `evaluate` measures.

    Raises:
        TypeError, ValueError: if the rows, or later a photo's pictures, are not as `evaluate` wants them.
    """
    numbers = photo_rows(rows)

    def read(photo_id: str) -> EvaluatedPhoto:
        return read_photo(photo_id, decoded_rows(rows, numbers[photo_id], photo_id))

    return Split(tuple(evenly_spaced(list(numbers), num_photos)), read)


def methods_of(
    fitted: Mapping[str, Baseline], teacher: Baseline | None, model: Model, beside: Mapping[str, Any]
) -> Methods:
    """No change, auto-contrast, what was fitted to the training set, the teacher where there is one; and the models.

    Args:
        beside: other pipelines, each measured with its checkpoint's default number of steps.
    """
    baselines = {name: BASELINES[name] for name in COMMON} | dict(fitted) | ({TEACHER: teacher} if teacher else {})
    return Methods(baselines, {MODEL: model, **{name: Model(pipe) for name, pipe in beside.items()}})


def teacher_baseline(folder: Path) -> Baseline:
    """The teacher of the unpacked package in `folder` as a baseline, its answers in 8 bits.

    Photos of over `_TEACHER_SIDE` pixels are answered at that size, and the answer is carried by a table of colours,
    as in the data set's labels: at 512 pixels one takes half a minute. Several sections ask for the same photos:
    answers are kept while the process runs, about 0.5 MB for a photo of 512 pixels.

    Raises:
        ValueError: if the package is missing, damaged or of another version; names it.
    """
    from ..data.build import resize
    from ..data.teacher import Teacher, answer_table  # the only part that reads its package

    teacher = Teacher.from_package(folder)
    answers: dict[bytes, np.ndarray] = {}

    def answer_to(photo: np.ndarray) -> np.ndarray:
        height, width = photo.shape[:2]
        scale = _TEACHER_SIDE / max(height, width)
        if scale >= 1:
            return teacher.retouch(photo)
        small = resize(photo, (max(1, round(scale * width)), max(1, round(scale * height))))
        table = answer_table(small, teacher.retouch(small)).astype(np.float32) / 255
        return Lut(table, LutError(0, 0)).apply(photo)

    def retouch(picture: np.ndarray) -> np.ndarray:
        photo = quantised(picture)
        key = hashlib.sha256(f"{photo.shape}".encode() + photo.tobytes()).digest()
        if key not in answers:
            answers[key] = answer_to(photo)
        return unit(answers[key])

    return retouch


def quantised(picture: np.ndarray) -> np.ndarray:
    """A picture in [0, 1] as a file of 8 bits holds it: uint8."""
    return np.round(picture * 255).astype(np.uint8)


def unit(picture: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [0, 1]."""
    return picture.astype(np.float32) / 255
