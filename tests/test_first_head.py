"""The head that training starts from: what a head can make of the features is found, and sliders keep their say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scenes import scene

from diffretouch import DiffRetouchPipeline
from diffretouch.training.first_head import first_head

PHOTOS = np.stack([scene(seed, 40, 40) for seed in range(12)])
UNSEEN = np.stack([scene(seed, 40, 40) for seed in range(30, 34)])


def retouched(pipe: DiffRetouchPipeline, photos: np.ndarray, **sliders: float) -> np.ndarray:
    return np.stack(pipe(list(photos), output_type="np", **sliders).images)


def test_the_head_that_made_the_targets_is_found_again(tiny_pipeline: Callable[..., DiffRetouchPipeline]) -> None:
    pipe, other = tiny_pipeline(), tiny_pipeline()
    with torch.no_grad():
        torch.manual_seed(1)
        other.grid_head.out.weight.add_(0.1 * torch.randn_like(other.grid_head.out.weight))
        other.grid_head.out.bias.mul_(0.8)
    targets, unseen = (np.round(retouched(other, photos) * 255).astype(np.uint8) for photos in (PHOTOS, UNSEEN))
    before = np.abs(retouched(pipe, UNSEEN) - unseen / 255).mean()
    found = first_head(pipe, PHOTOS, targets)
    pipe.grid_head.load_state_dict(found.weights, strict=False)
    after = np.abs(retouched(pipe, UNSEEN) - unseen / 255).mean()
    assert after < 0.25 * before
    assert found.error < 4


def test_pairs_of_another_style_do_not_count(tiny_pipeline: Callable[..., DiffRetouchPipeline]) -> None:
    pipe = tiny_pipeline()
    targets, unseen = (np.round(photos * 0.7 + 20).astype(np.uint8) for photos in (PHOTOS, UNSEEN))
    targets[[2, 9]] = 255 - PHOTOS[[2, 9]]
    errors = {}
    for judged in (True, False):
        found = first_head(pipe, PHOTOS, targets, judged)
        assert np.flatnonzero(~found.kept).tolist() == ([2, 9] if judged else [])
        other = tiny_pipeline()
        other.grid_head.load_state_dict(found.weights, strict=False)
        errors[judged] = np.abs(retouched(other, UNSEEN) - unseen / 255).mean()
    assert errors[True] < 0.5 * errors[False]


def test_sliders_move_as_they_did(tiny_pipeline: Callable[..., DiffRetouchPipeline]) -> None:
    pipe = tiny_pipeline()
    targets = np.round(PHOTOS * 0.7 + 20).astype(np.uint8)
    base = retouched(pipe, PHOTOS, brightness=1.0) - retouched(pipe, PHOTOS, brightness=-1.0)
    pipe.grid_head.load_state_dict(first_head(pipe, PHOTOS, targets).weights, strict=False)
    moved = retouched(pipe, PHOTOS, brightness=1.0) - retouched(pipe, PHOTOS, brightness=-1.0)
    assert np.corrcoef(base.ravel(), moved.ravel())[0, 1] > 0.4


def test_one_pair_leaves_nothing_to_hold_back(tiny_pipeline: Callable[..., DiffRetouchPipeline]) -> None:
    assert first_head(tiny_pipeline(), PHOTOS[:1], PHOTOS[:1]) is None
