"""What the retouch comes from: each thing that a model is given is exchanged in turn, and its answer looked at again.

    causality = measure_causality({"c = 0": Model(pipe)}, split, seed=0)

A model that makes its picture past the denoiser, or knows a photo by its statistics alone, has good errors and fails
here: little may be left of its gain where the affine features are another photo's, and some has to be lost where it
is shown another photo's pixels beside the right statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..model.photo_statistics_diffretouch import NUM_STATISTICS
from .intervals import mean_figure, ratio_figure, resamples
from .methods import Model, Progress, Split, quantised
from .metrics import delta_e_2000
from .one_photo import DEFAULT_SEED, variant_seeds
from .photos import EvaluatedPhoto

NO_FEATURES = "affine features zero"
OTHER_FEATURES = "affine features of another photo"
OTHER_STATISTICS = "statistics of another photo"
OTHER_PIXELS = "pixels of another photo, its own statistics"
OTHER_NOISE = "noise of another seed"

_BATCH = 8  # photos in one call


# ---- exchanging what a model is given -------------------------------------------------------------------------------


@contextmanager
def exchanged(
    pipe: Any,
    *,
    features: torch.Tensor | None = None,
    statistics: torch.Tensor | None = None,
    pixels: torch.Tensor | None = None,
) -> Iterator[None]:
    """Within the block, a pipeline's UNet or grid head is given these instead of its own; afterwards all is as it was.

    Works by forward hooks, so everything else of a call (its schedule, its noise, what it does to grey photos) stays
    the pipeline's own. Every call inside has to be for as many pictures as are given here.

    Args:
        features: (N, C, h, w), what the grid head reads.
        statistics: (N, `NUM_STATISTICS`), of the UNet's class labels; c stays the call's.
        pixels: (N, 3, h, w) in [-1, 1], the photo beside the noise (R), as `encode_photo` makes it.
    """

    def to_unet(_: Any, arguments: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        sample, *rest = arguments
        if pixels is not None:
            sample = torch.cat([sample[:, :-3], pixels.to(sample)], dim=1)
        if statistics is not None:
            labels = named["class_labels"]
            named = named | {"class_labels": torch.cat([statistics.to(labels), labels[:, NUM_STATISTICS:]], dim=1)}
        return (sample, *rest), named

    def to_head(_: Any, arguments: tuple) -> Any:
        return arguments if features is None else features.to(arguments[0])

    hooks = [
        pipe.unet.register_forward_pre_hook(to_unet, with_kwargs=True),
        pipe.grid_head.register_forward_pre_hook(to_head),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def recorded_features(pipe: Any) -> Iterator[list[torch.Tensor]]:
    """A list that, within the block, gets what the grid head reads in every call, (N, C, h, w) on the CPU."""
    recorded: list[torch.Tensor] = []
    hook = pipe.grid_head.register_forward_pre_hook(lambda _, arguments: recorded.append(arguments[0].detach().cpu()))
    try:
        yield recorded
    finally:
        hook.remove()


def another(photo_ids: Sequence[str]) -> list[int] | None:
    """The number of another photo for each: a fixed derangement, in which no two have the same.

    Rows that are called NAME#1, NAME#2 ... are inputs of one photo; its own other inputs are no other photo. The rows
    of each photo stand together, and each is given the row that stands as many places on as the photo with most has.

    Returns:
        None where there is none, because a photo has more than half of the rows.
    """
    names = [photo_id.rpartition("#")[0] or photo_id for photo_id in photo_ids]
    together = sorted(range(len(names)), key=lambda number: names.index(names[number]))
    most = max(names.count(name) for name in names)
    if 2 * most > len(names):
        return None
    partners = dict(zip(together, together[most:] + together[:most], strict=True))
    return [partners[number] for number in range(len(names))]


# ---- measuring ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Given:
    """What a model is given of N photos, and what its denoiser makes of them; on the CPU.

    Args:
        features: (N, C, h, w), of the unaltered answers.
        pixels: (N, 3, h, w) in [-1, 1].
        statistics: (N, `NUM_STATISTICS`); None for a UNet without a class embedding.
    """

    features: torch.Tensor
    pixels: torch.Tensor
    statistics: torch.Tensor | None

    def of(self, numbers: Sequence[int]) -> _Given:
        """The same of some of the photos, in that order."""
        chosen = list(numbers)
        statistics = None if self.statistics is None else self.statistics[chosen]
        return _Given(self.features[chosen], self.pixels[chosen], statistics)


def measure_causality(
    models: Mapping[str, Model], split: Split, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """How much of each model's retouch at c = 0 is left when one thing that it is given is exchanged.

    Args:
        models: by the names to show them under.
        split: photos with their experts' pictures.
        seed: of the noise of "another seed" and of the bootstrap.
        progress: called after every few photos.

    Returns:
        - `photos`: how many
        - `models[name]`: `no_change` and `unaltered`, Delta E 2000 to the experts (mean over a photo's experts, then
          over photos); `alterations[what]`: `delta_e`, the same; `left`, the share of the gain over no change that is
          left (1 = all; negative = worse than no change; None where the model has no gain); `moved`, Delta E 2000
          between the altered and the unaltered answer. Figures as in `intervals`
        - `records[name]`: the same per photo

        Alterations that need another photo or statistics are left out where there are none.
    """
    samples = resamples(len(split.photo_ids), seed)
    records: dict[str, list[dict[str, Any]]] = {}
    done, total = 0, len(models) * len(split.photo_ids)
    for name, model in models.items():
        given, partners = _given(model, split), another(split.photo_ids)
        records[name] = []
        for numbers in _batches(len(split.photo_ids)):
            photos = [split.read(split.photo_ids[number]) for number in numbers]
            others = given.of([partners[number] for number in numbers]) if partners else None
            records[name] += _compared(photos, _answers(model, photos, others, seed))
            done += len(photos)
            if progress is not None:
                progress(done, total)
    return {
        "photos": len(split.photo_ids),
        "models": {name: _summary(each, samples) for name, each in records.items()},
        "records": records,
    }


def _batches(count: int) -> Iterator[range]:
    return (range(start, min(count, start + _BATCH)) for start in range(0, count, _BATCH))


def _given(model: Model, split: Split) -> _Given:
    """What the model is given of every photo of a split."""
    pixels, statistics = [], []
    with recorded_features(model.pipe) as features:
        for numbers in _batches(len(split.photo_ids)):
            pictures = [split.read(split.photo_ids[number]).picture for number in numbers]
            model.grids(pictures, [DEFAULT_SEED] * len(pictures))
            photos = [quantised(picture) for picture in pictures]
            pixels += [model.pipe.encode_photo(photo) for photo in photos]
            labels = model.pipe.class_labels(photos, torch.zeros(len(photos), 1, 4))
            statistics += [] if labels is None else [labels[:, :NUM_STATISTICS]]
    return _Given(torch.cat(features), torch.cat(pixels), torch.cat(statistics) if statistics else None)


def _answers(
    model: Model, photos: Sequence[EvaluatedPhoto], others: _Given | None, seed: int
) -> dict[str, list[np.ndarray]]:
    """{what was exchanged: one answer per photo}, the unaltered ones as "unaltered"."""
    pictures, same = [photo.picture for photo in photos], [DEFAULT_SEED] * len(photos)

    def answers(seeds: Sequence[int] = same, **exchange: torch.Tensor) -> list[np.ndarray]:
        with exchanged(model.pipe, **exchange):
            grids = model.grids(pictures, seeds)
        return [grid.apply(picture) for grid, picture in zip(grids, pictures, strict=True)]

    side = model.pipe.unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    nothing = torch.zeros(len(photos), model.pipe.grid_head.config.in_channels, height, width)
    found = {"unaltered": answers(), NO_FEATURES: answers(features=nothing)}
    if others is not None:
        found[OTHER_FEATURES] = answers(features=others.features)
        if others.statistics is not None:
            found[OTHER_STATISTICS] = answers(statistics=others.statistics)
        found[OTHER_PIXELS] = answers(pixels=others.pixels)
    found[OTHER_NOISE] = answers([variant_seeds(seed, photo.photo_id)[0] for photo in photos])
    return found


def _compared(photos: Sequence[EvaluatedPhoto], answers: Mapping[str, list[np.ndarray]]) -> list[dict[str, Any]]:
    """One record per photo: the errors of its answers, and how far they are from the unaltered one."""
    records = []
    for number, photo in enumerate(photos):
        unaltered = answers["unaltered"][number]
        alterations = {
            what: {"delta_e": _error(each[number], photo), "moved": delta_e_2000(each[number], unaltered)}
            for what, each in answers.items()
            if what != "unaltered"
        }
        errors = {"no_change": _error(photo.picture, photo), "unaltered": _error(unaltered, photo)}
        records.append({"photo_id": photo.photo_id, **errors, "alterations": alterations})
    return records


def _error(picture: np.ndarray, photo: EvaluatedPhoto) -> float:
    return float(np.mean([delta_e_2000(picture, target) for target in photo.targets.values()]))


def _summary(records: Sequence[Mapping[str, Any]], samples: np.ndarray) -> dict[str, Any]:
    before, after = (np.asarray([record[what] for record in records]) for what in ("no_change", "unaltered"))
    alterations = {}
    for what in records[0]["alterations"]:
        errors, moved = (
            np.asarray([record["alterations"][what][name] for record in records]) for name in ("delta_e", "moved")
        )
        alterations[what] = {
            "delta_e": mean_figure(errors, samples),
            "left": ratio_figure(before - errors, before - after, samples),
            "moved": mean_figure(moved, samples),
        }
    return {
        "no_change": mean_figure(before, samples),
        "unaltered": mean_figure(after, samples),
        "alterations": alterations,
    }
