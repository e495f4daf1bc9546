"""lut.py: the table is the retouch where it can be, says how far it is where it cannot, and other programs read it."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageFilter
import pytest
import torch
from pillow_lut import load_cube_file, load_hald_image
from scenes import scene
from skimage.color import deltaE_ciede2000, rgb2lab

from diffretouch.look.lut import HALDCLUT_SIZES, Lut, LutError, grid_to_lut
from diffretouch.model.modeling_affine_grid import AffineGrid, GuideCurve, identity_coefficients


def random_grid(rows: int, columns: int, seed: int = 0) -> AffineGrid:
    """A strong retouch; with one row and column it treats a colour alike everywhere, as a table does."""
    noise = torch.randn(12, 8, rows, columns, generator=torch.Generator().manual_seed(seed))
    return AffineGrid(identity_coefficients(8, rows, columns) + 0.1 * noise, GuideCurve())


def random_lut(size: int, seed: int = 0) -> Lut:
    table = np.random.default_rng(seed).random((size, size, size, 3), dtype=np.float32)
    return Lut(table, LutError(1.234, 5.678))


def delta_e(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return deltaE_ciede2000(rgb2lab(one), rgb2lab(other))


def looked_up_by_loops(table: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Trilinear, in float64: colours (N, 3) in [0, 1]."""
    top = len(table) - 1
    out = np.zeros((len(colours), 3))
    for n, colour in enumerate(colours):
        position = colour.astype(np.float64) * top
        base = np.minimum(position.astype(int), top - 1)
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(corner, position - base, 1 - position + base))
            red, green, blue = base + corner
            out[n] += weight * table[blue, green, red]
    return out


# ---------------------------------------------------------------- the fit


@pytest.mark.parametrize("size", [17, 33])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_a_retouch_that_is_the_same_everywhere_becomes_a_table_of_no_visible_error(size: int, strength: float) -> None:
    grid, photo = random_grid(1, 1), scene(0, 120, 160)
    lut = grid_to_lut(grid, photo, size, strength)
    assert lut.table.shape == (size, size, size, 3) and lut.error.mean < 0.3 and lut.error.p95 < 1
    assert delta_e(lut.apply(photo), grid.apply(photo, strength)).mean() < 0.5


def test_colours_that_the_photo_lacks_are_retouched_too() -> None:
    """The fit of a dark green photo on bright reds: the grid's own average, not what the greens asked for."""
    grid = random_grid(1, 1, seed=1)
    greens = (scene(0, 60, 80) * [0.1, 0.4, 0.1]).astype(np.uint8)
    reds = np.clip(scene(1, 60, 80) * [0.2, 0.2, 0.2] + [200, 0, 0], 0, 255).astype(np.uint8)
    assert delta_e(grid_to_lut(grid, greens).apply(reds), grid.apply(reds)).mean() < 0.6


def test_the_error_is_that_of_the_table_on_the_photo() -> None:
    grid, photo = random_grid(4, 6), scene(2, 200, 300)
    lut = grid_to_lut(grid, photo)
    differences = delta_e(lut.apply(photo / 255.0), grid.apply(photo / 255.0))
    assert lut.error.mean > 1, "the case has to vary over the photo"
    assert lut.error.mean == pytest.approx(differences.mean(), rel=0.02)
    assert lut.error.p95 == pytest.approx(np.quantile(differences, 0.95), rel=0.02)


def test_the_error_of_a_large_photo_is_measured_on_a_sample_that_stands_for_all() -> None:
    grid, photo = random_grid(4, 6), scene(3, 900, 1000)
    lut = grid_to_lut(grid, photo, 17)
    assert lut.error.mean == pytest.approx(
        delta_e(lut.apply(photo / 255.0), grid.apply(photo / 255.0)).mean(), rel=0.03
    )


def test_where_the_retouch_varies_the_table_is_nearer_than_the_average_transform() -> None:
    """Left half darker, right half lighter, and colours that tell the halves apart: the fit has to use that."""
    coefficients = identity_coefficients(4, 1, 2)
    coefficients[[3, 7, 11], :, :, 0] = -0.4
    coefficients[[3, 7, 11], :, :, 1] = 0.4
    photo = scene(4, 100, 160)
    photo[:, :80, 0] //= 4
    photo[:, 80:, 2] //= 4
    grid = AffineGrid(coefficients, GuideCurve())
    plain = AffineGrid(coefficients.mean(3, keepdim=True), GuideCurve())
    retouched = grid.apply(photo)
    fitted, average = (
        delta_e(picture, retouched).mean() for picture in (grid_to_lut(grid, photo).apply(photo), plain.apply(photo))
    )
    assert fitted < 0.4 * average


def test_the_identity_becomes_the_identity_table() -> None:
    lut = grid_to_lut(AffineGrid.identity(), scene(0), 9)
    axis = np.linspace(0, 1, 9)
    for channel, shape in enumerate(((1, 1, 9), (1, 9, 1), (9, 1, 1))):  # the table's axes are blue, green, red
        np.testing.assert_allclose(lut.table[..., channel], np.broadcast_to(axis.reshape(shape), (9, 9, 9)), atol=1e-6)
    assert lut.error == pytest.approx((0, 0), abs=1e-3)


@pytest.mark.parametrize(
    "photo", [np.zeros((1, 1, 3), np.uint8), np.full((3, 1, 3), 65535, np.uint16), np.ones((1, 5, 3))]
)
def test_the_smallest_photos_have_a_table(photo: np.ndarray) -> None:
    lut = grid_to_lut(random_grid(2, 3), photo, 2)
    assert np.isfinite(lut.table).all() and lut.table.min() >= 0 and lut.table.max() <= 1


def test_the_table_does_not_depend_on_the_photos_depth() -> None:
    grid, photo = random_grid(2, 3), scene(0)
    bytes_, words = (grid_to_lut(grid, p, 9).table for p in (photo, photo.astype(np.uint16) * 257))
    np.testing.assert_allclose(bytes_, words, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"size": 1}, ValueError),
        ({"size": 130}, ValueError),
        ({"size": 33.0}, TypeError),
        ({"size": True}, TypeError),
        ({"strength": 3}, ValueError),
        ({"photo": [[1, 2, 3]]}, TypeError),
        ({"photo": np.zeros((4, 4), np.uint8)}, ValueError),
        ({"photo": np.full((4, 4, 3), np.nan)}, ValueError),
    ],
)
def test_bad_arguments_are_named(arguments: dict, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"`{next(iter(arguments))}` has to"):
        grid_to_lut(**{"grid": AffineGrid.identity(), "photo": scene(0), **arguments})


# ---------------------------------------------------------------- apply


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
def test_apply_is_trilinear_and_keeps_the_kind(kind: type) -> None:
    lut, colours = random_lut(5), np.random.default_rng(1).random((40, 3))
    colours[:8] = list(np.ndindex(2, 2, 2))
    top = np.iinfo(kind).max if np.issubdtype(kind, np.integer) else 1
    photo = (colours * top).astype(kind).reshape(8, 5, 3)
    expected = looked_up_by_loops(lut.table, photo.reshape(-1, 3) / top) * top
    looked_up = lut.apply(photo)
    assert looked_up.dtype == kind and looked_up.shape == photo.shape
    atol = 0.5 + top * 1e-6 if top > 1 else 1e-6
    np.testing.assert_allclose(looked_up.reshape(-1, 3), expected, rtol=0, atol=atol)


def test_bands_of_a_large_photo_fit_together() -> None:
    photo = np.random.default_rng(0).random((300, 1000, 3), dtype=np.float32)
    lut = random_lut(4)
    np.testing.assert_array_equal(lut.apply(photo)[130:170], lut.apply(photo[130:170]))


def test_apply_agrees_with_pillow_and_takes_pil_images() -> None:
    lut, picture = random_lut(17), PIL.Image.fromarray(scene(0))
    table = PIL.ImageFilter.Color3DLUT(17, lut.table.ravel().tolist())
    ours, theirs = (np.asarray(p).astype(int) for p in (lut.apply(picture), picture.filter(table)))
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("photo", ["a.jpg", np.zeros((2, 2), np.uint8), PIL.Image.new("I;16", (2, 2))])
def test_apply_names_what_it_cannot_take(photo: object) -> None:
    with pytest.raises((TypeError, ValueError), match="`photo` has to be"):
        random_lut(2).apply(photo)


# ---------------------------------------------------------------- files, as another library reads them


@pytest.mark.parametrize("size", [2, 17, 33])
def test_another_reader_finds_the_same_table_in_a_cube(size: int, tmp_path: Path) -> None:
    lut = random_lut(size)
    lut.save_cube(tmp_path / "look.cube")
    read = load_cube_file(str(tmp_path / "look.cube"))
    assert read.size == (size, size, size)
    np.testing.assert_allclose(np.asarray(read.table).reshape(lut.table.shape), lut.table, rtol=0, atol=6e-7)


@pytest.mark.parametrize("size", [4, *HALDCLUT_SIZES[:3]])
def test_another_reader_finds_the_same_table_in_a_haldclut(size: int, tmp_path: Path) -> None:
    lut = random_lut(size)
    lut.save_haldclut(tmp_path / "look.png", bits=8)
    read = load_hald_image(str(tmp_path / "look.png"))
    assert read.size == (size, size, size)
    np.testing.assert_allclose(np.asarray(read.table).reshape(lut.table.shape), lut.table, rtol=0, atol=0.51 / 255)


def test_a_haldclut_of_16_bits_holds_them(tmp_path: Path) -> None:
    lut = random_lut(16)
    lut.save_haldclut(tmp_path / "look.png")
    pixels = imagecodecs.png_decode((tmp_path / "look.png").read_bytes())
    assert pixels.dtype == np.uint16 and pixels.shape == (64, 64, 3)
    np.testing.assert_allclose(pixels.reshape(lut.table.shape) / 65535, lut.table, rtol=0, atol=0.51 / 65535)


def test_both_files_state_the_error(tmp_path: Path) -> None:
    lut = random_lut(16)
    lut.save_cube(tmp_path / "look.cube")
    lut.save_haldclut(tmp_path / "look.png")
    comment = (tmp_path / "look.cube").read_text().splitlines()[0]
    assert comment.startswith("# ") and "mean 1.23" in comment and "below 5.68" in comment
    with PIL.Image.open(tmp_path / "look.png") as picture:
        picture.load()  # checks the chunk's checksum
        assert picture.info["Comment"] == comment[2:]


def test_a_haldclut_of_another_size_or_depth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`size` of a HaldCLUT has to be a square number .*, got 17"):
        random_lut(17).save_haldclut(tmp_path / "look.png")
    with pytest.raises(ValueError, match="`bits` has to be 8 or 16, got 12"):
        random_lut(16).save_haldclut(tmp_path / "look.png", bits=12)
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        random_lut(4).save_cube(tmp_path / "missing" / "look.cube")
    (tmp_path / "look.cube").mkdir()
    with pytest.raises(OSError):
        random_lut(4).save_cube(tmp_path / "look.cube")
    assert [path.name for path in tmp_path.iterdir()] == ["look.cube"]
