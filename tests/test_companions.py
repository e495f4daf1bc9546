"""What a file holds beside its picture goes together with every claim to it, and that is said, and nothing else."""

from __future__ import annotations

from pathlib import Path

import makers
import numpy as np
import pytest

from diffretouch.photo import open_photo, save_photo

heif = pytest.importorskip("pillow_heif")

GAIN_MAP, VIDEO, DEPTH, SECOND = "gain map", "video of this motion photo", "depth map", "second picture"
SMALL = makers.jpeg(makers.scene(1, 32, 24))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def items(*semantics: str) -> bytes:
    """XMP that claims these items behind the picture, as Google's camera does."""
    inside = "".join(
        f'<rdf:li rdf:parseType="Resource"><Container:Item Item:Mime="a/b" Item:Semantic="{name}"/></rdf:li>'
        for name in ("Primary", *semantics)
    )
    return makers.xmp(
        f"<Container:Directory><rdf:Seq>{inside}</rdf:Seq></Container:Directory>",
        'hdrgm:Version="1.0"' * ("GainMap" in semantics),
    )


ULTRA_HDR = makers.jpeg(makers.scene(1, 32, 24), xmp=makers.xmp("", 'hdrgm:Version="1.0" hdrgm:GainMapMax="2"'))
APPLE = makers.jpeg(
    makers.scene(1, 32, 24),
    xmp=makers.xmp("<apdi:AuxiliaryImageType>urn:com:apple:photo:2020:aux:hdrgainmap</apdi:AuxiliaryImageType>"),
)
ISO = makers.segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")


def main_picture(xmp: bytes | None = None, others: list[bytes] | None = None) -> bytes:
    return makers.jpeg(makers.scene(2, 64, 48), exif=makers.exif(), xmp=xmp, others=others)


FILES = {
    "Ultra HDR": (makers.of_several_pictures(main_picture(items("GainMap")), [(0, ULTRA_HDR)]), [GAIN_MAP]),
    "ISO gain map": (makers.of_several_pictures(main_picture(None, [ISO]), [(0x050000, SMALL)]), [GAIN_MAP]),
    "Apple gain map": (makers.of_several_pictures(main_picture(), [(0, APPLE)]), [GAIN_MAP]),
    "Ultra HDR motion photo": (
        makers.of_several_pictures(main_picture(items("GainMap", "MotionPhoto")), [(0, ULTRA_HDR)]) + makers.VIDEO,
        [GAIN_MAP, VIDEO],
    ),
    "Samsung's motion photo": (main_picture() + b"\0\0\x30\x0aMotionPhoto_Data" + makers.VIDEO, [VIDEO]),
    "video that nothing claims": (main_picture() + makers.VIDEO, [VIDEO]),
    "depth": (main_picture(items("Depth")) + SMALL, [DEPTH]),
    "stereo": (makers.of_several_pictures(main_picture(), [(0x020002, SMALL)]), [SECOND]),
    "three pictures": (makers.of_several_pictures(main_picture(), [(0x020003, SMALL)] * 2), ["2 further pictures"]),
    "camera's preview": (makers.of_several_pictures(main_picture(), [(0x010001, SMALL)]), []),
    "plain": (main_picture() + b"behind" * 50, []),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_lies_beside_a_jpeg_goes_with_its_claims_and_that_is_said(tmp_path, kind):
    content, lost = FILES[kind]
    photo = open_photo(written(tmp_path / "a.jpg", content))
    assert len(photo.notes) == len(lost) and all(word in note for word, note in zip(lost, photo.notes, strict=True))
    save_photo(photo, tmp_path / "b.jpg")
    saved = (tmp_path / "b.jpg").read_bytes()
    for claim in (b"MPF\0", b"hdr-gain-map", b"hdrgm", b"21496", b"ns.google.com", b"MotionPhoto", b"ftyp", b"apdi"):
        assert claim not in saved
    assert saved.endswith(b"\xff\xd9") and open_photo(tmp_path / "b.jpg").notes == ()


def heic(**more) -> bytes:
    return makers.heic(np.asarray(makers.scene(2, 64, 48)), quality=60, **more)


def test_video_in_a_heic_is_said_to_go(tmp_path):
    content = heic() + (8 + len(makers.VIDEO)).to_bytes(4, "big") + b"mpvd" + makers.VIDEO
    photo = open_photo(written(tmp_path / "a.heic", content))
    assert [VIDEO in note for note in photo.notes] == [True]
    save_photo(photo, tmp_path / "b.heic")
    assert b"mpvd" not in (tmp_path / "b.heic").read_bytes()


def test_further_pictures_of_a_heic_are_said_to_go(tmp_path):
    several = heif.HeifFile()
    for seed in range(3):
        several.add_frombytes("RGB", (64, 48), np.asarray(makers.scene(seed, 64, 48)).tobytes())
    several.save(tmp_path / "a.heic", quality=60)
    assert ["2 further pictures" in note for note in open_photo(tmp_path / "a.heic").notes] == [True]


def test_a_gain_map_by_iso_in_heic_is_said_to_go(tmp_path):
    content = heic()
    end = int.from_bytes(content[:4], "big")  # of the list of brands, of which the last gives way
    photo = open_photo(written(tmp_path / "a.heic", content[: end - 4] + b"tmap" + content[end:]))
    assert [GAIN_MAP in note for note in photo.notes] == [True]
