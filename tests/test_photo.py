"""photo/: every kind of file opens as the same upright RGB photo or with one sentence, and nothing is lost."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import sys
import textwrap
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin

from diffretouch.photo import Photo, PhotoError, open_photo, save_photo
from diffretouch.photo.tags import TagReader
from diffretouch.photo.xmp import Packet

HEIGHT, WIDTH = 6, 9
LOSSLESS = (".png", ".tif", ".webp")
ALL = (".jpg", *LOSSLESS)
KINDS = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".webp": "WEBP"}
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" xmp:Rating="4"/></x:xmpmeta>'
ORIENTATION, MAKE, EXIF_IFD, GPS_IFD = 274, 271, 0x8769, 0x8825


def random_samples(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    top = int(np.iinfo(dtype).max) + 1
    return np.random.default_rng(seed).integers(0, top, shape, dtype=np.int64).astype(dtype)


def smooth_picture(height: int, width: int) -> np.ndarray:
    """Colours that JPEG keeps within a few levels, different in every corner."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack((40 + 180 * x, 40 + 180 * y, 220 - 150 * x * y), axis=-1).round().astype(np.uint8)


def exif_block(orientation: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT), thumbnail: bool = False) -> bytes:
    exif = Image.Exif()
    exif[MAKE] = "Maker"
    exif[306] = "2024:05:06 07:08:09"
    exif[ORIENTATION] = orientation
    exif[EXIF_IFD] = {0x829D: TiffImagePlugin.IFDRational(28, 10), 0x9003: "2024:05:06 07:08:09"}
    exif[EXIF_IFD] |= {0xA002: size[0], 0xA003: size[1], 0x927C: b"maker's own note"}
    exif[GPS_IFD] = {1: "N", 2: (47.0, 22.0, 30.5)}
    block = bytearray(exif.tobytes().removeprefix(b"Exif\0\0"))
    if thumbnail:
        append_thumbnail(block)
    return bytes(block)


def append_thumbnail(block: bytearray) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (16, 12), (255, 0, 0)).save(picture, "JPEG")
    order = "<" if block[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, first)
    struct.pack_into(order + "I", block, first + 2 + 12 * count, len(block))
    at = len(block) + 2 + 12 * 2 + 4
    block += struct.pack(order + "H", 2)
    block += struct.pack(order + "HHII", 513, 4, 1, at) + struct.pack(order + "HHII", 514, 4, 1, picture.tell())
    block += bytes(4) + picture.getvalue()


def told_by(block: bytes | None) -> dict[int, Any]:
    """All tags of an EXIF block as an independent reader sees them, positions of directories left out."""
    exif = Image.Exif()
    exif.load(block or b"")
    tags: dict[int, Any] = {code: value for code, value in exif.items() if code not in (EXIF_IFD, GPS_IFD)}
    return tags | {EXIF_IFD: dict(exif.get_ifd(EXIF_IFD)), GPS_IFD: dict(exif.get_ifd(GPS_IFD))}


def write_with_pillow(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    extension = path.suffix
    if extension == ".jpg":
        options |= {"quality": 100, "subsampling": 0}
        if "exif" in options:  # elsewhere Pillow adds or removes the mark by itself
            options["exif"] = b"Exif\0\0" + options["exif"].removeprefix(b"Exif\0\0")
    if extension == ".webp":
        options |= {"lossless": True, "exact": True}
    Image.fromarray(pixels).save(path, **options)
    return path


def fails_to_open(path: Path, **options: int) -> str:
    with pytest.raises(PhotoError) as caught:
        open_photo(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------------ orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ALL)
def test_each_orientation_opens_upright_with_true_exif(tmp_path, extension, orientation):
    stored = smooth_picture(HEIGHT, WIDTH)
    path = write_with_pillow(tmp_path / f"a{extension}", stored, exif=exif_block(orientation))
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    photo = open_photo(path)
    assert photo.format == KINDS[extension]
    np.testing.assert_array_equal(photo.pixels, expected)
    assert photo.pixels.shape[:2] == ((WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH))
    told = told_by(photo.exif)
    assert told[ORIENTATION] == 1
    assert (told[EXIF_IFD][0xA003], told[EXIF_IFD][0xA002]) == photo.pixels.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_orientation_turns_16_bit_pixels_and_alpha_together(tmp_path, extension, orientation):
    stored = random_samples(HEIGHT, WIDTH, 4, dtype=np.uint16)
    path = tmp_path / f"a{extension}"
    if extension == ".tif":
        tag = [(ORIENTATION, 3, 1, orientation, True)]
        tifffile.imwrite(path, stored, photometric="rgb", extrasamples=["unassalpha"], extratags=tag)
    else:
        path.write_bytes(with_png_chunk(imagecodecs.png_encode(stored), b"eXIf", exif_block(orientation)))
    photo = open_photo(path)
    alpha = photo.alpha
    assert alpha is not None
    tagged = [Image.fromarray((stored[..., channel] >> 8).astype(np.uint8)) for channel in range(4)]
    for channel, high_byte in enumerate(tagged):
        high_byte.getexif()[ORIENTATION] = orientation
        got = alpha if channel == 3 else photo.pixels[..., channel]
        np.testing.assert_array_equal(got >> 8, np.asarray(ImageOps.exif_transpose(high_byte)))
    whole = np.dstack((photo.pixels, alpha)).reshape(-1, 4)
    assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, stored.reshape(-1, 4).tolist()))


def with_png_chunk(data: bytes | bytearray, kind: bytes, content: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return bytes(data[:33]) + struct.pack(">I", len(content)) + kind + content + crc + data[33:]


def test_orientation_in_xmp_is_reset_only_when_it_was_applied(tmp_path):
    turned = write_with_pillow(tmp_path / "a.jpg", smooth_picture(4, 8), exif=exif_block(6), xmp=XMP)
    packet = Packet(open_photo(turned).xmp)
    assert (packet.value("tiff:Orientation"), packet.value("xmp:Rating")) == ("1", "4")
    straight = write_with_pillow(tmp_path / "b.jpg", smooth_picture(4, 8), exif=exif_block(1), xmp=XMP)
    assert open_photo(straight).xmp == XMP


def test_turning_a_photo_turns_its_resolution(tmp_path):
    path = write_with_pillow(tmp_path / "a.jpg", smooth_picture(4, 8), exif=exif_block(6), dpi=(300, 150))
    assert open_photo(path).dpi == (150, 300)


# --------------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("written", ALL)
@pytest.mark.parametrize("read", ALL)
def test_metadata_survives_from_every_format_to_every_format(tmp_path, read, written):
    pixels = smooth_picture(HEIGHT, WIDTH)
    options: dict[str, Any] = {"exif": exif_block(1), "icc_profile": SRGB}
    source = write_with_pillow(tmp_path / f"in{read}", pixels, **options)
    photo = open_photo(source)
    if read != ".tif" and read != ".png":  # Pillow itself writes no XMP there
        photo = open_photo(write_with_pillow(tmp_path / f"in2{read}", pixels, xmp=XMP, **options))
        assert photo.xmp == XMP
    photo = Photo(photo.pixels, None, photo.icc_profile, photo.exif, XMP, (300.0, 240.0))
    target = tmp_path / f"out{written}"
    save_photo(photo, target)
    again = open_photo(target)
    assert again.icc_profile == photo.icc_profile == SRGB
    assert again.xmp == XMP
    assert told_by(again.exif) == told_by(exif_block(1)), "each tag, in the main, EXIF and GPS directories"
    with Image.open(target) as picture:
        assert picture.info["icc_profile"] == SRGB
        assert picture.getexif()[MAKE] == "Maker"
        assert picture.getexif().get_ifd(GPS_IFD)[1] == "N"
        picture.load()
        assert picture.info["xmp"] == XMP
    if written != ".webp":
        assert again.dpi == pytest.approx((300, 240), abs=0.02)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
def test_exif_stays_at_its_place_so_that_makers_notes_stay_valid(tmp_path, extension):
    block = exif_block(8, size=(HEIGHT, WIDTH))
    path = write_with_pillow(tmp_path / f"a{extension}", smooth_picture(HEIGHT, WIDTH), exif=block)
    photo = open_photo(path)
    assert photo.exif is not None
    differing = [at for at, (one, other) in enumerate(zip(block, photo.exif, strict=True)) if one != other]
    assert len(differing) == 1, "the orientation's byte and nothing else"
    save_photo(photo, tmp_path / f"b{extension}")
    assert open_photo(tmp_path / f"b{extension}").exif == photo.exif


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_keeps_exif_of_either_byte_order(tmp_path, order, dtype):
    exif = Image.Exif()
    exif.load(exif_block(1, size=(50, 70)))
    exif.endian = order
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    assert block[:2] == (b"II" if order == "<" else b"MM")
    photo = Photo(random_samples(70, 50, 3, dtype=dtype), None, SRGB, block, XMP, (72.0, 72.0))
    save_photo(photo, tmp_path / "a.tif")
    again = open_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert told_by(again.exif) == told_by(block)
    assert (again.icc_profile, again.xmp) == (SRGB, XMP)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.byteorder == order and len(tiff.pages) == 1
        np.testing.assert_array_equal(tiff.asarray(), photo.pixels)


def test_bigtiff_opens_with_its_metadata(tmp_path):
    stored = random_samples(8, 5, 3, dtype=np.uint16)
    tags = [(MAKE, 2, 0, "Maker", True), (ORIENTATION, 3, 1, 6, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", bigtiff=True, extratags=tags, iccprofile=SRGB)
    photo = open_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, np.rot90(stored, -1))
    assert told_by(photo.exif)[MAKE] == "Maker" and photo.icc_profile == SRGB


def test_thumbnail_of_the_unretouched_photo_goes(tmp_path):
    block = exif_block(6, thumbnail=True)
    assert b"\xff\xd8\xff" in block
    path = write_with_pillow(tmp_path / "a.jpg", smooth_picture(HEIGHT, WIDTH), exif=block)
    photo = open_photo(path)
    assert photo.exif is not None
    assert b"\xff\xd8\xff" not in photo.exif and len(photo.exif) < len(block)
    exif = Image.Exif()
    exif.load(photo.exif)
    assert dict(exif.get_ifd(1)) == {}
    assert told_by(photo.exif) == told_by(exif_block(1, size=(HEIGHT, WIDTH)))


def test_wrong_size_in_exif_is_corrected(tmp_path):
    path = write_with_pillow(tmp_path / "a.png", smooth_picture(5, 7), exif=exif_block(1, size=(4000, 3000)))
    told = told_by(open_photo(path).exif)
    assert (told[EXIF_IFD][0xA002], told[EXIF_IFD][0xA003]) == (7, 5)


@pytest.mark.parametrize(
    "block", [b"junk that is no EXIF", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\xff\xff", b"II"]
)
@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp"])
def test_corrupt_exif_is_dropped_and_the_photo_opens(tmp_path, extension, block):
    pixels = random_samples(4, 6, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow speaks of corrupt EXIF too
        path = write_with_pillow(tmp_path / f"a{extension}", pixels, exif=b"Exif\0\0" + block)
        photo = open_photo(path)
    assert photo.exif is None
    assert photo.pixels.shape == (4, 6, 3)


def test_one_bad_exif_tag_costs_neither_orientation_nor_the_others(tmp_path):
    block = bytearray(exif_block(6))
    at = bytes(block).index(struct.pack("<HH" if block[:2] == b"II" else ">HH", MAKE, 2))
    block[at + 8 : at + 12] = b"\x7f\x7f\x7f\x7f"  # the maker's name lies outside of the block
    path = write_with_pillow(tmp_path / "a.png", random_samples(4, 6, 3), exif=bytes(block))
    photo = open_photo(path)
    assert photo.pixels.shape == (6, 4, 3)
    save_photo(photo, tmp_path / "b.tif")
    told = told_by(open_photo(tmp_path / "b.tif").exif)
    assert told[EXIF_IFD] == told_by(exif_block(1, size=(4, 6)))[EXIF_IFD] and MAKE not in told


def test_exif_without_its_closing_zeros_still_turns_the_photo(tmp_path):
    block = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHIHH", ORIENTATION, 3, 1, 6, 0)
    path = write_with_pillow(tmp_path / "a.png", random_samples(4, 6, 3), exif=block)
    photo = open_photo(path)
    assert photo.pixels.shape == (6, 4, 3)
    assert photo.exif == block[:-4] + b"\1\0\0\0"


def test_metadata_behind_the_pixels_of_a_png_is_found(tmp_path):
    data = imagecodecs.png_encode(random_samples(4, 6, 3))
    block = exif_block(6)
    chunk = with_png_chunk(data, b"eXIf", block)[33 : 33 + 12 + len(block)]
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])
    photo = open_photo(tmp_path / "a.png")
    assert photo.pixels.shape == (6, 4, 3) and told_by(photo.exif)[MAKE] == "Maker"


def test_compressed_xmp_in_png_is_read(tmp_path):
    content = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)
    (tmp_path / "a.png").write_bytes(with_png_chunk(imagecodecs.png_encode(random_samples(4, 6, 3)), b"iTXt", content))
    assert open_photo(tmp_path / "a.png").xmp == XMP


@pytest.mark.parametrize("extension", ALL)
def test_broken_or_foreign_profiles_do_not_reach_rgb_pixels(tmp_path, extension):
    for number, profile in enumerate((b"no profile at all", imagecodecs.cms_profile("gray", gamma=2.2))):
        path = tmp_path / f"{number}{extension}"
        write_with_pillow(path, smooth_picture(4, 6), icc_profile=profile)
        assert open_photo(path).icc_profile is None


def test_exif_too_large_for_jpeg_keeps_what_fits_and_says_so(tmp_path):
    block = exif_block(1, size=(8, 8))
    photo = Photo(smooth_picture(8, 8), exif=block + bytes(70_000), xmp=XMP, icc_profile=SRGB)
    notes = save_photo(photo, tmp_path / "a.jpg")
    assert len(notes) == 1 and "maker's note" in notes[0]
    again = open_photo(tmp_path / "a.jpg")
    told = told_by(photo.exif)
    del told[EXIF_IFD][0x927C]
    assert told_by(again.exif) == told
    assert (again.xmp, again.icc_profile) == (XMP, SRGB)
    for extension in LOSSLESS:
        save_photo(photo, tmp_path / f"a{extension}")
        assert open_photo(tmp_path / f"a{extension}").xmp == photo.xmp


# ------------------------------------------------------------------------------------------------- lossless returns


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    ("extension", "dtype"),
    [(".png", np.uint8), (".png", np.uint16), (".tif", np.uint8), (".tif", np.uint16), (".webp", np.uint8)],
)
def test_lossless_formats_return_pixels_and_alpha_bit_for_bit(tmp_path, extension, channels, dtype):
    stored = random_samples(37, 53, channels, dtype=dtype)
    alpha = stored[..., 3].copy() if channels == 4 else None
    first = Photo(stored[..., :3].copy(), alpha, SRGB, exif_block(1, size=(53, 37)), XMP)
    save_photo(first, tmp_path / f"a{extension}", quality=100)
    photo = open_photo(tmp_path / f"a{extension}")
    save_photo(photo, tmp_path / f"b{extension}", quality=100)
    for again in (photo, open_photo(tmp_path / f"b{extension}")):
        assert again.pixels.dtype == dtype
        np.testing.assert_array_equal(again.pixels, first.pixels)
        if alpha is None:
            assert again.alpha is None
        else:
            np.testing.assert_array_equal(again.alpha, alpha)
        assert (again.icc_profile, again.xmp) == (SRGB, XMP)
        assert told_by(again.exif) == told_by(first.exif)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", ["contig", "separate", "tiled"])
def test_tiff_of_each_compression_and_layout_opens(tmp_path, compression, dtype, layout):
    stored = random_samples(37, 53, 3, dtype=dtype)
    options: dict[str, Any] = {"tile": (16, 16)} if layout == "tiled" else {"planarconfig": layout}
    data = np.moveaxis(stored, -1, 0) if layout == "separate" else stored
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", compression=compression, **options)
    photo = open_photo(tmp_path / "a.tif")
    assert photo.pixels.dtype == dtype
    np.testing.assert_array_equal(photo.pixels, stored)


def test_tiff_with_jpeg_inside_opens_as_rgb(tmp_path):
    pixels = smooth_picture(32, 48)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression="jpeg", quality=100)
    difference = open_photo(tmp_path / "a.tif").pixels.astype(int) - pixels
    assert np.abs(difference).max() <= 6


def test_saved_files_are_read_alike_by_pillow(tmp_path):
    pixels, alpha = smooth_picture(40, 60), random_samples(40, 60, seed=1)
    for extension in LOSSLESS:
        save_photo(Photo(pixels, alpha, SRGB, exif_block()), tmp_path / f"a{extension}", quality=100)
        with Image.open(tmp_path / f"a{extension}") as picture:
            assert picture.mode == "RGBA"
            np.testing.assert_array_equal(np.asarray(picture), np.dstack((pixels, alpha)))


@pytest.mark.parametrize("extension", [".jpg", ".webp"])
def test_16_bit_is_rounded_to_the_nearest_of_8_bit(tmp_path, extension):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(levels / 257).astype(np.uint8)
    quality = 100
    save_photo(Photo(np.dstack([levels] * 3)), tmp_path / f"a{extension}", quality=quality)
    save_photo(Photo(np.dstack([expected] * 3)), tmp_path / f"b{extension}", quality=quality)
    assert (tmp_path / f"a{extension}").read_bytes() == (tmp_path / f"b{extension}").read_bytes()


def test_jpeg_quality_chooses_colour_resolution(tmp_path):
    for quality, expected in ((95, "4:4:4"), (80, "4:2:0")):
        save_photo(Photo(smooth_picture(16, 16)), tmp_path / f"{quality}.jpg", quality=quality)
        sampling = jpeg_sampling((tmp_path / f"{quality}.jpg").read_bytes())
        assert sampling == {"4:4:4": 0x11, "4:2:0": 0x22}[expected]


def jpeg_sampling(data: bytes) -> int:
    return data[data.index(b"\xff\xc0") + 11]


def test_jpeg_lays_a_transparent_photo_on_white(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint16)
    alpha = np.full((16, 32), 65535, np.uint16)
    alpha[:, 8:] = 32768
    alpha[:, 24:] = 0
    save_photo(Photo(pixels, alpha), tmp_path / "a.jpg", quality=100)
    photo = open_photo(tmp_path / "a.jpg")
    assert photo.alpha is None
    for x, expected in ((4, 0), (16, 127), (28, 255)):
        assert abs(int(photo.pixels[8, x, 1]) - expected) <= 2


# ------------------------------------------------------------------------------------------------- kinds of picture


@pytest.mark.parametrize(
    ("extension", "mode"),
    [(".png", mode) for mode in ("1", "L", "P", "LA", "RGB", "RGBA")]
    + [(".tif", mode) for mode in ("1", "L", "P", "RGB", "RGBA")],
)
def test_8_bit_kinds_open_as_pillow_converts_them(tmp_path, extension, mode):
    picture = Image.fromarray(random_samples(9, 13, 4)).convert("RGBA" if mode == "RGBA" else "RGB").convert(mode)
    picture.save(tmp_path / f"a{extension}")
    photo = open_photo(tmp_path / f"a{extension}")
    assert_like_pillow(photo, tmp_path / f"a{extension}", transparent="A" in mode)
    assert photo.grey == (mode in ("1", "L", "LA"))


@pytest.mark.parametrize("colours", [2, 5, 16, 200])
def test_palettes_with_transparent_entries_get_alpha(tmp_path, colours):
    picture = Image.fromarray(random_samples(20, 23, 3)).quantize(colours)
    picture.save(tmp_path / "a.png", transparency=bytes([0, 100]))
    assert_like_pillow(open_photo(tmp_path / "a.png"), tmp_path / "a.png", transparent=True)


def assert_like_pillow(photo: Photo, path: Path, transparent: bool) -> None:
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGBA" if transparent else "RGB"))
    np.testing.assert_array_equal(photo.pixels, expected[..., :3])
    assert (photo.alpha is not None) == transparent
    if transparent:
        np.testing.assert_array_equal(photo.alpha, expected[..., 3])


def test_a_transparent_colour_in_png_becomes_alpha(tmp_path):
    pixels = random_samples(6, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=tuple(int(value) for value in pixels[2, 3]))
    photo = open_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.alpha is not None
    assert photo.alpha[2, 3] == 0 and photo.alpha.sum() == 255 * (6 * 8 - 1)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_16_bit_grey_opens_as_three_equal_channels(tmp_path, extension, channels):
    stored = random_samples(6, 8, channels, dtype=np.uint16)
    data = stored[..., 0] if channels == 1 else stored
    if extension == ".png":
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(data))
    else:
        extra = ["unassalpha"] if channels == 2 else None
        options: dict[str, Any] = {"extrasamples": extra, "planarconfig": "contig"} if extra else {}
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack", **options)
    photo = open_photo(tmp_path / f"a{extension}")
    assert photo.grey and photo.pixels.dtype == np.uint16
    for channel in range(3):
        np.testing.assert_array_equal(photo.pixels[..., channel], stored[..., 0])
    assert (photo.alpha is None) == (channels == 1)
    if photo.alpha is not None:
        np.testing.assert_array_equal(photo.alpha, stored[..., 1])


@pytest.mark.parametrize("extension", [".jpg", ".webp"])
def test_grey_jpeg_and_webp_open(tmp_path, extension):
    grey = smooth_picture(8, 8)[..., 0]
    Image.fromarray(grey).save(tmp_path / f"a{extension}", quality=100)
    photo = open_photo(tmp_path / f"a{extension}")
    assert np.abs(photo.pixels.astype(int) - grey[..., None]).max() <= 4
    assert photo.grey == (extension == ".jpg")


@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_tiff_of_odd_depth_is_stretched_to_the_whole_range(tmp_path, bits):
    top = (1 << bits) - 1
    stored = random_samples(5, 16, dtype=np.uint16) % (top + 1)
    stored[0, 0], stored[0, 1] = 0, top
    write_packed_tiff(tmp_path / "a.tif", stored, bits, photometric=1)
    photo = open_photo(tmp_path / "a.tif")
    full = 255 if bits < 8 else 65535
    assert photo.pixels.dtype == (np.uint8 if bits < 8 else np.uint16)
    np.testing.assert_array_equal(photo.pixels[..., 0], np.round(stored.astype(float) * full / top))


def write_packed_tiff(path: Path, grey: np.ndarray, bits: int, photometric: int) -> None:
    """A one-strip grey TIFF of any depth, packed as TIFF 6.0 says: high bits first, rows of whole bytes."""
    height, width = grey.shape
    planes = (grey[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    data = np.packbits(planes.reshape(height, width * bits).astype(np.uint8), axis=1).tobytes()
    data = grey.astype("<u2").tobytes() if bits == 16 else data
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    data += bytes(len(data) % 2)
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in tags.items())
    start = b"II*\0" + struct.pack("<I", 8 + len(data))
    path.write_bytes(start + data + struct.pack("<H", len(tags)) + entries + bytes(4))


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_tiff_whose_zero_is_white_is_turned_round(tmp_path, bits):
    top = (1 << bits) - 1
    stored = random_samples(5, 16, dtype=np.uint16) & top
    write_packed_tiff(tmp_path / "a.tif", stored, bits, photometric=0)
    expected = (top - stored.astype(int)) * (255 if bits == 1 else 1)
    np.testing.assert_array_equal(open_photo(tmp_path / "a.tif").pixels[..., 2], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_premultiplied_by_alpha_are_divided_by_it(tmp_path, dtype):
    full = np.iinfo(dtype).max
    true, alpha = random_samples(8, 9, 3, dtype=dtype), random_samples(8, 9, dtype=dtype, seed=1)
    alpha[0, 0] = 0
    premultiplied = np.round(true * (alpha[..., None] / full)).astype(dtype)
    data = np.dstack((premultiplied, alpha))
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", extrasamples=["assocalpha"])
    photo = open_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.alpha, alpha)
    again = photo.pixels * (alpha[..., None] / full)
    np.testing.assert_allclose(again, premultiplied, atol=0.51)
    opaque = alpha > full // 2
    assert np.abs(photo.pixels.astype(int) - true)[opaque].max() <= 2


# ---------------------------------------------------------------------------------------------------------- profiles


def cmyk_profile() -> bytes:
    """A small CMYK printer profile: a table of two points per ink (ICC.1:2010, 10.8 `mft1`) towards Lab."""
    inks = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    light = 90 * (1 - 0.9 * inks[:, 3]) * (1 - inks[:, :3] @ [0.25, 0.3, 0.05]) + 5
    red_green = (inks[:, 1] - inks[:, 0]) * 60 * (1 - inks[:, 3])
    yellow_blue = (inks[:, 2] - 0.5 * inks[:, 0]) * 80 * (1 - inks[:, 3])
    lab = np.stack((light * 2.55, red_green + 128, yellow_blue + 128), axis=-1).round().clip(0, 255).astype(np.uint8)
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + lab.tobytes() + ramp * 3
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags = {b"desc": text, b"wtpt": white, b"A2B0": table}
    entries, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        entries += struct.pack(">4sII", name, at + len(body), len(content))
        body += content
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"prtr", b"CMYK", b"Lab ") + bytes(12) + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body


def through_profile(inks: Image.Image, profile: bytes) -> np.ndarray:
    converted = ImageCms.profileToProfile(
        inks,
        io.BytesIO(profile),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOOPTIMIZE,
    )
    return np.asarray(converted)


def cmyk_picture() -> Image.Image:
    inks = np.dstack([smooth_picture(24, 32), smooth_picture(24, 32)[::-1, :, 1] // 2])
    return Image.fromarray(inks, mode="CMYK")


@pytest.mark.parametrize("extension", [".jpg", ".tif"])
def test_cmyk_is_converted_through_its_own_profile(tmp_path, extension):
    inks, profile = cmyk_picture(), cmyk_profile()
    inks.save(tmp_path / f"a{extension}", quality=100, icc_profile=profile)
    with Image.open(tmp_path / f"a{extension}") as stored:
        expected = through_profile(stored, profile)
        plain = np.asarray(stored.convert("RGB"))
    photo = open_photo(tmp_path / f"a{extension}")
    assert np.abs(photo.pixels.astype(int) - expected).max() <= 1
    assert np.abs(plain.astype(int) - expected).max() > 20, "the profile makes a difference"
    assert photo.icc_profile is None, "the pixels are sRGB now"


@pytest.mark.parametrize("profile", [None, b"no profile at all", cmyk_profile()[:400], SRGB])
@pytest.mark.parametrize("extension", [".jpg", ".tif"])
def test_cmyk_without_a_sound_profile_is_mixed_plainly(tmp_path, extension, profile):
    options = {} if profile is None else {"icc_profile": profile}
    cmyk_picture().save(tmp_path / f"a{extension}", quality=100, **options)
    with Image.open(tmp_path / f"a{extension}") as stored:
        expected = np.asarray(stored.convert("RGB"))
    photo = open_photo(tmp_path / f"a{extension}")
    assert np.abs(photo.pixels.astype(int) - expected).max() <= 1
    assert photo.icc_profile is None


def test_inks_of_adobe_jpegs_are_not_taken_upside_down(tmp_path):
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(tmp_path / "paper.jpg")
    assert b"Adobe" in (tmp_path / "paper.jpg").read_bytes()
    assert (open_photo(tmp_path / "paper.jpg").pixels >= 254).all()


def test_16_bit_cmyk_tiff_stays_16_bit_with_and_without_profile(tmp_path):
    inks = np.asarray(cmyk_picture())
    deep = inks.astype(np.uint16) * 257 + np.uint16(100) * (inks < 200)
    profile = cmyk_profile()
    for name, embedded in (("plain", None), ("profile", profile)):
        tifffile.imwrite(tmp_path / f"{name}8.tif", inks, photometric="separated", iccprofile=embedded)
        tifffile.imwrite(tmp_path / f"{name}16.tif", deep, photometric="separated", iccprofile=embedded)
        shallow, photo = open_photo(tmp_path / f"{name}8.tif"), open_photo(tmp_path / f"{name}16.tif")
        assert photo.pixels.dtype == np.uint16
        assert np.abs(photo.pixels / 257 - shallow.pixels).max() <= 1.6
        assert len(np.unique(photo.pixels % 257)) > 10, "no detour through 8 bits"


@pytest.mark.parametrize("gamma", [1.0, 1.8, 2.2])
def test_grey_with_a_grey_profile_looks_the_same_as_rgb(tmp_path, gamma):
    profile = imagecodecs.cms_profile("gray", gamma=gamma)
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    grey.save(tmp_path / "a.png", icc_profile=profile)
    photo = open_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels[..., 1], np.asarray(grey))
    assert photo.icc_profile is not None
    assert photo.icc_profile[16:20] == b"RGB "
    expected = through_profile(grey, profile)
    got = through_profile(Image.fromarray(photo.pixels), photo.icc_profile)
    assert np.abs(got.astype(int) - expected).max() <= 1
    save_photo(photo, tmp_path / "b.png")
    assert open_photo(tmp_path / "b.png").icc_profile == photo.icc_profile


def test_grey_with_an_rgb_profile_keeps_it(tmp_path):
    Image.fromarray(random_samples(8, 8)).save(tmp_path / "a.jpg", icc_profile=SRGB)
    assert open_photo(tmp_path / "a.jpg").icc_profile == SRGB


def test_a_broken_grey_profile_is_dropped(tmp_path):
    broken = imagecodecs.cms_profile("gray", gamma=2.2)[:140]
    Image.fromarray(random_samples(8, 8)).save(tmp_path / "a.jpg", icc_profile=broken)
    assert open_photo(tmp_path / "a.jpg").icc_profile is None


# ---------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("extension", ALL)
def test_files_cut_short_are_refused(tmp_path, extension):
    whole = write_with_pillow(tmp_path / f"whole{extension}", random_samples(64, 80, 3)).read_bytes()
    for length in (4, 14, 40, len(whole) // 3, len(whole) // 2, len(whole) - 40):
        path = tmp_path / f"{length}{extension}"
        path.write_bytes(whole[:length])
        fails_to_open(path)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_16_bit_tiff_cut_short_is_refused(tmp_path, compression):
    photo = random_samples(64, 80, 3, dtype=np.uint16)
    # as most programs write it: the directory first, so that only the pixels are cut
    tifffile.imwrite(tmp_path / "a.tif", photo, photometric="rgb", compression=compression, rowsperstrip=8)
    whole = (tmp_path / "a.tif").read_bytes()
    for length in (len(whole) // 3, len(whole) // 2, len(whole) - 100):
        (tmp_path / "a.tif").write_bytes(whole[:length])
        fails_to_open(tmp_path / "a.tif")


@pytest.mark.parametrize("extension", [".png", ".tif", ".webp", ".jpg"])
def test_damaged_bytes_never_let_another_exception_out(tmp_path, extension):
    whole = write_with_pillow(
        tmp_path / f"whole{extension}", random_samples(12, 16, 3), exif=exif_block(6), icc_profile=SRGB
    ).read_bytes()
    generator = np.random.default_rng(7)
    path = tmp_path / f"bad{extension}"
    for _ in range(250):
        damaged = bytearray(whole)
        for at in generator.integers(0, min(len(whole), 1500), 3):
            damaged[at] = generator.integers(0, 256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                photo = open_photo(path, max_pixels=100_000)
            except PhotoError as error:
                assert "\n" not in str(error)
            else:
                assert photo.pixels.ndim == 3


def test_empty_text_and_foreign_files_are_named_for_what_they_are(tmp_path):
    for content, expected in (
        (b"", "empty"),
        (
            b"Dear diary, this is no photo at all.",
            "not a photo file; JPEG, PNG, WebP, TIFF, HEIC, AVIF, JPEG XL and camera RAW",
        ),
        (b"GIF89a" + bytes(40), "a GIF file"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "a video file"),
    ):
        (tmp_path / "a.jpg").write_bytes(content)
        assert expected in fails_to_open(tmp_path / "a.jpg")


def test_missing_folder_pipe_and_unreadable_are_refused(tmp_path):
    assert "No such file" in fails_to_open(tmp_path / "missing.jpg")
    assert "folder" in fails_to_open(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "regular file" in fails_to_open(tmp_path / "pipe.jpg")
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    fails_to_open(tmp_path / "loop.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(tmp_path):
    path = write_with_pillow(tmp_path / "a.png", random_samples(4, 4, 3))
    path.chmod(0)
    assert "Permission" in fails_to_open(path)


def test_bad_files_print_nothing_of_their_own(tmp_path, capfd):
    profile = b"ICC profile\0\0no zlib stream"
    data = with_png_chunk(imagecodecs.png_encode(random_samples(4, 6, 3)), b"iCCP", profile)
    (tmp_path / "a.png").write_bytes(data)
    assert open_photo(tmp_path / "a.png").icc_profile is None
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 256, 4, 1, 9) + bytes(4))
    fails_to_open(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def bomb(extension: str, width: int, height: int) -> bytes:
    if extension == ".png":
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        return with_png_chunk(b"\x89PNG\r\n\x1a\n" + chunk, b"IDAT", zlib.compress(bytes(1000)))
    if extension == ".jpg":
        data = io.BytesIO()
        Image.new("RGB", (8, 8)).save(data, "JPEG")
        frame = bytearray(data.getvalue())
        struct.pack_into(">HH", frame, frame.index(b"\xff\xc0") + 5, height, width)
        return bytes(frame)
    if extension == ".webp":
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return b"RIFF\x64\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + canvas + bytes(80)
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 10}
    table = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in entries.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4)


@pytest.mark.parametrize("extension", ALL)
def test_bombs_are_refused_by_their_header_without_memory(tmp_path, extension):
    (tmp_path / f"a{extension}").write_bytes(bomb(extension, 60000, 60000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = fails_to_open(tmp_path / f"a{extension}")
    assert "60000 x 60000" in message and "400,000,000" in message


def test_a_bomb_behind_a_small_size_is_refused(tmp_path):
    png = write_with_pillow(tmp_path / "a.png", random_samples(40, 50, 3)).read_bytes()
    text = struct.pack(">I4sIII", 8, b"tEXt", 10, 10, 0)
    (tmp_path / "late-header.png").write_bytes(png[:8] + text + png[8:])
    assert "50 x 40 pixels" in fails_to_open(tmp_path / "late-header.png", max_pixels=1000)
    tile = zlib.compress(bytes(640 * 640 * 3))
    options = {"shape": (20, 20, 3), "dtype": "uint8", "photometric": "rgb", "compression": "zlib"}
    tifffile.imwrite(tmp_path / "large-tile.tif", iter([tile]), tile=(640, 640), **options)
    assert "640 x 640 pixels" in fails_to_open(tmp_path / "large-tile.tif", max_pixels=1000)
    assert open_photo(tmp_path / "large-tile.tif").pixels.shape == (20, 20, 3)


def test_tags_that_lie_over_each_other_take_no_more_memory_than_real_ones():
    entries = b"".join(struct.pack("<HHII", code, 7, 1 << 20, 0) for code in range(1, 1001))
    block = b"II*\0" + struct.pack("<IH", 8, 1000) + entries
    reader = TagReader(io.BytesIO(block.ljust(1 << 20, b"\0")))
    tags = reader.directory(8, {}).tags
    assert len(tags) == 256 and sum(len(tag.data) for tag in tags.values()) == 1 << 28


@pytest.mark.parametrize("extension", ALL)
def test_max_pixels_is_the_limit_itself(tmp_path, extension):
    path = write_with_pillow(tmp_path / f"a{extension}", random_samples(10, 20, 3))
    assert open_photo(path, max_pixels=200).pixels.shape == (10, 20, 3)
    assert "20 x 10" in fails_to_open(path, max_pixels=199)


def test_pillows_own_limit_neither_warns_nor_stops_nor_changes(tmp_path, monkeypatch):
    path = write_with_pillow(tmp_path / "a.jpg", smooth_picture(600, 30))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_photo(path).pixels.shape == (600, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 8000


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1)])
@pytest.mark.parametrize("extension", ALL)
def test_extreme_shapes_open_and_save(tmp_path, extension, size):
    width, height = size
    if extension == ".webp" and max(size) > 16383:
        with pytest.raises(PhotoError, match="16383"):
            save_photo(Photo(np.zeros((height, width, 3), np.uint8)), tmp_path / "a.webp")
        assert names(tmp_path) == []
        return
    path = write_with_pillow(tmp_path / f"a{extension}", np.full((height, width, 3), 77, np.uint8))
    photo = open_photo(path)
    assert photo.pixels.shape == (height, width, 3)
    save_photo(photo, tmp_path / f"b{extension}")
    assert (open_photo(tmp_path / f"b{extension}").pixels == 77).all()


@pytest.mark.parametrize("extension", [".png", ".webp", ".tif"])
def test_animations_and_pages_are_refused_with_their_number(tmp_path, extension):
    frames = [Image.fromarray(random_samples(8, 9, 3, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / f"a{extension}", save_all=True, append_images=frames[1:])
    message = fails_to_open(tmp_path / f"a{extension}")
    assert ("3 pages" if extension == ".tif" else "3 frames") in message


def test_a_reduced_copy_does_not_make_a_tiff_multi_page(tmp_path):
    pixels = random_samples(40, 60, 3, dtype=np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(pixels[::4, ::4], photometric="rgb", subfiletype=1)
        tiff.write(pixels, photometric="rgb", iccprofile=SRGB)
    photo = open_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert photo.icc_profile == SRGB
    tifffile.imwrite(tmp_path / "b.tif", pixels, photometric="rgb", subfiletype=1)
    assert "RAW" in fails_to_open(tmp_path / "b.tif")


def test_multi_picture_jpeg_opens_its_first_picture(tmp_path):
    first, second = smooth_picture(16, 24), smooth_picture(12, 8)
    Image.fromarray(first).save(
        tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.fromarray(second)], quality=100, subsampling=0
    )
    with Image.open(tmp_path / "a.jpg") as picture:
        assert getattr(picture, "n_frames", 1) == 2
    photo = open_photo(tmp_path / "a.jpg")
    assert photo.format == "JPEG"
    assert np.abs(photo.pixels.astype(int) - first).max() <= 4


def test_samples_that_are_no_8_or_16_bit_numbers_are_refused(tmp_path):
    pixels = np.random.default_rng(0).random((4, 5, 3))
    for data, expected in (
        (pixels.astype(np.float32), "floating-point"),
        ((pixels * 1000).astype(np.uint32), "32 bits"),
        ((pixels * 100).astype(np.int16), "signed"),
        (random_samples(4, 5, 6), "6 channels"),
    ):
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", planarconfig="contig")
        assert expected in fails_to_open(tmp_path / "a.tif")
    colormap = random_samples(3, 65536, dtype=np.uint16)
    deep = random_samples(4, 5, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="palette", colormap=colormap)
    assert "palette" in fails_to_open(tmp_path / "a.tif")


# ------------------------------------------------------------------------------------------------------------ saving


@pytest.mark.parametrize("extension", ALL)
def test_existing_files_stay_unless_overwrite_is_asked_for(tmp_path, extension):
    photo = Photo(smooth_picture(8, 8))
    target = tmp_path / f"a{extension}"
    target.write_bytes(b"precious")
    with pytest.raises(PhotoError, match="exists already"):
        save_photo(photo, target)
    assert target.read_bytes() == b"precious" and names(tmp_path) == [target.name]
    save_photo(photo, target, overwrite=True)
    assert open_photo(target).pixels.shape == (8, 8, 3) and names(tmp_path) == [target.name]


def test_links_to_the_input_count_as_existing_and_are_replaced_themselves(tmp_path):
    source = write_with_pillow(tmp_path / "in.png", random_samples(8, 8, 3))
    before = source.read_bytes()
    link = tmp_path / "out.png"
    link.symlink_to(source)
    with pytest.raises(PhotoError, match="exists already"):
        save_photo(open_photo(source), link)
    with pytest.raises(PhotoError, match="own source"):
        save_photo(open_photo(source), link, overwrite=True, source=source)
    save_photo(Photo(smooth_picture(4, 4)), link, overwrite=True)
    assert source.read_bytes() == before and not link.is_symlink()
    dangling = tmp_path / "dangling.png"
    dangling.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(PhotoError, match="exists already"):
        save_photo(Photo(smooth_picture(4, 4)), dangling)
    assert not (tmp_path / "nowhere.png").exists()


def test_the_source_is_not_replaced_even_with_overwrite(tmp_path):
    source = write_with_pillow(tmp_path / "in.png", random_samples(8, 8, 3))
    other = tmp_path / "other.png"
    shutil.copy(source, other)
    before = source.read_bytes()
    with pytest.raises(PhotoError, match="own source"):
        save_photo(open_photo(source), source, overwrite=True, source=source)
    assert source.read_bytes() == before
    save_photo(Photo(smooth_picture(4, 4)), other, overwrite=True, source=source)
    assert open_photo(other).pixels.shape == (4, 4, 3)


def test_of_many_writers_of_one_name_exactly_one_wins(tmp_path):
    target, outcomes = tmp_path / "a.png", []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        photo = Photo(np.full((8, 8, 3), number, np.uint8))
        barrier.wait()
        try:
            save_photo(photo, target)
            outcomes.append(number)
        except PhotoError:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert (open_photo(target).pixels == outcomes[0]).all() and names(tmp_path) == ["a.png"]


def test_a_file_system_without_hard_links_is_no_obstacle_and_no_loophole(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "a.png"
    save_photo(Photo(smooth_picture(8, 8)), target)
    assert open_photo(target).pixels.shape == (8, 8, 3) and names(tmp_path) == ["a.png"]
    monkeypatch.setattr(os.path, "lexists", lambda path: path != str(target) and Path(path).exists())
    before = target.read_bytes()
    with pytest.raises(PhotoError, match="exists already"):
        save_photo(Photo(smooth_picture(4, 4)), str(target))
    assert target.read_bytes() == before and names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("extension", ALL)
def test_a_write_that_fails_half_way_leaves_nothing_and_no_harm(tmp_path, extension, overwrite):
    """A real failing write: the process may write no more than 20 kB to any file."""
    if overwrite:
        (tmp_path / f"a{extension}").write_bytes(b"precious")
    program = """
        import resource, sys
        import numpy as np
        from diffretouch.photo import Photo, PhotoError, save_photo
        photo = Photo(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            save_photo(photo, sys.argv[1], overwrite=bool(int(sys.argv[2])))
        except PhotoError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / f"a{extension}"), str(int(overwrite))]
    package = Path(sys.modules["diffretouch"].__path__[0]).parent
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.count("\n") == 1 and "File too large" in done.stdout and f"a{extension}" in done.stdout
    assert names(tmp_path) == ([f"a{extension}"] if overwrite else [])
    if overwrite:
        assert (tmp_path / f"a{extension}").read_bytes() == b"precious"


def test_bad_targets_get_one_sentence(tmp_path):
    photo = Photo(smooth_picture(8, 8))
    (tmp_path / "folder.png").mkdir()
    for target, overwrite, expected in (
        (tmp_path / "a.gif", False, r"one of \.jpg, \.jpeg, .*, \.jxl, got \.gif"),
        (tmp_path / "a", False, "got none"),
        (tmp_path / "missing" / "a.png", False, "no such folder"),
        (tmp_path / "folder.png", False, "exists already"),
        (tmp_path / "folder.png", True, "directory"),
        (tmp_path / ("x" * 300 + ".png"), False, "too long"),
    ):
        with pytest.raises(PhotoError, match=expected) as caught:
            save_photo(photo, target, overwrite=overwrite)
        assert str(target) in str(caught.value) and "\n" not in str(caught.value)
    assert names(tmp_path) == ["folder.png"]


@pytest.mark.parametrize("quality", [0, 101, 95.0, "high"])
def test_quality_out_of_range_is_refused(tmp_path, quality):
    with pytest.raises(ValueError, match="`quality`"):
        save_photo(Photo(smooth_picture(8, 8)), tmp_path / "a.jpg", quality=quality)


def test_saved_files_get_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    save_photo(Photo(smooth_picture(8, 8)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_names_in_the_current_folder_and_upper_case_extensions_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_photo(Photo(smooth_picture(8, 8)), "A.JPEG")
    assert open_photo("A.JPEG").format == "JPEG"


# ------------------------------------------------------------------------------------------------------ the data class


def test_with_pixels_keeps_everything_else():
    alpha = random_samples(4, 5)
    photo = Photo(random_samples(4, 5, 3), alpha, SRGB, exif_block(), XMP, (72.0, 72.0), "PNG", True)
    other = photo.with_pixels(np.zeros((4, 5, 3), np.uint8))
    assert other.pixels.sum() == 0 and other.alpha is alpha
    for name in ("icc_profile", "exif", "xmp", "dpi", "format", "grey"):
        assert getattr(other, name) == getattr(photo, name)
    with pytest.raises(ValueError, match=r"\(4, 5, 3\), got \(5, 4, 3\)"):
        photo.with_pixels(np.zeros((5, 4, 3), np.uint8))
    with pytest.raises(TypeError, match="uint8, got an array of uint16"):
        photo.with_pixels(np.zeros((4, 5, 3), np.uint16))


@pytest.mark.parametrize("pixels", [np.zeros((4, 5, 3)), [[1]], np.zeros((4, 5, 3), np.int16)])
def test_photos_of_other_types_are_refused(pixels):
    with pytest.raises(TypeError, match="`pixels`"):
        Photo(pixels)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 4), (0, 5, 3)])
def test_photos_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="`pixels`"):
        Photo(np.zeros(shape, np.uint8))


def test_alpha_has_to_fit_the_pixels():
    with pytest.raises(ValueError, match="`alpha`"):
        Photo(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8))
    with pytest.raises(TypeError, match="`alpha`"):
        Photo(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.uint16))
