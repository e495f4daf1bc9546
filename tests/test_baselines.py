"""The learned baseline: its package is found without being imported, and named with the reason where it cannot be."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import scene

from diffretouch.evaluation.baselines import find_learned, find_zero_dce
from diffretouch.tables import NOTES, notes


@pytest.fixture(scope="module")
def package() -> Path:
    """Where neuro-low-light is installed (requirements-no-deps.txt)."""
    import importlib.metadata

    return Path(importlib.metadata.distribution("neuro-low-light").locate_file("neuro_low_light"))


@pytest.fixture
def installed(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package to break, found before the real one."""
    copied = shutil.copytree(package, tmp_path / "neuro_low_light")
    monkeypatch.syspath_prepend(tmp_path)
    return copied


def test_zero_dce_runs_without_importing_its_package() -> None:
    enhance = find_zero_dce()
    assert "neuro_low_light" not in sys.modules and "torchvision" not in sys.modules
    dark = scene(0).astype(np.float32) / 255 * 0.2
    assert enhance(dark).mean() > 1.5 * dark.mean()  # what it was trained for


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (11, 30), (48, 72), (301, 203)])
def test_zero_dce_keeps_the_kind_and_size_of_any_picture_and_leaves_it_alone(size: tuple[int, int]) -> None:
    enhance = find_zero_dce()
    noise = np.random.default_rng(0).random((*size, 3), np.float32)
    for picture in (noise, np.zeros_like(noise), np.ones_like(noise), noise.transpose(1, 0, 2)[::-1]):
        before = picture.copy()
        made = enhance(picture)
        assert made.shape == picture.shape and made.dtype == np.float32
        assert np.isfinite(made).all() and made.min() >= 0 and made.max() <= 1
        assert np.array_equal(picture, before) and np.array_equal(made, enhance(picture))


def test_a_learned_baseline_at_hand_has_a_note_for_its_row() -> None:
    found, missing = find_learned()
    assert list(found) == ["Zero-DCE++"] and missing == {}
    assert notes({"quality": {"no change": {}, "Zero-DCE++": {}}}) == [NOTES["Zero-DCE++"]]
    assert notes({"quality": {"no change": {}}}) == []


def test_a_package_that_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "neuro_low_light", None)
    reason = "neuro-low-light is not installed (pip install --no-deps neuro-low-light==0.1.0)"
    assert find_learned() == ({}, {"Zero-DCE++": reason})


@pytest.mark.parametrize(
    "damage", ["no code", "other code", "no weights", "half the weights", "pickled code", "other"]
)
def test_a_package_that_is_not_as_it_was_is_named_and_not_used(installed: Path, damage: str) -> None:
    weights = installed / "weights" / "best_model.pth"
    if damage == "no code":
        (installed / "model.py").unlink()
    elif damage == "other code":
        (installed / "model.py").write_text("class Other: pass\n")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "half the weights":
        weights.write_bytes(weights.read_bytes()[:100_000])
    elif damage == "pickled code":
        torch.save({"model_state_dict": Path("x")}, weights)  # a class, which weights alone never hold
    else:
        torch.save({"model_state_dict": {"weight": torch.zeros(1)}}, weights)
    found, missing = find_learned()
    assert found == {} and missing["Zero-DCE++"].startswith("the package neuro-low-light fails here (")
    assert "\n" not in missing["Zero-DCE++"]
