"""photo/: camera RAW, HEIC and AVIF open as what they are, keep what they can, and fail with one sentence; no GPS."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import makers
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from diffretouch.photo import Photo, PhotoError, open_photo, save_photo, saved_suffix
from diffretouch.photo.claims import xmp_without_places
from diffretouch.photo.colour import ADOBE_RGB, DISPLAY_P3

pillow_heif = pytest.importorskip("pillow_heif")
rawpy = pytest.importorskip("rawpy")

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MAKE, MODEL, ORIENTATION, EXIF_IFD, GPS_IFD = 271, 272, 274, 0x8769, 0x8825
XYZ_TO_SRGB = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.969266, 1.8760108, 0.041556], [0.0556434, -0.2040259, 1.0572252]]
)
PLACE = {1: "N", 2: (47.0, 22.0, 30.5), 3: "E", 4: (8.0, 32.0, 1.25)}
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmp:Rating="4" exif:GPSLatitude="47,22.5N"\n'
    b"  drone-dji:GpsLongitude='8.5' tiff:Make=\"GPSmaker\"><exif:GPSAltitude>400/1</exif:GPSAltitude>"
    b"<exif:GPSTag/><dc:title>Stay</dc:title></rdf:Description></x:xmpmeta>"
)


def random_samples(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    top = int(np.iinfo(dtype).max) + 1
    return np.random.default_rng(seed).integers(0, top, shape, dtype=np.int64).astype(dtype)


def smooth_picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack((40 + 180 * x, 40 + 180 * y, 220 - 150 * x * y), axis=-1).round().astype(np.uint8)


def exif_block(orientation: int = 1, place: bool = True) -> bytes:
    exif = Image.Exif()
    exif[MAKE] = "Maker"
    exif[ORIENTATION] = orientation
    exif[EXIF_IFD] = {0x9003: "2024:05:06 07:08:09", 0xA002: 60, 0xA003: 40, 0x927C: b"maker's own note"}
    if place:
        exif[GPS_IFD] = PLACE
    return exif.tobytes().removeprefix(b"Exif\0\0")


def told_by(block: bytes | None) -> dict[int, Any]:
    exif = Image.Exif()
    exif.load(block or b"")
    tags: dict[int, Any] = {code: value for code, value in exif.items() if code not in (EXIF_IFD, GPS_IFD)}
    return tags | {EXIF_IFD: dict(exif.get_ifd(EXIF_IFD)), GPS_IFD: dict(exif.get_ifd(GPS_IFD))}


def rational(values: Any) -> list[int]:
    return [part for value in values for part in (round(value * 1_000_000), 1_000_000)]


def dng(light: np.ndarray, white_balance: tuple[float, ...] = (1, 1, 1), orientation: int = 1) -> bytes:
    """A DNG of what a camera with sRGB's primaries sees of linear light `(H, W, 3)`, half of it lying in black."""
    black, white = 256, 16383
    sensor = light * np.array(white_balance)
    mosaic = sensor[..., 1].copy()
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = sensor[0::2, 0::2, 0], sensor[1::2, 1::2, 2]
    tags = [
        (33421, "H", 2, (2, 2), True),  # the pattern's size
        (33422, "B", 4, bytes([0, 1, 1, 2]), True),
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),  # DNG 1.4
        (50708, "s", 0, "Tiny Camera", True),
        (MAKE, "s", 0, "Tiny", True),
        (MODEL, "s", 0, "Camera", True),
        (ORIENTATION, "H", 1, orientation, True),
        (700, "B", len(XMP), XMP, True),
        (50714, "H", 1, black, True),
        (50717, "I", 1, white, True),
        (50721, "2i", 9, rational((np.diag(white_balance) @ XYZ_TO_SRGB).ravel()), True),
        (50728, "2I", 3, rational(white_balance), True),
        (50778, "H", 1, 21, True),  # calibrated in D65
    ]
    file = io.BytesIO()
    samples = np.round(black + mosaic * (white - black)).astype(np.uint16)
    tifffile.imwrite(file, samples, photometric=32803, extratags=tags, metadata=None, software=False)
    return file.getvalue()


def patches(*colours: tuple[float, float, float]) -> np.ndarray:
    """Patches of 32 x 32 one below the other: linear light."""
    return np.repeat(np.repeat(np.array(colours)[:, None], 32, axis=0), 32, axis=1)


def heic(samples: np.ndarray, mode: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = pillow_heif.from_bytes(mode, samples.shape[1::-1], samples.tobytes())
    picture.save(file, **{"quality": -1, "chroma": 444, "matrix_coefficients": 0, **options})
    return file.getvalue()


def fails_to_open(path: Path, **options: int) -> str:
    with pytest.raises(PhotoError) as caught:
        open_photo(path, **options)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


# -------------------------------------------------------------------------------------------------------------- RAW


@pytest.mark.parametrize("white_balance", [(1, 1, 1), (0.5, 1, 0.6)])
def test_raw_is_rendered_as_the_camera_saw_it_and_no_brighter(tmp_path, white_balance):
    colours = ((0.18, 0.18, 0.18), (0.9, 0.9, 0.9), (0.5, 0.1, 0.05), (0.05, 0.4, 0.1), (0.02, 0.03, 0.5))
    (tmp_path / "a.dng").write_bytes(dng(patches(*colours), white_balance))
    photo = open_photo(tmp_path / "a.dng")
    assert (photo.format, photo.pixels.dtype, photo.icc_profile) == ("RAW", np.uint16, DISPLAY_P3)
    light = np.array(colours)
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(photo.model_view()[16::32, 16] / 65535, expected, atol=0.002)


@pytest.mark.parametrize(("orientation", "upright"), [(1, True), (6, False), (3, True), (8, False)])
def test_raw_is_turned_upright_once_with_true_exif_and_without_makers_note(tmp_path, orientation, upright):
    light = patches((0.5, 0.1, 0.1), (0.1, 0.1, 0.5))
    (tmp_path / "a.dng").write_bytes(dng(light, orientation=orientation))
    photo = open_photo(tmp_path / "a.dng")
    assert photo.pixels.shape == ((64, 32, 3) if upright else (32, 64, 3))
    red_first = photo.pixels[8, 8, 0] > photo.pixels[8, 8, 2]
    assert red_first == (orientation in (1, 8))
    told = told_by(photo.exif)
    assert (told[MAKE], told[MODEL], told[ORIENTATION]) == ("Tiny", "Camera", 1)
    assert photo.xmp is not None and b"Stay" in photo.xmp
    save_photo(photo, tmp_path / "b.tif")
    again = open_photo(tmp_path / "b.tif")
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert (again.icc_profile, told_by(again.exif)) == (DISPLAY_P3, told)


def test_raw_cut_short_or_damaged_is_refused_quietly(tmp_path, capfd):
    whole = dng(patches((0.2, 0.3, 0.4), (0.4, 0.3, 0.2)))
    for length in (100, 300, len(whole) // 2, len(whole) - 10):
        (tmp_path / "a.dng").write_bytes(whole[:length])
        fails_to_open(tmp_path / "a.dng")
    assert "cut short" in fails_to_open(tmp_path / "a.dng")
    (tmp_path / "a.cr2").write_bytes(b"II*\0\x10\0\0\0CR\2\0" + bytes(40))
    fails_to_open(tmp_path / "a.cr2")
    (tmp_path / "a.raf").write_bytes(b"FUJIFILMCCD-RAW 0201" + bytes(400))
    fails_to_open(tmp_path / "a.raf")
    assert capfd.readouterr() == ("", "")


def test_raw_too_large_is_refused_before_it_is_rendered(tmp_path):
    (tmp_path / "a.dng").write_bytes(dng(patches((0.2, 0.3, 0.4))))
    assert "32 x 32" in fails_to_open(tmp_path / "a.dng", max_pixels=1000)


@pytest.mark.parametrize(
    ("module", "suffix", "extra"),
    [("rawpy", "dng", "raw"), ("pillow_heif", "heic", "raw"), ("OpenImageIO", "jxl", "jxl")],
)
def test_a_missing_optional_package_is_named_with_its_command(tmp_path, module, suffix, extra):
    """In a process where the package cannot be imported."""
    (tmp_path / "a.dng").write_bytes(dng(patches((0.2, 0.3, 0.4))))
    (tmp_path / "a.heic").write_bytes(heic(smooth_picture(16, 16), "RGB"))
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + bytes(200))
    program = f"""
        import sys
        sys.modules[{module!r}] = None
        import numpy as np
        from diffretouch.photo import Photo, PhotoError, open_photo, save_photo
        photo = Photo(np.ones((8, 8, 3), np.uint8))
        for attempt in (lambda: open_photo(sys.argv[1]), lambda: save_photo(photo, sys.argv[2])):
            try:
                attempt()
            except PhotoError as error:
                print(error)
    """
    target = "b.jxl" if suffix == "jxl" else "b.heic"
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / f"a.{suffix}"), target]
    missing = tmp_path / "missing"  # for decoder processes
    missing.mkdir()
    (missing / f"{module}.py").write_text("raise ImportError")
    paths = [str(missing), str(Path(sys.modules["diffretouch"].__path__[0]).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == (1 if module == "rawpy" else 2)
    assert all(f"needs {module}, which is not installed: pip install 'diffretouch[{extra}]'" in line for line in lines)
    assert (tmp_path / target).exists() == (module == "rawpy")


# ------------------------------------------------------------------------------------------------------------- HEIC


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_heic_opens_at_its_own_depth(tmp_path, monkeypatch, mode, bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    top = (1 << bits) - 1
    stored = random_samples(24, 32, len(mode), dtype=np.uint16) & top
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    shift = 0 if bits == 8 else 16 - bits
    (tmp_path / "a.heic").write_bytes(heic((stored << shift).astype(dtype), mode if bits == 8 else f"{mode};16"))
    photo = open_photo(tmp_path / "a.heic")
    full = 255 if bits == 8 else 65535
    assert (photo.format, photo.pixels.dtype) == ("HEIC", dtype)
    np.testing.assert_array_equal(photo.pixels, np.round(stored[..., :3] * (full / top)))
    assert (photo.alpha is not None) == (mode == "RGBA")
    if photo.alpha is not None:
        np.testing.assert_array_equal(photo.alpha, np.round(stored[..., 3] * (full / top)))


def test_grey_heic_opens_as_three_equal_channels(tmp_path):
    grey = random_samples(24, 32)
    (tmp_path / "a.heic").write_bytes(heic(grey, "L", matrix_coefficients=1))
    photo = open_photo(tmp_path / "a.heic")
    assert photo.grey
    np.testing.assert_array_equal(photo.pixels, np.dstack([grey] * 3))


@pytest.mark.parametrize("alpha", [None, random_samples(40, 60, seed=1)])
def test_heic_at_full_quality_keeps_pixels_and_metadata(tmp_path, alpha):
    photo = Photo(random_samples(40, 60, 3), alpha, DISPLAY_P3, exif_block(), XMP)
    save_photo(photo, tmp_path / "a.heic", quality=100)
    again = open_photo(tmp_path / "a.heic")
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert (again.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(again.alpha, alpha)
    assert (again.icc_profile, again.xmp) == (DISPLAY_P3, XMP)
    assert told_by(again.exif) == told_by(photo.exif)


def test_16_bit_becomes_10_bit_heic_by_rounding_and_stays_so(tmp_path):
    photo = Photo(random_samples(40, 60, 3, dtype=np.uint16))
    save_photo(photo, tmp_path / "a.heic", quality=100)
    again = open_photo(tmp_path / "a.heic")
    levels = np.round(photo.pixels / 65535 * 1023)
    np.testing.assert_array_equal(again.pixels, np.round(levels / 1023 * 65535))
    save_photo(again, tmp_path / "b.heic", quality=100)
    np.testing.assert_array_equal(open_photo(tmp_path / "b.heic").pixels, again.pixels)


def test_heic_that_turns_its_picture_is_not_turned_again_by_exif(tmp_path):
    picture = Image.fromarray(smooth_picture(32, 48))
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture.save(tmp_path / "a.heic", quality=-1, chroma=444, matrix_coefficients=0, exif=exif.tobytes())
    photo = open_photo(tmp_path / "a.heic")
    np.testing.assert_array_equal(photo.pixels, np.rot90(smooth_picture(32, 48), -1))
    assert told_by(photo.exif).get(ORIENTATION, 1) == 1


def test_wide_colours_stated_by_a_number_get_a_profile_and_hdr_is_refused(tmp_path):
    profiles = {1: None, 12: DISPLAY_P3}
    for primaries, profile in profiles.items():
        data = heic(smooth_picture(16, 16), "RGB", color_primaries=primaries, transfer_characteristics=13)
        (tmp_path / "a.heic").write_bytes(data)
        assert open_photo(tmp_path / "a.heic").icc_profile == profile
        data = imagecodecs.avif_encode(smooth_picture(16, 16), primaries=primaries, transfer=13)
        (tmp_path / "a.avif").write_bytes(data)
        assert open_photo(tmp_path / "a.avif").icc_profile == profile
    (tmp_path / "a.heic").write_bytes(
        heic(smooth_picture(16, 16), "RGB", color_primaries=9, transfer_characteristics=16)
    )
    assert "HDR" in fails_to_open(tmp_path / "a.heic")
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(smooth_picture(16, 16), primaries=9, transfer=18))
    assert "HDR" in fails_to_open(tmp_path / "a.avif")


# ------------------------------------------------------------------------------------------------------------- AVIF


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif_opens_at_its_own_depth(tmp_path, bits, channels):
    top = (1 << bits) - 1
    stored = (random_samples(24, 32, channels, dtype=np.uint16) & top).astype(np.uint8 if bits == 8 else np.uint16)
    (tmp_path / "a.avif").write_bytes(imagecodecs.avif_encode(stored, 100, bitspersample=bits))
    photo = open_photo(tmp_path / "a.avif")
    full = 255 if bits == 8 else 65535
    assert (photo.format, photo.pixels.dtype) == ("AVIF", stored.dtype)
    np.testing.assert_array_equal(photo.pixels, np.round(stored[..., :3] * (full / top)))
    assert (photo.alpha is not None) == (channels == 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_opens_upright(tmp_path, orientation):
    stored = smooth_picture(32, 48)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(stored).save(tmp_path / "a.avif", quality=100, subsampling="4:4:4", exif=exif.tobytes())
    tagged = Image.fromarray(stored)
    tagged.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(tagged)).astype(int)
    photo = open_photo(tmp_path / "a.avif")
    assert photo.pixels.shape == expected.shape
    assert np.abs(photo.pixels - expected).max() <= 4
    assert told_by(photo.exif).get(ORIENTATION, 1) == 1


@pytest.mark.parametrize("alpha", [None, np.full((40, 60), 255, np.uint8)])
def test_avif_is_written_close_to_the_pixels_with_metadata(tmp_path, alpha):
    photo = Photo(smooth_picture(40, 60), alpha, DISPLAY_P3, exif_block(), XMP)
    save_photo(photo, tmp_path / "a.avif", quality=100)
    again = open_photo(tmp_path / "a.avif")
    assert np.abs(again.pixels.astype(int) - photo.pixels).max() <= 3
    assert (again.icc_profile, again.xmp) == (DISPLAY_P3, XMP)
    # Pillow takes the orientation out, which AVIF states elsewhere
    assert {ORIENTATION: 1, **told_by(again.exif)} == told_by(photo.exif)


# --------------------------------------------------------------------------------------------------------- bad files


def test_jpeg_of_12_bits_is_refused_by_its_depth_not_as_damaged(tmp_path):
    samples = np.random.default_rng(0).integers(0, 4096, (16, 16, 3), np.uint16)
    (tmp_path / "deep.jpg").write_bytes(imagecodecs.jpeg8_encode(samples, bitspersample=12))
    with pytest.raises(PhotoError, match="its samples have 12 bits, and JPEG of 8 bits alone can be opened"):
        open_photo(tmp_path / "deep.jpg")


@pytest.mark.parametrize("extension", [".heic", ".avif", ".jxl"])
def test_heic_avif_and_jpeg_xl_cut_short_are_refused_quietly(tmp_path, capfd, extension):
    save_photo(Photo(random_samples(64, 80, 3)), tmp_path / f"whole{extension}")
    whole = (tmp_path / f"whole{extension}").read_bytes()
    for length in (14, 40, len(whole) // 3, len(whole) // 2, len(whole) - 400):
        (tmp_path / f"a{extension}").write_bytes(whole[:length])
        fails_to_open(tmp_path / f"a{extension}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("extension", [".heic", ".avif", ".jxl", ".dng"])
def test_damaged_bytes_never_let_another_exception_out(tmp_path, extension):
    path = tmp_path / f"a{extension}"
    if extension == ".dng":
        path.write_bytes(dng(patches((0.2, 0.3, 0.4))))
    else:
        save_photo(Photo(smooth_picture(16, 24), exif=exif_block(), icc_profile=SRGB, xmp=XMP), path)
    whole = path.read_bytes()
    generator = np.random.default_rng(5)
    opened = 0
    for _ in range(120):
        damaged = bytearray(whole)
        for at in generator.integers(0, min(len(whole), 1500), 3):
            damaged[at] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            opened += open_photo(path, max_pixels=100_000).pixels.ndim == 3
        except PhotoError as error:
            assert "\n" not in str(error)
    assert 0 < opened < 120


@pytest.mark.parametrize("extension", [".heic", ".avif", ".jxl"])
def test_the_size_is_checked_before_decoding(tmp_path, extension):
    save_photo(Photo(smooth_picture(10, 20)), tmp_path / f"a{extension}")
    assert open_photo(tmp_path / f"a{extension}", max_pixels=200).pixels.shape == (10, 20, 3)
    assert "20 x 10" in fails_to_open(tmp_path / f"a{extension}", max_pixels=199)


def test_an_animated_avif_is_refused_with_its_number(tmp_path):
    frames = [Image.fromarray(random_samples(16, 16, 3, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.avif", save_all=True, append_images=frames[1:])
    assert "3 frames" in fails_to_open(tmp_path / "a.avif")


def test_a_palette_of_16_bit_in_png_is_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 4, 4, 16, 3, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", bytes(48)), (b"IDAT", b"x"), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    (tmp_path / "a.png").write_bytes(data)
    fails_to_open(tmp_path / "a.png")


# --------------------------------------------------------------------------------------------------------------- GPS


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif", ".heic", ".avif", ".jxl"])
def test_the_place_is_removed_on_request_and_nothing_else(tmp_path, extension):
    photo = Photo(smooth_picture(40, 60), None, SRGB, exif_block(), XMP)
    save_photo(photo, tmp_path / f"with{extension}")
    save_photo(photo, tmp_path / f"without{extension}", remove_gps=True)
    kept, gone = open_photo(tmp_path / f"with{extension}"), open_photo(tmp_path / f"without{extension}")
    assert told_by(kept.exif)[GPS_IFD] == PLACE and kept.xmp == XMP
    assert told_by(gone.exif) == {**told_by(kept.exif), GPS_IFD: {}}
    assert gone.xmp is not None and b"gps" not in gone.xmp.lower().replace(b"gpsmaker", b"")
    for word in (b'xmp:Rating="4"', b'tiff:Make="GPSmaker"', b"<dc:title>Stay</dc:title>"):
        assert word in gone.xmp
    written = (tmp_path / f"without{extension}").read_bytes()
    for number in (struct.pack("<II", 305, 10), struct.pack(">II", 305, 10), struct.pack("<II", 61, 2)):
        assert number not in written, "the seconds of the latitude are in no corner of the file"


def test_makers_notes_stay_where_they_are_when_the_place_goes(tmp_path):
    photo = Photo(smooth_picture(40, 60), exif=exif_block())
    save_photo(photo, tmp_path / "a.jpg", remove_gps=True)
    exif = open_photo(tmp_path / "a.jpg").exif
    assert exif is not None and photo.exif is not None
    assert exif.index(b"maker's own note") == photo.exif.index(b"maker's own note")


def test_an_unreadable_place_is_removed_too(tmp_path):
    block = bytearray(exif_block())
    order = "<" if block[:2] == b"II" else ">"
    at = bytes(block).index(struct.pack(order + "HHI", GPS_IFD, 4, 1)) + 8
    struct.pack_into(order + "I", block, at, 0x7F7F7F7F)
    save_photo(Photo(smooth_picture(40, 60), exif=bytes(block)), tmp_path / "a.png", remove_gps=True)
    exif = open_photo(tmp_path / "a.png").exif
    assert exif is not None and told_by(exif)[MAKE] == "Maker"
    assert struct.pack(order + "HH", GPS_IFD, 4) not in exif
    for value in (struct.pack("<II", 305, 10), struct.pack(">II", 305, 10), struct.pack("<II", 61, 2)):
        assert value not in exif


def test_exif_whose_place_lies_over_its_structure_goes_as_a_whole_and_that_is_said(tmp_path):
    block = bytearray(exif_block())
    order = "<" if block[:2] == b"II" else ">"
    at = bytes(block).index(struct.pack(order + "HHI", 2, 5, 3)) + 8  # the latitude
    struct.pack_into(order + "I", block, at, 0)
    notes = save_photo(Photo(smooth_picture(40, 60), exif=bytes(block)), tmp_path / "a.jpg", remove_gps=True)
    assert notes == ("its EXIF is damaged and is left out",)
    assert open_photo(tmp_path / "a.jpg").exif is None


def test_exif_whose_thumbnail_lies_over_its_structure_is_left_out_and_that_is_said(tmp_path):
    start = b"II" + struct.pack("<HI", 42, 16) + b"\xff\xd8\xff\xe0" + bytes(4)
    main = struct.pack("<HHHI4sI", 1, MAKE, 2, 4, b"Own\0", 34)
    thumbnail = struct.pack("<HHHIIHHIII", 2, 513, 4, 1, 8, 514, 4, 1, 1000, 0)
    (tmp_path / "a.jpg").write_bytes(makers.jpeg(makers.scene(1, 40, 30), exif=start + main + thumbnail))
    photo = open_photo(tmp_path / "a.jpg")
    assert photo.exif is None and photo.notes == ("its EXIF is damaged and is left out",)


def test_xmp_in_other_encodings_goes_with_the_place(tmp_path):
    photo = Photo(smooth_picture(8, 8), xmp=XMP.decode().encode("utf-16"))
    save_photo(photo, tmp_path / "a.png", remove_gps=True)
    assert open_photo(tmp_path / "a.png").xmp is None


# ----------------------------------------------------------------------------------------------------- odds and ends


def test_xmp_that_never_closes_its_places_is_done_with_at_once():
    """Each of them searched to the end would take hours."""
    for part in (b"<exif:GPSTag>", b"<exif:GPSTag", b" exif:GPSTag='"):
        assert xmp_without_places(b"<x/>" + part * 100_000) is None


def test_adobe_rgb_that_only_exif_speaks_of_gets_its_profile(tmp_path):
    block = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, EXIF_IFD, 4, 1, 26, 0)
    block += struct.pack("<HHHIHHHHIII", 2, 0xA001, 3, 1, 0xFFFF, 0, 0xA005, 4, 1, 56, 0)
    block += struct.pack("<HHHI4sI", 1, 1, 2, 4, b"R03\0", 0)
    for profile, expected in ((None, ADOBE_RGB), (SRGB, SRGB)):
        save_photo(Photo(smooth_picture(8, 8), None, profile, block), tmp_path / "a.jpg", overwrite=True)
        assert open_photo(tmp_path / "a.jpg").icc_profile == expected
    save_photo(Photo(smooth_picture(8, 8), exif=block.replace(b"R03", b"R98")), tmp_path / "b.jpg")
    assert open_photo(tmp_path / "b.jpg").icc_profile is None


def test_what_a_retouch_is_saved_as_when_nobody_chose():
    names = {"a.JPG": ".JPG", "a.heic": ".heic", "a.NEF": ".tif", "b.dng": ".tif", "c.gif": ".jpg", "d": ".jpg"}
    assert {name: saved_suffix(name) for name in names} == names
