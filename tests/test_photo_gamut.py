"""photo/gamut.py: photos of other colour spaces are seen as sRGB, retouched where they are, and lose nothing."""

from __future__ import annotations

import io
import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from diffretouch import AffineGrid
from diffretouch.model.modeling_affine_grid import GuideCurve, apply_affine, slice_affine_grid
from diffretouch.photo import Photo, open_photo, save_photo
from diffretouch.photo.colour import ADOBE_RGB, DISPLAY_P3

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
D65 = [0.3127, 0.3290, 1.0]
PRO_PHOTO = imagecodecs.cms_profile(
    "rgb",
    whitepoint=[0.3457, 0.3585, 1.0],
    primaries=[0.7347, 0.2653, 1.0, 0.1596, 0.8404, 1.0, 0.0366, 0.0001, 1.0],
    gamma=1.8,
)
LINEAR_2020 = imagecodecs.cms_profile(
    "rgb", whitepoint=D65, primaries=[0.708, 0.292, 1.0, 0.17, 0.797, 1.0, 0.131, 0.046, 1.0], gamma=1.0
)
WIDE = {"Display P3": DISPLAY_P3, "Adobe RGB": ADOBE_RGB, "ProPhoto": PRO_PHOTO, "linear Rec. 2020": LINEAR_2020}


@pytest.fixture(params=WIDE)
def profile(request) -> bytes:
    return WIDE[request.param]


def samples(height: int, width: int, dtype: type, seed: int = 0) -> np.ndarray:
    """Every kind of colour, the darkest and the brightest too."""
    full = int(np.iinfo(dtype).max)
    values = np.random.default_rng(seed).random((height, width, 3)) * 1.2 - 0.1
    values[: height // 3] *= np.random.default_rng(1).random((height // 3, width, 1)) ** 4
    return np.round(values.clip(0, 1) * full).astype(dtype)


def a_grid(seed: int = 0) -> AffineGrid:
    generator = torch.Generator().manual_seed(seed)
    guide = GuideCurve(num_knots=4)
    with torch.no_grad():
        guide.slopes.copy_(torch.rand((3, 4), generator=generator) * 0.4)
        guide.matrix += torch.rand((3, 3), generator=generator) * 0.1
    identity = AffineGrid.identity(4, 5, 6).coefficients
    return AffineGrid(identity + 0.1 * torch.randn(identity.shape, generator=generator), guide)


def to_srgb(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    """sRGB in [0, 1] by an independent colour manager, clipped to its gamut."""
    return imagecodecs.cms_transform(
        pixels,
        profile,
        SRGB,
        colorspace="rgb",
        outcolorspace="rgb",
        outdtype="uint16",
        intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
        flags=imagecodecs.CMS.FLAGS.NOOPTIMIZE,
    ) / np.float32(65535)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_model_sees_what_a_colour_manager_shows(profile, dtype):
    pixels = samples(60, 80, dtype)
    view = Photo(pixels, icc_profile=profile).model_view() / np.float32(65535)
    expected = to_srgb(pixels, profile)
    assert np.abs(view - expected).max() < 0.003
    assert np.abs(pixels / np.iinfo(dtype).max - expected).max() > 0.1, "the conversion makes a difference"


@pytest.mark.parametrize("profile", [None, SRGB, imagecodecs.cms_profile("srgb")])
def test_srgb_photos_are_not_converted_or_copied(profile):
    photo = Photo(samples(600, 800, np.uint8), icc_profile=profile)
    assert photo.model_view() is photo.pixels
    grid = a_grid()
    np.testing.assert_array_equal(photo.retouch(grid, 0.7).pixels, grid.apply(photo.pixels, 0.7))


@pytest.mark.parametrize("size", [(30, 40), (700, 500)])  # below and above what is done by compiled code
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_identity_and_no_strength_change_no_bit(profile, dtype, size):
    photo = Photo(samples(*size, dtype), icc_profile=profile)
    np.testing.assert_array_equal(photo.retouch(AffineGrid.identity()).pixels, photo.pixels)
    np.testing.assert_array_equal(photo.retouch(a_grid(), 0).pixels, photo.pixels)


@pytest.mark.parametrize("size", [(60, 80), (700, 500)])
def test_a_photo_of_srgb_colours_looks_alike_retouched_in_either_space(profile, size):
    colours = np.random.default_rng(3).random((*size, 3), np.float32) * 0.8 + 0.1
    srgb = np.round(colours * 65535).astype(np.uint16)
    own = imagecodecs.cms_transform(
        srgb, SRGB, profile, colorspace="rgb", outcolorspace="rgb", outdtype="uint16", intent=1, flags=0x100
    )
    expected = a_grid().apply(srgb, 0.8) / np.float32(65535)
    got = to_srgb(Photo(own, icc_profile=profile).retouch(a_grid(), 0.8).pixels, profile)
    # what leaves sRGB is clipped channel by channel there and kept here
    inside = ((expected > 0.01) & (expected < 0.99)).all(axis=-1)
    assert inside.mean() > 0.6
    assert np.abs(got - expected)[inside].max() < 0.004


@pytest.mark.parametrize("profile", WIDE.values(), ids=WIDE)
def test_what_is_darker_than_black_is_black(profile):
    identity = AffineGrid.identity()
    contrast = AffineGrid(identity.coefficients * 1.1, identity.guide)
    black = np.zeros((4, 12, 3), np.uint16)
    assert Photo(black, icc_profile=profile).retouch(contrast).pixels.max() == 0


def test_the_least_change_of_a_deep_photo_is_made():
    coefficients = AffineGrid.identity().coefficients.clone()
    coefficients[[3, 7, 11]] += 2 * 3 / 65_535  # three levels, of signed values
    grey = np.full((4, 12, 3), 30_000, np.uint16)
    moved = Photo(grey, icc_profile=DISPLAY_P3).retouch(AffineGrid(coefficients, AffineGrid.identity().guide)).pixels
    assert np.abs(moved.astype(int) - 30_003).max() <= 1


def test_the_transforms_reach_beyond_srgb_and_do_not_clip_there():
    """Against the method's own functions on unbounded values: pure Display P3 colours, of which sRGB has none."""
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)
    pixels = np.zeros((6, 256, 3), np.uint16)
    for row in range(6):
        pixels[row, :, row % 3] = ramp
        pixels[row, :, (row + 1) % 3] = ramp // 3 if row > 2 else 0
    grid = a_grid()
    got = Photo(pixels, icc_profile=DISPLAY_P3).retouch(grid).pixels
    light = np.where(pixels / 65535 <= 0.04045, pixels / 65535 / 12.92, ((pixels / 65535 + 0.055) / 1.055) ** 2.4)
    p3_to_srgb = np.array(
        [[1.2249402, -0.2249402, 0.0], [-0.0420570, 1.0420570, 0.0], [-0.0196376, -0.0786360, 1.0982736]]
    )
    beyond = light @ p3_to_srgb.T
    amount = np.abs(beyond)
    values = np.sign(beyond) * np.where(amount <= 0.0031308, 12.92 * amount, 1.055 * amount ** (1 / 2.4) - 0.055)
    assert values.min() < -0.3 and values.max() > 1.05
    signed = torch.from_numpy(values * 2 - 1).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        affine = slice_affine_grid(grid.coefficients[None], grid.guide(signed))
        moved = ((apply_affine(affine, signed) + 1) / 2)[0].permute(1, 2, 0).double().numpy()
    amount = np.abs(moved)
    light = np.sign(moved) * np.where(amount <= 0.04045, amount / 12.92, ((amount + 0.055) / 1.055) ** 2.4)
    own = (light @ np.linalg.inv(p3_to_srgb).T).clip(0, 1)
    expected = np.where(own <= 0.0031308, 12.92 * own, 1.055 * own ** (1 / 2.4) - 0.055) * 65535
    assert np.abs(got - expected).max() < 65535 * 0.002
    assert len(np.unique(got[0, :, 0])) > 200, "a pure red keeps its steps"


def test_a_large_photo_is_reduced_for_the_model_without_aliasing():
    stripes = np.zeros((1600, 2000, 3), np.uint8)
    stripes[:, ::2] = 200
    view = Photo(stripes, icc_profile=DISPLAY_P3).model_view()
    assert view.shape == (800, 1000, 3)
    assert np.ptp(view.astype(int), axis=(0, 1)).max() == 0


def test_memory_of_a_retouch_does_not_grow_with_the_photo():
    def extra(height: int) -> int:
        photo = Photo(np.full((height, 1000, 3), 99, np.uint8), icc_profile=DISPLAY_P3)
        photo.retouch(a_grid())  # tables are made once
        tracemalloc.start()
        photo.retouch(a_grid())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak - photo.pixels.nbytes

    assert extra(2000) < extra(500) + 2_000_000


# ---------------------------------------------------------------------------------------------------------- profiles


def with_curve(*curves: bytes) -> bytes:
    """Display P3 with another tone curve, or with one for each of red, green and blue."""
    (count,) = struct.unpack_from(">I", DISPLAY_P3, 128)
    entries = [struct.unpack_from(">4sII", DISPLAY_P3, 132 + 12 * index) for index in range(count)]
    body, table = b"", struct.pack(">I", count)
    for name, at, length in entries:
        channel = b"rgb".find(name[:1]) if len(curves) == 3 else 0
        content = curves[channel] if name.endswith(b"TRC") else DISPLAY_P3[at : at + length]
        table += struct.pack(">4sII", name, 132 + 12 * count + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    size = struct.pack(">I", 132 + 12 * count + len(body))
    return size + DISPLAY_P3[4:128] + table + body


def with_tags_over_each_other() -> bytes:
    """Display P3 with a hundred more tags, each of which is the whole profile."""
    (count,) = struct.unpack_from(">I", DISPLAY_P3, 128)
    table = b""
    for index in range(count):
        name, at, length = struct.unpack_from(">4sII", DISPLAY_P3, 132 + 12 * index)
        table += struct.pack(">4sII", name, at + 1200, length)
    size = len(DISPLAY_P3) + 1200
    table += b"".join(struct.pack(">4sII", b"x%03d" % index, 0, size) for index in range(100))
    body = DISPLAY_P3[132 + 12 * count :]
    return struct.pack(">I", size) + DISPLAY_P3[4:128] + struct.pack(">I", count + 100) + table + body


def parametric(kind: int, *numbers: float) -> bytes:
    return struct.pack(f">4sIHH{len(numbers)}i", b"para", 0, kind, 0, *(round(value * 65536) for value in numbers))


CURVES = {
    "gamma": b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.4 * 256)),
    "none": b"curv\0\0\0\0" + struct.pack(">I", 0),
    "table": b"curv\0\0\0\0" + struct.pack(">I33H", 33, *(round(65535 * (i / 32) ** 2) for i in range(33))),
    "kind 0": parametric(0, 2.0),
    "kind 1": parametric(1, 2.2, 1 / 1.1, 0.1 / 1.1),
    "kind 2": parametric(2, 2.2, 0.9, 0.05, 0.02),
    "kind 3": parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    "kind 4": parametric(4, 2.2, 0.9, 0.1, 0.1, 0.05, 0.0, 0.0),
}


@pytest.mark.parametrize("name", CURVES)
def test_each_kind_of_curve_is_read_as_a_colour_manager_reads_it(name):
    profile = with_curve(CURVES[name])
    pixels = np.repeat(np.linspace(0, 65535, 200).astype(np.uint16)[None, :, None], 3, axis=2)
    view = Photo(pixels, icc_profile=profile).model_view() / np.float32(65535)
    assert np.abs(view - to_srgb(pixels, profile)).max() < 0.003


@pytest.mark.parametrize(
    "profile",
    [
        with_curve(parametric(9, 1.0)),
        with_curve(parametric(1, 2.2, 0.0, 0.1)),
        with_curve(b"curv\0\0\0\0\xff\xff\xff\xff"),
        with_curve(b"curv\0\0\0\0" + struct.pack(">I3H", 3, 0, 0, 0)),
        with_curve(b"text\0\0\0\0"),
        DISPLAY_P3.replace(b"gTRC", b"xTRC"),
        DISPLAY_P3.replace(b"gXYZ", b"rXYZ"),
        DISPLAY_P3[:200],
        DISPLAY_P3[:128] + b"\xff\xff\xff\xff" + DISPLAY_P3[132:],
        with_tags_over_each_other(),
    ],
)
def test_an_unsound_profile_is_kept_but_its_photo_is_taken_as_srgb(tmp_path, profile):
    pixels = samples(20, 30, np.uint8)
    save_photo(Photo(pixels, icc_profile=profile), tmp_path / "a.png")
    photo = open_photo(tmp_path / "a.png")
    assert photo.icc_profile == profile
    assert photo.model_view() is photo.pixels
    np.testing.assert_array_equal(photo.retouch(a_grid()).pixels, a_grid().apply(pixels))


@pytest.mark.parametrize(("name", "profile"), [("Display P3", DISPLAY_P3), ("Adobe RGB", ADOBE_RGB)])
def test_profiles_of_our_own_are_those_spaces(name, profile):
    read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    assert name in ImageCms.getProfileDescription(read)
    primaries = {"Display P3": [0.68, 0.32, 1, 0.265, 0.69, 1, 0.15, 0.06, 1]}.get(
        name, [0.64, 0.33, 1, 0.21, 0.71, 1, 0.15, 0.06, 1]
    )
    gamma = 563 / 256 if name == "Adobe RGB" else 1.0
    made = imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=primaries, gamma=gamma)
    ours = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
    theirs = ImageCms.ImageCmsProfile(io.BytesIO(made)).profile
    for channel in ("red_colorant", "green_colorant", "blue_colorant"):
        np.testing.assert_allclose(getattr(ours, channel)[0], getattr(theirs, channel)[0], atol=2e-4)
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    shown = np.asarray(ImageCms.profileToProfile(grey, read, ImageCms.createProfile("sRGB")))
    assert np.ptp(shown.astype(int), axis=-1).max() <= 1, "greys are grey"
