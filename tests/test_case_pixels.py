"""Pixels of photo files from elsewhere that went wrong once: colours, depth, channels and encodings."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import imagecodecs
import makers
import numpy as np
import pytest
import tifffile
from PIL import Image

from diffretouch import AffineGrid
from diffretouch.commands.cli import main
from diffretouch.photo import Photo, PhotoError, open_photo, save_photo, saving
from diffretouch.photo.xmp import Packet

pytest.importorskip("pillow_heif")

KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "heic": "HEIC", "avif": "AVIF", "jxl": "JXL"}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def seen(photo: Photo) -> np.ndarray:
    """The photo as sRGB values in [0, 1]."""
    view = photo.model_view()
    return view / np.iinfo(view.dtype).max


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".heic"])
def test_07_one_grey_channel_stays_one_where_the_retouch_is_neutral(tmp_path, suffix):
    path = written(tmp_path / "a.jpg", makers.jpeg(makers.scene(7).convert("L")))
    photo = open_photo(path)
    save_photo(photo, tmp_path / f"b{suffix}")
    assert open_photo(tmp_path / f"b{suffix}").grey
    tinted = photo.pixels.copy()
    tinted[0, 0, 0] ^= 32
    save_photo(photo.with_pixels(tinted), tmp_path / f"c{suffix}")
    assert not open_photo(tmp_path / f"c{suffix}").grey


def test_07_a_grey_file_keeps_its_grey_profile(tmp_path):
    profile = imagecodecs.cms_profile("gray", gamma=1.8)
    makers.scene(7).convert("L").save(tmp_path / "a.png", icc_profile=profile)
    save_photo(open_photo(tmp_path / "a.png"), tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as picture:
        assert (picture.mode, picture.info["icc_profile"]) == ("L", profile)


def test_11_gamma_of_a_png_is_obeyed(tmp_path):
    values = np.asarray(makers.scene(11)) / 255
    stored = np.round(makers.srgb_light(values) ** (1 / 1.2) * 65535).astype(np.uint16)
    path = written(tmp_path / "a.png", makers.png(stored, [(b"gAMA", struct.pack(">I", 83_333))]))
    np.testing.assert_allclose(seen(open_photo(path)), values, atol=0.01)
    save_photo(open_photo(path), tmp_path / "b.png")
    np.testing.assert_allclose(seen(open_photo(tmp_path / "b.png")), values, atol=0.01)


def test_11_primaries_of_a_png_are_obeyed_and_srgb_or_a_profile_go_first(tmp_path):
    points = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    to_adobe = np.linalg.inv(makers.primaries_to_xyz(points))
    from_srgb = makers.primaries_to_xyz((0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06))
    values = np.asarray(makers.scene(11)) / 255
    light = np.clip(makers.srgb_light(values) @ (to_adobe @ from_srgb).T, 0, 1)
    stored = np.round(light ** (1 / 2.2) * 65535).astype(np.uint16)
    chunks = [(b"gAMA", struct.pack(">I", 45_455))]
    chunks.append((b"cHRM", struct.pack(">8I", *(round(point * 100_000) for point in points))))
    path = written(tmp_path / "a.png", makers.png(stored, chunks))
    np.testing.assert_allclose(seen(open_photo(path)), values, atol=0.01)
    path = written(tmp_path / "b.png", makers.png(stored, [*chunks, (b"sRGB", b"\0")]))
    assert open_photo(path).icc_profile is None


@pytest.mark.parametrize("transfer", [16, 18])
def test_11_hdr_by_cicp_is_refused_in_png(tmp_path, transfer):
    pixels = np.asarray(makers.scene(11))
    path = written(tmp_path / "a.png", makers.png(pixels, [(b"cICP", bytes((9, transfer, 0, 1)))]))
    with pytest.raises(PhotoError, match="HDR"):
        open_photo(path)


@pytest.mark.parametrize("new_kind", [False, True])
def test_12_a_profile_of_tables_is_obeyed(tmp_path, new_kind):
    values = np.asarray(makers.scene(12)) / 255
    stored = Image.fromarray(np.round(makers.to_device(values) * 255).astype(np.uint8))
    stored.save(tmp_path / "a.png", icc_profile=makers.table_profile(new_kind))
    photo = open_photo(tmp_path / "a.png")
    assert np.sqrt(np.mean((seen(photo) - values) ** 2)) < 0.015
    assert "tables" in photo.notes[0]


def test_17_hif_is_a_name_to_write_and_keeps_its_depth(tmp_path):
    path = written(tmp_path / "A.HIF", makers.heic(makers.deep(makers.scene(17, 64, 48)), 10, chroma=422))
    photo = open_photo(path)
    save_photo(photo, tmp_path / "b.hif")
    again = open_photo(tmp_path / "b.hif")
    assert again.pixels.dtype == np.uint16 and again.encoding.bits == 10 and again.encoding.subsampling == "422"


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("subsampling", ["444", "420"])
def test_18_avif_keeps_its_depth_and_subsampling(tmp_path, bits, subsampling):
    stored = makers.deep(makers.scene(18, 64, 48)) >> (16 - bits)
    path = written(
        tmp_path / "a.avif", imagecodecs.avif_encode(stored, 90, bitspersample=bits, pixelformat=f"yuv{subsampling}")
    )
    photo = open_photo(path)
    assert save_photo(photo, tmp_path / "b.avif") == ()
    again = open_photo(tmp_path / "b.avif")
    assert (again.encoding.bits, again.encoding.subsampling) == (bits, subsampling)
    assert np.abs(again.pixels.astype(int) - photo.pixels).mean() < 257


@pytest.mark.parametrize("alpha", [False, True])
def test_18_avif_of_10_bits_holds_them_exactly_at_quality_100_and_all_metadata(tmp_path, alpha):
    from diffretouch.photo.colour import DISPLAY_P3

    levels = makers.deep(makers.scene(18, 64, 48)).astype(np.uint32) >> 6
    deep = ((levels * 65_535 + 511) // 1023).astype(np.uint16)
    kept = {"icc_profile": DISPLAY_P3, "exif": makers.exif(gps=True), "xmp": makers.xmp("", 'xmp:Rating="4"')}
    photo = Photo(deep, np.ascontiguousarray(deep[..., 0]) if alpha else None, **kept)
    assert save_photo(photo, tmp_path / "a.avif", quality=100) == ()
    again = open_photo(tmp_path / "a.avif")
    np.testing.assert_array_equal(again.pixels, deep)
    assert alpha == (again.alpha is not None) and (not alpha or (again.alpha == deep[..., 0]).all())
    assert again.icc_profile == DISPLAY_P3 and Packet(again.xmp).value("xmp:Rating") == "4"
    exif = Image.Exif()
    exif.load(again.exif)
    assert exif[272] == makers.MODEL and exif.get_ifd(0x8825)[1] == "S"


def test_avif_shows_its_clean_aperture_only(tmp_path):
    encoded = imagecodecs.avif_encode(np.asarray(makers.scene(18, 64, 48)), 100, pixelformat="yuv444", matrix=0)
    aperture = struct.pack(">IIIIiIiI", 40, 1, 20, 1, -8, 1, 3, 1)  # 40 x 20, its middle left of and below the whole's
    turned = makers.with_avif_property(makers.with_avif_property(encoded, b"clap", aperture), b"irot", b"\1")
    pixels = open_photo(written(tmp_path / "a.avif", turned)).pixels
    np.testing.assert_array_equal(pixels, np.rot90(np.asarray(makers.scene(18, 64, 48))[17:37, 4:44]))


@pytest.mark.parametrize(("mode", "mirrored"), [(b"\0", np.flipud), (b"\1", np.fliplr)])
def test_avif_that_is_to_be_shown_mirrored_is(tmp_path, mode, mirrored):
    scene = np.asarray(makers.scene(18, 64, 48))
    encoded = imagecodecs.avif_encode(scene, 100, pixelformat="yuv444", matrix=0)
    shown = open_photo(written(tmp_path / "a.avif", makers.with_avif_property(encoded, b"imir", mode))).pixels
    np.testing.assert_array_equal(shown, mirrored(scene))


def test_19_heic_longer_than_8192_is_written(tmp_path):
    pixels = np.asarray(makers.scene(19, 8300, 64))
    save_photo(Photo(pixels), tmp_path / "a.heic", quality=60)
    assert open_photo(tmp_path / "a.heic").pixels.shape == pixels.shape


@pytest.mark.parametrize("kind", ["colour", "deep", "grey"])
def test_19_heic_too_large_for_one_piece_becomes_a_grid_with_all_metadata(tmp_path, monkeypatch, kind):
    import pillow_heif

    from diffretouch.photo import heic
    from diffretouch.photo.colour import DISPLAY_P3

    monkeypatch.setattr(heic, "_LARGEST", 299 * 301)
    pixels = np.asarray(makers.scene(19, 603, 301).convert("L" if kind == "grey" else "RGB"))
    if kind == "grey":
        Image.fromarray(pixels).save(tmp_path / "a.png")
        photo = open_photo(tmp_path / "a.png")
    else:
        told = {"icc_profile": DISPLAY_P3, "exif": makers.exif(gps=True), "xmp": makers.xmp("", 'xmp:Rating="4"')}
        photo = Photo(makers.deep(Image.fromarray(pixels)) if kind == "deep" else pixels, **told)
    for quality in (80, 100):
        assert save_photo(photo, tmp_path / "a.heic", quality=quality, overwrite=True) == ()
        assert pillow_heif.open_heif(tmp_path / "a.heic").info["tiling"]["num_columns"] == 2
        again = open_photo(tmp_path / "a.heic")
        away = np.abs(again.pixels.astype(int) - photo.pixels)
        assert away.mean() < (600 if kind == "deep" else 3) and (quality < 100 or away.max() <= 32)
        assert (again.icc_profile, again.exif is None, again.xmp is None) == (photo.icc_profile, *[kind == "grey"] * 2)
    pixels = photo.pixels
    with pytest.raises(PhotoError, match="HEIC with transparency allows"):
        save_photo(Photo(pixels, np.ascontiguousarray(pixels[..., 0])), tmp_path / "b.heic")


def test_19_a_panorama_of_20000_is_heic_of_tiles(tmp_path):
    pixels = np.asarray(makers.scene(19, 20_000, 40))
    save_photo(Photo(pixels), tmp_path / "a.heic", quality=60)
    assert open_photo(tmp_path / "a.heic").pixels.shape == pixels.shape


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_22_an_unspecified_channel_is_no_transparency(tmp_path, dtype):
    pixels = (np.asarray(makers.scene(22)).astype(dtype)) * (1 if dtype == np.uint8 else 257)
    selection = np.zeros_like(pixels[..., :1])
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack((pixels, selection)), photometric="rgb", extrasamples=["unspecified"]
    )
    photo = open_photo(tmp_path / "a.tif")
    assert photo.alpha is None and "fourth channel" in photo.notes[0]
    np.testing.assert_array_equal(photo.pixels, pixels)


def test_27_heic_keeps_its_subsampling_and_about_its_size(tmp_path):
    path = written(tmp_path / "a.heic", makers.heic(np.asarray(makers.scene(27)), quality=68, chroma=420))
    save_photo(open_photo(path), tmp_path / "b.heic")
    assert open_photo(tmp_path / "b.heic").encoding.subsampling == "420"
    assert (tmp_path / "b.heic").stat().st_size <= 2 * path.stat().st_size


@pytest.mark.parametrize(("quality", "subsampling"), [(60, 2), (80, 1), (95, 0)])
def test_27_jpeg_keeps_its_quality_and_subsampling_unless_told(tmp_path, quality, subsampling):
    path = written(tmp_path / "a.jpg", makers.jpeg(makers.scene(27), quality, subsampling=subsampling))
    photo = open_photo(path)
    assert photo.encoding.quality == quality
    save_photo(photo, tmp_path / "b.jpg")
    save_photo(photo, tmp_path / "c.jpg", quality=40)
    told = [Image.open(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    assert told[0].quantization == told[1].quantization != told[2].quantization
    assert told[0].layer == told[1].layer


@pytest.mark.parametrize("name", ["jpg", "png", "webp", "tif", "heic", "avif", "jxl"])
def test_27_format_and_quality_hold_for_every_encoder(tmp_path, name):
    folder = tmp_path / "in"
    folder.mkdir()
    written(folder / "a.jpg", makers.jpeg(makers.scene(27, 96, 64), 95))
    AffineGrid.identity().save(tmp_path / "look.safetensors")
    sizes = []
    for quality in (30, 90):
        line = ["retouch", folder, "-o", tmp_path / str(quality), "--look", tmp_path / "look.safetensors"]
        assert main([*map(str, line), "--format", name, "--quality", str(quality)]) == 0
        (path,) = (tmp_path / str(quality)).glob("a-retouched.*")
        assert path.suffix == f".{name}" and open_photo(path).format == KINDS[name]
        sizes.append(path.stat().st_size)
    assert (sizes[0] < sizes[1]) == (name not in ("png", "tif")), "these two are exact whatever the quality"


@pytest.mark.parametrize("quality", [50, 70, 97])
@pytest.mark.parametrize("suffix", [".webp", ".heic", ".avif", ".jxl"])
def test_27_without_a_quality_a_file_comes_out_about_as_large_as_it_was(tmp_path, suffix, quality):
    save_photo(Photo(np.asarray(makers.scene(27, 400, 300))), tmp_path / f"a{suffix}", quality=quality)
    photo = open_photo(tmp_path / f"a{suffix}")
    save_photo(photo, tmp_path / f"b{suffix}")
    before, after = ((tmp_path / f"{name}{suffix}").stat().st_size for name in "ab")
    assert after < (2 if quality > 50 else 3) * before, "below 65 it would be a loss that nobody asked for"
    assert quality < 97 or after > 0.6 * before, "what was fine stays fine"


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_32_exact_heic_and_avif_stay_exact(tmp_path, suffix, deep):
    picture = makers.scene(32, 64, 48)
    save_photo(Photo(makers.deep(picture) if deep else np.asarray(picture)), tmp_path / f"a{suffix}", quality=100)
    photo = open_photo(tmp_path / f"a{suffix}")
    save_photo(photo, tmp_path / f"b{suffix}")
    np.testing.assert_array_equal(open_photo(tmp_path / f"b{suffix}").pixels, photo.pixels)
    save_photo(photo, tmp_path / f"c{suffix}", quality=95)
    assert not open_photo(tmp_path / f"c{suffix}").encoding.lossless


def test_32_lossless_webp_stays_lossless(tmp_path):
    pixels = np.asarray(makers.scene(32, 40, 30))
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "WEBP", lossless=True)
    save_photo(open_photo(written(tmp_path / "a.webp", data.getvalue())), tmp_path / "b.webp")
    np.testing.assert_array_equal(open_photo(tmp_path / "b.webp").pixels, pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".heic", ".avif", ".jxl"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1)])
def test_pictures_one_pixel_wide_or_high_are_saved_turned_or_not(tmp_path, suffix, shape):
    stored = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    for image in (Image.fromarray(stored), Image.fromarray(stored).convert("RGB")):
        for orientation in (1, 6):
            path = written(tmp_path / "a.jpg", makers.jpeg(image, exif=makers.exif(orientation=orientation)))
            photo = open_photo(path)
            try:
                save_photo(photo, tmp_path / f"b{suffix}", overwrite=True)
            except PhotoError as error:
                assert suffix == ".heic" and "encoder does not take" in str(error)
                continue
            assert open_photo(tmp_path / f"b{suffix}").pixels.shape == photo.pixels.shape


def test_an_encoder_that_fails_is_one_sentence_without_its_words(tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("invalid strides")

    monkeypatch.setitem(saving._WRITERS, ".png", broken)
    with pytest.raises(PhotoError, match=r"a\.png: the encoder of \.png does not take its 2 x 3 pixels"):
        save_photo(Photo(np.zeros((3, 2, 3), np.uint8)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("junk", [b"\0\0\0\0\0", makers.segment(0xE2, b"ICC_PROFILE\0\1\2profile")])
def test_a_jpeg_whose_header_libjpeg_doubts_opens(tmp_path, junk):
    sound = makers.jpeg(makers.scene(6, 40, 30), exif=makers.exif())
    at = sound.index(b"\xff\xdb")
    photo = open_photo(written(tmp_path / "a.jpg", sound[:at] + junk + sound[at:]))
    np.testing.assert_array_equal(photo.pixels, open_photo(written(tmp_path / "b.jpg", sound)).pixels)
    assert photo.notes == ()


def test_map_coordinates_of_a_tiff_are_said_to_go_and_its_name_stays(tmp_path):
    tags = [(33550, "d", 3, (1.0, 1.0, 0.0), True), (269, "s", 0, "Sheet 7", True)]
    tifffile.imwrite(tmp_path / "a.tif", np.asarray(makers.scene(1, 40, 30)), extratags=tags, metadata=None)
    photo = open_photo(tmp_path / "a.tif")
    assert ["GeoTIFF" in note for note in photo.notes] == [True] and b"Sheet 7" in photo.exif


def test_a_tiff_that_lacks_strips_or_says_its_layout_in_another_type_is_refused(tmp_path):
    """Both opened with channels or rows left black."""
    tifffile.imwrite(
        tmp_path / "a.tif", np.asarray(makers.scene(1, 64, 48)), rowsperstrip=16, compression="zlib", metadata=None
    )
    whole = (tmp_path / "a.tif").read_bytes()
    for code, changed, words in (
        (284, struct.pack("<HHI4s", 284, 1, 1, b"\1"), "how its channels lie"),
        (257, struct.pack("<HHII", 257, 3, 1, 96), "3 of 6 parts of its picture are missing"),
    ):
        at = min(at for kind in (3, 4) if (at := whole.find(struct.pack("<HHI", code, kind, 1))) >= 0)
        path = written(tmp_path / "b.tif", whole[:at] + changed + whole[at + 12 :])
        with pytest.raises(PhotoError, match=words):
            open_photo(path)
    assert open_photo(path, allow_damaged=True).notes[0].startswith("it is damaged: 3 of 6 parts")


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_a_fax_is_read_to_its_end(tmp_path, compression):
    page = makers.scene(3, 400, 300).convert("1")
    page.save(tmp_path / "a.tif", compression=compression, tiffinfo={274: 3})
    np.testing.assert_array_equal(open_photo(tmp_path / "a.tif").pixels[..., 0] > 0, np.asarray(page)[::-1, ::-1])


def test_a_fax_with_a_code_that_is_none_goes_on_behind_it_as_in_libtiff(tmp_path):
    """tifffile's decoder left all white below it and said nothing."""
    makers.scene(3, 400, 300).convert("1").save(tmp_path / "a.tif", compression="group3")
    whole = (tmp_path / "a.tif").read_bytes()
    at = len(whole) // 3
    path = written(tmp_path / "b.tif", whole[:at] + b"\0\0" + whole[at + 2 :])
    with Image.open(path) as picture:
        expected = np.asarray(picture.convert("L"))
    assert (expected[200:] == 0).any()
    np.testing.assert_array_equal(open_photo(path).pixels[..., 0], expected)
