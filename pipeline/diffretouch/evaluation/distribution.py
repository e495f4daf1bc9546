"""How well a model's seeds match the distribution of the experts' pictures of a photo, beside a single answer.

A regression gives the middle of the experts and nothing else; whoever samples can give each expert's picture in its
turn. Distances that look at a whole set of answers tell the two apart, and cannot be won by spreading at random.

The space is what a style changes: CIELAB of the picture's area-averaged view of 32 x 32, as one vector, divided by 32,
so that the Euclidean distance of two pictures is their root mean square Delta E 1976 over places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab

from ..section_tables import MODEL
from .intervals import mean_figure, ratio_figure, resamples
from .methods import Methods, Progress, Split
from .one_photo import NUM_VARIANTS, variant_seeds

VIEW_SIDE = 32
FIGURES = ("energy", "energy_unbiased", "crps", "crps_unbiased", "distance", "nearest", "pairwise")


def lab_view(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) in [0, 1] as a point of the space: (3072,), in Delta E 1976."""
    pixels = torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1)[None]
    view = F.interpolate(pixels, (VIEW_SIDE, VIEW_SIDE), mode="area")[0].permute(1, 2, 0).numpy()
    return rgb2lab(view).astype(np.float64).ravel() / VIEW_SIDE


def energy_distance(answers: np.ndarray, experts: np.ndarray) -> float:
    """Energy distance of two sets of points, (n, d) and (m, d): 2 E|X - Y| - E|X - X'| - E|Y - Y'|.

    Székely & Rizzo, "Energy statistics: a class of statistics based on distances" (2013), for samples,
    Euclidean. Of the points' own unit; 0 only for equal sets, never negative. Not its square root, which others call
    by this name.

    Every pair counts, a point with itself too: a few draws from the very distribution of the experts stay above 0 by
    E|X - X'| / n, which `energy_unbiased` takes away.
    """
    across = _distances(answers, experts).mean()
    return float(2 * across - _distances(answers, answers).mean() - _distances(experts, experts).mean())


def pairwise_distance(points: np.ndarray) -> float:
    """Mean distance of two different ones of n points (n, d); 0 for a single point."""
    count = len(points)
    return float(_distances(points, points).sum() / (count * (count - 1))) if count > 1 else 0.0


def energy_unbiased(answers: np.ndarray, experts: np.ndarray) -> float:
    """The energy distance of what `answers` (n, d) are drawn from to the experts' set (m, d), estimated without bias.

    May fall below 0 by chance. A single point counts as all that its method ever answers.
    """
    return energy_distance(answers, experts) - pairwise_distance(answers) / len(answers)


def crps(answers: np.ndarray, experts: np.ndarray) -> float:
    """Continuous ranked probability score of n answers (n, d) for m experts (m, d), the mean over experts and numbers.

    For each number x of a point: E|x - y| - E|x - x'| / 2 (Gneiting & Raftery, "Strictly proper scoring rules,
    prediction, and estimation" (2007), equation 21). Lower is better; for a single answer the mean absolute error.
    """
    across = np.abs(answers[:, None] - experts[None]).mean()
    return float(across - np.abs(answers[:, None] - answers[None]).mean() / 2)


def crps_unbiased(answers: np.ndarray, experts: np.ndarray) -> float:
    """The score of what `answers` are drawn from, estimated without bias (Ferro, "Fair scores for ensemble forecasts",
    2014); for a single answer the mean absolute error."""
    count = len(answers)
    if count == 1:
        return crps(answers, experts)
    within = np.abs(answers[:, None] - answers[None]).mean()
    return crps(answers, experts) - float(within) / (2 * (count - 1))


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n, d) and (m, d) -> (n, m), Euclidean."""
    return np.linalg.norm(first[:, None] - second[None], axis=2)


def measures(answers: np.ndarray, experts: np.ndarray) -> dict[str, float]:
    """All `FIGURES` of one photo: answers (n, d) against experts (m, d)."""
    across = _distances(answers, experts)
    return {
        "energy": energy_distance(answers, experts),
        "energy_unbiased": energy_unbiased(answers, experts),
        # The scores take Lab numbers as they are: the space's factor is for distances of whole pictures.
        "crps": VIEW_SIDE * crps(answers, experts),
        "crps_unbiased": VIEW_SIDE * crps_unbiased(answers, experts),
        "distance": float(across.mean()),
        "nearest": float(across.min(0).mean()),
        "pairwise": pairwise_distance(answers),
    }


def seeds_of(name: str) -> str:
    """The row of a model's seeds, beside the one of its single answer."""
    return f"{NUM_VARIANTS} seeds" if name == MODEL else f"{name}, {NUM_VARIANTS} seeds"


def measure_distribution(
    methods: Methods, split: Split, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Answers of every method against the set of the experts' pictures, photo by photo.

    Args:
        methods: baselines and models; each model is measured by its single answer at c = 0, and by `NUM_VARIANTS`
            seeds, those of `variant_seeds`.
        split: photos with their experts' pictures.
        seed: of the variants and of the bootstrap.

    Returns:
        - `photos`, `seeds`: how many
        - `experts`: mean distance of two experts of a photo
        - `methods[name]`: each of `FIGURES` (energy distances and distances in root mean square Delta E 1976, CRPS in
          units of CIELAB; `distance` is the mean over answers and experts, `nearest` that of the answer nearest to
          each expert, `pairwise` that of two answers); `of_single`: {other method: `energy` and `crps` in units of
          that method's} for a model's seeds, beside every model's single answer. Figures as in `intervals`
        - `records`: the same per photo
    """
    records = []
    for number, photo_id in enumerate(split.photo_ids, 1):
        photo = split.read(photo_id)
        experts = np.stack([lab_view(target) for target in photo.targets.values()])
        points = {name: lab_view(retouch(photo.picture))[None] for name, retouch in methods.single().items()}
        for name, model in methods.models.items():
            variants = model.variants(photo.picture, variant_seeds(seed, photo_id))
            points[seeds_of(name)] = np.stack([lab_view(variant) for variant in variants])
        figures = {name: measures(each, experts) for name, each in points.items()}
        records.append({"photo_id": photo_id, "experts": pairwise_distance(experts), "methods": figures})
        if progress is not None:
            progress(number, len(split.photo_ids))
    return _summary(records, list(methods.models), resamples(len(records), seed))


def _summary(records: Sequence[Mapping[str, Any]], models: Sequence[str], samples: np.ndarray) -> dict[str, Any]:
    def each(name: str, figure: str) -> list[float]:
        return [record["methods"][name][figure] for record in records]

    summary: dict[str, Any] = {
        name: {figure: mean_figure(each(name, figure), samples) for figure in FIGURES}
        for name in records[0]["methods"]
    }
    for model in models:
        seeds = seeds_of(model)
        summary[seeds]["of_single"] = {
            single: {
                figure: ratio_figure(each(seeds, figure), each(single, figure), samples)
                for figure in ("energy", "crps")
            }
            for single in models
        }
    return {
        "photos": len(records),
        "seeds": NUM_VARIANTS,
        "experts": mean_figure([record["experts"] for record in records], samples),
        "methods": summary,
        "records": list(records),
    }
