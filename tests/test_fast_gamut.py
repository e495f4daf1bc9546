"""fast_gamut.py: the compiled way through sRGB does what numpy does, on any photo, space and grid."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_fast_apply import random_grid
from test_photo_gamut import CURVES, WIDE, samples, with_curve

from diffretouch import AffineGrid
from diffretouch.model.modeling_affine_grid import GuideCurve, apply_affine, identity_coefficients, slice_affine_grid
from diffretouch.photo import Photo, fast_gamut, gamut
from diffretouch.photo.colour import DISPLAY_P3
from diffretouch.photo.gamut import retouch_by_numpy, view_by_numpy
from diffretouch.photo.space import Space
from diffretouch.photo.space import space_of as found_space

KINDS = (np.uint8, np.uint16)
PROFILES = WIDE | {f"curve of {name}": with_curve(curve) for name, curve in CURVES.items() if name != "kind 3"}
EXPONENTS = (b"\1\xcc", b"\2\x33", b"\2\x66")  # 1.8, 2.2 and 2.4
PROFILES["of three curves"] = with_curve(*(b"curv" + bytes(4) + b"\0\0\0\1" + exponent for exponent in EXPONENTS))
LARGE = (500, 600)  # smaller photos are left to numpy


def space_of(profile: bytes) -> Space:
    space = found_space(profile)
    assert space is not None
    return space


def compiled(grid: AffineGrid, photo: np.ndarray, space: Space, strength: float = 1.0, threads: int = 1) -> np.ndarray:
    guide = {name: tensor.numpy() for name, tensor in grid.guide.state_dict().items()}
    return fast_gamut.retouch(photo, space, grid.coefficients.numpy(), guide, strength, threads)


def assert_agrees(ours: np.ndarray, reference: np.ndarray, space: Space) -> None:
    """Within one of 255 or eight of 65535 levels, or a millionth of white's light; and hardly ever that."""
    assert ours.dtype == reference.dtype and ours.shape == reference.shape
    step = 257 if ours.dtype == np.uint8 else 1
    difference = np.abs(ours.astype(int) - reference)
    light = [
        np.abs(space.light[k, ::step][ours[..., k]] - space.light[k, ::step][reference[..., k]]) for k in range(3)
    ]
    assert ((difference <= (1 if step == 257 else 8)) | (np.stack(light, 2) < 1e-6)).all()
    assert (difference > 0).mean() < (0.002 if step == 257 else 0.1)


# ---------------------------------------------------------------- equal to numpy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_space(profile: str, kind: type) -> None:
    space, photo = space_of(PROFILES[profile]), samples(90, 130, kind)
    for seed, strength in ((0, 0.3), (1, 1.0), (2, 2.0)):
        grid = random_grid((8, 5, 6), seed)
        assert_agrees(compiled(grid, photo, space, strength), retouch_by_numpy(photo, space, grid, strength), space)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((1, 1), (8, 16, 16)),
        ((1, 700), (4, 3, 5)),
        ((700, 1), (4, 3, 5)),
        ((5, 513), (1, 1, 1)),
        ((7, 1025), (11, 2, 3)),
        ((40, 1700), (5, 1, 16)),
    ],
)
def test_any_size_on_any_grid(size: tuple[int, int], shape: tuple[int, int, int], kind: type) -> None:
    space, grid, photo = space_of(DISPLAY_P3), random_grid(shape, seed=sum(size)), samples(*size, kind)
    assert_agrees(compiled(grid, photo, space), retouch_by_numpy(photo, space, grid, 1.0), space)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("factor", [1, 3])
def test_the_model_sees_the_same(profile: str, kind: type, factor: int) -> None:
    space, photo = space_of(PROFILES[profile]), samples(100, 1700, kind)
    ours = fast_gamut.model_view(photo, space, factor, 2)
    reference = view_by_numpy(photo, space, factor)
    assert ours.shape == reference.shape and ours.dtype == np.uint16
    assert np.abs(ours.astype(int) - reference).max() <= 2


def test_every_level_of_16_bits_is_seen_alike() -> None:
    greys = np.arange(65_536, dtype=np.uint16).reshape(256, 256, 1).repeat(3, 2)
    space = space_of(WIDE["Adobe RGB"])
    difference = fast_gamut.model_view(greys, space, 1, 1).astype(int) - view_by_numpy(greys, space, 1)
    assert np.abs(difference).max() <= 1


# ---------------------------------------------------------------- the numbers themselves


@pytest.mark.parametrize(
    ("exponent", "mantissas", "low", "high"),
    [
        (fast_gamut._TO_CURVE, fast_gamut._MANTISSA_TO_CURVE, 0.0031, 60),
        (fast_gamut._TO_LIGHT, fast_gamut._MANTISSA_TO_LIGHT, 0.04, 3),
    ],
)
def test_powers_are_right_to_a_millionth(exponent: np.float32, mantissas: tuple, low: float, high: float) -> None:
    values = np.geomspace(low, high, 20_000).astype(np.float32)
    values = np.concatenate([values, np.float32(2) ** np.arange(-8, 6), np.nextafter(values, np.float32(9e9))])
    values = values[(values >= low) & (values <= high)]
    ours = np.array([fast_gamut._power(value, exponent, mantissas) for value in values])
    np.testing.assert_allclose(ours, values.astype(np.float64) ** float(exponent), rtol=1e-6)


def test_colours_beyond_srgb_are_moved_as_float64_moves_them() -> None:
    """Against the method's own functions without a bound, in twice the precision: pure Display P3 colours too."""
    photo = samples(60, 700, np.uint16)
    photo[:20] *= np.eye(3, dtype=np.uint16)[np.arange(700) % 3]
    space, grid = space_of(DISPLAY_P3), random_grid((6, 5, 4), 3, noise=0.05)
    light = np.stack([space.light[k].astype(np.float64)[photo[..., k]] for k in range(3)], 2) @ space.to_srgb
    amount = np.abs(light)
    values = np.copysign(np.where(amount <= 0.0031308, 12.92 * amount, 1.055 * amount ** (1 / 2.4) - 0.055), light)
    assert values.min() < -0.3 and values.max() > 1.05
    signed = torch.from_numpy(values * 2 - 1).permute(2, 0, 1)[None]
    affine = slice_affine_grid(grid.coefficients.double()[None], grid.guide.double()(signed))
    moved = ((apply_affine(affine, signed) + 1) / 2)[0].permute(1, 2, 0).numpy()
    amount = np.abs(moved)
    light = np.copysign(np.where(amount <= 0.04045, amount / 12.92, ((amount + 0.055) / 1.055) ** 2.4), moved)
    own = (light @ np.linalg.inv(space.to_srgb.astype(np.float64))).clip(0, 1)
    expected = np.where(own <= 0.0031308, 12.92 * own, 1.055 * own ** (1 / 2.4) - 0.055) * 65_535
    assert np.abs(compiled(grid, photo, space) - expected).max() < 4


# ---------------------------------------------------------------- what must not happen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("profile", PROFILES)
def test_the_identity_changes_no_bit(profile: str, kind: type) -> None:
    photo = samples(50, 700, kind)
    identity = AffineGrid(identity_coefficients(8, 16, 16), random_grid((1, 1, 1), 0).guide)
    for strength in (1e-6, 1.0, 2.0):
        np.testing.assert_array_equal(compiled(identity, photo, space_of(PROFILES[profile]), strength), photo)


def test_where_the_grid_is_the_identity_no_bit_changes_beside_what_does() -> None:
    coefficients = identity_coefficients(1, 1, 8)
    coefficients[3, ..., 6:] = 0.3
    photo = samples(40, 800, np.uint16)
    after = compiled(AffineGrid(coefficients, random_grid((1, 1, 1), 0).guide), photo, space_of(DISPLAY_P3))
    np.testing.assert_array_equal(after[:, :500], photo[:, :500])
    assert (after[:, 700:] != photo[:, 700:]).any(axis=2).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_no_bit(kind: type) -> None:
    grid, photo, space = random_grid((8, 16, 16), 0), samples(301, 700, kind), space_of(DISPLAY_P3)
    alone, seen = compiled(grid, photo, space), fast_gamut.model_view(photo, space, 1, 1)
    with ThreadPoolExecutor(4) as pool:  # and calls from several threads do not meet
        for out in pool.map(lambda _: compiled(grid, photo, space, threads=3), range(8)):
            np.testing.assert_array_equal(out, alone)
    np.testing.assert_array_equal(fast_gamut.model_view(photo, space, 1, 3), seen)


def test_any_strides_and_photos_that_cannot_be_written() -> None:
    grid, photo, space = random_grid((8, 4, 4), 0), samples(60, 70, np.uint16), space_of(DISPLAY_P3)
    expected, seen = compiled(grid, photo, space), fast_gamut.model_view(photo, space, 2, 1)
    planar = np.ascontiguousarray(photo.transpose(2, 0, 1)).transpose(1, 2, 0)
    mirrored = np.ascontiguousarray(photo[::-1, ::-1])[::-1, ::-1]
    locked = photo.copy()
    locked.flags.writeable = False
    for same in (planar, mirrored, locked):
        np.testing.assert_array_equal(compiled(grid, same, space), expected)
        np.testing.assert_array_equal(fast_gamut.model_view(same, space, 2, 1), seen)
    assert photo.flags.writeable


def test_monstrous_grids_give_levels() -> None:
    """Sums that overflow to infinity or are not a number end at a bound of the gamut, not in an undefined cast."""
    photo = samples(40, 50, np.uint16)
    coefficients = identity_coefficients(2, 2, 2) * 1e38
    coefficients[[3, 7], 1] = -1e38
    after = compiled(AffineGrid(coefficients, random_grid((1, 1, 1), 0).guide), photo, space_of(DISPLAY_P3), 2.0)
    assert ((after == photo) | (after == 0) | (after == 65_535)).all()


# ---------------------------------------------------------------- how Photo finds it


@pytest.mark.parametrize("kind", KINDS)
def test_large_photos_take_it(kind: type) -> None:
    grid, photo, space = random_grid((8, 4, 4), 0), samples(*LARGE, kind), space_of(DISPLAY_P3)
    wide = Photo(photo, icc_profile=DISPLAY_P3)
    np.testing.assert_array_equal(wide.retouch(grid, 0.7).pixels, compiled(grid, photo, space, 0.7))
    np.testing.assert_array_equal(wide.model_view(), fast_gamut.model_view(photo, space, 1, 1))


def test_without_numba_numpy_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, photo, space = random_grid((8, 4, 4), 0), samples(*LARGE, np.uint8), space_of(DISPLAY_P3)
    fast = compiled(grid, photo, space, 0.7)
    monkeypatch.setitem(sys.modules, "numba", None)
    for room, name in (("photo", "fast_gamut"), ("look", "fast_apply")):
        monkeypatch.delitem(sys.modules, f"diffretouch.{room}.{name}")
        monkeypatch.delattr(f"diffretouch.{room}.{name}", raising=False)
    wide = Photo(photo, icc_profile=DISPLAY_P3)
    after = wide.retouch(grid, 0.7).pixels
    assert gamut._compiled_for(photo) is None
    np.testing.assert_array_equal(after, retouch_by_numpy(photo, space, grid, 0.7))
    np.testing.assert_array_equal(wide.model_view(), view_by_numpy(photo, space, 1))
    assert_agrees(fast, after, space)


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan"), "1"])
def test_no_other_strength_is_taken(strength: object) -> None:
    wide = Photo(samples(*LARGE, np.uint8), icc_profile=DISPLAY_P3)
    with pytest.raises((TypeError, ValueError), match="`strength` has to be"):
        wide.retouch(random_grid((2, 2, 2), 0), strength)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_white_that_is_brightened_stays_white(kind: type) -> None:
    coefficients = identity_coefficients(4, 2, 2)
    coefficients[[3, 7, 11]] = 0.2
    white = np.full((*LARGE, 3), np.iinfo(kind).max, kind)
    np.testing.assert_array_equal(compiled(AffineGrid(coefficients, GuideCurve()), white, space_of(DISPLAY_P3)), white)
