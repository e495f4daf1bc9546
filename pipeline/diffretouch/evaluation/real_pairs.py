"""Real photos with a real expert's retouch of them: the measure that no training set of our own making can flatter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..tables import WORSE
from .distribution import seeds_of
from .folders import Pair, Pairs
from .intervals import difference_figure, mean_figure, resamples
from .methods import Methods, Progress, unit
from .metrics import delta_e_2000, psnr
from .one_photo import NUM_VARIANTS, variant_seeds

NO_CHANGE = "no change"


def measure_real_pairs(methods: Methods, pairs: Pairs, seed: int, progress: Progress | None = None) -> dict[str, Any]:
    """Every method's answer to each photo, and the nearest of each model's seeds, against the expert's picture.

    Args:
        methods: baselines, `NO_CHANGE` among them, and models.
        pairs: of a folder.
        seed: with the pairs' names, of the variants; and of the bootstrap.

    Returns:
        - `photos`, `seeds`: how many; `unused`: what was left out of the folder, one line each
        - `methods[name]`: `delta_e` (2000), `psnr` (dB); `to_no_change`, the paired difference in Delta E 2000
          (negative = nearer to the expert); `worse`, share of the photos that end more than `WORSE` farther from the
          expert than they came, in [0, 1]. A model's "8 seeds" are the nearest of them by Delta E 2000. Figures as in
          `intervals`
        - `records[name]`: Delta E 2000 and PSNR of each photo, by its name
    """
    records: dict[str, list[dict[str, Any]]] = {}
    for number, pair in enumerate(pairs.pairs, 1):
        for name, figures in _measure_pair(methods, pair, seed).items():
            records.setdefault(name, []).append({"photo": pair.name, **figures})
        if progress is not None:
            progress(number, len(pairs.pairs))
    samples = resamples(len(pairs.pairs), seed)
    return {
        "photos": len(pairs.pairs),
        "seeds": NUM_VARIANTS,
        "unused": list(pairs.unused),
        "methods": {name: _summary(each, records[NO_CHANGE], samples) for name, each in records.items()},
        "records": records,
    }


def _measure_pair(methods: Methods, pair: Pair, seed: int) -> dict[str, dict[str, float]]:
    picture, target = unit(pair.picture), unit(pair.target)
    measured = {name: _figures(retouch(picture), target) for name, retouch in methods.single().items()}
    for name, model in methods.models.items():
        variants = model.variants(picture, variant_seeds(seed, pair.name))
        measured[seeds_of(name)] = min((_figures(one, target) for one in variants), key=lambda one: one["delta_e"])
    return measured


def _figures(picture: np.ndarray, target: np.ndarray) -> dict[str, float]:
    return {"delta_e": delta_e_2000(picture, target), "psnr": psnr(picture, target)}


def _summary(
    records: Sequence[Mapping[str, Any]], untouched: Sequence[Mapping[str, Any]], samples: np.ndarray
) -> dict[str, Any]:
    errors = np.asarray([record["delta_e"] for record in records])
    before = np.asarray([record["delta_e"] for record in untouched])
    return {
        "delta_e": mean_figure(errors, samples),
        "psnr": mean_figure([record["psnr"] for record in records], samples),
        "to_no_change": difference_figure(errors, before, samples),
        "worse": mean_figure(errors > (1 + WORSE) * before, samples),
    }
