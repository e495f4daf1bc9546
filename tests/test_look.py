"""A look for every photo: its table becomes each photo's own grid, and its file is read by every version."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from scenes import scene

from diffretouch import AffineGrid, Look
from diffretouch.look.fit import delta_e
from diffretouch.look.lut import Lut, LutError


def turned_hues(size: int = 17) -> np.ndarray:
    """Red, green and blue change places by halves, and the shadows turn blue: no grid of one cell does both."""
    axis = np.linspace(0, 1, size, dtype=np.float32)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    table = np.stack([0.5 * (red + green), 0.5 * (green + blue), np.maximum(0.5 * (blue + red), 0.2)], -1)
    return np.clip(table, 0, 1).astype(np.float32)


@pytest.fixture
def look() -> Look:
    return Look(AffineGrid.identity(8, 1, 1), turned_hues())


def test_a_photo_comes_out_as_the_table_has_it(look):
    wanted = Lut(turned_hues(), LutError(0, 0)).apply(scene(3))
    made = look.apply(scene(3))
    apart = delta_e(*(picture.reshape(-1, 3) / np.float32(255) for picture in (made, wanted)))
    changed = delta_e(*(picture.reshape(-1, 3) / np.float32(255) for picture in (scene(3), wanted)))
    assert apart.mean() < 0.1 * changed.mean()


def test_every_kind_of_photo_comes_back_as_it_came_and_the_same(look):
    photo = scene(4)
    made = look.apply(photo)
    as_pil = look.apply(PIL.Image.fromarray(photo))
    as_16_bits = look.apply(photo.astype(np.uint16) * 257)
    tensor = torch.from_numpy(photo).permute(2, 0, 1) / 255
    as_batch = look.apply(torch.stack([tensor, tensor.flip(2)]))
    assert isinstance(as_pil, PIL.Image.Image) and np.abs(np.asarray(as_pil).astype(int) - made).max() <= 1
    assert as_16_bits.dtype == np.uint16 and np.abs(as_16_bits / 257 - made).max() <= 1
    assert as_batch.shape == (2, *tensor.shape)
    assert np.abs(as_batch[0].permute(1, 2, 0).numpy() * 255 - made).max() <= 1
    assert look.apply(tensor).shape == tensor.shape


def test_strength_is_that_of_a_grid(look):
    photo = scene(5)
    half = look.apply(photo, 0.5).astype(float)
    assert np.array_equal(look.apply(photo, 0), photo)
    assert np.abs(half - (photo.astype(float) + look.apply(photo)) / 2).max() <= 2


def test_a_small_version_of_a_photo_asks_for_the_same_grid(look):
    large = np.asarray(PIL.Image.fromarray(scene(6)).resize((1500, 1000), PIL.Image.Resampling.BICUBIC))
    small, full = (look.for_photo(picture) for picture in (large[::3, ::3], large))
    assert np.abs(small.apply(large).astype(int) - full.apply(large)).mean() < 1


def test_a_table_in_black_and_white_leaves_no_colour_at_all():
    grey = turned_hues().mean(3, keepdims=True).repeat(3, 3)
    assert np.ptp(Look(AffineGrid.identity(8, 1, 1), grey).apply(scene(7)), axis=2).max() == 0


def test_the_file_holds_both_and_earlier_versions_read_the_grid_of_it(look, tmp_path):
    look.grid.coefficients[3] += 0.1
    look.save(tmp_path / "look.safetensors")
    loaded = Look.load(tmp_path / "look.safetensors")
    assert np.array_equal(loaded.table, look.table) and np.array_equal(loaded.apply(scene(1)), look.apply(scene(1)))
    assert torch.equal(AffineGrid.load(tmp_path / "look.safetensors").coefficients, look.grid.coefficients)


def test_a_retouch_of_the_model_is_a_look_without_a_table(tmp_path):
    grid = AffineGrid.identity()
    grid.coefficients[7] += 0.2
    grid.save(tmp_path / "one.safetensors")
    loaded = Look.load(tmp_path / "one.safetensors")
    assert loaded.table is None and np.array_equal(loaded.apply(scene(2)), grid.apply(scene(2)))
    assert repr(loaded) == "Look(AffineGrid(12x8x16x16, device=cpu))"


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (np.zeros((3, 3, 3), np.float32), "of shape"),
        (np.zeros((3, 4, 3, 3), np.float32), "of shape"),
        (np.zeros((1, 1, 1, 3), np.float32), "S from 2 to 129"),
        (np.zeros((3, 3, 3, 3)), "float32"),
        (np.full((3, 3, 3, 3), np.nan, np.float32), r"within \[0, 1\]"),
        (np.full((3, 3, 3, 3), 1.5, np.float32), r"within \[0, 1\]"),
        (np.float32(0), "of shape"),
    ],
)
def test_a_damaged_table_is_refused_when_it_is_given_and_when_it_is_read(table, line, tmp_path):
    with pytest.raises(ValueError, match=line):
        Look(AffineGrid.identity(8, 1, 1), np.asarray(table))
    AffineGrid.identity(8, 1, 1).save(tmp_path / "bad.safetensors", {"table": torch.tensor(table)})
    with pytest.raises(ValueError, match=f"{line}.*bad.safetensors|bad.safetensors.*{line}"):
        Look.load(tmp_path / "bad.safetensors")


def test_a_table_beside_a_grid_of_places_is_refused():
    with pytest.raises(ValueError, match="of one cell"):
        Look(AffineGrid.identity(), turned_hues())


def test_what_is_no_photo_is_refused_by_its_name(look):
    with pytest.raises(TypeError, match="`photo`"):
        look.apply("photo.jpg")
    with pytest.raises(ValueError, match="`photo`"):
        look.for_photo(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="has to be one, of shape"):
        look.for_photo(torch.zeros(2, 3, 8, 8))
