"""photo/: single functions at their borders, where a whole file does not lead or says too little."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
from pathlib import Path
from xml.dom import minidom

import makers
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms

from diffretouch.photo import (
    Photo,
    PhotoError,
    avif,
    decode_process,
    heic,
    isolation,
    jpeg,
    open_photo,
    raw,
    save_photo,
    webp,
)
from diffretouch.photo.boxes import boxes
from diffretouch.photo.claims import opened_xmp
from diffretouch.photo.colour import (
    _REC_2020,
    ADOBE_RGB,
    DISPLAY_P3,
    profile_of_chromaticities,
    profile_of_code_points,
    profile_tags,
)
from diffretouch.photo.companions import left_of_heic
from diffretouch.photo.core import BAND_ROWS, Refused, is_neutral, optional_module, sane_dpi
from diffretouch.photo.exif import MAKER_NOTE_TAG, exif_of_tiff
from diffretouch.photo.readers import kind_of
from diffretouch.photo.space import _curve, _is_sound, _xyz, is_srgb
from diffretouch.photo.tags import CHILDREN, EXIF_TAG, Tag, TagReader, exif_block, upright_exif
from diffretouch.photo.tiff import _check_tiff_kind
from diffretouch.photo.xmp import Packet, _declare


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize("row", [0, BAND_ROWS - 1, BAND_ROWS, 2 * BAND_ROWS])
def test_one_channel_of_one_pixel_makes_a_picture_coloured(channel: int, row: int) -> None:
    pixels = np.full((2 * BAND_ROWS + 1, 2, 3), 100, np.uint8)
    assert is_neutral(pixels)
    pixels[row, 1, channel] += 1
    assert not is_neutral(pixels)


def test_the_bits_of_an_avif_are_in_its_codecs_box() -> None:
    box = b"....av1C\x81\x00"
    for flags, bits in ((0x0C, 8), (0x4C, 10), (0x6C, 12)):
        assert avif._encoding(box + bytes([flags])).bits == bits
    for cut in (b"", b"....", box):
        with pytest.raises(Refused):
            avif._encoding(cut)


def test_what_a_heic_cannot_keep_is_named_each_by_itself() -> None:
    gain = "urn:com:apple:photo:2020:aux:hdrgainmap"
    depth = "urn:mpeg:hevc:2015:auxid:2:depth"
    matte = "urn:com:apple:photo:2018:aux:portraiteffectsmatte"
    assert left_of_heic(b"", {}, 1) == left_of_heic(b"", {"aux": {}, "depth_images": []}, 1) == ()
    for found, word in (
        ({"aux": {gain: [1]}}, "gain map"),
        ({"aux": {depth: [1]}}, "depth map"),
        ({"depth_images": ["..."]}, "depth map"),
        ({"aux": {matte: [1]}}, "mattes"),
    ):
        (note,) = left_of_heic(b"", found, 1)
        assert word in note
    assert len(left_of_heic(b"", {"aux": {gain: [1], depth: [2], matte: [3]}}, 1)) == 3


def test_a_text_in_xmp_says_that_it_is_of_no_language_and_a_list_of_names_does_not() -> None:
    packet = Packet()
    packet.add_items("dc:description", "Alt", ["A street"])
    packet.add_items("dc:subject", "Bag", ["street", "rain"])
    written = bytes(packet).decode()
    assert re.search(r'<rdf:li[^>]* xml:lang="x-default"[^>]*>A street</rdf:li>', written)
    assert written.count("x-default") == 1 and written.count("</rdf:li></rdf:Bag>") == 1


@pytest.mark.parametrize(("shape", "rows"), [((800, 1000, 3), 349), ((3, 400_000, 3), 1)])
def test_strips_of_a_tiff_hold_a_mebibyte_or_one_row(tmp_path: Path, shape: tuple[int, int, int], rows: int) -> None:
    save_photo(Photo(np.zeros(shape, np.uint8)), tmp_path / "photo.tif")
    with tifffile.TiffFile(tmp_path / "photo.tif") as file:
        assert file.pages[0].rowsperstrip == rows


def test_pixels_are_laid_on_white_to_the_nearest_level() -> None:
    alpha, grey = np.mgrid[0:256, 0:256].astype(np.uint8)
    blended = jpeg._on_white(np.repeat(grey[..., None], 3, 2), alpha)
    exact = (grey * (alpha / 255) + 255 * (1 - alpha / 255))[..., None]
    assert np.abs(blended - exact).max() < 0.5 + 1e-9


def test_a_jpeg_is_of_8_bits(tmp_path: Path) -> None:
    save_photo(Photo(np.zeros((8, 8, 3), np.uint8)), tmp_path / "photo.jpg")
    assert open_photo(tmp_path / "photo.jpg").encoding.bits == 8


@pytest.mark.parametrize(("semantic", "word"), [("GainMap", "gain map"), ("MotionPhoto", "video"), ("Depth", "depth")])
@pytest.mark.parametrize("attribute", [True, False])
def test_what_a_directory_of_a_photos_parts_claims_is_told_and_taken_out(
    semantic: str, word: str, attribute: bool
) -> None:
    def item(kind: str) -> str:
        if attribute:
            return f'<rdf:li><Container:Item Item:Mime="image/jpeg" Item:Semantic="{kind}"/></rdf:li>'
        return f"<rdf:li><Container:Item><Item:Semantic>{kind}</Item:Semantic></Container:Item></rdf:li>"

    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:xmp="http://ns.adobe.com/xap'
        '/1.0/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmp:Rating="4"><Container:Directory>'
        f"<rdf:Seq>{item('Primary')}{item(semantic)}</rdf:Seq></Container:Directory></rdf:Description></rdf:RDF>"
        "</x:xmpmeta>"
    )
    opened = opened_xmp(packet.encode(), 1, False)
    assert len(opened.notes) == 1 and word in opened.notes[0]
    assert opened.xmp is not None and semantic.encode() not in opened.xmp
    assert Packet(opened.xmp).value("xmp:Rating") == "4"
    primary = opened_xmp(packet.replace(semantic, "Primary").encode(), 1, False)
    assert primary.notes == ()


def test_the_resolution_of_a_tiff_is_two_fractions_and_one_unit(tmp_path: Path) -> None:
    save_photo(Photo(np.zeros((8, 8, 3), np.uint8), dpi=(300.0, 240.5)), tmp_path / "photo.tif")
    with tifffile.TiffFile(tmp_path / "photo.tif") as file:
        across, down, unit = (file.pages[0].tags[code] for code in (282, 283, 296))
        assert (across.count, down.count, unit.count) == (1, 1, 1)
        assert (across.value, down.value, unit.value) == ((3_000_000, 10_000), (2_405_000, 10_000), 2)


def test_only_what_is_srgb_is_taken_for_it() -> None:
    assert is_srgb(None) and is_srgb(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert not is_srgb(DISPLAY_P3) and not is_srgb(ADOBE_RGB)


def test_a_webp_that_starts_with_no_picture_is_refused() -> None:
    start = b"RIFF\0\0\0\0WEBP" + b"EXIF" + bytes(16)
    with pytest.raises(Refused, match="without a picture"):
        webp._webp_size(start)


def test_a_broken_extension_of_xmp_leaves_the_packet_itself() -> None:
    digest = b"0123456789ABCDEF" * 2
    packet = Packet()
    packet.put("xmpNote:HasExtendedXMP", digest.decode())
    written = bytes(packet)
    broken = jpeg._EXTENSION_MARK + digest + (7).to_bytes(4, "big") + bytes(4) + b"<broken"
    assert jpeg._with_extension(written, [broken]) == written
    assert jpeg._with_extension(written, []) == written
    assert jpeg._with_extension(None, [broken]) is None


@pytest.mark.parametrize("there", [False, True])
def test_a_decoder_that_is_missing_or_broken_is_refused_with_the_way_to_install_it(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if there:
        (tmp_path / "a_decoder.py").write_text("raise ImportError('a library of it is gone')")
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused, match=r"pip install 'diffretouch\[raw\]'"):
        optional_module("a_decoder", "HEIC")


def test_colours_of_a_heic_that_are_multiplied_by_their_alpha_are_divided_by_it_again() -> None:
    stored = np.zeros((32, 32, 4), np.uint8)
    stored[...] = (100, 50, 25, 128)
    file = io.BytesIO()
    pillow_heif.from_bytes(mode="RGBa", size=(32, 32), data=stored.tobytes()).save(file, quality=-1)
    decoded = heic.read_heic(io.BytesIO(file.getvalue()), 1 << 20)
    assert decoded.alpha is not None and (decoded.alpha == 128).all()
    assert np.abs(decoded.samples.astype(int) - (199, 100, 50)).max() <= 2


@pytest.mark.parametrize(
    ("given", "turned"),
    [
        ('stDim:w="90"', {"stDim:w": "90"}),
        ('stDim:h="60"', {"stDim:h": "60"}),
        ('stDim:w="90" stDim:h="60"', {"stDim:w": "60", "stDim:h": "90"}),
    ],
)
def test_the_size_that_regions_stand_in_is_turned_if_all_of_it_is_there(given: str, turned: dict[str, str]) -> None:
    regions = f'<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions {given}/></mwg-rs:Regions>'
    found = Packet(opened_xmp(makers.xmp(regions, ""), 6, False).xmp)
    assert {name: found.value(name) for name in turned} == turned


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(b"data error\n"), "data error"),
        (OSError("Unexpected end\nof file"), "Unexpected end of file"),
        (OSError(b"caf\xff"), "caf\ufffd"),
    ],
)
def test_what_libraw_says_is_words_on_one_line(error: Exception, words: str) -> None:
    assert raw._words(error) == words


def test_a_curve_from_bright_to_dark_or_without_a_way_back_is_unsound() -> None:
    rising, matrix = np.linspace(0, 1, 256)[None].repeat(3, 0), np.eye(3)
    assert _is_sound(rising, matrix, matrix)
    one_falls = np.stack([rising[0], rising[1], rising[2, ::-1]])
    assert not _is_sound(one_falls, matrix, matrix)
    assert not _is_sound(0.4 * rising, matrix, matrix)
    assert not _is_sound(rising, 30 * matrix, matrix) and not _is_sound(rising, matrix, -30 * matrix)


def test_a_packet_is_split_only_where_it_is_too_long() -> None:
    def packet() -> Packet:
        made = Packet()
        made.put("xmp:Rating", "4")
        made.put("dc:format", "image/" + 200 * "x")
        return made

    size = len(bytes(packet()))
    assert packet().split(size) is None
    kept = packet()
    moved = kept.split(size - 1)
    assert moved is not None and moved.value("dc:format").startswith("image/xxx")
    assert kept.value("xmp:Rating") == "4" and not kept.find("dc:format") and len(bytes(kept)) < size


@pytest.mark.parametrize("suffix", ["jpg", "webp", "heic"])
def test_the_bytes_that_a_photo_took_are_counted_for_each_of_its_pixels(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{suffix}"
    save_photo(Photo(np.random.default_rng(0).integers(0, 256, (24, 60, 3), dtype=np.uint8)), path)
    assert open_photo(path).encoding.bytes_per_pixel == pytest.approx(path.stat().st_size / (24 * 60))


def test_code_points_that_files_hold_instead_of_a_profile() -> None:
    found = {primaries: profile_of_code_points(primaries, 13) for primaries in (1, 2, 9, 11, 12)}
    assert found == {1: None, 2: None, 9: _REC_2020, 11: DISPLAY_P3, 12: DISPLAY_P3}
    for hdr in (16, 18):
        with pytest.raises(Refused, match="HDR"):
            profile_of_code_points(9, hdr)


def test_a_tiff_whose_grey_and_alpha_lie_in_planes_keeps_both(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (2, 12, 16), dtype=np.uint8)
    options = {"photometric": "minisblack", "planarconfig": "separate", "extrasamples": ["unassalpha"]}
    tifffile.imwrite(tmp_path / "photo.tif", stored, **options)
    photo = open_photo(tmp_path / "photo.tif")
    assert photo.alpha is not None
    np.testing.assert_array_equal(photo.pixels[..., 0], stored[0])
    np.testing.assert_array_equal(photo.alpha, stored[1])


@pytest.mark.parametrize(("quality", "subsampling"), [(89, "420"), (90, "444")])
def test_from_quality_90_on_colours_of_a_heic_are_as_fine_as_its_light(
    quality: int, subsampling: str, tmp_path: Path
) -> None:
    save_photo(Photo(np.zeros((32, 32, 3), np.uint8)), tmp_path / "photo.heic", quality=quality)
    assert open_photo(tmp_path / "photo.heic").encoding.subsampling == subsampling


def test_what_a_packet_is_split_from_takes_the_prefixes_of_its_attributes_along() -> None:
    size = '<mwg-rs:AppliedToDimensions stDim:w="90" stDim:h="60"/>'
    packet = Packet(makers.xmp(f'<mwg-rs:Regions rdf:parseType="Resource">{size}</mwg-rs:Regions>', ""))
    moved = packet.split(len(bytes(packet)) - 1)
    assert moved is not None and b"xmlns:stDim=" in bytes(moved)
    assert Packet(bytes(moved)).value("stDim:w") == "90"


@pytest.mark.parametrize("caption", ["a", "ab", "abc", "abcd"])
def test_iptc_records_in_a_tiff_are_padded_to_four_bytes(caption: str, tmp_path: Path) -> None:
    records = b"\x1c\x02\x78" + len(caption).to_bytes(2, "big") + caption.encode()
    save_photo(Photo(np.zeros((8, 8, 3), np.uint8), iptc=records), tmp_path / "photo.tif")
    with tifffile.TiffFile(tmp_path / "photo.tif") as file:
        tag = file.pages[0].tags[33723]
        assert tag.count % 4 == 0 and 0 <= tag.count - len(records) < 4
        assert bytes(tag.value).startswith(records)


def test_the_resolution_of_a_png_is_in_metres_for_others_too(tmp_path: Path) -> None:
    save_photo(Photo(np.zeros((8, 8, 3), np.uint8), dpi=(300.0, 240.0)), tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as image:
        assert image.info["dpi"] == pytest.approx((300, 240), abs=0.02)
    assert open_photo(tmp_path / "photo.png").dpi == pytest.approx((300, 240), abs=0.02)


@pytest.mark.parametrize("profile", [DISPLAY_P3, ADOBE_RGB, _REC_2020])
def test_the_primaries_of_our_profiles_make_the_white_of_profiles(profile: bytes) -> None:
    tags = profile_tags(profile)
    white = np.sum([_xyz(tags[channel + b"XYZ"]) for channel in (b"r", b"g", b"b")], 0)
    np.testing.assert_allclose(white, (0.9642, 1, 0.8249), atol=3e-4)


def test_the_main_brand_and_the_compatible_ones_tell_the_kind_and_nothing_after_them():
    for length, brands in ((16, b"avif\0\0\0\0"), (24, b"mif2\0\0\0\0miafavif"), (20, b"mif2\0\0\0\0avifheic")):
        assert kind_of(io.BytesIO(bytes([0, 0, 0, length]) + b"ftyp" + brands)) == "AVIF"
    with pytest.raises(Refused, match="a video file"):
        kind_of(io.BytesIO(b"\0\0\0\x10ftypmp42\0\0\0\0avif"))


def test_a_webp_of_the_simple_kind_has_14_bits_of_size_and_two_of_scale() -> None:
    frame = b"\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 0x4000 | 300, 0x8000 | 200)
    start = b"RIFF\0\0\0\0WEBPVP8 " + bytes(4) + frame[3:]
    assert webp._webp_size(start + bytes(2)) == (300, 200)


def test_long_profiles_and_packets_of_a_jpeg_are_cut_into_segments_that_say_so() -> None:
    profile = bytes(range(256)) * 600
    parts = jpeg._profile_parts(profile)
    assert [part[12:14] for part in parts] == [bytes([number, 3]) for number in (1, 2, 3)]
    assert b"".join(part[14:] for part in parts) == profile and max(map(len, parts)) <= 65_533
    packet = Packet(makers.xmp(f"<dc:title>{makers.alt('a' * 200_000)}</dc:title>"))
    written, at, segments = jpeg._xmp_segments(bytes(packet), []), 0, []
    while at < len(written):
        marker, length = struct.unpack_from(">HH", written, at)
        segments.append((marker, written[at + 4 : at + 2 + length]))
        at += 2 + length
    assert [hex(marker) for marker, _ in segments] == ["0xffe1"] * 5
    start = len(jpeg._XMP_MARK)
    main, extension = segments[0][1][start:], [part for _, part in segments[1:]]
    title = Packet(jpeg._with_extension(main, extension)).value("dc:title")
    assert (len(title), set(title)) == (200_000, {"a"})
    foreign = [part.replace(part[35:67], b"0" * 32, 1) for part in extension]
    kept = jpeg._with_extension(main, foreign)
    assert kept is main, "an extension of another packet is none of this one"


def test_a_decoder_process_gets_memory_for_the_pixels_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (-1, -1))
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: asked.append(limits))
    decode_process._limit_memory(10**9)
    decode_process._limit_memory(1)
    assert asked == [(24 * 10**9, -1), (4 << 30, -1)]


def test_what_a_library_prints_is_no_part_of_a_decoders_answer() -> None:
    program = (
        "import os\nfrom diffretouch.photo import decode_process\n"
        "def answer(request):\n    os.write(1, b'a library prints\\n')\n    return 'refused', request['kind']\n"
        "decode_process._answer = answer\ndecode_process.main()"
    )
    request = b'{"seconds": 9, "kind": "A"}\n{"seconds": 9, "kind": "B"}\n'
    done = subprocess.run([sys.executable, "-c", program], input=request, capture_output=True, check=True)
    answers = io.BytesIO(done.stdout)
    assert [decode_process.receive(answers) for _ in range(2)] == [("refused", "A"), ("refused", "B")]
    assert done.stderr == 2 * b"a library prints\n" and not answers.read()


def test_larger_files_have_more_time_to_be_decoded(tmp_path: Path) -> None:
    class Process:
        def ask(self, request: dict, seconds: float) -> tuple:
            given.append((seconds, request["seconds"]))
            return ("refused", "by the test"), b""

    (tmp_path / "photo").write_bytes(bytes(3 * isolation.BYTES_PER_SECOND))
    given: list[tuple[float, float]] = []
    pool = isolation.DecoderPool(seconds=20)
    pool._free.append(Process())
    with pytest.raises(Refused, match="by the test"):
        pool.decode(str(tmp_path / "photo"), "RAW", 1)
    assert given == [(23, 23)] and len(pool._free) == 1


def test_a_decoder_that_cannot_be_started_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"RAW")
    pool = isolation.DecoderPool([str(tmp_path / "no such program")])
    with pytest.raises(Refused, match=r"^no process could be started to decode it \(No such file or directory\)$"):
        pool.decode(str(tmp_path / "photo"), "RAW", 1)


@pytest.mark.parametrize("suffix", ["avif", "jpg", "heic", "webp"])
def test_a_side_that_a_format_does_not_hold_is_refused_before_anything_is_encoded(suffix: str, tmp_path: Path) -> None:
    longest = {"avif": 65_535, "jpg": 65_500, "heic": 65_535, "webp": 16_383}[suffix]
    for shape in ((1, longest + 1, 3), (longest + 1, 1, 3)):
        with pytest.raises(PhotoError, match=f"allows at most {longest} on a side"):
            save_photo(Photo(np.zeros(shape, np.uint8)), tmp_path / f"photo.{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_refused_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    monkeypatch.setattr("diffretouch.photo.saving._encoded", None)
    with pytest.raises(PhotoError, match="exists"):
        save_photo(Photo(np.zeros((8, 8, 3), np.uint8)), tmp_path / "photo.jpg")
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


def test_a_resolution_lies_between_one_and_a_hundred_thousand() -> None:
    for lowest in (1, 100_000):
        assert sane_dpi(lowest, lowest) == (lowest, lowest)
    for wrong in ((0.99, 300), (300, 0.99), (100_001, 300), (300, 100_001)):
        assert sane_dpi(*wrong) is None


def test_primaries_that_lie_nearly_on_a_line_are_no_colours() -> None:
    white, red, green = (0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60)
    between = tuple((a + b) / 2 + 0.003 for a, b in zip(red, green, strict=True))
    with pytest.raises(Refused, match="cHRM"):
        profile_of_chromaticities((*white, *red, *green, *between), None)


def test_a_curve_of_one_number_is_an_exponent_in_256ths() -> None:
    levels = np.linspace(0, 1, 65_536)
    for stored, exponent in ((b"\2\x33", 563 / 256), (b"\1\0", 1)):
        np.testing.assert_allclose(_curve(b"curv" + bytes(4) + b"\0\0\0\1" + stored), levels**exponent, atol=1e-9)
    np.testing.assert_allclose(_curve(b"curv" + bytes(8)), levels, atol=1e-9)


def test_a_box_without_content_at_the_end_is_one() -> None:
    data = b"\0\0\0\x0cfree" + bytes(4) + b"\0\0\0\x08skip"
    assert list(boxes(data)) == [(b"free", 8, 12), (b"skip", 20, 20)]
    assert list(boxes(data[:-1])) == [(b"free", 8, 12)]


def test_values_of_a_directory_lie_at_even_places_and_the_block_ends_where_it_does() -> None:
    tags = {code: Tag(2, len(text), text, 0, None) for code, text in ((270, b"five\0"), (271, b"seven!\0"))}
    block = exif_block(tags, "<")
    assert block is not None
    reader = TagReader(io.BytesIO(block))
    assert reader.size == len(block)
    found = reader.directory(reader.first, {}).tags
    assert {code: tag.data for code, tag in found.items()} == {code: tag.data for code, tag in tags.items()}
    assert all(tag.at % 2 == 0 for tag in found.values())


def test_an_inner_prefix_of_another_name_space_leaves_the_outer_one_its_own() -> None:
    document = minidom.parseString('<r xmlns:p="urn:a"><e p:x="1"><f xmlns:p="urn:b" p:y="2"/></e></r>')
    moved = document.documentElement.firstChild
    _declare(moved)
    again = minidom.parseString(moved.toxml()).documentElement
    assert again.getAttributeNS("urn:a", "x") == "1"
    assert again.firstChild.getAttributeNS("urn:b", "y") == "2"


def test_at_quality_100_an_avif_holds_colours_exactly(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    save_photo(Photo(pixels), tmp_path / "photo.avif", quality=100)
    np.testing.assert_array_equal(open_photo(tmp_path / "photo.avif").pixels, pixels)


def test_a_tiff_of_16_bits_is_the_deepest_and_a_palette_holds_8(tmp_path: Path) -> None:
    class Page:
        photometric, compression, sampleformat, planarconfig = 1, 1, 1, 1
        imagedepth, samplesperpixel, bitspersample, extrasamples = 1, 1, 16, ()

    page = Page()
    _check_tiff_kind(page)
    page.bitspersample = 17
    with pytest.raises(Refused, match="1 to 16 bits"):
        _check_tiff_kind(page)
    page.photometric, page.bitspersample = 3, 9
    with pytest.raises(Refused, match="palette of 9 bits"):
        _check_tiff_kind(page)
    page.bitspersample = 8
    _check_tiff_kind(page)


@pytest.mark.parametrize(("at", "stays"), [(7, False), (8, True), (1 << 16, True), ((1 << 16) + 1, False)])
def test_a_makers_note_stays_where_it_is_or_is_left_out_with_a_word(at: int, stays: bool) -> None:
    note = Tag(7, 6, b"Canon!", at)
    block, notes = exif_of_tiff({EXIF_TAG: Tag(4, 1, b"", 0, {MAKER_NOTE_TAG: note, 36864: Tag(7, 4, b"0232")})}, "<")
    assert block is not None and (block[at : at + 6] == b"Canon!") == stays == (not notes)
    reader = TagReader(io.BytesIO(block))
    inside = reader.directory(reader.first, CHILDREN).tags[EXIF_TAG].children or {}
    assert inside[36864].data == b"0232" and (MAKER_NOTE_TAG in inside) == stays
    assert not stays or inside[MAKER_NOTE_TAG].at == at


@pytest.mark.parametrize("behind", [b"", b"a maker's note"])
def test_a_thumbnail_goes_with_its_bytes_and_what_lies_behind_it_stays(behind: bytes) -> None:
    picture, start = b"\xff\xd8\xff\xe0old\xff\xd9", 8 + 18 + 30  # behind two directories
    directories = makers.tiff_block([{256: (4, [8])}, {513: (4, [start]), 514: (4, [len(picture)])}])
    assert len(directories) == start
    orientation, block = upright_exif(directories + picture + behind, 6, 4)
    assert orientation == 1 and block is not None
    assert block[start:] == (bytes(len(picture)) + behind if behind else b"")
    reader = TagReader(io.BytesIO(block))
    main = reader.directory(reader.first, {})
    assert main.next == 0 and main.tags[256].data == b"\6\0\0\0"
    other = directories + b"no" + picture[2:] + behind
    assert upright_exif(other, 6, 4)[1][start:] == other[start:], "only a JPEG is blanked"


@pytest.mark.parametrize(("width", "told"), [(65_535, 65_535), (65_536, 8)])
def test_a_side_that_its_tag_cannot_hold_is_left_as_it_is(width: int, told: int) -> None:
    _, block = upright_exif(makers.tiff_block([{256: (3, [8])}]), width, 4)
    assert block is not None
    reader = TagReader(io.BytesIO(block))
    assert reader.directory(reader.first, {}).tags[256].data == struct.pack("<H", told)


def test_the_standard_table_of_a_jpeg_is_that_of_libjpeg_at_quality_50() -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG", quality=50)
    with Image.open(file) as picture:
        assert tuple(picture.quantization[0]) == jpeg._STANDARD_TABLE
