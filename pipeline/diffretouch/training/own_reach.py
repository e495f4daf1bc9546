"""How far the sliders of a model reach before an adapter is trained: what the adapter's sliders are to keep.

How far the pairs' style moves the scores is no measure of it. A style that brings every photo to one exposure moves
brightness by three times what its slider does; held against that, the slider would hardly count in training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..attributes import ATTRIBUTES, attribute_scores
from ..evaluation.measure import evenly_spaced
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .data import PairCache, quantised

_MOST_PHOTOS = 40
_AT_ONCE = 16
_LEAST = 0.1  # of the scores' spread over the targets: a model may have no sliders yet


@torch.no_grad()
def own_reach(pipe: DiffRetouchPipeline, pairs: PairCache) -> torch.Tensor:
    """(4,): by how much a slider's step of 1 moves its score in `pipe` as it is, on average over the pairs' photos."""
    chosen = torch.tensor(evenly_spaced(list(range(len(pairs))), _MOST_PHOTOS))
    batch = pairs.batch(chosen, pairs.conditions(chosen), torch.zeros(len(chosen), dtype=torch.bool))
    photos = list(quantised(batch.photo))
    moved = []
    for number, name in enumerate(ATTRIBUTES):
        up, down = (_scores(pipe, photos, {name: position})[:, number] for position in (1.0, -1.0))
        moved.append((up - down).mean() / 2)
    targets = torch.cat([attribute_scores(group) for group in pairs.target_groups()])
    return torch.maximum(torch.stack(moved), _LEAST * targets.std(0, correction=0)).clamp_min(1e-6)


def _scores(pipe: DiffRetouchPipeline, photos: list[np.ndarray], sliders: dict[str, Any]) -> torch.Tensor:
    """(N, 4) of the retouches of N photos (p, p, 3)."""
    made = [
        pipe(photos[start : start + _AT_ONCE], output_type="pt", **sliders).images
        for start in range(0, len(photos), _AT_ONCE)
    ]
    return attribute_scores(torch.cat(made).float())
