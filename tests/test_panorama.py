"""Views of panoramas: straight lines and colours where they belong, light kept, metered and stored whole."""

from __future__ import annotations

import io

import numpy as np
import OpenEXR
import pytest
import tifffile

from diffretouch.data.panorama import View, cut_view, encode_light, fill_rings, normalise, parse_view, read_exr

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def directions(height: int) -> np.ndarray:
    """A panorama (height, 2 height, 3) whose light is the unit vector it comes from: right, up, ahead, plus 1."""
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    longitude = ((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * np.pi
    b, a = np.meshgrid(latitude, longitude, indexing="ij")
    return np.stack([np.cos(b) * np.sin(a), np.sin(b), np.cos(b) * np.cos(a)], axis=-1).astype(np.float32) + 1


def rays(view: View, shape: tuple[int, int]) -> np.ndarray:
    """The unit vectors that a camera's pixels see, by turning its picture plane: a second way to the same."""
    height, width = shape
    focal = width / 2 / np.tan(np.radians(view.across / 2))
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - np.arange(height) - 0.5)
    plane = np.stack([x / focal, y / focal, np.ones_like(x)], axis=-1)
    plane /= np.linalg.norm(plane, axis=-1, keepdims=True)
    p, h = np.radians(view.pitch), np.radians(view.heading)
    up = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    right = np.array([[np.cos(h), 0, np.sin(h)], [0, 1, 0], [-np.sin(h), 0, np.cos(h)]])
    return plane @ (right @ up).T


@pytest.mark.parametrize("view", ["0,0,90x67", "45,-20,80x58", "180,30,100x77", "-95,10,60x80", "270,-60,90x90"])
def test_each_pixel_sees_what_lies_in_its_direction(view: str) -> None:
    """Behind as well, where the panorama's ends meet, and near the nadir."""
    seen = cut_view(directions(128), parse_view(view))
    assert np.abs(seen - 1 - rays(parse_view(view), seen.shape[:2])).max() < 0.02


def test_a_straight_wall_edge_stays_straight() -> None:
    """The upper edge of a wall ahead is an arc in the panorama and a level line in the view."""
    toward = directions(256) - 1
    wall = (toward[..., 2] > 0) & (toward[..., 1] < 0.3 * toward[..., 2])
    seen = cut_view(np.where(wall[..., None], 1.0, 0.0).astype(np.float32).repeat(3, -1), View(0, 0, 90, 67))[..., 0]
    rows_of_sky = (seen < 0.5).sum(0)
    assert np.ptp(rows_of_sky) <= 1
    focal = seen.shape[1] / 2
    assert rows_of_sky.mean() == pytest.approx(seen.shape[0] / 2 - 0.3 * focal, abs=1)


def test_a_view_has_the_panoramas_pixels_in_its_angle_and_no_more() -> None:
    assert cut_view(np.ones((256, 512, 3), np.float32), View(0, 0, 90, 67)).shape == (85, 128, 3)
    assert cut_view(np.ones((512, 1024, 3), np.float32), View(0, 0, 60, 80)).shape == (249, 171, 3)


def test_fine_stripes_become_grey_instead_of_aliasing() -> None:
    stripes = np.zeros((256, 512, 3), np.float32)
    stripes[:, ::2] = 1
    seen = cut_view(stripes, View(10, 0, 90, 67))
    middle = seen[:, 40:90]
    assert abs(middle.mean() - 0.5) < 0.02 and middle.std() < 0.2


def test_rings_of_negative_light_take_what_surrounds_them() -> None:
    light = np.full((20, 20, 3), 0.5, np.float32)
    light[9:12, 9:12] = -3.0
    light[10, 10] = 900.0
    filled = fill_rings(light)
    assert filled[9, 9] == pytest.approx(0.5)
    assert filled[10, 10] == pytest.approx(900.0)
    assert cut_view(light, View(0, 0, 90, 67)).min() > 0
    assert fill_rings(np.full((8, 8, 3), -1.0, np.float32)).max() == 0


def test_exposure_is_metered_on_the_geometric_mean_and_highlights_stay() -> None:
    light = np.random.default_rng(0).lognormal(0, 2, (40, 60, 3)).astype(np.float32)
    metered = normalise(light)
    assert np.exp(np.log(metered @ LUMINANCE).mean()) == pytest.approx(0.18, rel=1e-3)
    assert metered.max() > 10
    assert metered / light == pytest.approx(metered[0, 0, 0] / light[0, 0, 0], rel=1e-5)
    light[:5] = 0
    assert np.isfinite(normalise(light)).all()


def test_stored_light_comes_back_to_float16_and_the_same_each_time() -> None:
    light = np.random.default_rng(1).lognormal(0, 2, (12, 18, 3)).astype(np.float32)
    light[0, 0] = 1e6
    stored = encode_light(light)
    assert stored == encode_light(light.copy())
    back = tifffile.imread(io.BytesIO(stored))
    assert back.dtype == np.float16 and np.isfinite(back).all()
    assert back[0, 0].tolist() == [65504] * 3
    np.testing.assert_allclose(back.reshape(-1, 3)[1:], light.reshape(-1, 3)[1:], rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_exr_files_of_both_depths_are_read(tmp_path, dtype) -> None:
    light = np.random.default_rng(2).uniform(0, 9, (8, 16, 3)).astype(dtype)
    OpenEXR.File({"type": OpenEXR.scanlineimage}, {"RGB": light}).write(str(tmp_path / "a.exr"))
    assert read_exr(tmp_path / "a.exr").dtype == np.float32
    np.testing.assert_array_equal(read_exr(tmp_path / "a.exr"), light.astype(np.float32))


def test_files_that_hold_no_rgb_picture_are_named(tmp_path) -> None:
    (tmp_path / "a.exr").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"`path` has to be an OpenEXR picture, got .*a\.exr"):
        read_exr(tmp_path / "a.exr")
    OpenEXR.File({"type": OpenEXR.scanlineimage}, {"Z": np.ones((8, 16), np.float32)}).write(str(tmp_path / "z.exr"))
    with pytest.raises(ValueError, match=r"has to be an RGB picture, got the channels \['Z'\]"):
        read_exr(tmp_path / "z.exr")


def test_a_view_is_written_as_it_is_read() -> None:
    assert parse_view("-45,5,80x58") == View(-45, 5, 80, 58)
    for wrong in ("45,5,80", "45,5,80x", "a,5,80x58", "4.5,5,80x58", ""):
        with pytest.raises(ValueError, match="`text` has to be HEADING,PITCH,ACROSSxDOWN in whole degrees"):
            parse_view(wrong)
    with pytest.raises(ValueError, match=r"`across` has to be in \[1, 150\] degrees, got 180"):
        parse_view("0,0,180x58")
