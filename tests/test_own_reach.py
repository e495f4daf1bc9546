"""How far a model's own sliders reach, which an adapter's are held to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scenes import overrides
from test_first_look import data_of, faded

from diffretouch import DiffRetouchPipeline
from diffretouch.attributes import ATTRIBUTES, attribute_scores
from diffretouch.data.dataset import read_split
from diffretouch.training.config import load_config
from diffretouch.training.data import PairCache
from diffretouch.training.loop import Trainer
from diffretouch.training.objective import retouch_spread
from diffretouch.training.own_reach import own_reach


@pytest.fixture
def pairs(tiny_pipeline: Callable[..., DiffRetouchPipeline], tmp_path: Path) -> PairCache:
    return PairCache(read_split(data_of(tmp_path / "data", faded), "train"), tiny_pipeline(), 16, tmp_path / "cache")


def lighter(photos: list[np.ndarray], output_type: str, **sliders: float) -> Any:
    """A model of one slider, which moves every pixel by 0.05 a step, and the photos half way to grey beforehand."""
    assert output_type == "pt"
    pictures = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2) / 510 + 0.25
    return SimpleNamespace(images=pictures + 0.05 * sliders.get("brightness", 0.0))


def test_it_is_what_a_step_of_each_slider_moves_its_own_score_by(pairs: PairCache) -> None:
    grey = torch.full((1, 3, 16, 16), 0.5)
    step = (attribute_scores(grey + 0.05) - attribute_scores(grey - 0.05))[0] / 2
    reach = own_reach(lighter, pairs)
    brightness = ATTRIBUTES.index("brightness")
    assert reach[brightness] == pytest.approx(float(step[brightness]), rel=0.02)


def test_an_adapters_sliders_are_held_to_what_the_base_did_before_its_head_was_fitted(
    tiny_pipeline: Callable[..., DiffRetouchPipeline], tmp_path: Path
) -> None:
    base, data = tmp_path / "base", data_of(tmp_path / "data", faded)
    tiny_pipeline().save_pretrained(base)
    settings = {"dataset": data, "pretrained_model": base, "lora_rank": 2, "fit_look": True, "output_dir": tmp_path}
    trainer = Trainer(load_config(None, overrides(**settings)), Accelerator(), read_split(data, "train"), None)
    expected = own_reach(DiffRetouchPipeline.from_pretrained(base), trainer._pairs)
    torch.testing.assert_close(trainer._objective.score_scale, expected)
    assert not torch.allclose(expected, retouch_spread(trainer._pairs), rtol=0.2)


def test_sliders_that_do_nothing_count_a_tenth_of_the_targets_spread(pairs: PairCache) -> None:
    targets = torch.cat([attribute_scores(group) for group in pairs.target_groups()])
    floor = 0.1 * targets.std(0, correction=0)
    for name in ("colorfulness", "contrast", "temperature"):
        number = ATTRIBUTES.index(name)
        assert own_reach(lighter, pairs)[number] == pytest.approx(float(floor[number]), rel=1e-4)
