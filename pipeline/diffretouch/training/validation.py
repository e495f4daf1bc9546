"""Watching a run: fixed photos measured as it trains, TensorBoard or wandb, and the report at its end.

    diffretouch report runs/my-style     # (re)build runs/my-style/report.html

A run's folder is all that the report reads (`config.yaml`, `log.jsonl`, `validation/`), so it can be built at any
time, also of a run that was interrupted or still goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import Dataset

from .. import report
from ..attributes import ATTRIBUTES, VIEW_SIZE, attribute_scores
from ..data.dataset import decode, good_rows
from ..evaluation.measure import evenly_spaced
from ..evaluation.metrics import delta_e_2000, psnr
from ..evaluation.one_photo import predict_grids, variant_seeds
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .config import TrainingConfig
from .tracking import sheet_path

# Pictures are measured and shown this small: a validation has to cost seconds, and a grid has no finer detail.
LONG_SIDE = 192

# Enough to watch a run by, at a quarter of the time of 20. A model whose own default is less gets that.
NUM_STEPS = 5
NUM_SEEDS = 4  # whose results are compared with each other
NUM_SHOWN = 8  # photos whose pictures are kept, of those that are measured


@dataclasses.dataclass(frozen=True)
class _Photo:
    """One fixed photo; `view` is what the model sees, pictures are sRGB float32 (h, w, 3) in [0, 1]."""

    name: str
    view: np.ndarray  # (VIEW_SIZE, VIEW_SIZE, 3) uint8
    picture: np.ndarray
    targets: dict[str, np.ndarray]
    conditions: dict[str, list[float]]
    seeds: list[int]


class Validator:
    """The photos of a validation split on which a run is measured, the same way at every step.

    Args:
        config: `seed`, `num_validation_photos`, `bad_rows` and `output_dir` are used; photos are spread evenly over
            the split.
        rows: the validation split in the data set schema, pictures undecoded (`read_split`); of a stream, the first
            photos are taken.

    Raises:
        ValueError: on a bad row, or if no row is good, as `good_rows` says.
    """

    def __init__(self, config: TrainingConfig, rows: Dataset | Iterable[dict[str, Any]]):
        self._output_dir = Path(config.output_dir)
        count = config.num_validation_photos
        if isinstance(rows, Dataset):
            names = rows["photo_id"]
            chosen = set(evenly_spaced(list(dict.fromkeys(names)), count))
            rows = rows.select([number for number, name in enumerate(names) if name in chosen])
        self._photos = [
            _read_photo(group, config.seed) for group in _first_photos(good_rows(rows, config.bad_rows), count)
        ]

    def run(self, pipe: DiffRetouchPipeline, step: int) -> dict[str, float]:
        """Measure the pipeline and write its pictures to `output_dir/validation/{step:06d}.jpg`.

        All noise has generators of its own and the models' training modes are put back, so that a run goes on as if
        it had not been watched.

        Returns:
            For `log.jsonl`, means over photos (and their experts, where they have several):

            - `delta_e_{input,c0,oracle}`, `psnr_{input,c0,oracle}`: the untouched photo, the retouch at c = 0 and at
              each expert's own c, held against the expert's picture (CIEDE2000; dB)
            - `control_{slider}`: how far the slider's own attribute moves from -1 to +1, in units of what the experts
              make of it (their widest distance from each other and the input); negative when the wrong way round;
              missing where experts and inputs all score alike
            - `diversity`: pairwise CIEDE2000 of `NUM_SEEDS` seeds at c = 0

        Raises:
            OSError: if the pictures cannot be written.
        """
        with _evaluating(pipe):
            retouched = [_retouch(pipe, photo) for photo in self._photos]
        pairs = list(zip(self._photos, retouched, strict=True))
        (self._output_dir / "validation").mkdir(parents=True, exist_ok=True)
        sheet = {photo.name: _as_bytes(_shown(photo, pictures)) for photo, pictures in pairs[:NUM_SHOWN]}
        report.save_sheet(sheet_path(self._output_dir, step), sheet)
        return {name: round(value, 3) for name, value in {**_quality(pairs), **_control(pairs)}.items()}


def _first_photos(rows: Iterable[dict[str, Any]], count: int) -> Iterable[list[dict[str, Any]]]:
    """The rows of the first `count` photos, read until another photo comes: a stream has no end in sight."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["photo_id"] not in groups and len(groups) == count:
            break
        groups.setdefault(row["photo_id"], []).append(row)
    return groups.values()


def _read_photo(rows: list[dict[str, Any]], seed: int) -> _Photo:
    photo = decode(rows[0]["input"])
    scale = LONG_SIDE / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    name = rows[0]["photo_id"]
    return _Photo(
        name=name,
        view=np.asarray(photo.resize((VIEW_SIZE, VIEW_SIZE), PIL.Image.Resampling.BILINEAR)),
        picture=_small(photo, size),
        targets={row["expert"]: _small(decode(row["target"]), size) for row in rows},
        conditions={row["expert"]: list(row["condition"]) for row in rows},
        seeds=variant_seeds(seed, name)[:NUM_SEEDS],
    )


def _small(picture: PIL.Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(picture.resize(size, PIL.Image.Resampling.LANCZOS), dtype=np.float32) / 255


@contextmanager
def _evaluating(pipe: DiffRetouchPipeline) -> Iterator[None]:
    models = (pipe.unet, pipe.grid_head)
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


@dataclasses.dataclass(frozen=True)
class _Retouched:
    """What the model made of one photo, pictures as in `_Photo`."""

    seeds: list[np.ndarray]  # c = 0, one per seed; all others have the first seed
    oracles: list[np.ndarray]  # one per expert
    sliders: dict[str, tuple[np.ndarray, np.ndarray]]  # at -1 and at +1


def _retouch(pipe: DiffRetouchPipeline, photo: _Photo) -> _Retouched:
    ends = [[end if name == slider else 0.0 for name in ATTRIBUTES] for slider in ATTRIBUTES for end in (-1.0, 1.0)]
    conditions = [[0.0] * len(ATTRIBUTES)] * NUM_SEEDS + [*photo.conditions.values(), *ends]
    seeds = photo.seeds + [photo.seeds[0]] * (len(conditions) - NUM_SEEDS)
    steps = min(NUM_STEPS, pipe.config.default_num_inference_steps)
    grids = predict_grids(pipe, photo.view, conditions, seeds, num_inference_steps=steps)
    pictures = [grid.apply(photo.picture) for grid in grids]
    oracles, moved = pictures[NUM_SEEDS : -len(ends)], pictures[-len(ends) :]
    sliders = {name: (moved[2 * number], moved[2 * number + 1]) for number, name in enumerate(ATTRIBUTES)}
    return _Retouched(pictures[:NUM_SEEDS], oracles, sliders)


_Pairs = list[tuple[_Photo, _Retouched]]

_METHODS = {"input": "no change", "c0": "c = 0", "oracle": "oracle c"}  # by their names in the log


def _quality(pairs: _Pairs) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, metric in (("delta_e", delta_e_2000), ("psnr", psnr)):
        means = np.mean([_over_experts(metric, *pair) for pair in pairs], axis=0)
        figures |= {f"{name}_{method}": float(mean) for method, mean in zip(_METHODS, means, strict=True)}
    distances = [[delta_e_2000(a, b) for a, b in combinations(made.seeds, 2)] for _, made in pairs]
    return {**figures, "diversity": float(np.mean(distances))}


def _over_experts(metric: Callable[[np.ndarray, np.ndarray], float], photo: _Photo, made: _Retouched) -> list[float]:
    """Mean over the experts of a photo for each of `_METHODS`."""
    targets = list(photo.targets.values())
    methods = ([photo.picture] * len(targets), made.seeds[:1] * len(targets), made.oracles)
    return [
        float(np.mean([metric(picture, target) for picture, target in zip(pictures, targets, strict=True)]))
        for pictures in methods
    ]


def _control(pairs: _Pairs) -> dict[str, float]:
    units = np.mean([np.ptp(_scores([photo.picture, *photo.targets.values()]), axis=0) for photo, _ in pairs], axis=0)
    figures = {}
    for number, slider in enumerate(ATTRIBUTES):
        gains = [np.diff(_scores(made.sliders[slider])[:, number]) for _, made in pairs]
        if units[number] > 0:
            figures[f"control_{slider}"] = float(np.mean(gains) / units[number])
    return figures


def _scores(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Attribute scores (N, 4) of pictures as they are: all of one photo are of one size."""
    return attribute_scores(torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2)).numpy()


def _shown(photo: _Photo, made: _Retouched) -> dict[str, np.ndarray]:
    experts = zip(photo.targets.items(), made.oracles, strict=True)
    return {
        "input": photo.picture,
        "c = 0": made.seeds[0],
        **{name: p for (e, t), o in experts for name, p in ((f"target {e}", t), (f"oracle {e}", o))},
        **{f"seed {number}": picture for number, picture in enumerate(made.seeds[1:], 2)},
        **{
            f"{name} {end}": p
            for name, ends in made.sliders.items()
            for end, p in zip(("-1", "+1"), ends, strict=True)
        },
    }


def _as_bytes(pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.round(picture * 255).astype(np.uint8) for name, picture in pictures.items()}
