"""How far the sliders of a model reach before an adapter is trained: what the adapter's sliders are to keep.

How far the pairs' style moves the scores is no measure of it. A style that brings every photo to one exposure moves
brightness by three times what its slider does; held against that, the slider would hardly count in training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..attributes import ATTRIBUTES, attribute_scores
from ..evaluation.measure import evenly_spaced
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .data import PairCache, quantised

_MOST_PHOTOS = 80
_AT_ONCE = 16
_LEAST = 0.1  # of the scores' spread over the targets: a model may have no sliders yet


@torch.no_grad()
def own_reach(pipe: DiffRetouchPipeline, pairs: PairCache) -> torch.Tensor:
    """(4,): by how much a slider's step of 1 moves its score in `pipe` as it is, each tried on every fourth photo."""
    chosen = torch.tensor(evenly_spaced(list(range(len(pairs))), _MOST_PHOTOS))
    batch = pairs.batch(chosen, pairs.conditions(chosen), torch.zeros(len(chosen), dtype=torch.bool))
    photos = quantised(batch.photo)
    tried = F.one_hot(torch.arange(len(photos)) % len(ATTRIBUTES), len(ATTRIBUTES)).float()
    up, down = (_scores(pipe, photos, sign * tried) for sign in (1, -1))
    moved = ((up - down) / 2 * tried).sum(0) / tried.sum(0).clamp_min(1)
    targets = torch.cat([attribute_scores(group) for group in pairs.target_groups()])
    return torch.maximum(moved, _LEAST * targets.std(0, correction=0)).clamp_min(1e-6)


def _scores(pipe: DiffRetouchPipeline, photos, condition: torch.Tensor) -> torch.Tensor:
    """(N, 4) of the retouches of photos (N, p, p, 3) under c (N, 4)."""
    made = []
    for start in range(0, len(photos), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sliders = dict(zip(ATTRIBUTES, condition[part].T.tolist(), strict=True))
        made.append(pipe(list(photos[part]), output_type="pt", **sliders).images)
    return attribute_scores(torch.cat(made).float())
