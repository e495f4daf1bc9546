"""Calibrating sliders changes what the model is told, by the very matrix that is asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffretouch import ATTRIBUTES, BUNDLED_MODEL, DiffRetouchPipeline
from diffretouch.data.dataset import encode
from diffretouch.data.light import quantise

SCRIPT = Path(__file__).parents[1] / "train_lora" / "calibrate_sliders.py"
MATRIX = np.array([[1.5, 0, 0, 0], [0, 1, 0, 0], [0.5, -0.25, 1, 0], [0, 0, 0, -1]])


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("calibrate_sliders", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pipe() -> DiffRetouchPipeline:
    pipe = DiffRetouchPipeline.from_pretrained(BUNDLED_MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    y, x = np.mgrid[0:1:48j, 0:1:64j]
    return np.stack([x, y, 1 - x], axis=2).astype(np.float32) * 0.6 + 0.2


def coefficients(pipe: DiffRetouchPipeline, photo: np.ndarray, condition: list[float]) -> torch.Tensor:
    view = np.round(photo * 255).astype(np.uint8)
    sliders = dict(zip(ATTRIBUTES, condition, strict=True))
    (grid,) = pipe(view, **sliders, generator=torch.Generator().manual_seed(0), output_type="grid").grids
    return grid.coefficients


def test_a_folded_matrix_is_what_the_model_would_be_told(script, pipe, photo) -> None:
    condition = [0.4, -0.2, 0.6, 0.1]
    told = coefficients(pipe, photo, (np.array(condition) @ MATRIX).tolist())
    before = coefficients(pipe, photo, condition)
    neutral = coefficients(pipe, photo, [0.0] * 4)
    script.fold(pipe, MATRIX)
    assert torch.allclose(coefficients(pipe, photo, condition), told, atol=1e-5)
    assert torch.equal(coefficients(pipe, photo, [0.0] * 4), neutral)
    assert not torch.allclose(told, before, atol=1e-3)


def test_the_response_scales_with_the_sliders(script, pipe, photo) -> None:
    photos = [(photo, np.array([0.1, 0.1, 0.001, 20.0]))]
    before = script.measure_response(pipe, photos)
    script.fold(pipe, 0.5 * np.eye(4))
    assert np.diag(script.measure_response(pipe, photos)) == pytest.approx(np.diag(before) / 2, rel=0.25)
    wider = [(photo, 2 * photos[0][1])]
    assert script.measure_response(pipe, wider) == pytest.approx(script.measure_response(pipe, photos) / 2)


def test_calibrated_sliders_move_their_own_attribute_as_far_as_wanted_and_no_other(script, pipe) -> None:
    with Image.open(Path(__file__).parents[1] / "examples" / "bee.jpg") as opened:
        photo = np.asarray(opened.convert("RGB").resize((96, 64)), np.float32) / 255
    experts = [0.8 * photo, photo * [1.1, 1, 0.8], photo.mean(axis=2, keepdims=True) + 0.7 * (photo - 0.5)]
    shown, *targets = [{"bytes": encode(quantise(picture))} for picture in (photo, *experts)]
    rows = [{"photo_id": "ramp", "input": shown, "target": target} for target in targets]
    response = script.calibrate(pipe, rows, num_photos=1)
    wanted = np.diag([script.RANGE[name] for name in ATTRIBUTES])
    assert response == pytest.approx(wanted, abs=0.1)


def test_mistakes_are_one_line_and_write_nothing(script, tmp_path, capsys) -> None:
    assert script.main([BUNDLED_MODEL, str(tmp_path / "none"), "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("calibrate_sliders.py: ")
    assert not (tmp_path / "out").exists()
