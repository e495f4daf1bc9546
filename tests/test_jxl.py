"""photo/: JPEG XL opens as what it is, is written with all that it can hold, and fails with one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagecodecs
import makers
import numpy as np
import pytest
from PIL import Image
from test_photo_formats import DISPLAY_P3, XMP, exif_block, fails_to_open, random_samples, smooth_picture, told_by

from diffretouch import AffineGrid
from diffretouch.commands.cli import main
from diffretouch.photo import Photo, open_photo, save_photo
from diffretouch.photo.boxes import boxes, with_boxes
from diffretouch.photo.colour import ADOBE_RGB
from diffretouch.photo.jxl_header import read_header

oiio = pytest.importorskip("OpenImageIO")

ORIENTATION = 274


def jxl(samples: np.ndarray, numbers: tuple[int, ...] | None = None, quality: int = 100) -> bytes:
    """A file as OpenImageIO writes it, with the colours that the numbers (ITU-T H.273) stand for."""
    spec = oiio.ImageSpec(samples.shape[1], samples.shape[0], samples.shape[2], str(samples.dtype))
    spec.attribute("compression", f"jpegxl:{quality}")
    spec.attribute("jpegxl:exif_box", 0)
    spec.attribute("jpegxl:effort", 2)
    if numbers:
        spec.attribute("CICP", oiio.TypeDesc("int[4]"), numbers)
    path = Path("made.jxl")
    output = oiio.ImageOutput.create("jpegxl")
    assert output.open(str(path), spec) and output.write_image(samples) and output.close()
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Bits:
    """Bits of a codestream's header, the lowest of each byte first."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def put(self, *parts: tuple[int, int]) -> Bits:
        """Values, and how many bits each takes."""
        self.bits += [value >> place & 1 for value, count in parts for place in range(count)]
        return self

    def __bytes__(self) -> bytes:
        return np.packbits(self.bits, bitorder="little").tobytes()


def header(
    *,
    size: tuple[int, int] = (48, 32),
    bits: int = 8,
    is_float: bool = False,
    orientation: int = 1,
    animated: bool = False,
    preview: bool = False,
    channels: tuple[str, ...] = (),
    converted: bool = False,
) -> bytes:
    """Signature and header of a picture in sRGB (ISO/IEC 18181-1, annex D); channels as `channel_of` knows them."""
    depth = [(1, 1), (1, 2), (4, 4)] if is_float else [(0, 1), (3, 2), (bits - 1, 6)]
    told = Bits().put((0, 1), (3, 2), (size[1] - 1, 30), (0, 3), (3, 2), (size[0] - 1, 30), (0, 1))
    further = orientation > 1 or animated or preview
    told.put((further, 1))
    if further:
        told.put((orientation - 1, 3), (1, 1), (1, 1), (7, 5), (1, 3))  # meant to be seen as 64 x 64
        told.put((preview, 1), *[(1, 1), (0, 2), (0, 3), (1, 2)] * preview)  # of 256 x 128
        told.put((animated, 1), *[(0, 7)] * animated)
    told.put(*depth, (1, 1), (min(len(channels), 2), 2), *[(len(channels) - 2, 4)] * (len(channels) > 1))
    for channel in channels:
        told.put(*channel_of(channel, depth))
    told.put((converted, 1), (1, 1), *[(1, 1)] * further)  # sRGB, of usual brightness
    return b"\xff\x0a" + bytes(told.put((0, 2), (1, 1)))  # no extensions, nothing to transform


def channel_of(name: str, depth: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of alpha in 8 bits, which is the usual one and takes one bit, or by its name, which is in it."""
    if name == "usual":
        return [(1, 1)]
    kind = {"alpha": (0, 2), "premultiplied": (0, 2), "depth": (1, 2), "spot": (2, 6), "filtered": (14, 6)}[name]
    more = {"alpha": [(0, 1)], "premultiplied": [(1, 1)], "spot": [(0, 64)], "filtered": [(0, 2)]}.get(name, [])
    letters = [(letter, 8) for letter in name.encode()]
    return [(0, 1), kind, *depth, (0, 2), (1, 2), (len(name), 4), *letters, *more]


def codestream(samples: np.ndarray, **told: Any) -> bytes:
    """A picture of 48 x 32 in 8 bits, bare, whose header says something else of it."""
    assert samples.shape[:2] == (32, 48)  # whose header takes 5 bytes
    whole = jxl(samples)
    picture = b"".join(whole[at:end] for kind, at, end in boxes(whole) if kind == b"jxlc")
    return header(**{"channels": ("usual",) * (samples.shape[2] - 3), **told}) + picture[5:]


PICTURE = smooth_picture(32, 48)


def opened(data: bytes, **options: Any) -> Photo:
    Path("a.jxl").write_bytes(data)
    return open_photo("a.jxl", **options)


def refused(data: bytes, **options: int) -> str:
    Path("a.jxl").write_bytes(data)
    return fails_to_open(Path("a.jxl"), **options)


# ----------------------------------------------------------------------------------------------------------- opening


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_it_opens_at_its_own_depth(dtype, channels):
    stored = random_samples(24, 40, channels, dtype=dtype)
    photo = opened(jxl(stored))
    assert (photo.format, photo.pixels.dtype, photo.icc_profile, photo.notes) == ("JXL", dtype, None, ())
    np.testing.assert_array_equal(photo.pixels, stored[..., :3])
    assert (photo.alpha is not None) == (channels == 4)
    if photo.alpha is not None:
        np.testing.assert_array_equal(photo.alpha, stored[..., 3])


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_10_bits_and_the_like_fill_16(bits):
    photo = opened(codestream(PICTURE, bits=bits))  # of which the levels are now the darkest 256
    np.testing.assert_array_equal(photo.pixels, np.round(PICTURE * (65535 / ((1 << bits) - 1))))


def test_one_channel_stays_one():
    photo = opened(jxl(PICTURE[..., :1].copy()))
    assert photo.grey
    np.testing.assert_array_equal(photo.pixels, np.dstack([PICTURE[..., 0]] * 3))
    save_photo(photo, "b.jxl")
    assert oiio.ImageInput.open("b.jxl").spec().nchannels == 1


def test_it_is_turned_once_by_its_own_header_and_not_by_exif():
    whole = codestream(PICTURE, orientation=6)
    assert opened(whole).pixels.shape == (48, 32, 3)
    boxed = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "
    picture = (len(whole) + 8).to_bytes(4, "big") + b"jxlc" + whole
    photo = opened(with_boxes(boxed, [(b"Exif", bytes(4) + exif_block(orientation=6))]) + picture)
    np.testing.assert_array_equal(photo.pixels, np.rot90(PICTURE, -1))
    assert told_by(photo.exif)[ORIENTATION] == 1


def test_colours_multiplied_by_alpha_are_divided_by_it():
    alpha = np.full((32, 48, 1), 128, np.uint8)
    stored = np.dstack((PICTURE // 2, alpha))
    for name, expected in (("alpha", stored[..., :3]), ("premultiplied", np.round(stored[..., :3] * (255 / 128)))):
        np.testing.assert_array_equal(opened(codestream(stored, channels=(name,))).pixels, expected)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"animated": True}, "an animation"),
        ({"animated": True, "preview": True}, "an animation"),
        ({"is_float": True}, "floating-point numbers of 16 bits"),
        ({"bits": 24}, "numbers of 24 bits"),
        ({"channels": ("depth",)}, "channels beside its colours"),
        ({"channels": ("spot",)}, "channels beside its colours"),
        ({"channels": ("usual", "filtered")}, "channels beside its colours"),
        ({"size": (20_000, 30_001)}, "20000 x 30001 pixels"),
    ],
)
def test_what_no_photo_has_is_refused_by_its_name_before_it_is_decoded(told, words):
    assert words in refused(header(**told))


def test_headers_are_read_as_the_decoder_reads_them():
    for size in ((48, 32), (64, 64), (1920, 1080), (31, 7), (500, 250), (513, 1191), (600, 500), (8, 8), (1, 70)):
        for dtype in (np.uint8, np.uint16):
            whole = jxl(np.zeros((size[1], size[0], 4), dtype))
            found = read_header(next(whole[at:end] for kind, at, end in boxes(whole) if kind == b"jxlc"))
            bits = 8 * np.dtype(dtype).itemsize
            assert (found.width, found.height, found.bits, found.converted) == (*size, bits, False)
            assert [channel.is_alpha for channel in found.channels] == [True]


def header_of(*fields: tuple[int, int]) -> bytes:
    """A header of these values, each with its number of bits, and nothing behind it."""
    number = at = 0
    for value, count in fields:
        assert 0 <= value < 1 << count or value == count == 0
        number |= value << at
        at += count
    return b"\xff\x0a" + number.to_bytes(-(-at // 8), "little")


SMALL = ((1, 1), (2, 5), (0, 3), (4, 5))  # 40 x 24
DEPTH = ((0, 1), (3, 2), (11, 6), (0, 1))  # 12 bits
END = ((0, 1), (0, 1), (1, 1), (0, 5))  # of its own colours, with a profile; what is behind it differs from ones
AS_USUAL = (0, 1)


def largest(bits: tuple[int, ...], way: int) -> tuple[tuple[int, int], ...]:
    """A number in one of four ways, with all the bits that this one adds set."""
    return (way, 2), ((1 << bits[way]) - 1, bits[way])


@pytest.mark.parametrize("ratio", range(8))
@pytest.mark.parametrize("way", [None, 0, 1, 2, 3])
def test_sizes_are_told_in_eights_or_in_one_of_four_ways_and_by_a_ratio(way, ratio):
    bits, above, below = (9, 13, 18, 30), (1, 1, 12, 4, 3, 16, 5, 2), (1, 1, 10, 3, 2, 9, 4, 1)
    height, side = (256, ((31, 5),)) if way is None else (1 << bits[way], largest(bits, way))
    other, width = ((), height * above[ratio] // below[ratio]) if ratio else (side, height)
    found = read_header(header_of((way is None, 1), *side, (ratio, 3), *other, (1, 1)))
    assert (found.width, found.height) == (width, height)
    assert found[2:] == (False, 8, False, (), True, False, None), "all else as usual"


@pytest.mark.parametrize("way", range(4))
def test_what_is_said_of_the_presentation_is_passed_over(way):
    sizes, eights, ones = (9, 13, 18, 30), (0, 0, 5, 9), (6, 8, 10, 12)
    intended = ((1, 1), (0, 1), *largest(sizes, way), (0, 3), *largest(sizes, way))
    by_ratio = ((1, 1), (1, 1), (31, 5), (3, 3))
    in_eights = ((1, 1), (1, 1), *largest(eights, way), (0, 3), *largest(eights, way))
    in_ones = ((1, 1), (0, 1), *largest(ones, way), (5, 3))
    animation = ((1, 1), *largest((0, 0, 10, 30), way), *largest((0, 0, 8, 10), way), *largest((0, 3, 16, 32), way))
    none = ((0, 1),)
    for size in (none, intended, by_ratio):
        for preview in (none, in_eights, in_ones):
            for moves in (none, (*animation, (1, 1))):
                told = (*SMALL, AS_USUAL, (1, 1), (5, 3), *size, *preview, *moves, *DEPTH, (0, 2), *END)
                expected = (40, 24, moves is not none, 12, False, (), False, True)
                assert read_header(header_of(*told))[:8] == expected


def test_depths_of_numbers_and_of_floating_point_are_told_in_four_ways():
    for is_float, values in ((False, (8, 10, 12, 64)), (True, (32, 16, 24, 64))):
        for way, depth in enumerate(values):
            told = ((is_float, 1), *largest((0, 0, 0, 6), way), *(((15, 4),) if is_float else ()), (1, 1))
            found = read_header(header_of(*SMALL, AS_USUAL, (0, 1), *told, (0, 2), *END))
            assert found[:8] == (40, 24, False, depth, is_float, (), False, True)
            assert found.depth_at == (None if is_float or way else 16 + 14 + 3)  # behind the mark, sizes and flags


@pytest.mark.parametrize("named", [(0, 0), (1, 15), (2, 47), (3, 48)])
def test_channels_beside_the_colours_are_alpha_or_passed_over(named):
    way, length = named
    name = ((way, 2), (length - (0, 0, 16, 48)[way], (0, 4, 5, 10)[way]), *((255, 8),) * length)
    start = (*SMALL, AS_USUAL, (0, 1), *DEPTH)
    for kind, behind, expected in (
        (((0, 2),), ((0, 1),), (True, False)),  # alpha
        (((0, 2),), ((1, 1),), (True, True)),  # alpha that colours are multiplied by
        (((1, 2),), (), (False, False)),  # depth
        (((2, 2), (0, 4)), ((0, 32), ((1 << 32) - 1, 32)), (False, False)),  # of a spot colour
        (((2, 2), (3, 4)), ((3, 2), (255, 8)), (False, False)),  # of a filter's colours
        (((2, 2), (3, 4)), ((1, 2), (3, 2)), (False, False)),
        (((3, 2), (63, 6)), (), (False, False)),  # of a kind to come
    ):
        for smaller in ((0, 2), (1, 2), (2, 2), (3, 2)):
            spare = ((7, 3),) if smaller == (3, 2) else ()
            channel = ((0, 1), *kind, *DEPTH[:3], smaller, *spare, *name, *behind)
            found = read_header(header_of(*start, (2, 2), (0, 4), *channel, (1, 1), *END))
            assert found.channels == (expected, (True, False)) and found[6:8] == (False, True)
    for count in (((1, 2),), ((2, 2), (15, 4)), ((3, 2), (4095, 12))):
        number = {1: 1, 2: 17, 3: 4096}[count[0][0]]
        found = read_header(header_of(*start, *count, *((1, 1),) * number, *END))
        assert found.channels == ((True, False),) * number and found[6:8] == (False, True)


@pytest.mark.parametrize("wrapped", [True, False])
def test_hdr_is_refused_and_wide_colours_have_their_profile(wrapped):
    for numbers, profile in (((1, 13, 0, 1), None), ((12, 13, 0, 1), DISPLAY_P3)):
        assert opened(jxl(PICTURE, numbers)).icc_profile == profile
    for transfer in (16, 18):
        assert "HDR" in refused(jxl(PICTURE, (9, transfer, 0, 1)))


def test_linear_light_is_not_taken_for_srgb():
    light = opened(jxl(np.full((32, 48, 3), 188, np.uint8), (1, 8, 0, 1)))
    assert light.icc_profile is not None
    np.testing.assert_allclose(light.model_view(), 65535 * (1.055 * (188 / 255) ** (1 / 2.4) - 0.055), atol=40)


def test_the_content_counts_not_the_name():
    Path("a.tif").write_bytes(jxl(PICTURE))
    assert open_photo("a.tif").format == "JXL"


def test_compressed_metadata_is_read_and_what_is_left_out_is_said():
    exif = bytes(4) + exif_block()
    packed = [(b"brob", kind + imagecodecs.brotli_encode(data)) for kind, data in ((b"Exif", exif), (b"xml ", XMP))]
    photo = opened(with_boxes(jxl(smooth_picture(40, 60)), packed))
    assert (told_by(photo.exif), photo.xmp, photo.notes) == (told_by(exif_block()), XMP, ())
    damaged = [(kind, content[:-9]) for kind, content in packed]
    assert (photo := opened(with_boxes(jxl(PICTURE), damaged))).exif is None and photo.xmp is None
    manifest = (b"jumb", b"\0\0\0\x1ejumdc2pa" + bytes(20))
    notes = opened(with_boxes(jxl(PICTURE), [manifest, (b"jhgm", bytes(40))])).notes
    assert [word in " ".join(notes) for word in ("content credentials", "gain map")] == [True, True]


@pytest.mark.parametrize("where", ["bare", "container"])
def test_it_is_refused_quietly_when_cut_short(capfd, where):
    whole = jxl(random_samples(32, 48, 3)) if where == "container" else codestream(random_samples(32, 48, 3))
    for length in (2, 5, 12, 14, 33, 42, 60, len(whole) // 2, len(whole) - 40):
        assert "damaged or cut short" in refused(whole[:length]) or length < 12
    assert capfd.readouterr() == ("", "")


# ----------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_at_full_quality_it_keeps_pixels_and_metadata(dtype, has_alpha):
    alpha = random_samples(40, 60, dtype=dtype, seed=1) if has_alpha else None
    for profile in (None, DISPLAY_P3, ADOBE_RGB):
        photo = Photo(random_samples(40, 60, 3, dtype=dtype), alpha, profile, exif_block(), XMP)
        assert save_photo(photo, "a.jxl", quality=100, overwrite=True) == ()
        again = open_photo("a.jxl")
        np.testing.assert_array_equal(again.pixels, photo.pixels)
        np.testing.assert_array_equal(again.alpha, alpha)
        assert (again.icc_profile, again.xmp, again.notes) == (profile, XMP, ())
        assert told_by(again.exif) == told_by(photo.exif)


def test_what_was_exact_stays_so_unless_a_quality_is_given():
    exact = opened(jxl(random_samples(64, 80, 3)))
    save_photo(exact, "b.jxl")
    np.testing.assert_array_equal(open_photo("b.jxl").pixels, exact.pixels)
    save_photo(exact, "c.jxl", quality=95)
    assert not np.array_equal(open_photo("c.jxl").pixels, exact.pixels)
    for lossy in (jxl(PICTURE, quality=90), with_boxes(jxl(PICTURE), [(b"jbrd", bytes(9))])):  # the latter was a JPEG
        assert not opened(lossy).encoding.lossless


def test_quality_trades_size_for_nearness():
    photo = Photo(np.asarray(Image.open(Path(__file__).parents[1] / "examples" / "cinema.jpg"))[:400, :400])
    sizes, distances = [], []
    for quality in (40, 80, 95):
        save_photo(photo, f"{quality}.jxl", quality=quality)
        sizes.append(Path(f"{quality}.jxl").stat().st_size)
        distances.append(np.abs(open_photo(f"{quality}.jxl").pixels.astype(int) - photo.pixels).mean())
    assert sizes[0] < sizes[1] < sizes[2] and distances[0] > distances[1] > distances[2] and distances[2] < 2


@pytest.mark.parametrize("quality", [90, 100])
def test_wide_colours_look_the_same_at_every_quality(quality):
    for profile in (DISPLAY_P3, ADOBE_RGB):
        photo = Photo(smooth_picture(64, 96), icc_profile=profile)
        save_photo(photo, "a.jxl", quality=quality, overwrite=True)
        seen, meant = open_photo("a.jxl").model_view(), photo.model_view()
        assert np.abs(seen.astype(float) - meant).mean() < 2 * 257
        assert open_photo("a.jxl").icc_profile not in (None, b"")


def test_a_damaged_profile_is_left_out_with_a_word():
    photo = Photo(PICTURE, icc_profile=DISPLAY_P3[:300])
    assert ["profile" in note for note in save_photo(photo, "a.jxl")] == [True]
    assert open_photo("a.jxl").icc_profile is None


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bare", [True, False])
def test_a_lossy_picture_with_a_profile_of_tables_looks_as_meant_and_says_so(bits, bare):
    meant = np.asarray(makers.scene(12, 96, 64)) / 255
    stored = np.round(makers.to_device(meant) * ((1 << bits) - 1)).astype(f"uint{bits}")
    alpha = random_samples(64, 96, dtype=stored.dtype)
    for photo in (Photo(stored, icc_profile=makers.table_profile()), Photo(stored, alpha, makers.table_profile())):
        save_photo(photo, "a.jxl", quality=95, overwrite=True)
        whole = Path("a.jxl").read_bytes()
        if bare:
            whole = next(whole[at:end] for kind, at, end in boxes(whole) if kind == b"jxlc")
        again = opened(whole)
        assert ["of tables" in note and "sRGB" in note for note in again.notes] == [True]
        assert (again.pixels.dtype, again.icc_profile) == (stored.dtype, None)
        assert np.sqrt(np.mean((again.pixels / ((1 << bits) - 1) - meant) ** 2)) < 0.015
        assert again.alpha is None or np.abs(again.alpha.astype(int) - alpha).max() <= 3 * (257 if bits == 16 else 1)


def test_the_dark_of_a_lossy_picture_with_a_profile_of_tables_keeps_its_levels():
    dark = np.repeat(np.arange(8, 40, dtype=np.uint8), 48).reshape(32, 48, 1).repeat(3, axis=2)
    stored = np.round(makers.to_device(dark / 255) * 255).astype(np.uint8)
    save_photo(Photo(stored, icc_profile=makers.table_profile()), "a.jxl", quality=95)
    levels = np.unique(open_photo("a.jxl").pixels)
    assert len(levels[(levels >= 22) & (levels < 40)]) > 14, "8 bits of linear light have 4"


def test_a_picture_with_a_profile_of_tables_that_lost_nothing_is_in_display_p3():
    photo = Photo(np.asarray(makers.scene(12, 96, 64)), icc_profile=makers.table_profile())
    save_photo(photo, "b.jxl", quality=100)
    assert "Display P3" in " ".join(open_photo("b.jxl").notes)


@pytest.mark.parametrize("quality", [80, 100])
def test_black_and_white_stays_neutral_and_as_bright(quality):
    Image.fromarray(PICTURE[..., 0]).save("a.png")
    Image.fromarray(PICTURE[..., 0]).convert("RGB").save("b.png")
    for name in ("a.png", "b.png"):
        save_photo(open_photo(name), "a.jxl", quality=quality, overwrite=True)
        again = open_photo("a.jxl").pixels
        np.testing.assert_array_equal(again, again[..., :1].repeat(3, axis=2))
        assert np.abs(again.astype(int) - open_photo(name).pixels).max() <= (3 if quality < 100 else 0)


@pytest.mark.parametrize("quality", [80, 100])
def test_a_grey_profile_becomes_one_of_colours_that_looks_the_same(quality):
    Image.fromarray(PICTURE[..., 0]).save("a.png", icc_profile=imagecodecs.cms_profile("gray", gamma=1.8))
    photo = open_photo("a.png")
    assert save_photo(photo, "a.jxl", quality=quality) == ()
    assert np.abs(open_photo("a.jxl").model_view().astype(float) - photo.model_view()).max() < 3 * 257


# ------------------------------------------------------------------------------------------------------- from the door


def test_a_folder_with_jpeg_xl_becomes_one(tmp_path, capfd):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.JXL").write_bytes(jxl(PICTURE))
    AffineGrid.identity().save("look.safetensors")
    assert main(["retouch", "in", "-o", "out", "--look", "look.safetensors", "--quality", "100"]) == 0
    assert "left out" not in capfd.readouterr().err
    (report,) = [json.loads(line) for line in Path("out/diffretouch.jsonl").read_text().splitlines()[-1:]]
    assert report["error"] is None and not report.get("notes")
    again = open_photo("out/a-retouched.JXL")
    assert again.xmp is not None and b"DiffRetouch" in again.xmp
    np.testing.assert_array_equal(again.pixels, PICTURE)
