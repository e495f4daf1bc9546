"""What an adapter starts from: a look fitted to the pairs, where that is nearer to their targets than nothing.

A look holds what a style does to every photo alike, and is found in seconds; steps are then for what depends on the
photo. It comes alone, in place of the model's own retouch, or after it: the model brings photos to one exposure and
one light, which no fixed look can. Which of the two, or neither, is decided on pairs that are held back from the fit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.look_pairs import _sampled, _table_of, _together
from ..evaluation.measure import evenly_spaced
from ..look.fit import Fit, Pixels, delta_e, fit_pixels
from ..model.adapter_look_diffretouch import TABLE_SIZE
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .data import PairCache, quantised
from .first_head import first_head

logger = logging.getLogger(__name__)

NOTHING, ALONE, AFTER = "no look", "the look alone", "the look after the model"
HEAD = "the head fitted"

_MOST_PAIRS = 200  # whose pixels are fitted to, and which are judged
_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class FirstLook:
    """A look, or none, and why.

    Attributes:
        tensors: "look.table" and "look.share" as an adapter holds them; empty = no look is better.
        errors: Delta E 2000 on held-back pairs of `NOTHING` (the model as it is), `ALONE`, `AFTER` and `HEAD`.
        head: weights of the grid head to start from, where `HEAD` is nearest; else empty.
        left_out: ids of photos that are of another style than most, which neither start nor steps see.
    """

    tensors: dict[str, torch.Tensor]
    errors: dict[str, float]
    head: dict[str, torch.Tensor]
    left_out: tuple[str, ...] = ()

    @property
    def chosen(self) -> str:
        """Which of them is nearest."""
        return min(self.errors, key=lambda name: self.errors[name])

    def said(self) -> str:
        """The choice in one sentence."""
        listed = ", ".join(f"{name} {error:.2f}" for name, error in self.errors.items())
        line = f"Delta E 2000 on held-back pairs: {listed}. Starting from {self.chosen}"
        return f"{line}. Left out, as of another style: {', '.join(self.left_out)}" if self.left_out else line


def first_look(pipe: DiffRetouchPipeline, pairs: PairCache, head: bool, judged: bool) -> FirstLook:
    """The start that is nearest to the targets on pairs it was not fitted to; with `head`, a fitted head is tried, and
    where pairs are `judged`, it finds those that are of another style than most (`same_style`)."""
    chosen = torch.tensor(evenly_spaced(list(range(len(pairs))), _MOST_PAIRS))
    batch = pairs.batch(chosen, pairs.conditions(chosen), torch.zeros(len(chosen), dtype=torch.bool))
    photos, targets = (quantised(pictures) for pictures in (batch.photo, batch.target))
    fitted = first_head(pipe, photos, targets, judged) if head else None
    kept = fitted.kept if fitted else np.ones(len(photos), bool)
    left_out = tuple(pairs.photo_ids[number] for number in chosen[torch.from_numpy(~kept)].tolist())
    photos, targets = photos[kept], targets[kept]
    made = [
        picture
        for start in range(0, len(photos), _AT_ONCE)
        for picture in pipe(list(photos[start : start + _AT_ONCE]), output_type="np").images
    ]
    retouched = np.round(np.stack(made) * 255).astype(np.uint8)
    apart = [delta_e(_colours(one), _colours(other)).mean() for one, other in zip(retouched, targets, strict=True)]
    fits = {ALONE: _fit(photos, targets), AFTER: _fit(retouched, targets)}
    errors = {name: round(float(fit.held_back.mean()), 3) for name, (fit, _) in fits.items()}
    if fitted:
        errors[HEAD] = round(fitted.error, 3)
    found = FirstLook({}, {NOTHING: round(float(np.mean(apart)), 3), **errors}, {}, left_out)
    if fitted and found.chosen == HEAD:
        found.head.update(fitted.weights)
    elif found.chosen in fits:
        share = 0.0 if found.chosen == ALONE else 1.0
        found.tensors.update({"look.table": _table(*fits[found.chosen]), "look.share": torch.tensor(share)})
    logger.info(found.said())
    return found


def _colours(picture: np.ndarray) -> np.ndarray:
    return picture.reshape(-1, 3)[::4].astype(np.float32) / 255


def _fit(sources: np.ndarray, targets: np.ndarray) -> tuple[Fit, Pixels]:
    pixels = _together([_sampled(view, len(sources)) for view in zip(sources, targets, strict=True)])
    return fit_pixels(pixels), pixels


def _table(fit: Fit, pixels: Pixels) -> torch.Tensor:
    """The look as a table, with what only a table can hold of it."""
    table: Any = _table_of(pixels[fit.kept], fit.look, TABLE_SIZE).table
    return torch.from_numpy(table).half()
