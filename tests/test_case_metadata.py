"""Metadata of photo files from elsewhere that went wrong once: kept, made true, or gone with a word."""

from __future__ import annotations

import base64
import io
import shutil
import struct
import subprocess
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import makers
import numpy as np
import pytest
import tifffile
from PIL import Image

from diffretouch.photo import CREDENTIALS_LOST, Photo, open_photo, save_photo
from diffretouch.photo.iptc import texts
from diffretouch.photo.raw import read_raw
from diffretouch.photo.tags import CHILDREN, EXIF_TAG, Tag, TagReader, directory_bytes
from diffretouch.photo.xmp import Packet, text_of

DESTINATION = "[IPTC] Destination"  # of a message, which exiftool counts among places, too
WORDS = ("Exampleville", "Old Pier", "Sample Province", "Nowhereland", "30,15", "20,45", "-30.254")
FIELDS = [(5, "Häfen"), (25, "harbour"), (25, "hills"), (80, "Name"), (116, "Copyright"), (120, "Boats")]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def packet_of(photo: Photo) -> Packet:
    assert photo.xmp is not None
    return Packet(photo.xmp)


@pytest.mark.parametrize("name", ["exif", "APP1"])
def test_02_exif_of_a_raw_profile_in_png_turns_the_photo_and_is_kept(tmp_path, name):
    text = makers.raw_profile("exif", b"Exif\0\0" + makers.exif(">", 6))
    keyword = f"Raw profile type {name}".encode() + b"\0"
    for chunk in ((b"zTXt", keyword + b"\0" + zlib.compress(text)), (b"tEXt", keyword + text)):
        path = written(tmp_path / "a.png", makers.png(np.asarray(makers.scene(2, 40, 30)), [chunk]))
        photo = open_photo(path)
        assert photo.pixels.shape == (40, 30, 3) and b"Invented Camera" in photo.exif
        save_photo(photo, tmp_path / "b.png", overwrite=True)
        assert b"eXIf" in (tmp_path / "b.png").read_bytes()


def test_08_thumbnails_in_xmp_go(tmp_path):
    small = base64.b64encode(makers.jpeg(makers.scene(8, 32, 24))).decode()
    inside = f"<xmpGImg:image>{small}</xmpGImg:image>"
    elements = (
        f'<xmp:Thumbnails><rdf:Alt><rdf:li rdf:parseType="Resource">{inside}</rdf:li></rdf:Alt></xmp:Thumbnails>'
    )
    packet = makers.xmp(elements, 'xmp:Rating="4"')
    photo = open_photo(written(tmp_path / "a.jpg", makers.jpeg(makers.scene(8), xmp=packet)))
    assert b"Thumbnails" not in photo.xmp and packet_of(photo).value("xmp:Rating") == "4"


def test_09_no_word_and_no_number_of_the_place_is_left(tmp_path):
    shown = "<Iptc4xmpExt:City>Exampleville</Iptc4xmpExt:City>"
    packet = makers.xmp(
        f'<Iptc4xmpExt:LocationShown><rdf:Bag><rdf:li rdf:parseType="Resource">{shown}</rdf:li></rdf:Bag>'
        "</Iptc4xmpExt:LocationShown><photoshop:State>Sample Province</photoshop:State>"
        "<Iptc4xmpCore:Location>Old Pier</Iptc4xmpCore:Location><geotate:POI>Old Pier|-30.254</geotate:POI>"
        f"<dc:title>{makers.alt('Boats')}</dc:title><exif:GPSLongitude>20,45.0W</exif:GPSLongitude>",
        'photoshop:City="Exampleville" photoshop:Country="Nowhereland" exif:GPSLatitude="30,15.0S"',
    )
    packet = packet.replace(b"xmlns:photoshop=", b"xmlns:ps=").replace(b"photoshop:", b"ps:")
    records = makers.iptc([(90, "Exampleville"), (92, "Old Pier"), (95, "Sample Province"), (5, "Boats")])
    block = makers.segment(0xED, b"Photoshop 3.0\0" + makers.photoshop({1028: records}))
    path = written(tmp_path / "a.jpg", makers.jpeg(makers.scene(9), 85, makers.exif(gps=True), packet, [block]))
    photo = open_photo(path)
    for suffix in (".jpg", ".tif", ".png", ".webp"):
        save_photo(photo, tmp_path / f"b{suffix}", remove_gps=True)
        content = (tmp_path / f"b{suffix}").read_bytes()
        assert [word for word in WORDS if word.encode() in content] == []
        again = open_photo(tmp_path / f"b{suffix}")
        assert packet_of(again).find("dc:title") and b"Invented Camera" in again.exif


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_09_nothing_of_exiftools_group_of_places_is_left(tmp_path):
    """Every tag of that group which exiftool can write into a JPEG is written, by itself."""
    tables = ET.fromstring(subprocess.run(["exiftool", "-listx"], capture_output=True, check=True).stdout)
    places = {
        (table.get("g1"), tag.get("name")): "12.5"
        if tag.get("type") in ("real", "rational64u", "rational64s")
        else "7"
        for table in tables
        for tag in table.iter("tag")
        if (tag.get("g2") or table.get("g2")) == "Location" and tag.get("writable") == "true"
        if table.get("g0") in ("XMP", "IPTC", "EXIF")
    }
    written(tmp_path / "a.jpg", makers.jpeg(makers.scene(9, 64, 48), exif=makers.exif()))
    told = [f"-{group}:{name}#={value}" for (group, name), value in places.items()]
    subprocess.run(["exiftool", "-q", "-q", "-m", "-overwrite_original", *told, "a.jpg"], cwd=tmp_path)

    def found(name: str) -> set[str]:
        line = ["exiftool", "-a", "-G1", "-s", "-Location:all", name]
        said = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True).stdout
        return {" ".join(entry.split()[:2]) for entry in said.splitlines() if "[Composite]" not in entry} - {
            DESTINATION
        }

    assert len(found("a.jpg")) > 120 and len({entry.split()[0] for entry in found("a.jpg")}) > 8
    photo = open_photo(tmp_path / "a.jpg")
    for suffix in (".jpg", ".tif", ".png", ".webp"):
        save_photo(photo, tmp_path / f"b{suffix}", remove_gps=True)
        assert found(f"b{suffix}") == set()


@pytest.mark.parametrize("place", ["drone-dji:Latitude", "dwc:locality", "cell:cellid", "mediapro:Location"])
def test_09_places_in_other_programs_words_go_too(tmp_path, place):
    space = {
        "drone-dji": "http://www.dji.com/drone-dji/1.0/",
        "dwc": "http://rs.tdwg.org/dwc/terms/",
        "cell": "http://developer.sonyericsson.com/cell/1.0/",
        "mediapro": "http://ns.iview-multimedia.com/mediapro/1.0/",
    }[place.partition(":")[0]]
    packet = makers.xmp("", f'xmp:Rating="4" xmlns:{place.partition(":")[0]}="{space}" {place}="Exampleville"')
    save_photo(Photo(np.zeros((4, 6, 3), np.uint8), xmp=packet), tmp_path / "a.png", remove_gps=True)
    content = (tmp_path / "a.png").read_bytes()
    assert b"Exampleville" not in content and b"Rating" in content


@pytest.mark.parametrize("order", ["<", ">"])
def test_10_no_preview_of_the_old_picture_is_left_in_a_makers_note(tmp_path, order):
    preview = makers.jpeg(makers.scene(10, 64, 48), 75)
    block = makers.exif(order, exif_more={37500: (7, makers.nikon_note(preview))})
    photo = open_photo(written(tmp_path / "a.jpg", makers.jpeg(makers.scene(10), exif=block)))
    assert b"\xff\xd8\xff" not in photo.exif and len(photo.exif) == len(block)
    assert photo.exif.index(b"Nikon") == block.index(b"Nikon"), "the rest of the note stays where it was"
    assert struct.pack(">HII", 4, 1, len(preview)) not in photo.exif


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png", ".webp"])
def test_15_iptc_is_kept_where_there_is_a_place_and_becomes_xmp_elsewhere(tmp_path, suffix):
    thumbnail = makers.jpeg(makers.scene(15, 32, 24))
    block = makers.photoshop({1036: bytes(28) + thumbnail, 1028: makers.iptc(FIELDS)})
    part = makers.segment(0xED, b"Photoshop 3.0\0" + block)
    photo = open_photo(written(tmp_path / "a.jpg", makers.jpeg(makers.scene(15), others=[part])))
    told = {5: ["Häfen"], 25: ["harbour", "hills"], 80: ["Name"], 116: ["Copyright"], 120: ["Boats"]}
    assert texts(photo.iptc) == told
    save_photo(photo, tmp_path / f"b{suffix}")
    again = open_photo(tmp_path / f"b{suffix}")
    if suffix in (".jpg", ".tif"):
        assert texts(again.iptc) == told
        return
    packet = packet_of(again)
    assert packet.value("dc:title") == "Häfen" and packet.value("dc:rights") == "Copyright"
    assert (
        [text_of(node) for node, _ in packet.find("rdf:li")][:1] and b"harbour" in again.xmp and b"hills" in again.xmp
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_regions_turn_with_the_pixels(tmp_path, orientation):
    area = "".join(
        f"<stArea:{name}>{value}</stArea:{name}>" for name, value in zip("xywh", (0.2, 0.3, 0.1, 0.2), strict=True)
    )
    packet = makers.xmp(
        '<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions stDim:w="90" stDim:h="60"/>'
        f'<mwg-rs:RegionList><rdf:Bag><rdf:li rdf:parseType="Resource"><mwg-rs:Area rdf:parseType="Resource">{area}'
        "</mwg-rs:Area></rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
        f"<MPReg:Rectangle>{13 / 90}, 0.2, {10 / 90}, 0.2</MPReg:Rectangle>",
        f'tiff:Orientation="{orientation}"',
    )
    stored = np.zeros((60, 90, 3), np.uint8)
    stored[12:24, 13:23] = 255  # the region: its middle is at 0.2, 0.3
    block = makers.exif(orientation=orientation)
    content = makers.jpeg(Image.fromarray(stored), 95, block, packet)
    photo = open_photo(written(tmp_path / "a.jpg", content))
    found = packet_of(photo)
    x, y, wide, high = (float(found.value(f"stArea:{name}")) for name in "xywh")
    rows, columns = np.nonzero(photo.pixels[..., 0] > 128)
    height, width = photo.pixels.shape[:2]
    assert abs((rows.mean() + 0.5) / height - y) < 0.01 and abs((columns.mean() + 0.5) / width - x) < 0.01
    assert (wide, high) == ((0.1, 0.2) if orientation < 5 else (0.2, 0.1))
    assert (found.value("stDim:w"), found.value("stDim:h")) == (str(width), str(height))
    left, top, across, down = (float(part) for part in found.value("MPReg:Rectangle").split(","))
    assert abs(left - columns.min() / width) < 0.01 and abs(top - rows.min() / height) < 0.01
    assert abs(across - np.ptp(columns) / width) < 0.02 and abs(down - np.ptp(rows) / height) < 0.02


def test_properties_go_with_their_prefix_and_leave_others_theirs():
    """Programs look for prefixes instead of properties; without those that are used it is no XML any more."""
    packet = Packet(makers.xmp(f"<dc:title>{makers.alt('Boats')}</dc:title>", 'photoshop:City="Exampleville"'))
    packet.drop_names("photoshop:City")
    assert b"photoshop" not in bytes(packet)
    title = ET.fromstring(bytes(packet)).find(".//{http://purl.org/dc/elements/1.1/}title")
    assert title is not None and "".join(title.itertext()) == "Boats"


def test_24_exif_too_long_for_jpeg_keeps_all_but_the_makers_note(tmp_path):
    block = makers.exif(gps=True, exif_more={37500: (7, b"INVENTED" + np.random.default_rng(24).bytes(100_000))})
    notes = save_photo(Photo(np.asarray(makers.scene()), exif=block), tmp_path / "a.jpg")
    assert len(notes) == 1 and "EXIF of 100," in notes[0]
    exif = Image.open(tmp_path / "a.jpg").getexif()
    assert exif[272] == makers.MODEL and exif.get_ifd(0x8769)[36867] == makers.WHEN and exif.get_ifd(0x8825)[1] == "S"


def test_24_xmp_in_extension_segments_is_read_and_written(tmp_path):
    noise = base64.b64encode(np.random.default_rng(1).bytes(60_000)).decode()
    packet = makers.xmp(f"<dc:title>{makers.alt('Told')}</dc:title><dc:source>{noise}</dc:source>", 'xmp:Rating="4"')
    assert save_photo(Photo(np.asarray(makers.scene()), xmp=packet), tmp_path / "a.jpg") == ()
    assert b"http://ns.adobe.com/xmp/extension/" in (tmp_path / "a.jpg").read_bytes()
    found = packet_of(open_photo(tmp_path / "a.jpg"))
    assert found.value("dc:source") == noise and found.value("dc:title") == "Told"
    assert not found.find("xmpNote:HasExtendedXMP")


@pytest.mark.parametrize("applied", ["True", "False"])
def test_25_settings_of_a_raw_developer_are_not_applied_again(tmp_path, applied):
    told = f'crs:Exposure2012="+1.50" crs:AlreadyApplied="{applied}" dc:format="image/dng" xmp:Rating="4"'
    path = written(tmp_path / "a.dng", makers.dng(makers.scene(25, 96, 64), makers.xmp("", told)))
    save_photo(open_photo(path), tmp_path / "a.jpg")
    found = packet_of(open_photo(tmp_path / "a.jpg"))
    assert bool(found.find("crs:*")) == (applied == "True")
    assert (found.value("dc:format"), found.value("xmp:Rating")) == ("image/jpeg", "4")


CLAIMS = {
    "content credentials": 'dcterms:provenance="https://manifests.example.com/a.c2pa"',
    "video": 'GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"',
    "gain map": 'hdrgm:Version="1.0"',
}


@pytest.mark.parametrize("lost", CLAIMS)
@pytest.mark.parametrize("as_element", [True, False])
def test_13_14_26_claims_go_with_what_they_claim_and_that_is_said(tmp_path, lost, as_element):
    elements, attributes = "", CLAIMS[lost]
    if as_element:
        parts = [part.split("=") for part in attributes.split()]
        elements, attributes = "".join(f"<{name}>{value[1:-1]}</{name}>" for name, value in parts), ""
    packet = makers.xmp(elements, f'{attributes} xmp:Rating="4"')
    photo = open_photo(written(tmp_path / "a.jpg", makers.jpeg(makers.scene(13), xmp=packet)))
    assert len(photo.notes) == 1 and lost in photo.notes[0]
    found = packet_of(photo)
    assert found.value("xmp:Rating") == "4" and not found.find("dcterms:*", "GCamera:*", "hdrgm:*")


def test_26_a_manifest_inside_is_left_out_and_that_is_said(tmp_path):
    part = makers.segment(0xEB, b"JP\0\1\0\0\0\1" + struct.pack(">I4s", 40, b"jumb") + bytes(32))
    photo = open_photo(written(tmp_path / "a.jpg", makers.jpeg(makers.scene(26), others=[part])))
    assert "C2PA" in photo.notes[0]


def test_26_credentials_and_iptc_of_a_raw_are_not_lost_without_a_word(tmp_path):
    records = makers.iptc(FIELDS)
    extra = {0xCD41: (7, bytes(40)), 33723: (7, records)}
    photo = open_photo(written(tmp_path / "a.dng", makers.dng(makers.scene(26, 96, 64), extra=extra)))
    assert photo.notes == (CREDENTIALS_LOST,)
    save_photo(photo, tmp_path / "b.tif")
    assert texts(open_photo(tmp_path / "b.tif").iptc)[5] == ["Häfen"]


@pytest.mark.parametrize("kept", [True, False])
def test_26_credentials_of_a_cr3_are_found_in_its_boxes(tmp_path, monkeypatch, kept):
    """LibRaw opens no made-up CR3, so a DNG's picture stands in for its picture."""
    import rawpy

    path, opened = written(tmp_path / "a.dng", makers.dng(makers.scene(26, 96, 64))), rawpy.imread
    monkeypatch.setattr(rawpy, "imread", lambda _: opened(str(path)))
    manifest = bytes.fromhex("d8fec3d61b0e483c92975828877ec481") + bytes(20)
    boxes = [(b"ftyp", b"crx \0\0\0\1crx isom"), (b"uuid", manifest if kept else bytes(36)), (b"moov", bytes(8))]
    content = b"".join(struct.pack(">I4s", len(content) + 8, kind) + content for kind, content in boxes)
    with open(written(tmp_path / "a.cr3", content), "rb") as file:
        assert (CREDENTIALS_LOST in read_raw(file, 10**6).notes) == kept


def test_31_png_texts_are_kept_and_said_to_be_lost_elsewhere(tmp_path):
    chunks = [(b"tEXt", b"Title\0Harbour"), (b"iTXt", b"Description\0\0\0\0\0" + "Schild: äöü".encode())]
    behind = [(b"zTXt", b"Comment\0\0" + zlib.compress(b"A long remark"))]
    path = written(tmp_path / "a.png", makers.png(np.asarray(makers.scene(31)), chunks, behind))
    photo = open_photo(path)
    told = (("Title", "Harbour"), ("Description", "Schild: äöü"), ("Comment", "A long remark"))
    assert photo.texts == told
    assert save_photo(photo, tmp_path / "b.png") == ()
    assert open_photo(tmp_path / "b.png").texts == told
    assert "Title, Description, Comment" in save_photo(photo, tmp_path / "b.jpg")[0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_33_what_was_done_is_written_and_what_was_there_stays(tmp_path, suffix):
    block = makers.exif(more={305: (2, "Invented Raw Editor 1.0")})
    before = makers.xmp(
        '<xmpMM:History xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"><rdf:Seq><rdf:li>first</rdf:li></rdf:Seq>'
        "</xmpMM:History>"
    )
    for packet in (None, before):
        photo = Photo(np.asarray(makers.scene(33, 32, 24)), exif=block, xmp=packet)
        save_photo(photo, tmp_path / f"a{suffix}", overwrite=True, done="brightness 0.3")
        again = open_photo(tmp_path / f"a{suffix}")
        found = packet_of(again)
        assert found.value("stEvt:softwareAgent") == found.value("xmp:CreatorTool") == "DiffRetouch"
        assert found.value("stEvt:parameters") == "brightness 0.3"
        assert found.value("Iptc4xmpExt:DigitalSourceType").endswith("/algorithmicallyEnhanced")
        assert len(found.find("rdf:li")) == (1 if packet is None else 2)
        exif = Image.Exif()
        exif.load(again.exif)
        assert (exif[305], exif[272]) == ("DiffRetouch", makers.MODEL)


def test_exif_does_not_say_srgb_beside_another_profile(tmp_path):
    from diffretouch.photo.colour import DISPLAY_P3

    block = makers.exif(exif_more={0xA001: (3, 1)})
    for profile, expected in ((None, 1), (DISPLAY_P3, 0xFFFF)):
        save_photo(Photo(np.asarray(makers.scene()), None, profile, block), tmp_path / "a.jpg", overwrite=True)
        exif = Image.Exif()
        exif.load(open_photo(tmp_path / "a.jpg").exif)
        assert exif.get_ifd(0x8769)[0xA001] == expected


def test_xmp_with_a_document_type_is_left_out_and_that_is_said(tmp_path):
    packet = b'<!DOCTYPE a [<!ENTITY b "c">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&b;</x:xmpmeta>'
    photo = open_photo(written(tmp_path / "a.jpg", makers.jpeg(makers.scene(), xmp=packet)))
    assert photo.xmp is None and "XMP" in photo.notes[0]


def readable_note(block: bytes) -> bytes:
    """What the first entry of a maker's note, as `makers.note_of_positions` makes it, points to in an EXIF block."""
    reader = TagReader(io.BytesIO(block))
    note = reader.directory(reader.first, CHILDREN).tags[EXIF_TAG].children[37500].data
    count, at = struct.unpack_from(f"{reader.order}II", note, 12 + 2 + 4)
    return block[at : at + count]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png", ".webp", ".heic", ".avif"])
def test_29_positions_in_a_makers_note_stay_right(tmp_path, order, suffix):
    block = makers.note_of_positions(order)
    assert readable_note(block) == makers.NOTE
    photo = Photo(np.asarray(makers.scene(29, 64, 48)), exif=block)
    save_photo(photo, tmp_path / f"a{suffix}", done="brightness 0.3")
    photo = open_photo(tmp_path / f"a{suffix}")
    assert readable_note(photo.exif) == makers.NOTE and photo.notes == ()
    save_photo(photo, tmp_path / "b.tif")
    content = (tmp_path / "b.tif").read_bytes()
    assert readable_note(content) == makers.NOTE, "as a program sees it that reads the file from its start"
    assert readable_note(open_photo(tmp_path / "b.tif").exif) == makers.NOTE


def test_29_a_makers_note_far_back_in_a_tiff_goes_with_a_word_unless_it_can_be_moved(tmp_path):
    pixels = np.random.default_rng(29).integers(0, 256, (200, 200, 3), np.uint8)
    for note, movable in ((b"Panasonic\0\0\0" + bytes(40), False), (b"FUJIFILM" + bytes(40), True)):
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None)
        content = bytearray((tmp_path / "a.tif").read_bytes())
        reader = TagReader(io.BytesIO(content))
        tags = reader.directory(reader.first, {}).tags
        tags[EXIF_TAG] = Tag(4, 1, b"", children={37500: Tag(7, len(note), note)})
        content[4:8] = struct.pack("<I", len(content))
        photo = open_photo(written(tmp_path / "a.tif", bytes(content) + directory_bytes(tags, "<", len(content))))
        assert (note in (photo.exif or b"")) == movable
        assert ["maker's note" in word for word in photo.notes] == ([] if movable else [True])


@pytest.mark.parametrize("maker", ["Panasonic", "Nikon", "Nikon's height", "Samsung", "Samsung by itself"])
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_09_a_makers_note_names_no_place_either(tmp_path, maker, suffix):
    place, kept = b"Exampleville".ljust(72, b"\0"), b"a setting".ljust(72, b"\0")

    def block(at: int) -> bytes:
        if maker.startswith("Nikon"):
            tags = {0x39 if maker == "Nikon" else 0xC3: (7, place), 0x3A: (7, kept)}
            return makers.exif(
                exif_more={37500: (7, b"Nikon\0\2\x10\0\0" + makers.tiff_block([dict(sorted(tags.items()))]))}
            )
        if maker.startswith("Samsung"):
            start = 2 + 3 * 12 + 4 if maker.endswith("itself") else at  # positions in the note, or in the block
            told = struct.pack("<HHHI4s", 3, 1, 7, 4, b"0100")
            told += b"".join(struct.pack("<HHII", code, 7, 72, start + 72 * n) for n, code in enumerate((0x31, 0x32)))
            return makers.exif("<", exif_more={37500: (7, told + bytes(4) + place + kept)})
        entries = b"".join(struct.pack("<HHII", code, 7, 72, at + 72 * n) for n, code in enumerate((0x6D, 0x70)))
        note = b"Panasonic\0\0\0" + struct.pack("<H", 2) + entries + bytes(4) + place + kept
        return makers.exif("<", exif_more={37500: (7, note)})

    photo = Photo(np.asarray(makers.scene(9, 32, 24)), exif=block(block(0).index(place)))
    for remove in (False, True):
        save_photo(photo, tmp_path / f"a{suffix}", overwrite=True, remove_gps=remove)
        content = (tmp_path / f"a{suffix}").read_bytes()
        assert (b"Exampleville" in content) == (not remove) and b"a setting" in content
